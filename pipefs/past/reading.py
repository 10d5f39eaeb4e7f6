"""The bytes of a past file, whole, as an open local file.

Fetched straight from the store in pieces, several at once; small files stay in memory, large ones
go into an unnamed temporary file. Promises the bytes of exactly the entry's version or an error.
"""

from __future__ import annotations

import contextlib
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import IO

from pipefs.errors import Conflict, Refused
from pipefs.manifest import Entry
from pipefs.stores.base import Store

PIECE_BYTES = 8 << 20
IN_MEMORY_BYTES = 64 << 20
_AT_ONCE = 4


def open_entry(store: Store, entry: Entry) -> IO[bytes]:
    """The content of a file, read-only in effect, at its start. The caller closes it.

    Raises:
        Refused: it has no version in the store yet. NotFound: its version is gone.
        Conflict: it was replaced, on a store without versions. Store errors.
    """
    starts = range(0, entry.size, PIECE_BYTES)
    with contextlib.ExitStack() as until_returned:
        file = until_returned.enter_context(tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES))
        with ThreadPoolExecutor(max(1, min(_AT_ONCE, len(starts)))) as pool:
            # By rounds: no more than these few pieces are ever held in memory.
            for first in range(0, len(starts), _AT_ONCE):
                some = starts[first : first + _AT_ONCE]
                for piece in pool.map(lambda s: read_range(store, entry, s, PIECE_BYTES), some):
                    file.write(piece)
        file.seek(0)
        until_returned.pop_all()
        return file


def read_range(store: Store, entry: Entry, start: int, length: int) -> bytes:
    """Bytes [start, start+length) of a file, fewer only at its end. Errors as `open_entry`."""
    length = max(0, min(length, entry.size - start))
    if not length:
        return b""
    if not entry.version and not entry.etag:
        raise Refused(
            f"{entry.path} is not in the store yet", hint="First: pipefs flush, then again"
        )
    found = store.get(entry.object_key, entry.version, start, length)
    if len(found) != length:
        raise Conflict(f"{entry.path} was replaced in the store meanwhile; try again")
    return found
