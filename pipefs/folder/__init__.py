"""Pull and push: a plain folder in step with a pipe, without a mount.

From the top:

    watching            a folder kept in step while it runs
    rounds              one round of that: both sides in step
    resolving           what both sides changed
    pulling  pushing    bytes from the store and to it
    removing            what only one side has
    deciding            scan, record and tree put together
    plan                what is to be done; pure
    record  scan        what was in step; what is on disk
    landing             a finished file takes its name
    noticing            what the system says of changes on disk
    filters  states     which paths count; the values that travel between the rooms

The pipe's side comes from a replica and goes through a publisher; nothing here asks the store for
a listing. No thread outlives a call.
"""
