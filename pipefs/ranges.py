"""Ranges of a file's contents: reserved, zeroed, found, and copied to other files.

    allocate   fallocate(2): on the staging file, which has what is partly covered before
    seek       SEEK_DATA and SEEK_HOLE: a block that is only in the store counts as data
    copy       copy_file_range(2): a file that is in the store is copied by naming its version

A copy that names a version moves no bytes, neither now nor when it goes up: the store copies then
(`pipefs.transfers`). What is changed in it later is changed in its staging file, over that version,
as in any file. Everything here may be done twice with the same outcome, for requests that come
again. Waits for the network only with `wait`; starts no thread.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import msgspec

from pipefs import sparse
from pipefs.blocks import block_id
from pipefs.errors import PipefsError, WouldBlock
from pipefs.localfile import LocalFile
from pipefs.records import Content, Dirty
from pipefs.types import BLOCK_SIZE_BYTES
from pipefs.volume import Volume

COPY_LIMIT_BYTES = 64 << 20
"""One request moves at most this: whoever waits for it can be interrupted."""

_PIECE_BYTES = 8 << 20
"""Moved at once, under the locks of both files."""

_SMALL_BYTES = 1 << 20
"""What a thread that must not wait may move."""

_SHARE_BYTES = 64 << 10
"""Below this, moving bytes costs less than the two requests of a copy in the store."""

_LONGEST_LOOK = 4096
"""Blocks of a version that one `seek` looks up; what follows them counts as data."""


class Place(msgspec.Struct, frozen=True):
    """Where bytes are copied from."""

    ino: int
    epoch: int
    """Content epoch of the node that is read."""
    offset: int
    handle: int
    """For readahead."""


def _fail(code: int) -> OSError:
    return OSError(code, os.strerror(code))


class Ranges:
    """The ranges of one volume's files. Thread-safe."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._files = volume.files

    # --- reserving and zeroing ----------------------------------------------------------------

    def allocate(self, ino: int, offset: int, length: int, mode: int, *, wait: bool) -> None:
        """fallocate(2) of a file that is open for writing. Space is reserved on the disk of the
        staging folder, not in the store.

        Raises:
            WouldBlock: a block must come from the store first and `wait` is False.
            NoSpace: the staging limit. OSError: ENOSPC, EFBIG, EINVAL, EOPNOTSUPP.
        """
        if mode not in sparse.MODES:
            raise _fail(errno.EOPNOTSUPP)
        if offset < 0 or length <= 0:
            raise _fail(errno.EINVAL)
        zeroing = bool(mode & (sparse.PUNCH_HOLE | sparse.ZERO_RANGE))
        if not wait and length > COPY_LIMIT_BYTES:
            raise WouldBlock
        while True:
            with self._files.locked(ino) as local:
                self._files.stop_upload(local, wait=wait)
                if local.mark is None:
                    self._files.make_mark(local, truncate=False)
                partial = local.partly_covered(offset, length) if zeroing else []
                if not partial:
                    self._allocate(local, offset, length, mode)
                    return
            if not wait:
                raise WouldBlock
            self._files.fill(local, partial)

    def _allocate(self, local: LocalFile, offset: int, length: int, mode: int) -> None:
        if not mode & sparse.PUNCH_HOLE:
            taken = local.stat().st_blocks * 512
            self._files.staging.require_room(max(0, length - taken))
        local.will_change(self._volume.now_ns())
        with local.descriptor(write=True) as fd:
            sparse.allocate(fd, mode, offset, length)
        if mode & (sparse.PUNCH_HOLE | sparse.ZERO_RANGE):
            local.now_present(local.missing(offset, length))

    # --- finding data and holes ---------------------------------------------------------------

    def blocks(self, ino: int, size: int) -> int:
        """Space that a file of this size takes, in units of 512 bytes: less than its size if it
        has holes, by which programs know that asking for them is worth while."""
        local = self._files.get(ino)
        if local is not None:
            with local.lock:
                mark = local.mark
                if mark is not None and mark.present is None:
                    return min(local.stat().st_blocks, -(-size // 512))
        return -(-size // 512)

    def seek(self, ino: int, epoch: int, offset: int, whence: int) -> int:
        """lseek(2) with SEEK_DATA or SEEK_HOLE. Never waits: what is not known is data.

        Raises:
            OSError: ENXIO at or beyond the end of the file, or when only a hole follows.
        """
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise _fail(errno.EINVAL)
        local = self._files.get(ino)
        if local is not None and self._volume.inode(ino).epoch == epoch:
            with local.lock:
                if local.mark is not None:
                    return self._seek_local(local, offset, whence)
        node = self._volume.inode(ino)
        if epoch != node.epoch:
            size = self._volume.size_at(ino, epoch, node.size)
            return self._in_bounds(offset, size) if whence == os.SEEK_DATA else size
        return self._seek_version(node.content, node.size, offset, whence)

    @staticmethod
    def _in_bounds(offset: int, size: int) -> int:
        if not 0 <= offset < size:
            raise _fail(errno.ENXIO)
        return offset

    def _seek_local(self, local: LocalFile, offset: int, whence: int) -> int:
        mark = local.mark
        assert mark is not None
        with local.descriptor(write=False) as fd:
            size = os.fstat(fd).st_size
            self._in_bounds(offset, size)
            gaps = sparse.Gaps(mark.present, min(mark.base_size, size))
            if whence == os.SEEK_HOLE:
                return sparse.hole_from(fd, offset, size, gaps)
            found = sparse.data_from(fd, offset, gaps)
        if found is None:
            raise _fail(errno.ENXIO)
        return found

    def _seek_version(self, content: Content | None, size: int, offset: int, whence: int) -> int:
        """In a version a block is a hole if the cache has it and it is zeros."""
        self._in_bounds(offset, size)
        hole = whence == os.SEEK_HOLE
        if content is None:
            return offset if hole else self._nothing()
        zeros = _ZeroBlocks(self._volume, content)
        first, count = offset // BLOCK_SIZE_BYTES, -(-size // BLOCK_SIZE_BYTES)
        for block in range(first, min(count, first + _LONGEST_LOOK)):
            if zeros.has(block) is hole:
                return max(offset, block * BLOCK_SIZE_BYTES)
        rest = min(count, first + _LONGEST_LOOK) * BLOCK_SIZE_BYTES
        if hole or rest >= size:
            return size if hole else self._nothing()
        return rest

    @staticmethod
    def _nothing() -> int:
        raise _fail(errno.ENXIO)

    # --- copying ------------------------------------------------------------------------------

    def copy(
        self,
        source: Place,
        ino: int,
        offset: int,
        length: int,
        *,
        wait: bool,
        share: bool = True,
    ) -> int:
        """copy_file_range(2) to a file that is open for writing; how many bytes are copied, 0 at
        and beyond the source's end.

        Args:
            share: the file may be left without its bytes here; False while something else reads
                its staging file.

        Raises:
            WouldBlock: it takes long, and `wait` is False. EINVAL: both ranges are of one file
            and overlap. Otherwise as `Volume.read` and `Volume.write`, if nothing was copied.
        """
        clean, below = self._copied_from(source.ino)
        # Looked at afterwards: clean before, it has the version that the inode names now.
        node = self._volume.inode(source.ino)
        current = source.epoch == node.epoch
        size = node.size
        if not current:
            size = self._volume.size_at(source.ino, source.epoch, size)
        length = min(length, size - source.offset)
        if length <= 0:
            return 0
        if source.ino == ino and current and abs(source.offset - offset) < length:
            raise _fail(errno.EINVAL)
        if clean and not node.dirty & Dirty.CONTENT:
            below = node.content
        fits = current and source.offset == offset and length >= _SHARE_BYTES
        if share and fits and self._share(below, ino, offset, length, wait=wait):
            return length
        if not wait and length > _SMALL_BYTES:
            raise WouldBlock
        return self._copy_bytes(source, ino, offset, min(length, COPY_LIMIT_BYTES), wait=wait)

    def lay(self, content: Content, ino: int) -> bool:
        """Let an empty file that is open for writing be this version, without its bytes; False if
        the store's versions do not last."""
        return self._share(content, ino, 0, content.size, wait=True)

    def copy_version(
        self,
        content: Content | None,
        size: int,
        offset_in: int,
        ino: int,
        offset: int,
        length: int,
        *,
        stream: int,
        wait: bool,
    ) -> int:
        """As `copy`, from a version that no live file need have. Raises as that does."""
        length = min(length, size - offset_in)
        if length <= 0 or content is None:
            return 0
        fits = offset_in == offset and length >= _SHARE_BYTES
        if fits and self._share(content, ino, offset, length, wait=wait):
            return length
        if not wait and length > _SMALL_BYTES:
            raise WouldBlock
        length = min(length, _PIECE_BYTES)
        parts, release = self._volume.read_version(content, offset_in, length, stream, wait, None)
        try:
            data = b"".join(parts)
        finally:
            if release is not None:
                release()
        return self._volume.write(ino, offset, memoryview(data), wait=wait) if data else 0

    def _copied_from(self, ino: int) -> tuple[bool, Content | None]:
        """Whether a file has no local bytes; if it has, the version it is an untouched copy of."""
        local = self._files.get(ino)
        if local is None:
            return True, None
        with local.lock:
            return local.mark is None, local.copied_from()

    def _share(
        self, content: Content | None, ino: int, offset: int, length: int, *, wait: bool
    ) -> bool:
        """Let the file be the beginning of this version, if it is empty or just that already."""
        if content is None or content.version_id in (None, "null"):
            return False  # without an id of its own a version does not outlive the next one
        with self._files.locked(ino) as local:
            self._files.stop_upload(local, wait=wait)
            if local.mark is None:
                return False
            here = local.stat().st_size
            stop = max(here, offset + length)
            if offset > here or not local.may_lay_over(content, stop):
                return False
            if stop > here:
                local.lay_over(content, stop)
            return True

    def _copy_bytes(self, source: Place, ino: int, offset: int, length: int, *, wait: bool) -> int:
        done = 0
        while done < length:
            at = msgspec.structs.replace(source, offset=source.offset + done)
            try:
                moved = self._copy_piece(
                    at, ino, offset + done, min(_PIECE_BYTES, length - done), wait=wait
                )
            except (PipefsError, OSError):
                if not done:
                    raise
                break
            if not moved:
                break
            done += moved
        return done

    def _copy_piece(self, source: Place, ino: int, offset: int, length: int, *, wait: bool) -> int:
        moved = self._between_staging(source, ino, offset, length)
        if moved:
            return moved
        parts, release = self._volume.read(
            source.ino, source.epoch, source.offset, length, stream=source.handle, wait=wait
        )
        try:
            data = b"".join(parts)
        finally:
            if release is not None:
                release()
        return self._volume.write(ino, offset, memoryview(data), wait=wait) if data else 0

    def _between_staging(self, source: Place, ino: int, offset: int, length: int) -> int:
        """By the kernel, where both files have the blocks in question here; 0: they have not."""
        if self._volume.inode(source.ino).epoch != source.epoch:
            return 0
        with self._both(source.ino, ino) as found:
            if found is None:
                return 0
            origin, local = found
            if origin.missing(source.offset, length) or local.partly_covered(offset, length):
                return 0
            local.will_change(self._volume.now_ns())
            with origin.descriptor(write=False) as fd_in, local.descriptor(write=True) as fd_out:
                moved = _copy_range(fd_in, source.offset, fd_out, offset, length)
            local.now_present(_whole(local, offset, moved))
            return moved

    @contextmanager
    def _both(self, ino_in: int, ino_out: int) -> Iterator[tuple[LocalFile, LocalFile] | None]:
        """Both files, locked, lower inode first; None if one has no local bytes."""
        origin, local = self._files.get(ino_in), self._files.get(ino_out)
        if origin is None or local is None:
            yield None
            return
        with ExitStack() as held:
            for file in sorted({origin, local}, key=lambda file: file.ino):
                held.enter_context(file.lock)
            here = origin.mark is not None and local.mark is not None
            yield (origin, local) if here else None


class _ZeroBlocks:
    """Which blocks of a version are known to be zeros."""

    def __init__(self, volume: Volume, content: Content) -> None:
        self._cache = volume.cache
        self._version = volume.reader.identity(content.ref())
        self._size = content.size
        self._verified: dict[int, bytes] = {}
        """Length of a block → id under which the cache has zeros of that length."""

    def has(self, block: int) -> bool:
        length = min(BLOCK_SIZE_BYTES, self._size - block * BLOCK_SIZE_BYTES)
        if length <= 0:
            return False
        zeros = self._verified.get(length) or block_id(bytes(length))
        if self._cache.lookup(self._version, block) != zeros:
            return False
        if length not in self._verified:
            # Ids are no proof against bytes that were chosen to share one.
            with_id = self._cache.read(self._version, block)
            if with_id is None:
                return False
            with with_id as lease:
                if bytes(lease.data) != bytes(length):
                    return False
            self._verified[length] = zeros
        return True


def _whole(local: LocalFile, offset: int, length: int) -> list[int]:
    """Missing blocks that a write of this range has filled."""
    partial = set(local.partly_covered(offset, length))
    return [b for b in local.missing(offset, length) if b not in partial]


def _copy_range(fd_in: int, offset_in: int, fd_out: int, offset_out: int, length: int) -> int:
    """copy_file_range(2) of all of it, short only where the source ends; 0 if the disk's file
    system does not do it."""
    done = 0
    while done < length:
        try:
            moved = os.copy_file_range(
                fd_in, fd_out, length - done, offset_in + done, offset_out + done
            )
        except OSError as e:
            if done or e.errno in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                break
            raise
        if not moved:
            break
        done += moved
    return done
