"""Errors of the disk and of LMDB as ours: the embedded store's one boundary."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from pipefs.errors import AccessDenied, NoSpace, StoreUnavailable, UsageError
from pipefs.lmdbenv import LmdbError, translate
from pipefs.stores.local_files import Places


@contextmanager
def disk_errors(places: Places, doing: str) -> Iterator[None]:
    """`doing` is what the message names; "open" while the store is opened.

    A folder that went away (an unplugged disk, a folder that was moved) is a store that does not
    answer: its files must not look as if somebody had deleted them, nor be made anew.
    """
    if doing not in ("open", "close") and not os.path.isdir(places.side):
        raise StoreUnavailable(f"{places.root} is not there any more ({doing})")
    try:
        yield
    except LmdbError as e:
        raise translate(e, places.index) from e
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(
                f"no space left in {places.root} ({doing})", hint="Make room there, then again"
            ) from e
        if e.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise AccessDenied(f"{places.root}: {e.strerror} ({doing})") from e
        if e.errno in (errno.EEXIST, errno.ENOTDIR) and doing == "open":
            raise UsageError(f"{places.root} is not a directory") from e
        raise StoreUnavailable(f"{places.root}: {e} ({doing})") from e
