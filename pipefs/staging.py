"""Staging files: the local bytes of files that are open for writing or not yet in the store.

One sparse file an inode in the pipe's staging folder, with a sidecar that says what it
is (path, base version, write id), so that the outbox can be rebuilt from the folder alone when
the local state is lost. Sizes and times of a file with staging bytes are those of its staging
file: every write(2) updates them, so nothing has to be recorded per write.

Durability: `sync` returned means that the bytes and the sidecar survive power loss.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec

from pipefs.errors import NoSpace
from pipefs.records import Content
from pipefs.types import BLOCK_SIZE_BYTES


class Sidecar(msgspec.Struct):
    """What a staging file is, as JSON. Written at creation, and when it becomes a copy."""

    ino: int
    path: str
    """Escaped like a key; where the file was when the sidecar was written."""
    mode: int
    write_id: str
    base: Content | None = None
    copy_of: Content | None = None
    """Another file's version, whose bytes are these except for what was written here."""


_ATTRIBUTE = "user.pipefs.sidecar"
_MAX_SPARES = 256
_F_SETSIG = 10


class StagingArea:
    """The staging folder of one pipe. Thread-safe: no state but the folder."""

    def __init__(self, directory: Path, *, limit_bytes: int = 0) -> None:
        self.directory = directory
        self._prefix = f"{directory}/"
        self._limit = limit_bytes
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._synced: set[int] = set()
        self._spares: list[str] = []
        """Empty files to be used again; appended and popped, so no lock is needed."""
        self._spare_numbers = itertools.count()
        self.passing = False
        """The kernel opens files of this folder itself. Then ours are open for reading until we
        must write: each close after writing is an event of the watcher."""
        self.fine_times = False
        """Each change of a file gives it another ctime (`passable.why_not` finds out)."""
        self._sweep()

    def _sweep(self) -> None:
        for name in os.listdir(self.directory):
            if name.startswith("spare-"):
                os.unlink(self._prefix + name)

    def path(self, ino: int) -> Path:
        return self.directory / f"{ino:x}.data"

    def path_text(self, ino: int) -> str:
        """The same as text: the hot path makes no Path."""
        return f"{self._prefix}{ino:x}.data"

    def _sidecar_file(self, ino: int) -> str:
        return f"{self._prefix}{ino:x}.json"

    def create(self, sidecar: Sidecar, size: int) -> int:
        """Make an empty (or sparse) staging file with its sidecar; returns a descriptor.

        Raises:
            NoSpace: the disk or the staging limit is full.
        """
        self.require_room()
        try:
            fd = self._make(self.path_text(sidecar.ino), write=size > 0 or not self.passing)
            self._write_sidecar(fd, sidecar)
            if size:
                os.ftruncate(fd, size)
        except OSError as e:
            raise self._full(e) from e
        self._synced.discard(sidecar.ino)
        return fd

    def _make(self, path: str, *, write: bool) -> int:
        """An empty file, one that was used before if there is any: ext4 takes a millisecond to
        find a free inode among recently deleted ones, and renames in a twentieth of that."""
        if self._spares:
            try:
                os.rename(self._spares.pop(), path)
                fd = os.open(path, os.O_RDWR if write else os.O_RDONLY)
                os.utime(fd)  # a file that stays empty shows this time
                return fd
            except (IndexError, FileNotFoundError):
                pass  # another thread took the last one; somebody cleaned up
        flags = os.O_RDWR if write else os.O_RDONLY
        return os.open(path, flags | os.O_CREAT | os.O_TRUNC, 0o600)

    def reopen(self, sidecar: Sidecar) -> int:
        """A descriptor of a staging file that exists, and from now on is what `sidecar` says."""
        fd = os.open(self.path_text(sidecar.ino), os.O_RDWR)
        try:
            self._write_sidecar(fd, sidecar)
        except OSError as e:
            os.close(fd)
            raise self._full(e) from e
        self._synced.discard(sidecar.ino)
        return fd

    def _write_sidecar(self, fd: int, sidecar: Sidecar) -> None:
        """As an attribute of the staging file: one system call, and the two never part. A file of
        its own where the attribute does not fit (ext4 has 4 KiB) or the disk has none."""
        data = msgspec.json.encode(sidecar)
        try:
            os.setxattr(fd, _ATTRIBUTE, data)
        except OSError:
            out = os.open(
                self._sidecar_file(sidecar.ino), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600
            )
            try:
                os.write(out, data)
            finally:
                os.close(out)

    def note_source(self, ino: int, fd: int, source: Content) -> None:
        """The file's bytes are in the store from now on, as that version."""
        sidecar = self.sidecar(ino) or Sidecar(ino, "", 0o644, "")
        sidecar.copy_of = source
        try:
            self._write_sidecar(fd, sidecar)
        except OSError as e:
            raise self._full(e) from e
        self._synced.discard(ino)

    def _full(self, e: OSError) -> Exception:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            return NoSpace(
                f"no space left in {self.directory} for files that wait to go up",
                hint="free space there, or wait until the outbox has gone up (pipefs status)",
            )
        return e

    def require_room(self, more_bytes: int = 0) -> None:
        """
        Raises:
            NoSpace: the `staging_limit` of the pipe is reached, or would be with these bytes.
        """
        if self._limit and self.used_bytes() + more_bytes >= self._limit:
            raise NoSpace(
                f"the staging limit of {self._limit} bytes is reached in {self.directory}",
                hint="wait until the outbox has gone up (pipefs flush), or raise staging_limit",
            )

    def used_bytes(self) -> int:
        """Disk space that staging files take now."""
        total = 0
        with os.scandir(self.directory) as entries:
            for entry in entries:
                try:
                    total += entry.stat().st_blocks * 512
                except FileNotFoundError:
                    continue
        return total

    def open(self, ino: int, *, write: bool) -> int:
        """A new descriptor for an existing staging file. FileNotFoundError if there is none."""
        return os.open(self.path_text(ino), os.O_RDWR if write else os.O_RDONLY)

    def exists(self, ino: int) -> bool:
        return self.path(ino).exists()

    def sync(self, ino: int, fd: int) -> None:
        """Put bytes, sidecar and names on disk."""
        os.fsync(fd)
        if ino not in self._synced:
            try:
                sidecar = os.open(self._sidecar_file(ino), os.O_RDONLY)
            except FileNotFoundError:
                sidecar = -1
            if sidecar >= 0:
                os.fsync(sidecar)
                os.close(sidecar)
            folder = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
            self._synced.add(ino)

    def remove(self, ino: int, *, shared: bool = False) -> None:
        """Data first: a sidecar without data is swept away, data without a sidecar is rescued.

        `shared`: programs may have the file open or mapped; to them it stays what it is.
        """
        self._synced.discard(ino)
        path = self.path_text(ino)
        self.remove_path(path, reuse=not (shared and self.in_use(path)))
        try:
            os.unlink(self._sidecar_file(ino))
        except FileNotFoundError:
            pass

    def remove_path(self, path: str, *, reuse: bool = True) -> None:
        try:
            if reuse and len(self._spares) < _MAX_SPARES:
                spare = f"{self._prefix}spare-{next(self._spare_numbers):x}"
                # Out of the way first: a crash before the truncate leaves a spare, not a file.
                os.rename(path, spare)
                os.truncate(spare, 0)
                self._spares.append(spare)
            else:
                os.unlink(path)
        except FileNotFoundError:
            pass

    # --- files that the kernel passes through -------------------------------------------------

    def in_use(self, path: str, *, readers: bool = True) -> bool:
        """Whether anybody has the file open or mapped; with `readers` False only who may write it.
        Descriptors of this process count too.

        A lease is only given on a file that nobody else has open (for writing): asking for one and
        giving it back at once is the kernel's own answer, mappings included.
        """
        try:
            fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            # An open in this moment would signal the lease's breaking by SIGIO, which kills.
            fcntl.fcntl(fd, _F_SETSIG, signal.SIGURG)
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK if readers else fcntl.F_RDLCK)
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except BlockingIOError:
            return True
        except OSError:
            return False  # no leases here, so nothing is passed through (`passable`)
        finally:
            os.close(fd)
        return False

    def kept_path(self, ino: int, epoch: int) -> str:
        """Where a file stays that went up while programs have it open."""
        return f"{self._prefix}{ino:x}.{epoch:x}.kept"

    def kept(self) -> Iterator[tuple[int, int]]:
        """(inode, content epoch) of the files that are kept."""
        for name in os.listdir(self.directory):
            if name.endswith(".kept"):
                ino, epoch, _ = name.split(".")
                yield int(ino, 16), int(epoch, 16)

    def inos(self) -> Iterator[int]:
        """Inodes that have a staging file."""
        for name in os.listdir(self.directory):
            stem, _dot, ext = name.partition(".")
            if ext == "data":
                try:
                    yield int(stem, 16)
                except ValueError:
                    continue

    def sidecar(self, ino: int) -> Sidecar | None:
        """What a staging file says it is, or None if its sidecar is missing or torn."""
        try:
            data = os.getxattr(self.path_text(ino), _ATTRIBUTE)
        except OSError:
            try:
                with open(self._sidecar_file(ino), "rb") as f:
                    data = f.read()
            except OSError:
                return None
        try:
            return msgspec.json.decode(data, type=Sidecar)
        except msgspec.MsgspecError:
            return None

    @staticmethod
    def ino_of_event(path: str) -> int | None:
        """Inode of a staging file from a path that an inotify event names."""
        stem, _, ext = os.path.basename(path).partition(".")
        if ext != "data":
            return None
        try:
            return int(stem, 16)
        except ValueError:
            return None


# --- bitmaps of present blocks ----------------------------------------------------------------


def empty_bitmap(size: int) -> bytes:
    blocks = -(-size // BLOCK_SIZE_BYTES)
    return bytes(-(-blocks // 8))


def has_block(bitmap: bytes | None, block: int) -> bool:
    if bitmap is None:
        return True
    return block // 8 < len(bitmap) and bool(bitmap[block // 8] >> (block % 8) & 1)


def with_blocks(bitmap: bytes, blocks: list[int]) -> bytes:
    out = bytearray(bitmap)
    for block in blocks:
        if block // 8 < len(out):
            out[block // 8] |= 1 << (block % 8)
    return bytes(out)


def missing_blocks(bitmap: bytes | None, base_size: int, offset: int, size: int) -> list[int]:
    """Blocks that overlap [offset, offset+size), lie in the base, and are not in staging."""
    if bitmap is None or size <= 0:
        return []
    first = offset // BLOCK_SIZE_BYTES
    last = (min(offset + size, base_size) - 1) // BLOCK_SIZE_BYTES
    return [b for b in range(first, last + 1) if not has_block(bitmap, b)]
