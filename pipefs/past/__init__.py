"""The past of a pipe: snapshots, moments, versions, and what is done with them.

Snapshots are manifests in the bucket (`pipefs.manifest`) with a name in the log
(`pipefs.catalog`). Everything here works from the store and the state database; no thread
outlives a call.
"""
