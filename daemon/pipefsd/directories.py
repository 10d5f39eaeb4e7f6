"""Open directories: a listing that stays in order while the directory changes.

Names come in their order in the tree, a few hundred at a time. A position is the number of
entries before it; the handle remembers which name stands at the positions the kernel may still
ask for, so that names which come or go elsewhere never shift what was not read yet.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from pipefs.records import Inode, NameEntry
from pipefs.volume import Volume
from pipefsd.hiding import Hiding
from pipefsd.transports.base import DirEntry, Entry

CHUNK = 256
_KEPT_CHUNKS = 16
PLUS_BATCH = 64
"""Inodes read at a time: few are read in vain when the kernel's buffer is full."""

T = TypeVar("T")
"""What a name of a listing comes with."""


class DirectoryHandle(Generic[T]):
    """One open directory. Used by one request at a time (the kernel holds its lock). `fetch` is
    asked for the names that follow one: (name to go on after, how many)."""

    def __init__(self, ino: int) -> None:
        self.ino = ino
        self._start = 0
        self._chunk: list[tuple[bytes, T]] = []
        self._chunks: dict[int, bytes] = {0: b""}
        """Position of a chunk's first entry → the name before it."""

    def rewind(self) -> None:
        """Position 0 reads the directory anew, as rewinddir(3) says."""
        self._start, self._chunk = 0, []
        self._chunks = {0: b""}

    def at(
        self, position: int, fetch: Callable[[bytes, int], list[tuple[bytes, T]]]
    ) -> list[tuple[bytes, T]]:
        """Entries from `position` on, a part of the directory; empty at its end."""
        while True:
            skip = position - self._start
            if 0 <= skip < len(self._chunk):
                return self._chunk[skip:]
            if not self._seek(position, fetch):
                return []

    def _seek(self, position: int, fetch: Callable[[bytes, int], list[tuple[bytes, T]]]) -> bool:
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


class Directories:
    """The open directories of one mount.

    Args:
        entry_of: makes what readdirplus sends for an inode.
    """

    def __init__(self, volume: Volume, entry_of: Callable[[Inode], Entry], hiding: Hiding) -> None:
        self._volume = volume
        self._entry_of = entry_of
        self._hiding = hiding
        self._open: dict[int, DirectoryHandle[NameEntry]] = {}

    def open(self, handle: int, ino: int) -> None:
        self._open[handle] = DirectoryHandle(ino)

    def close(self, handle: int) -> None:
        self._open.pop(handle, None)

    def read(self, handle: int, ino: int, offset: int, plus: bool) -> Iterator[DirEntry]:
        """Entries after `offset`; "." and ".." are the first two."""
        directory = self._open.get(handle)
        if directory is None:  # opened before this worker took over
            directory = self._open[handle] = DirectoryHandle(ino)
        if offset == 0:
            directory.rewind()
            yield DirEntry(b".", ino, stat.S_IFDIR, 1)
        if offset <= 1:
            parent = self._volume.inode(ino).parent or ino
            yield DirEntry(b"..", parent, stat.S_IFDIR, 2)
        yield from self._names(directory, max(0, offset - 2), plus)

    def _names(
        self, directory: DirectoryHandle[NameEntry], position: int, plus: bool
    ) -> Iterator[DirEntry]:
        def fetch(after: bytes, limit: int) -> list[tuple[bytes, NameEntry]]:
            return self._volume.children(directory.ino, after, limit)

        while entries := directory.at(position, fetch)[:PLUS_BATCH]:
            shown = dict(self._hiding.shown(directory.ino, entries))
            nodes = dict(self._volume.child_inodes(entries)) if plus else {}
            for name, found in entries:
                position += 1
                if name not in shown:
                    continue
                inode = nodes.get(name)
                if plus and inode is None:
                    continue  # removed meanwhile
                entry = self._entry_of(inode) if inode is not None else None
                yield DirEntry(name, found.ino, found.kind, position + 2, entry)
