"""pipefs: versioned S3 data sets as ordinary directories.

The library. It is complete without a mount and without a daemon; no thread outlives a call, and
FUSE is never imported. The processes that mount are in the package `pipefsd`. From the top:

    cli                                    the `pipefs` command
    api                                    `Pipe`: all of it in Python
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

from typing import TYPE_CHECKING, Any

from pipefs.version import VERSION

if TYPE_CHECKING:
    from pipefs.api import Pipe
    from pipefs.api.pipes import (
        create,
        list_local_pipes,
        list_pipes,
        upsert_pipe,
        upsert_pipe_json,
    )
    from pipefs.errors import PipefsError
    from pipefs.publishing import ABSENT

__version__ = VERSION

__all__ = [
    "ABSENT",
    "Pipe",
    "PipefsError",
    "__version__",
    "create",
    "list_local_pipes",
    "list_pipes",
    "upsert_pipe",
    "upsert_pipe_json",
]

_PLACES = {
    "ABSENT": "pipefs.publishing",
    "Pipe": "pipefs.api",
    "PipefsError": "pipefs.errors",
    "create": "pipefs.api.pipes",
    "list_local_pipes": "pipefs.api.pipes",
    "list_pipes": "pipefs.api.pipes",
    "upsert_pipe": "pipefs.api.pipes",
    "upsert_pipe_json": "pipefs.api.pipes",
}


def __getattr__(name: str) -> Any:
    """What belongs to `import pipefs`, fetched when it is used: the command line imports us too."""
    if name not in _PLACES:
        raise AttributeError(f"module 'pipefs' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
