"""A file read by ranges as a Python file object, for libraries that want to seek in one."""

from __future__ import annotations

import io

from pipefs.preview.shown import Read

_AHEAD_BYTES = 64 << 10


class RangedFile(io.RawIOBase):
    """Reads `_AHEAD_BYTES` at a time and keeps the last piece."""

    def __init__(self, read: Read, size: int) -> None:
        super().__init__()
        self._source = read
        self._size = size
        self._at = 0
        self._start = 0
        self._piece = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def size(self) -> int:
        return self._size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        stop = self._size if size is None or size < 0 else min(self._size, self._at + size)
        if stop <= self._at:
            return b""
        if not (self._start <= self._at and stop <= self._start + len(self._piece)):
            length = min(max(stop - self._at, _AHEAD_BYTES), self._size - self._at)
            self._start, self._piece = self._at, self._source(self._at, length)
        found = self._piece[self._at - self._start : stop - self._start]
        self._at += len(found)
        return found

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]  # a buffer, by the protocol
        found = self.read(len(view))
        view[: len(found)] = found
        return len(found)
