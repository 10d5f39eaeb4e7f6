"""What is to be put: bytes, a file, or something open, each read as often as need be.

A file that changes while it is read is noticed. Knows no store but its form of a body.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from pipefs.errors import NotFound, PipefsError, UsageError
from pipefs.stores.base import FileBody
from pipefs.types import BLOCK_SIZE_BYTES

SMALL_BYTES = BLOCK_SIZE_BYTES
"""Up to here a file is read once, into memory."""
_SPOOLED_BYTES = 8 << 20

Body = bytes | bytearray | memoryview | Path | IO[bytes]
"""Bytes, a file's path, or an open file, which is read whole if it is seekable, else from where it
stands."""


class Opened:
    """A body that is open. `size` in bytes; `mtime_ns` and `mode` of a file, else None."""

    def __init__(self, fd: int | None, data: bytes | None, st: os.stat_result | None) -> None:
        self._fd = fd
        self._data = data
        self._st = st
        self.mtime_ns = st.st_mtime_ns if st is not None else None
        self.mode = stat.S_IMODE(st.st_mode) if st is not None else None

    @property
    def size(self) -> int:
        if self._data is not None:
            return len(self._data)
        assert self._st is not None
        return self._st.st_size

    def digest(self, kind: str) -> str:
        """Hex digest of the bytes; `kind` as hashlib names it."""
        digest = hashlib.new(kind, usedforsecurity=False)
        if self._data is not None:
            digest.update(self._data)
        else:
            assert self._fd is not None
            for offset in range(0, self.size, BLOCK_SIZE_BYTES):
                digest.update(_read(self._fd, BLOCK_SIZE_BYTES, offset))
        return digest.hexdigest()

    def to_send(
        self, cancelled: Callable[[], bool], progress: Callable[[int], None]
    ) -> bytes | FileBody:
        """As the store takes it."""
        if self._data is not None:
            return self._data
        assert self._fd is not None
        return FileBody(self._fd, self.size, cancelled, progress)

    @property
    def is_in_memory(self) -> bool:
        return self._data is not None

    def has_changed(self) -> bool:
        """Whether somebody wrote the file since it was opened."""
        if self._fd is None or self._st is None:
            return False
        now = os.fstat(self._fd)
        return (now.st_size, now.st_mtime_ns) != (self._st.st_size, self._st.st_mtime_ns)


@contextlib.contextmanager
def opened(body: Body) -> Iterator[Opened]:
    """A body to read, closed at the end if it was opened here.

    Raises:
        NotFound: no such file. UsageError: it is no file. PipefsError: it cannot be read.
    """
    if isinstance(body, bytes | bytearray | memoryview):
        yield Opened(None, bytes(body), None)
        return
    if isinstance(body, Path):
        with _file(body) as found:
            yield found
        return
    fd = _descriptor(body)
    if fd is not None:
        yield _of_descriptor(fd, os.fstat(fd))
        return
    with tempfile.SpooledTemporaryFile(_SPOOLED_BYTES) as copy:
        while block := body.read(BLOCK_SIZE_BYTES):
            copy.write(block)
        if copy.tell() <= SMALL_BYTES:
            copy.seek(0)
            yield Opened(None, copy.read(), None)
        else:
            fd = copy.fileno()
            copy.flush()
            found = Opened(fd, None, os.fstat(fd))
            found.mtime_ns = found.mode = None
            yield found


@contextlib.contextmanager
def _file(path: Path) -> Iterator[Opened]:
    try:
        # Not to wait where it is a FIFO: that is refused below.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}") from None
    except OSError as e:
        raise PipefsError(f"{path} cannot be read: {e.strerror}") from e
    try:
        st = os.fstat(fd)
        if not stat.S_ISREG(st.st_mode):
            raise UsageError(f"{path} is no file", hint="A folder: import or push what is in it")
        yield _of_descriptor(fd, st)
    finally:
        os.close(fd)


def _of_descriptor(fd: int, st: os.stat_result) -> Opened:
    if st.st_size > SMALL_BYTES:
        return Opened(fd, None, st)
    return Opened(fd, _read(fd, SMALL_BYTES + 1, 0), st)


def _read(fd: int, count: int, offset: int) -> bytes:
    try:
        return os.pread(fd, count, offset)
    except OSError as e:
        raise PipefsError(f"it cannot be read: {e.strerror}") from e


def _descriptor(body: IO[bytes]) -> int | None:
    """Of an open regular file; None for anything else."""
    try:
        fd = body.fileno()
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        if body.writable():
            body.flush()
        return fd
    except (OSError, AttributeError):
        return None  # io.UnsupportedOperation is an OSError
