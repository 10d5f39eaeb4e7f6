"""Files of a pipe, open in Python: read piece by piece from the store, or written and published.

Reading fetches what is read, a few MiB ahead; the file is one version whatever happens meanwhile.
What is written goes into an unnamed temporary file and is published, whole, by `close`.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from typing import IO, Any

from pipefs.reaching import Reach
from pipefs.replicated import Item

AHEAD_BYTES = 4 << 20
_MEMORY_BYTES = 32 << 20


class RemoteFile(io.RawIOBase):
    """One version of a file, seekable. Wrap it in `io.BufferedReader` with `AHEAD_BYTES`."""

    def __init__(self, reach: Reach, item: Item) -> None:
        self._reach = reach
        self._item = item
        self._at = 0
        self.name = item.path

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._item.size}[whence]
        if start + offset < 0:
            raise ValueError(f"there is no byte {start + offset}")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self._reach.read(self._item, self._at, self._at + len(view))
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


class Written(io.BufferedIOBase):
    """A file being written; `close` hands it over, an exception in its `with` block drops it."""

    def __init__(self, name: str, publish: Callable[[IO[bytes]], object]) -> None:
        self.name = name
        self._publish = publish
        self._file = tempfile.SpooledTemporaryFile(_MEMORY_BYTES)  # noqa: SIM115  # closed by `close`
        self._dropped = False

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._file.write(data)

    def read(self, size: int | None = -1, /) -> bytes:
        return self._file.read(-1 if size is None else size)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._file.seek(offset, whence)
        return self._file.tell()

    def tell(self) -> int:
        return self._file.tell()

    def truncate(self, size: int | None = None, /) -> int:
        self._file.truncate(size)
        return self._file.tell() if size is None else size

    def drop(self) -> None:
        """Forget what was written."""
        self._dropped = True

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            self.drop()
        self.close()

    def close(self) -> None:
        if self.closed:
            return
        try:
            if not self._dropped:
                self._file.seek(0)
                self._publish(self._file)
        finally:
            super().close()
            self._file.close()


class WrittenText(io.TextIOWrapper):
    """The same for text."""

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            buffer = self.buffer
            assert isinstance(buffer, Written)
            buffer.drop()
        self.close()
