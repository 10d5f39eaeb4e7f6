"""The bytes of a past file, whole, as an open local file.

Fetched straight from the store in pieces, several at once; small files stay in memory, large ones
go into an unnamed temporary file. Promises the bytes of exactly the entry's version or an error.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import IO

from pipefs.errors import Conflict, Refused
from pipefs.manifest import Entry
from pipefs.stores.base import Store

PIECE_BYTES = 8 << 20
IN_MEMORY_BYTES = 64 << 20
_AT_ONCE = 4


class Contents:
    """The contents of the files of a past tree, or of the present.

    Args:
        local: opens a file that is not in the store yet; None: there are none here.
    """

    def __init__(self, store: Store, local: Callable[[Entry], IO[bytes]] | None = None) -> None:
        self._store = store
        self._local = local

    def open(self, entry: Entry) -> IO[bytes]:
        """The content of a file, read-only in effect, at its start. The caller closes it.

        Raises:
            Refused: it has no version in the store yet. NotFound: its version is gone.
            Conflict: it was replaced, on a store without versions. Store errors.
        """
        if self._local is not None and is_only_here(entry):
            return self._local(entry)
        starts = range(0, entry.size, PIECE_BYTES)
        with contextlib.ExitStack() as until_returned:
            file = until_returned.enter_context(tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES))
            with ThreadPoolExecutor(max(1, min(_AT_ONCE, len(starts)))) as pool:
                # By rounds: no more than these few pieces are ever held in memory.
                for first in range(0, len(starts), _AT_ONCE):
                    some = starts[first : first + _AT_ONCE]
                    for piece in pool.map(lambda s: self._get(entry, s, PIECE_BYTES), some):
                        file.write(piece)
            file.seek(0)
            until_returned.pop_all()
            return file

    def range(self, entry: Entry, start: int, length: int) -> bytes:
        """Bytes [start, start+length) of a file, fewer only at its end. Errors as `open`."""
        if self._local is not None and is_only_here(entry):
            with self._local(entry) as file:
                file.seek(start)
                return file.read(length)
        return self._get(entry, start, length)

    def _get(self, entry: Entry, start: int, length: int) -> bytes:
        length = max(0, min(length, entry.size - start))
        if not length:
            return b""
        if is_only_here(entry):
            raise Refused(
                f"{entry.path} is not in the store yet", hint="First: pipefs flush, then again"
            )
        found = self._store.get(entry.object_key, entry.version, start, length)
        if len(found) != length:
            raise Conflict(f"{entry.path} was replaced in the store meanwhile; try again")
        return found


def is_only_here(entry: Entry) -> bool:
    """Whether a file of the present has bytes that no version in the store has."""
    return not entry.version and not entry.etag
