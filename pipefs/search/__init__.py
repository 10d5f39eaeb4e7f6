"""Full-text search in a pipe, on this machine: `finding.search`.

An index a pipe (SQLite FTS5) lies beside the pipe's replica, below the cache: deleting it loses
nothing. It is brought forward from its place in the commit log, so a search costs what changed.
"""
