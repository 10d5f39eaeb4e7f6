"""Which version of pipefs' format a state directory was written in.

Asked before anything else is opened, so that what a newer pipefs wrote stays untouched.
"""

from __future__ import annotations

from pathlib import Path

from pipefs.lmdbenv import LmdbError, open_env, translate
from pipefs.statedb import statedir
from pipefs.statedb.tables import META, read_meta

FORMAT_KEY = b"format"


def written_format(directory: Path, map_size_bytes: int) -> int | None:
    """The format of what is in the directory; None if it is new.

    Opens our own table alone: making the others would already write to a database that a newer
    pipefs may own.

    Raises:
        Corrupt: the file or its structure is broken. NoSpace: the disk is full.
    """
    was_short = statedir.lengthen(directory)
    env, handles = open_env(directory, [META], map_size_bytes=map_size_bytes, sync=True, lock=False)
    try:
        if was_short:
            statedir.check_structure(directory, env)
        with env.begin() as txn:
            return read_meta(txn, handles[META], FORMAT_KEY, directory)
    except LmdbError as e:
        raise translate(e, directory) from e
    finally:
        env.close()
