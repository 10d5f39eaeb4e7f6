"""Local bytes of files: open for writing, write, truncate, and the sealed state that goes up.

A file with a `Staging` mark has its bytes in a staging file, sparse over the version it was
opened on until all blocks are there. The mark is durable before the open is answered. While it
has writers it stays here; once the last one has closed it is *sealed*, and an upload may read it.
An open for writing cancels such an upload and waits until its reader has stopped, so no object is
ever torn.

Lock order: `LocalFile.lock`, then the state database. Bytes of the version below are fetched
under `LocalFile.filling` only, which protects nothing else: other files, and metadata, go on.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipefs import tree
from pipefs.content import ContentReader
from pipefs.db import StateDB, Txn
from pipefs.errors import WouldBlock
from pipefs.records import Content, Dirty, Inode, Staging, decode_staging, encode, ino_key
from pipefs.staging import (
    Sidecar,
    StagingArea,
    empty_bitmap,
    has_block,
    missing_blocks,
    with_blocks,
)
from pipefs.types import BLOCK_SIZE_BYTES


def _never() -> bool:
    return False


@dataclass(slots=True)
class LocalFile:
    """One inode's local bytes, in memory. All fields below `lock` are protected by it."""

    ino: int
    lock: threading.RLock = field(default_factory=threading.RLock)
    filling: threading.Lock = field(default_factory=threading.Lock)
    fd: int = -1
    mark: Staging | None = None
    reading: int = 0
    """Uploads that read the staging file now."""
    cancel: bool = False
    """Tells them to stop."""
    waiting: int = 0
    """Opens that wait for such an upload to stop."""
    dead: bool = False
    """No longer the inode's entry: whoever waited for the lock looks it up again."""
    idle: threading.Condition = field(init=False)

    def __post_init__(self) -> None:
        self.idle = threading.Condition(self.lock)


