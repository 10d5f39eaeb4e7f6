"""All files of a pipe with local bytes: opened for writing, written, sealed, gone up.

A file with a `Staging` mark has its bytes in a staging file, sparse over the version it was
opened on until all blocks are there. The mark is durable before the open is answered. While it
has writers it stays here; once the last one has closed it is *sealed*, and an upload may read it.
An open for writing cancels such an upload and waits until its reader has stopped, so no object is
ever torn.

Lock order: `LocalFile.lock`, then the state database. Bytes of the version below are fetched
under `LocalFile.filling` only: other files, and metadata, go on.
"""

from __future__ import annotations

import errno
import os
import time
import uuid
from collections.abc import Callable

from pipefs import tree
from pipefs.content import ContentReader
from pipefs.db import StateDB, Txn
from pipefs.errors import WouldBlock
from pipefs.localfile import LocalFile
from pipefs.passing import PassedFiles
from pipefs.records import Content, Dirty, Inode, Staging, decode_staging, ino_key
from pipefs.staging import Sidecar, StagingArea, empty_bitmap, has_block


class LocalFiles(PassedFiles):
    """See the module. Thread-safe."""

    def __init__(
        self,
        db: StateDB,
        staging: StagingArea,
        reader: ContentReader,
        *,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        super().__init__(db, staging, clock)
        self._reader = reader

    def recover(self, *, keep_writers: bool) -> None:
        """Load the marks after a start. Without `keep_writers` (a fresh mount: no handle of an
        older one is open) files that were open for writing count as closed now."""
        with self._db.update() as t:
            for k, raw in list(t.scan("staging")):
                local = LocalFile(int.from_bytes(k, "big"), self.staging, self._db)
                local.mark = decode_staging(raw)
                if local.recover(t, self._clock(), keep_writers=keep_writers):
                    self._files[local.ino] = local
        self._recover_kept(same_mount=keep_writers)

    # --- opening and closing ------------------------------------------------------------------

    def open_write(
        self,
        ino: int,
        handle: int,
        *,
        truncate: bool,
        wait: bool,
        record: Callable[[Txn], None] = lambda _t: None,
    ) -> None:
        """Open for writing: the mark, with this handle in it, is durable afterwards, together
        with what `record` adds.

        Raises:
            WouldBlock: an upload reads the file now and `wait` is False.
            NoSpace: no room for a staging file.
        """
        with self.locked(ino) as local:
            self.stop_upload(local, wait=wait)
            fresh = local.mark is None
            try:
                # One update: what another machine changes comes before all of this, or after.
                with self._db.update() as t:
                    if fresh:
                        self.make_mark(local, truncate=truncate)
                    elif truncate:
                        local.truncate(0)
                    mark = local.mark
                    assert mark is not None
                    local.hold()
                    self._note_opened(local)
                    mark.writers = (*mark.writers, handle)
                    local.save_mark(t)
                    record(t)
                    local.mark_dirty(t, self._clock() if mark.changed else 0)
            except BaseException:
                if fresh:
                    local.forget()
                raise

    def created(self, t: Txn, node: Inode, path: str, handle: int) -> LocalFile:
        """The staging file of a new, empty file, in the transaction that makes its name."""
        write_id = uuid.uuid4().hex
        local = self._file(node.ino)
        fd = self.staging.create(Sidecar(node.ino, path, node.mode, write_id), 0)
        # Until its first bytes it has the time that was told: a tick may have gone by meanwhile.
        os.utime(fd, ns=(node.mtime_ns, node.mtime_ns))
        if handle:
            local.fd = fd
        else:
            os.close(fd)
        local.mark = Staging(
            node.ino,
            writers=(handle,) if handle else (),
            closed_ns=0 if handle else self._clock(),
            changed=True,
            write_id=write_id,
        )
        local.save_mark(t)
        return local

    def make_mark(self, local: LocalFile, *, truncate: bool) -> None:
        """A staging file over the version in the store; the caller saves the mark.

        Raises:
            OSError: ESTALE: no regular file. Whoever asks was told so of another inode that had
                the name, and is to look it up again.
        """
        with self._db.view() as v:
            node = tree.need(v, local.ino)
            path = tree.path_text(tree.names_to(v, local.ino) or [])
        if not node.is_file:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
        base = node.content if node.size and not truncate else None
        mark = Staging(
            local.ino,
            base=base,
            base_size=base.size if base else 0,
            present=empty_bitmap(base.size) if base else None,
            changed=truncate,
            write_id=uuid.uuid4().hex,
        )
        sidecar = Sidecar(local.ino, path, node.mode, mark.write_id, node.content)
        local.fd = self._take_back(local, node, sidecar)
        if local.fd >= 0:
            mark.present = None
            if truncate:
                os.ftruncate(local.fd, 0)
        else:
            local.fd = self.staging.create(sidecar, mark.base_size)
        if not truncate:
            os.utime(local.fd, ns=(node.mtime_ns, node.mtime_ns))
        local.mark = mark

    def close_write(self, ino: int, handle: int) -> bool:
        """The handle is closed; True if the file is sealed now and has something to go up."""
        local = self._files.get(ino)
        if local is None:
            return False
        with local.lock:
            mark = local.mark
            if mark is None or handle not in mark.writers:
                return False
            mark.writers = tuple(w for w in mark.writers if w != handle)
            if not mark.writers:
                mark.closed_ns = self._clock()
                mark.changed = local.is_changed()
            if not mark.writers and not mark.changed:
                local.let_go()  # or we would be found to have it open
                self._settled(local)
                if local.mark is None:
                    return False
            with self._db.update() as t:
                local.save_mark(t)
                if not mark.writers:
                    local.record_size(t)
            if not mark.writers:
                local.let_go()
            return not mark.writers and mark.changed

    def discard(self, ino: int) -> None:
        """The inode is gone for good: so are its local bytes. The caller drops the mark."""
        local = self._files.get(ino)
        if local is None:
            return
        with local.lock:
            local.cancel = True
            while local.reading:
                local.idle.wait()
            local.forget()
            for epoch in list(local.kept):
                self._drop_kept(local, epoch)
            self._retire(local)

    def stop_upload(self, local: LocalFile, *, wait: bool) -> None:
        """Return once no upload reads the file. Holds its lock, gives it up while it waits."""
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
            return local.stat() if local.mark is not None else None

    def below(self, local: LocalFile, offset: int, size: int) -> tuple[Content, int, int] | None:
        """Where these bytes are, (version, offset, size), if only the version below has them:
        they are read there, not brought in."""
        with local.lock:
            return local.only_below(offset, size)

    def read(self, local: LocalFile, offset: int, size: int, *, wait: bool) -> list[bytes] | None:
        """Bytes of a file with local bytes, short only at its end; None if it has none (any
        more): read the version.

        Raises:
            WouldBlock: a part is only in the store and `wait` is False.
        """
        while True:
            with local.lock:
                if local.mark is None:
                    return None
                missing = local.missing(offset, size)
                if not missing:
                    return [local.read(offset, size)]
            if not wait:
                raise WouldBlock
            self.fill(local, missing)

    def write(self, ino: int, offset: int, data: memoryview, *, wait: bool) -> int:
        """Write into the staging file: in the kernel's hands (safe from kill -9) when it returns.

        Raises:
            WouldBlock: the rest of a block must come from the store first and `wait` is False.
            OSError: ENOSPC and what else pwrite(2) says.
        """
        while True:
            with self.locked(ino) as local:
                if local.mark is None:
                    self.make_mark(local, truncate=False)
                partial = local.partly_covered(offset, len(data))
                if not partial:
                    return local.write(offset, data, self._clock())
            if not wait:
                raise WouldBlock
            self.fill(local, partial)

    def fill(self, local: LocalFile, blocks: list[int]) -> None:
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
                    if local.mark is mark and not has_block(mark.present, block):
                        local.put_block(block, data)

    def complete(self, ino: int) -> None:
        """Bring every missing block in: afterwards the staging file is the whole file."""
        local = self._files.get(ino)
        if local is None:
            return
        with local.lock:
            missing = local.missing(0, local.mark.base_size if local.mark is not None else 0)
        self.fill(local, missing)

    def truncate(self, ino: int, size: int, *, wait: bool) -> None:
        """truncate(2): also on a file that is not open for writing (it is sealed afterwards)."""
        with self.locked(ino) as local:
            self.stop_upload(local, wait=wait)
            if local.mark is None:
                self.make_mark(local, truncate=size == 0)
            local.truncate(size)
            mark = local.mark
            assert mark is not None
            with self._db.update() as t:
                if not mark.writers:
                    mark.closed_ns = self._clock()
                local.save_mark(t)
                local.mark_dirty(t, self._clock())
                if not mark.writers:
                    local.record_size(t)
            if not mark.writers:
                local.let_go()

    def set_times(self, ino: int, atime_ns: int | None, mtime_ns: int | None) -> None:
        """utimensat(2) on a file with local bytes (the inode keeps them too)."""
        local = self._files.get(ino)
        if local is None:
            return
        with local.lock:
            if local.mark is not None:
                st = local.stat()
                at = st.st_atime_ns if atime_ns is None else atime_ns
                mt = st.st_mtime_ns if mtime_ns is None else mtime_ns
                unseen = bool(local.pins) or local.differs()
                os.utime(self.staging.path_text(ino), ns=(at, mt))
                if local.mark.opened is not None and not unseen:
                    local.mark.opened = None
                    self._note_opened(local)
                    with self._db.update() as t:
                        local.save_mark(t)

    def sync(self, ino: int) -> None:
        """fsync(2): bytes, sidecar, and everything recorded before are on disk."""
        local = self._files.get(ino)
        fd = -1
        if local is not None:
            with local.lock:
                if local.mark is not None:
                    fd = self.staging.open(ino, write=False)
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
            if mark is None or mark.writers or local.reading:
                return None
            if now_ns - mark.closed_ns < settled_ns or not self._settled(local):
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
        if local.pins:
            # Kept, and perhaps written again: then what the store has must not be only in memory.
            fd = self.staging.open(ino, write=False)
            os.fsync(fd)
            os.close(fd)
        with local.lock:
            if local.mark is mark:
                self._let_bytes_go(local)

    def close(self) -> None:
        for local in list(self._files.values()):
            with local.lock:
                local.let_go()
