"""`Pipe`: everything that Python does with one pipe."""

from __future__ import annotations

from pipefs.api.history import History
from pipefs.api.settling import Settling


class Pipe(Settling, History):
    """A pipe: a named, versioned set of files in an S3 bucket or an embedded store.

    Args:
        name: as it is registered (`pipefs create`, `pipefs.create`); `NAME@SNAP` is one of its
            snapshots, read-only.
        mode: which files `pull` and `push` take (`setmode`).
        sortby: order of `files` and scans: `name`, `mod` or `size`.
        profile: whose registry; None: the default one, or `PIPEFS_PROFILE`.
        offline: ask the store nothing: the pipe as it was last seen, and files that are here.
        snapshot: tag, id, `latest` or `@TIME` that everything is read from.
        locked: the snapshot that the nearest `pipefs.lock` pins.
        credentials: keys for this pipe, instead of stored ones: one pair, or `read` and `write`.
        system: the machine's pipes (`pipefs --system`).

    Raises:
        NotFound: no such pipe, or profile, or pin.

    Beside a mount of the pipe, what programs wrote there is waited for, and what is put here shows
    there when the call returns. Objects may be used from several threads, and in processes that
    were forked or spawned; one holds no lock between calls.

    >>> pipe.put(pd.DataFrame({"wind": [65, 80]}), "storms.parquet")[:0]
    ''
    >>> pipe.get("storms.parquet")[0]["wind"].tolist()
    [65, 80]
    """