class LocalFiles:
    """All files of one pipe that have local bytes."""

    def __init__(
        self,
        db: StateDB,
        staging: StagingArea,
        reader: ContentReader,
        *,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._db = db
        self.staging = staging
        self._reader = reader
        self._clock = clock
        self._files: dict[int, LocalFile] = {}
        self._lock = threading.Lock()  # protects _files only; taken alone

    def recover(self, *, keep_writers: bool) -> None:
        """Load the marks after a start. Without `keep_writers` (a fresh mount: no handle of an
        older one is open) files that were open for writing count as closed now."""
        with self._db.update() as t:
            for k, raw in list(t.scan("staging")):
                mark = decode_staging(raw)
                if not self.staging.exists(mark.ino):
                    t.delete("staging", k)
                    continue
                if mark.writers and not keep_writers:
                    mark.writers, mark.closed_ns = (), self._clock()
                    self._record_size(t, mark)
                    t.put("staging", k, encode(mark))
                local = LocalFile(mark.ino, mark=mark)
                local.fd = self.staging.open(mark.ino, write=True)
                self._files[mark.ino] = local

    def _record_size(self, t: Txn, mark: Staging) -> None:
        node = tree.overlay_inode(t, mark.ino)
        if node is None:
            node = tree.need(t, mark.ino)
        st = os.stat(self.staging.path(mark.ino))
        if mark.changed or node.dirty & Dirty.CONTENT:
            node.size, node.mtime_ns = st.st_size, st.st_mtime_ns
            node.dirty |= Dirty.CONTENT | Dirty.ANNOUNCE
            tree.put_inode(t, node)

    def get(self, ino: int) -> LocalFile | None:
        return self._files.get(ino)

    def inos(self) -> list[int]:
        with self._lock:
            return list(self._files)

    def _file(self, ino: int) -> LocalFile:
        with self._lock:
            local = self._files.get(ino)
            if local is None:
                local = self._files[ino] = LocalFile(ino)
            return local

    @contextmanager
    def _locked(self, ino: int) -> Iterator[LocalFile]:
        """The inode's entry, locked."""
        while True:
            local = self._file(ino)
            with local.lock:
                if not local.dead:
                    yield local
                    return

    # --- opening and closing ------------------------------------------------------------------

    def open_write(self, ino: int, handle: int, *, truncate: bool, wait: bool) -> None:
        """Open for writing: the mark, with this handle in it, is durable afterwards.

        Raises:
            WouldBlock: an upload reads the file now and `wait` is False.
            NoSpace: no room for a staging file.
        """
        with self._locked(ino) as local:
            self._stop_upload(local, wait=wait)
            if local.mark is None:
                self._make_mark(local, truncate=truncate)
            elif truncate:
                self._truncate(local, 0)
            mark = local.mark
            assert mark is not None
            mark.writers = (*mark.writers, handle)
            with self._db.update() as t:
                t.put("staging", ino_key(ino), encode(mark))
                if mark.changed:
                    self._mark_dirty(t, ino)

    def created(self, t: Txn, node: Inode, path: str, handle: int) -> LocalFile:
        """The staging file of a new, empty file, in the transaction that makes its name."""
        write_id = uuid.uuid4().hex
        local = self._file(node.ino)
        local.fd = self.staging.create(Sidecar(node.ino, path, node.mode, write_id), 0)
        writers = (handle,) if handle else ()
        closed = 0 if handle else self._clock()
        local.mark = Staging(
            node.ino, writers=writers, closed_ns=closed, changed=True, write_id=write_id
        )
        t.put("staging", ino_key(node.ino), encode(local.mark))
        return local

    def _make_mark(self, local: LocalFile, *, truncate: bool) -> None:
        with self._db.view() as v:
            node = tree.need(v, local.ino)
            names = tree.names_to(v, local.ino)
        base = node.content if node.size and not truncate else None
        mark = Staging(
            local.ino,
            base=base,
            base_size=base.size if base else 0,
            present=empty_bitmap(base.size) if base else None,
            changed=truncate,
            write_id=uuid.uuid4().hex,
        )
        sidecar = Sidecar(
            local.ino, tree.path_text(names or []), node.mode, mark.write_id, node.content
        )
        local.fd = self.staging.create(sidecar, mark.base_size)
        if not truncate:
            os.utime(local.fd, ns=(node.atime_ns, node.mtime_ns))
        local.mark = mark

    def close_write(self, ino: int, handle: int) -> bool:
        """The handle is closed; True if the file is sealed now and has something to go up."""
        with self._locked(ino) as local:
            mark = local.mark
            if mark is None or handle not in mark.writers:
                return False
            mark.writers = tuple(w for w in mark.writers if w != handle)
            if mark.writers:
                with self._db.update() as t:
                    t.put("staging", ino_key(ino), encode(mark))
                return False
            if not mark.changed:
                self._drop(local)
                return False
            mark.closed_ns = self._clock()
            with self._db.update() as t:
                t.put("staging", ino_key(ino), encode(mark))
                self._record_size(t, mark)
            # inotify tells the watcher of the close: a descriptor of our own, opened and closed,
            # so that one that stays open for reading does not hide it.
            os.close(self.staging.open(ino, write=True))
            return True

    def _drop(self, local: LocalFile) -> None:
        """Nothing was written: the version in the store is still the file."""
        with self._db.update() as t:
            t.delete("staging", ino_key(local.ino))
        self._forget(local)
        self._retire(local)

    def _forget(self, local: LocalFile) -> None:
        if local.fd >= 0:
            os.close(local.fd)
            local.fd = -1
        local.mark = None
        self.staging.remove(local.ino)

    def discard(self, ino: int) -> None:
        """The inode is gone for good: so are its local bytes. The caller drops the mark."""
        local = self._files.get(ino)
        if local is None:
            return
        with local.lock:
            local.cancel = True
            while local.reading:
                local.idle.wait()
            self._forget(local)
            self._retire(local)

    def _retire(self, local: LocalFile) -> None:
        """Take the entry of a file without local bytes out of the table. Holds its lock."""
        if local.mark is None and not local.reading and not local.waiting:
            local.dead = True
            with self._lock:
                self._files.pop(local.ino, None)

    def _stop_upload(self, local: LocalFile, *, wait: bool) -> None:
        if not local.reading:
            return
        local.cancel = True
        if not wait:
            raise WouldBlock
        local.waiting += 1
        while local.reading:
            local.idle.wait()
        local.waiting -= 1

    # --- reading and writing ------------------------------------------------------------------

    def stat(self, ino: int) -> os.stat_result | None:
        """Size and times of the staging file, or None if the file has no local bytes."""
        local = self._files.get(ino)
        if local is None:
            return None
        with local.lock:
            return os.fstat(local.fd) if local.mark is not None else None

    def read(self, local: LocalFile, offset: int, size: int, *, wait: bool) -> list[bytes] | None:
        """Bytes of a file with local bytes, short only at its end; None if it has none (any
        more): read the version.

        Raises:
            WouldBlock: a part is only in the store and `wait` is False.
        """
        while True:
            with local.lock:
                mark = local.mark
                if mark is None:
                    return None
                missing = missing_blocks(mark.present, mark.base_size, offset, size)
                if not missing:
                    return [os.pread(local.fd, size, offset)]
            if not wait:
                raise WouldBlock
            self._fill(local, missing)

    def write(
        self,
        ino: int,
        offset: int,
        data: memoryview,
        *,
        wait: bool,
        interrupted: Callable[[], bool] = _never,
    ) -> int:
        """Write into the staging file: in the kernel's hands (safe from kill -9) when it returns.

        Raises:
            WouldBlock: the rest of a block must come from the store first and `wait` is False.
            OSError: ENOSPC and what else pwrite(2) says.
        """
        local = self._file(ino)
        while True:
            with local.lock:
                mark = local.mark
                if mark is None:
                    raise OSError(9, "not open for writing")
                partial = self._partial_blocks(mark, offset, len(data))
                if not partial:
                    return self._write(local, mark, offset, data)
            if not wait:
                raise WouldBlock
            self._fill(local, partial)

    def _partial_blocks(self, mark: Staging, offset: int, size: int) -> list[int]:
        """Missing blocks that this write covers only in part."""
        if mark.present is None:
            return []
        end = offset + size
        out = []
        for block in missing_blocks(mark.present, mark.base_size, offset, size):
            start = block * BLOCK_SIZE_BYTES
            stop = min(start + BLOCK_SIZE_BYTES, mark.base_size)
            if offset > start or end < stop:
                out.append(block)
        return out

    def _write(self, local: LocalFile, mark: Staging, offset: int, data: memoryview) -> int:
        if not mark.changed:
            mark.changed = True
            with self._db.update() as t:
                t.put("staging", ino_key(local.ino), encode(mark))
                self._mark_dirty(t, local.ino)
        written = 0
        while written < len(data):
            written += os.pwrite(local.fd, data[written:], offset + written)
        covered = missing_blocks(mark.present, mark.base_size, offset, len(data))
        if covered:
            self._now_present(local, mark, covered)
        return written

    def _mark_dirty(self, t: Txn, ino: int) -> None:
        node = tree.need(t, ino)
        if not node.dirty & Dirty.CONTENT:
            node.dirty |= Dirty.CONTENT | Dirty.ANNOUNCE
            node.ctime_ns = self._clock()
            tree.put_inode(t, node)

    def _now_present(self, local: LocalFile, mark: Staging, blocks: list[int]) -> None:
        if mark.present is None:
            return
        mark.present = with_blocks(mark.present, blocks)
        if not missing_blocks(mark.present, mark.base_size, 0, mark.base_size):
            mark.present = None
        with self._db.update() as t:
            t.put("staging", ino_key(local.ino), encode(mark))

    def _fill(self, local: LocalFile, blocks: list[int]) -> None:
        """Bring blocks of the version below into the staging file. May wait for the store."""
        with local.filling:
            for block in blocks:
                with local.lock:
                    mark = local.mark
                    if mark is None or has_block(mark.present, block) or mark.base is None:
                        continue
                    base = mark.base
                data = self._reader.fill(base.ref(), block)
                with local.lock:
                    if local.mark is not mark or mark is None or has_block(mark.present, block):
                        continue
                    start = block * BLOCK_SIZE_BYTES
                    data = data[: max(0, mark.base_size - start)]
                    self._pwrite_keeping_times(local.fd, data, start)
                    self._now_present(local, mark, [block])

    @staticmethod
    def _pwrite_keeping_times(fd: int, data: bytes, offset: int) -> None:
        before = os.fstat(fd)
        done = 0
        while done < len(data):
            done += os.pwrite(fd, data[done:], offset + done)
        os.utime(fd, ns=(before.st_atime_ns, before.st_mtime_ns))

    def complete(self, ino: int) -> None:
        """Bring every missing block in: afterwards the staging file is the whole file."""
        local = self._file(ino)
        with local.lock:
            mark = local.mark
        if mark is not None and mark.present is not None:
            self._fill(local, missing_blocks(mark.present, mark.base_size, 0, mark.base_size))

    def truncate(self, ino: int, size: int, *, wait: bool) -> None:
        """truncate(2): also on a file that is not open for writing (it is sealed afterwards)."""
        with self._locked(ino) as local:
            self._stop_upload(local, wait=wait)
            if local.mark is None:
                self._make_mark(local, truncate=size == 0)
            self._truncate(local, size)
            mark = local.mark
            assert mark is not None
            with self._db.update() as t:
                if not mark.writers:
                    mark.closed_ns = self._clock()
                t.put("staging", ino_key(ino), encode(mark))
                self._mark_dirty(t, ino)
                if not mark.writers:
                    self._record_size(t, mark)
            if not mark.writers:
                os.close(self.staging.open(ino, write=True))

    def _truncate(self, local: LocalFile, size: int) -> None:
        mark = local.mark
        assert mark is not None
        os.ftruncate(local.fd, size)
        mark.changed = True
        if size < mark.base_size:
            mark.base_size = size
            if not missing_blocks(mark.present, size, 0, size):
                mark.present = None

    def set_times(self, ino: int, atime_ns: int | None, mtime_ns: int | None) -> None:
        """utimensat(2) on a file with local bytes (the inode keeps them too)."""
        local = self._files.get(ino)
        if local is None:
            return
        with local.lock:
            if local.mark is not None:
                st = os.fstat(local.fd)
                at = st.st_atime_ns if atime_ns is None else atime_ns
                mt = st.st_mtime_ns if mtime_ns is None else mtime_ns
                os.utime(local.fd, ns=(at, mt))

    def sync(self, ino: int) -> None:
        """fsync(2): bytes, sidecar, and everything recorded before are on disk."""
        local = self._files.get(ino)
        if local is not None:
            with local.lock:
                fd = os.dup(local.fd) if local.mark is not None else -1
            if fd >= 0:
                try:
                    self.staging.sync(ino, fd)
                finally:
                    os.close(fd)
        self._db.sync()

    # --- for uploads --------------------------------------------------------------------------

    def seal(self, ino: int, *, now_ns: int, settled_ns: int) -> Staging | None:
        """Take the sealed generation for an upload: it stays as it is until `unseal`, or the
        upload is told to stop. None: open for writing, nothing to go up, or changed less than
        `settled_ns` ago."""
        local = self._files.get(ino)
        if local is None:
            return None
        with local.lock:
            mark = local.mark
            if mark is None or mark.writers or not mark.changed or local.reading:
                return None
            if now_ns - mark.closed_ns < settled_ns:
                return None
            local.reading, local.cancel = 1, False
            return mark

    def cancelled(self, ino: int) -> bool:
        local = self._files.get(ino)
        return local is None or local.cancel

    def unseal(self, ino: int) -> None:
        local = self._files.get(ino)
        if local is not None:
            with local.lock:
                local.reading = 0
                local.idle.notify_all()
                self._retire(local)

    def uploaded(self, t: Txn, mark: Staging, content: Content) -> bool:
        """The sealed generation is in the store as `content`; True if no newer one exists, so
        that the staging file may go (call `release_bytes` after the transaction)."""
        node = tree.overlay_inode(t, mark.ino)
        if node is None:
            return False
        node.content = content
        local = self._files.get(mark.ino)
        newest = local is not None and local.mark is mark and not mark.writers and not local.cancel
        if newest:
            node.dirty &= ~Dirty.CONTENT
            node.size = content.size
            t.delete("staging", ino_key(mark.ino))
        node.dirty |= Dirty.ANNOUNCE
        tree.put_inode(t, node)
        return newest

    def release_bytes(self, ino: int, mark: Staging) -> None:
        """Remove the staging file of a generation that is in the store and cached."""
        local = self._files.get(ino)
        if local is None:
            return
        with local.lock:
            if local.mark is mark:
                self._forget(local)

    def close(self) -> None:
        for local in list(self._files.values()):
            with local.lock:
                if local.fd >= 0:
                    os.close(local.fd)
                    local.fd = -1
