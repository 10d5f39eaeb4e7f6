"""Open directories: a listing that stays in order while the directory changes.

Names come in their order in the tree, a few hundred at a time. A position is the number of
entries before it; the handle remembers which name stands at the positions the kernel may still
ask for, so that names which come or go elsewhere never shift what was not read yet.
"""

from __future__ import annotations

from collections.abc import Callable

from pipefs.records import NameEntry

CHUNK = 256
_KEPT_CHUNKS = 16

Fetch = Callable[[bytes, int], list[tuple[bytes, NameEntry]]]
"""(name to go on after, how many) → names that follow."""


class DirectoryHandle:
    """One open directory. Used by one request at a time (the kernel holds its lock)."""

    def __init__(self, ino: int) -> None:
        self.ino = ino
        self._start = 0
        self._chunk: list[tuple[bytes, NameEntry]] = []
        self._chunks: dict[int, bytes] = {0: b""}
        """Position of a chunk's first entry → the name before it."""

    def rewind(self) -> None:
        """Position 0 reads the directory anew, as rewinddir(3) says."""
        self._start, self._chunk = 0, []
        self._chunks = {0: b""}

    def at(self, position: int, fetch: Fetch) -> list[tuple[bytes, NameEntry]]:
        """Entries from `position` on, a part of the directory; empty at its end."""
        while True:
            skip = position - self._start
            if 0 <= skip < len(self._chunk):
                return self._chunk[skip:]
            if not self._seek(position, fetch):
                return []

    def _seek(self, position: int, fetch: Fetch) -> bool:
        """Load the chunk that holds `position`, or the one after what is known."""
        end = self._start + len(self._chunk)
        if self._chunk and position == end:
            self._remember(end, self._chunk[-1][0])
        known = max(p for p in self._chunks if p <= position)
        chunk = fetch(self._chunks[known], CHUNK)
        if not chunk:
            return False
        self._start, self._chunk = known, chunk
        if position >= known + len(chunk):
            self._remember(known + len(chunk), chunk[-1][0])
        return True

    def _remember(self, position: int, name: bytes) -> None:
        self._chunks[position] = name
        if len(self._chunks) > _KEPT_CHUNKS:
            # Position 0 stays, so that any position can be found again by reading from there.
            oldest = min(p for p in self._chunks if p)
            del self._chunks[oldest]
