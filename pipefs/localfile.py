"""One file's local bytes: the staging file, what is in it, and its mark.

Every method is called with `lock` held unless it says otherwise. A descriptor is kept open only
while the file has writers, so thousands of files that wait to go up need none; its close is also
the event that the watcher sees.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from pipefs import tree
from pipefs.db import StateDB, Txn
from pipefs.records import Content, Dirty, Staging, encode, ino_key
from pipefs.staging import (
    Sidecar,
    StagingArea,
    empty_bitmap,
    has_block,
    missing_blocks,
    with_blocks,
)
from pipefs.types import BLOCK_SIZE_BYTES


class LocalFile:
    """See the module. `ino` never changes; all else is protected by `lock`, except `filling`."""

    def __init__(self, ino: int, staging: StagingArea, db: StateDB) -> None:
        self.ino = ino
        self._staging = staging
        self._db = db
        self.lock = threading.RLock()
        self.filling = threading.Lock()
        """Held while blocks are fetched; taken before `lock`, protects nothing else."""
        self.fd = -1
        self.mark: Staging | None = None
        self.reading = 0
        """Uploads that read the staging file now."""
        self.cancel = False
        """Tells them to stop."""
        self.waiting = 0
        """Opens that wait for such an upload to stop."""
        self.epoch = 0
        """Content epoch of the inode; with a mark it does not change."""
        self.pins: dict[int, int] = {}
        """Handles that the kernel serves from the staging file, by content epoch."""
        self.kept: set[int] = set()
        """Epochs whose staging file is kept for such handles, without a mark."""
        self.passed = False
        """The staging file may be open or mapped by programs, through the kernel."""
        self.lingers = False
        """It was found mapped for writing after its last close."""
        self._recorded = (-1, -1)
        """Size and mtime that the inode has from the staging file."""
        self.dead = False
        """No longer the inode's entry: whoever waited for the lock looks it up again."""
        self.idle = threading.Condition(self.lock)

    # --- descriptors --------------------------------------------------------------------------

    @contextmanager
    def descriptor(self, *, write: bool) -> Iterator[int]:
        """A descriptor of the staging file for one use."""
        if self.fd >= 0:
            if write and not fcntl.fcntl(self.fd, fcntl.F_GETFL) & os.O_RDWR:
                self.let_go()
                self.fd = self._staging.open(self.ino, write=True)
            yield self.fd
            return
        fd = self._staging.open(self.ino, write=write)
        try:
            yield fd
        finally:
            os.close(fd)

    def hold(self) -> None:
        """Keep a descriptor open: there is a writer."""
        if self.fd < 0:
            self.fd = self._staging.open(self.ino, write=not self._staging.passing)

    def let_go(self) -> None:
        """The last writer has closed: closing what we wrote by tells the watcher."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def stat(self) -> os.stat_result:
        if self.fd >= 0:
            return os.fstat(self.fd)
        return os.stat(self._staging.path_text(self.ino))

    # --- the mark -----------------------------------------------------------------------------

    def save_mark(self, t: Txn) -> None:
        t.put("staging", ino_key(self.ino), encode(self.mark))

    def mark_dirty(self, t: Txn, now_ns: int = 0) -> None:
        """The inode has bytes of its own, or may get them at any moment: what another machine
        writes does not take its place. `now_ns` 0: nothing was changed yet."""
        node = tree.need(t, self.ino)
        self.epoch = node.epoch
        if not node.dirty & Dirty.CONTENT:
            node.dirty |= Dirty.CONTENT | Dirty.ANNOUNCE
            node.ctime_ns = now_ns or node.ctime_ns
            tree.put_inode(t, node)

    def drop_unchanged(self, t: Txn) -> None:
        """Closed as it was opened: the version in the store is still the file."""
        t.delete("staging", ino_key(self.ino))
        node = tree.overlay_inode(t, self.ino)
        if node is not None and node.content is not None:
            node.dirty &= ~Dirty.CONTENT
            node.size = node.content.size
            tree.put_inode(t, node)

    def recover(self, t: Txn, now_ns: int, *, keep_writers: bool) -> bool:
        """Take up a mark that an earlier process left; False if there is nothing to it."""
        mark = self.mark
        assert mark is not None
        found = tree.inode(t, self.ino)
        self.epoch = found.epoch if found is not None else 0
        # What programs have open is not known: each use of the file asks.
        self.passed = True
        if not self._staging.exists(self.ino):
            # Lost with the machine's power before any fsync: the last version, or an empty file.
            node = tree.overlay_inode(t, self.ino)
            if node is None or node.content is not None:
                self.drop_unchanged(t)
                return False
            os.close(self._staging.create(Sidecar(self.ino, "", node.mode, mark.write_id), 0))
            mark.base, mark.base_size, mark.present = None, 0, None
        self._cut_base()
        if mark.writers and keep_writers:
            self.hold()
            return True
        mark.changed = mark.changed or self.differs()
        if not mark.changed and not self._is_mapped():
            self.drop_unchanged(t)
            self._staging.remove(self.ino, shared=True)
            return False
        if mark.writers:
            mark.writers, mark.closed_ns = (), now_ns
        self.record_size(t)
        self.save_mark(t)
        return True

    def _cut_base(self) -> None:
        """A crash may come between a mark and the size of its file: what counts of the version
        below never reaches beyond the file, or the file's next growth would show those bytes."""
        mark = self.mark
        assert mark is not None
        size = self.stat().st_size
        if mark.base_size > size:
            mark.base_size = size
            if not missing_blocks(mark.present, size, 0, size):
                mark.present = None

    def record_size(self, t: Txn) -> None:
        """Carry size and time of the staging file into the inode, when it is closed."""
        node = tree.need(t, self.ino)
        if (self.mark is not None and self.mark.changed) or node.dirty & Dirty.CONTENT:
            st = self.stat()
            self._recorded = (st.st_size, st.st_mtime_ns)
            if node.mtime_ns != st.st_mtime_ns:  # written since it was set
                node.ctime_ns = max(node.ctime_ns, st.st_mtime_ns)
            node.size, node.mtime_ns = self._recorded
            node.dirty |= Dirty.CONTENT | Dirty.ANNOUNCE
            tree.put_inode(t, node)

    def is_recorded(self) -> bool:
        """Whether `record_size` knows the staging file as it is."""
        if not self.passed:
            return True
        st = self.stat()
        return (st.st_size, st.st_mtime_ns) == self._recorded

    def forget(self) -> None:
        """Remove the staging file; the caller drops the mark from the database."""
        self.let_go()
        self.mark = None
        self._staging.remove(self.ino, shared=self.passed)
        self.passed = False

    def differs(self) -> bool:
        """Whether the staging file was written unseen since it was opened."""
        mark = self.mark
        if mark is None or mark.opened is None:
            return False
        ctime_ns, size = mark.opened
        st = self.stat()
        # What was empty and is empty has no other bytes, whatever touched it.
        return st.st_size != size or (size > 0 and st.st_ctime_ns != ctime_ns)

    def is_changed(self) -> bool:
        """Whether there is something to go up."""
        return self.mark is not None and (self.mark.changed or self.differs())

    def _is_mapped(self) -> bool:
        return self._staging.in_use(self._staging.path_text(self.ino), readers=False)

    # --- bytes --------------------------------------------------------------------------------

    def missing(self, offset: int, size: int) -> list[int]:
        """Blocks in [offset, offset+size) whose bytes are still only in the version below."""
        mark = self.mark
        return [] if mark is None else missing_blocks(mark.present, mark.base_size, offset, size)

    def partly_covered(self, offset: int, size: int) -> list[int]:
        """Missing blocks that a write of this range covers only in part."""
        mark = self.mark
        if mark is None or mark.present is None:
            return []
        end, out = offset + size, []
        for block in self.missing(offset, size):
            start = block * BLOCK_SIZE_BYTES
            if offset > start or end < min(start + BLOCK_SIZE_BYTES, mark.base_size):
                out.append(block)
        return out

    def read(self, offset: int, size: int) -> bytes:
        with self.descriptor(write=False) as fd:
            return os.pread(fd, size, offset)

    def only_below(self, offset: int, size: int) -> tuple[Content, int, int] | None:
        """See `LocalFiles.below`."""
        mark = self.mark
        if mark is None or mark.base is None or mark.present is None:
            return None
        end = min(offset + size, self.stat().st_size)
        if not offset < end <= mark.base_size:
            return None
        first, last = offset // BLOCK_SIZE_BYTES, (end - 1) // BLOCK_SIZE_BYTES
        present = any(has_block(mark.present, b) for b in range(first, last + 1))
        return None if present else (mark.base, offset, end - offset)

    def will_change(self, now_ns: int) -> None:
        """The file is no longer the version below: recorded before its first byte differs."""
        mark = self.mark
        assert mark is not None
        if not mark.changed:
            mark.changed = True
            with self._db.update() as t:
                self.save_mark(t)
                self.mark_dirty(t, now_ns)

    def write(self, offset: int, data: memoryview, now_ns: int) -> int:
        self.will_change(now_ns)
        with self.descriptor(write=True) as fd:
            written = os.pwrite(fd, data, offset)
            while written < len(data):
                written += os.pwrite(fd, data[written:], offset + written)
        self.now_present(self.missing(offset, len(data)))
        return written

    def put_block(self, block: int, data: bytes) -> None:
        """Bytes of the version below; the file's times stay what they are."""
        mark = self.mark
        assert mark is not None
        start = block * BLOCK_SIZE_BYTES
        data = data[: max(0, mark.base_size - start)]
        with self.descriptor(write=True) as fd:
            before = os.fstat(fd)
            done = 0
            while done < len(data):
                done += os.pwrite(fd, data[done:], start + done)
            os.utime(fd, ns=(before.st_atime_ns, before.st_mtime_ns))
        self.now_present([block])

    def now_present(self, blocks: list[int]) -> None:
        """Bytes first, then this record: a crash in between fetches them again, over writes that
        were not answered yet."""
        mark = self.mark
        if mark is None or mark.present is None or not blocks:
            return
        mark.present = with_blocks(mark.present, blocks)
        if not missing_blocks(mark.present, mark.base_size, 0, mark.base_size):
            mark.present = None
        with self._db.update() as t:
            self.save_mark(t)

    # --- copies without bytes -----------------------------------------------------------------

    def may_lay_over(self, source: Content, size: int) -> bool:
        """Whether all bytes here may become, or are, the first `size` bytes of a version: the
        file is empty, or has nothing but a shorter beginning of that version below it."""
        mark = self.mark
        if mark is None:
            return False
        here = self.stat().st_size
        if not here or mark.base is None or mark.present is None:
            # A program to which the kernel passes the file through, or a mapping that is left of
            # that, would read the holes.
            return not here and not self.passed
        if not source.same_version(mark.base) or any(mark.present):
            return False
        return here == mark.base_size <= size

    def lay_over(self, source: Content, size: int) -> None:
        """Let the file be the first `size` bytes of a version in the store, none of them here.

        The mark comes before the size: a crash in between leaves the file as it was."""
        assert self.mark is not None
        with self.descriptor(write=True) as fd:
            self._staging.note_source(self.ino, fd, source)
            # A new mark: what is being fetched for the old one is not to land in this file.
            self.mark = msgspec.structs.replace(
                self.mark,
                base=source,
                base_size=size,
                present=empty_bitmap(size),
                changed=True,
            )
            with self._db.update() as t:
                self.save_mark(t)
                self.mark_dirty(t)
            os.ftruncate(fd, size)

    def copied_from(self) -> Content | None:
        """The version whose bytes this file has, all of them and no others, none of them here."""
        mark = self.mark
        if mark is None or mark.base is None or mark.present is None or any(mark.present):
            return None
        whole = mark.base_size == mark.base.size == self.stat().st_size
        return mark.base if whole else None

    def truncate(self, size: int) -> None:
        mark = self.mark
        assert mark is not None
        with self.descriptor(write=True) as fd:
            os.ftruncate(fd, size)
        mark.changed = True
        if size < mark.base_size:
            mark.base_size = size
            if not missing_blocks(mark.present, size, 0, size):
                mark.present = None
