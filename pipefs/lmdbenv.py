"""Opening LMDB environments by our rules: the only `import lmdb`.

The rules, each of which was a bug in somebody's product: the map is large and sparse from the
start and its size is never changed under readers; one environment is opened once a process and
never used across a fork; named databases are created at opening; stale reader slots of dead
processes are cleared at opening.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lmdb

from pipefs.errors import Corrupt, NoSpace, PipefsError

Environment = lmdb.Environment
Transaction = lmdb.Transaction
MapFull = lmdb.MapFullError
LmdbError = lmdb.Error

MAX_READERS = 1024

FULL_BELOW_BYTES = 4 << 20
"""A write that is cut short leaves less than itself: LMDB's largest is a 1 MiB value."""


def open_env(
    directory: Path,
    tables: Sequence[str],
    *,
    map_size_bytes: int,
    sync: bool,
    lock: bool = True,
    readahead: bool = True,
    create: bool = True,
    spare_readers: int = 0,
) -> tuple[lmdb.Environment, dict[str, Any]]:
    """Open (or make) the environment in `directory` with its named databases.

    Args:
        sync: False leaves flushing to the kernel: only for data that may be thrown away, or that
            a journal protects.
        lock: False only where one process and one lock of ours guard the environment.
        create: False raises where the directory is missing, and never makes it.
        spare_readers: ended read transactions kept for reuse (LMDB's reset and renew).

    Raises:
        NoSpace: the disk is full. Corrupt: this is no LMDB file or its structure is broken.
    """
    if create:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        env = lmdb.open(
            str(directory),
            map_size=map_size_bytes,
            max_dbs=len(tables) + 1,
            max_readers=MAX_READERS,
            sync=sync,
            metasync=sync,
            lock=lock,
            readahead=readahead,
            meminit=False,
            mode=0o600,
            create=create,
            max_spare_txns=spare_readers,
        )
        if lock:
            env.reader_check()
        return env, {name: env.open_db(name.encode()) for name in tables}
    except lmdb.Error as e:
        raise translate(e, directory) from e
    except OSError as e:
        if e.errno == errno.ENOSPC:
            raise NoSpace(f"no space left for the database in {directory}") from e
        raise


def translate(e: lmdb.Error, directory: Path) -> PipefsError:
    """Our error for an LMDB error; the errno is in the text only, LMDB has no attribute for it."""
    full = isinstance(e, lmdb.DiskError | lmdb.MapFullError) or "No space left" in str(e)
    if full or ("Input/output error" in str(e) and _nearly_full(directory)):
        return NoSpace(f"no space left for the database in {directory}: {e}")
    return Corrupt(f"the database in {directory} is not usable: {e}")


def _nearly_full(directory: Path) -> bool:
    """Tells a full disk from a broken one: LMDB calls a write that was cut short EIO."""
    disk = os.statvfs(directory)
    return disk.f_bfree * disk.f_frsize < FULL_BELOW_BYTES
