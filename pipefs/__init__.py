"""pipefs: versioned S3 data sets as ordinary directories.

The library. It is complete without a mount and without a daemon; no thread outlives a call, and
FUSE is never imported. The processes that mount are in the package `pipefsd`. From the top:

    cli                                    the `pipefs` command
    creation  doctor  client  target       making a pipe; checking one; talking to the daemon
    registry  profiles  credentials        which pipes there are, and who may use them
    config  home  descriptor               their settings and folders
    volume                                 one pipe: names, bytes, what waits to go up
    transfers  relocation  follow          to the store, and from other machines
    files  namespace  outbox  rebase       local bytes; names; what to announce; what to take over
    content  blocks  cache                 versions' bytes, cached as blocks
    tree  commits  db  statedb             names over time, on disk and in the bucket
    stores                                 S3 and the embedded store, one contract

Which may import which is in `.importlinter`. Importing this package costs nothing.
"""

from pipefs.version import VERSION

__version__ = VERSION

__all__ = ["__version__"]
