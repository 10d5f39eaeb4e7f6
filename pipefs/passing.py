"""Local files that the kernel reads and writes itself (passthrough), and the table of all of them.

What is passed through, nobody here sees written. Three things follow, and they are this room's:

*Pins.* A staging file that the kernel has open stays the same file: the handles would not follow
to another one. Each handle pins it, by inode and content epoch. One that went up, or was closed
unwritten, is *kept* while it is pinned (`INO.EPOCH.kept`, no mark: its bytes are the version's),
and the next writer in that time takes it back.

*Changes are found afterwards.* The mark records ctime and size when the file was opened; at the
last close, and after a crash, they are compared.

*Mappings outlive their handles.* mmap(2) of such a file maps the staging file itself, and close(2)
releases the handle although the mapping goes on writing. So a file is only taken as closed once
nobody has it open for writing, and only reused or dropped once nobody has it open at all; the
kernel is asked by trying a lease (`StagingArea.in_use`).
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipefs import tree
from pipefs.db import StateDB
from pipefs.localfile import LocalFile
from pipefs.records import Inode
from pipefs.staging import Sidecar, StagingArea

log = logging.getLogger(__name__)

_TICK_NS = 20_000_000
"""Two ticks of the slowest kernel clock: a change within one may leave the ctime as it was."""


class PassedFiles:
    """The table of files with local bytes, and what is passed through. Thread-safe."""

    def __init__(self, db: StateDB, staging: StagingArea, clock: Callable[[], int]) -> None:
        self._db = db
        self.staging = staging
        self._clock = clock
        self._files: dict[int, LocalFile] = {}
        self._lock = threading.Lock()  # protects _files only; nothing is taken under it

    # --- the table ----------------------------------------------------------------------------

    def get(self, ino: int) -> LocalFile | None:
        return self._files.get(ino)

    def inos(self) -> list[int]:
        with self._lock:
            return list(self._files)

    def has_writers(self) -> bool:
        """Whether a file is open for writing. A look only, without the files' locks."""
        with self._lock:
            files = list(self._files.values())
        return any(file.mark is not None and file.mark.writers for file in files)

    def _file(self, ino: int) -> LocalFile:
        with self._lock:
            local = self._files.get(ino)
            if local is None:
                local = self._files[ino] = LocalFile(ino, self.staging, self._db)
            return local

    @contextmanager
    def locked(self, ino: int) -> Iterator[LocalFile]:
        """The inode's entry, locked; made if there is none, and gone again where what it was
        made for fails."""
        while True:
            local = self._file(ino)
            with local.lock:
                if local.dead:
                    continue
                try:
                    yield local
                except BaseException:
                    self._retire(local)
                    raise
                return

    def _retire(self, local: LocalFile) -> None:
        """Take the entry of a file without local bytes out of the table. Holds its lock."""
        if local.pins or local.kept:
            return
        if local.mark is None and not local.reading and not local.waiting:
            local.dead = True
            with self._lock:
                self._files.pop(local.ino, None)

    # --- pins ---------------------------------------------------------------------------------

    def offer(self, ino: int, epoch: int, *, write: bool, joins: bool) -> int:
        """Pin a file for a handle that is to be passed through. `joins`: others are already.

        Returns:
            A descriptor of its staging file, for the caller to close; -1 (and no pin) when there
            is none with all bytes of this content epoch.
        """
        local = self._files.get(ino)
        if local is None:
            return -1
        with local.lock:
            fd = self._descriptor(local, epoch, write, joins)
            if fd >= 0:
                local.pins[epoch] = local.pins.get(epoch, 0) + 1
                local.passed = True
            return fd

    def _descriptor(self, local: LocalFile, epoch: int, write: bool, joins: bool) -> int:
        mark = local.mark
        try:
            if mark is not None and mark.present is None and local.epoch == epoch:
                # Never for writing: the kernel keeps it as long as anybody has the file open, and
                # opens what each program writes by itself.
                if local.fd >= 0 and not fcntl.fcntl(local.fd, fcntl.F_GETFL) & os.O_RDWR:
                    return os.dup(local.fd)
                return self.staging.open(local.ino, write=False)
            if epoch in local.kept and joins and not write:
                return os.open(self.staging.kept_path(local.ino, epoch), os.O_RDONLY)
        except FileNotFoundError:
            log.error("the staging file of inode %d is gone", local.ino)
        return -1

    def pin_again(self, ino: int, epoch: int) -> None:
        """Pin for a handle that was passed through before this process started."""
        with self.locked(ino) as local:
            local.pins[epoch] = local.pins.get(epoch, 0) + 1
            local.passed = True

    def unpin(self, ino: int, epoch: int) -> None:
        """A handle was released (after `close_write`, if it was a writer's)."""
        local = self._files.get(ino)
        if local is None:
            return
        with local.lock:
            left = local.pins.get(epoch, 0) - 1
            if left > 0:
                local.pins[epoch] = left
                return
            local.pins.pop(epoch, None)
            self._drop_kept(local, epoch)
            self._retire(local)

    def _drop_kept(self, local: LocalFile, epoch: int) -> None:
        """Remove a kept file that nobody has open any more. Holds the lock."""
        if epoch not in local.kept or local.pins.get(epoch):
            return
        path = self.staging.kept_path(local.ino, epoch)
        if not self.staging.in_use(path):
            self.staging.remove_path(path)
            local.kept.discard(epoch)

    def tidy(self, ino: int) -> None:
        """Remove what was kept for a mapping that has gone since."""
        local = self._files.get(ino)
        if local is not None and local.kept:
            with local.lock:
                for epoch in list(local.kept):
                    self._drop_kept(local, epoch)
                self._retire(local)

    # --- the staging file outlives its mark ---------------------------------------------------

    def _let_bytes_go(self, local: LocalFile) -> None:
        """The version in the store is the file: remove the staging file, or keep it for those who
        have it open. The mark is out of the database already. Holds the lock."""
        local.let_go()
        local.mark = None
        epoch, path = local.epoch, self.staging.path_text(local.ino)
        if local.passed and (local.pins.get(epoch) or self.staging.in_use(path)):
            os.rename(path, self.staging.kept_path(local.ino, epoch))
            local.kept.add(epoch)
        else:
            local.forget()
        self._retire(local)

    def _take_back(self, local: LocalFile, node: Inode, sidecar: Sidecar) -> int:
        """Make the kept file of a version the staging file again; a descriptor, or -1 if none is
        kept. A crash before the mark leaves it where `recover` finds that it is in use."""
        if node.epoch not in local.kept:
            return -1
        path = self.staging.path_text(local.ino)
        os.rename(self.staging.kept_path(local.ino, node.epoch), path)
        local.kept.discard(node.epoch)
        local.passed = True
        return self.staging.reopen(sidecar)

    # --- changes ------------------------------------------------------------------------------

    def _note_opened(self, local: LocalFile) -> None:
        """An open for writing: what the staging file is like, should it be written unseen."""
        mark = local.mark
        if mark is None or mark.changed or mark.present is not None or mark.opened is not None:
            return
        st = local.stat()
        fresh = self._clock() - st.st_ctime_ns < _TICK_NS and not self.staging.fine_times
        mark.opened = (0 if fresh else st.st_ctime_ns, st.st_size)

    def _settled(self, local: LocalFile) -> bool:
        """Whether a file without writers may be sealed: nobody has it mapped for writing, and
        there is something to go up. Holds the lock."""
        mark = local.mark
        assert mark is not None
        if local.passed and self.staging.in_use(self.staging.path_text(local.ino), readers=False):
            local.lingers = True
            return False
        if mark.changed and not local.lingers and local.is_recorded():
            return True
        mark.changed = mark.changed or local.differs()
        local.lingers = False
        with self._db.update() as t:
            if not mark.changed:
                local.drop_unchanged(t)
            else:
                local.save_mark(t)
                local.mark_dirty(t, self._clock())
                local.record_size(t)
        if not mark.changed:
            self._let_bytes_go(local)
        return mark.changed

    def is_mapped(self, ino: int) -> bool:
        """Whether a file was found mapped for writing after its last close, and is still."""
        local = self._files.get(ino)
        if local is None or not local.lingers:
            return False
        return self.staging.in_use(self.staging.path_text(ino), readers=False)

    # --- after a start ------------------------------------------------------------------------

    def _recover_kept(self, *, same_mount: bool) -> None:
        """Files without a mark that programs still have open stay; without `same_mount` nobody
        can open them by the mount any more, and their bytes are in the store."""
        for ino, epoch in list(self.staging.kept()):
            path = self.staging.kept_path(ino, epoch)
            if same_mount and self.staging.in_use(path):
                self._keep_again(ino, epoch)
            else:
                os.unlink(path)
        if not same_mount:
            return
        for ino in list(self.staging.inos()):
            path = self.staging.path_text(ino)
            if ino not in self._files and self.staging.in_use(path):
                with self._db.view() as v:
                    node = tree.inode(v, ino)
                epoch = node.epoch if node is not None else 0
                os.rename(path, self.staging.kept_path(ino, epoch))
                self._keep_again(ino, epoch)

    def _keep_again(self, ino: int, epoch: int) -> None:
        with self.locked(ino) as local:
            local.kept.add(epoch)
            local.passed = True
