"""One pipe, whole: names, contents, and their way to and from the store. Usable without a mount.

    read     tree → local bytes or block cache → store
    write    mark → staging file → sealed → `transfers` → `follow` announces
    refresh  `follow` → tree → effects for the kernel

Thread-safe. Starts no thread and waits for the network only where a method says so, and only when
`wait` is True (else `WouldBlock`). Lock order: file, then state database.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial

from pipefs import namespace, tree
from pipefs.blocks import BlockCache
from pipefs.cache.segments import Lease
from pipefs.conflicts import is_open, open_conflicts
from pipefs.content import ContentReader, release_all
from pipefs.db import StateDB
from pipefs.errors import WouldBlock
from pipefs.files import LocalFiles
from pipefs.livetree import LiveTree
from pipefs.pending import Pending, Standing, count_pending
from pipefs.records import (
    Conflict,
    Content,
    ino_key,
)
from pipefs.rescue import rescue
from pipefs.staging import StagingArea
from pipefs.stores.base import Store
from pipefs.times import stamp_ns


class Volume(LiveTree):
    """The live tree of one pipe and its contents.

    Args:
        prefix_bytes: length of the prefix in the store, which counts towards S3's key limit.
    """

    def __init__(
        self,
        db: StateDB,
        staging: StagingArea,
        store: Store,
        cache: BlockCache,
        reader: ContentReader,
        *,
        prefix_bytes: int = 0,
    ) -> None:
        files = LocalFiles(db, staging, reader)
        super().__init__(db, files, prefix_bytes=prefix_bytes, clock=stamp_ns)
        self.store = store
        self.cache = cache
        self.reader = reader

    def recover(self, *, same_mount: bool) -> None:
        """Take up the state that an earlier process left. `same_mount`: the kernel still has
        handles of it (a worker was replaced)."""
        self.files.recover(keep_writers=same_mount)
        self.replies.recover(same_mount=same_mount)
        if same_mount:
            return
        with self.db.update() as t:
            tree.forget_epochs(t)
            orphans = [int.from_bytes(k, "big") for k, _ in t.scan("orphans")]
        for ino in orphans:
            self.forget_orphan(ino)
        known = set(self.files.inos())
        unknown = [ino for ino in self.files.staging.inos() if ino not in known]
        if unknown:
            with self.db.update() as t:
                # A number given out again would overwrite the next one's staging file.
                self.inos.skip_past(t, max(unknown))
        for ino in unknown:
            rescue(self, ino)

    # --- contents -----------------------------------------------------------------------------

    def open_write(
        self, ino: int, handle: int, *, truncate: bool, wait: bool, unique: int = 0
    ) -> None:
        record = partial(self.replies.record, unique=unique, ino=ino, handle=handle)
        self.files.open_write(ino, handle, truncate=truncate, wait=wait, record=record)

    def close_write(self, ino: int, handle: int) -> bool:
        """True if the file is sealed now and waits to go up."""
        sealed = self.files.close_write(ino, handle)
        if not sealed:
            self._drop_unchanged_copy(ino)
        return sealed

    def _drop_unchanged_copy(self, ino: int) -> None:
        """Another machine changed the file while it was open for writing here, so ours was set
        aside; nothing was written after all, and so there is nothing to keep."""
        with self.db.update() as t:
            node = tree.overlay_inode(t, ino)
            aside = node is not None and node.parent and t.has("conflicts", ino_key(ino))
            if node is None or not aside or t.has("staging", ino_key(ino)):
                return
            if node.content is None:
                namespace.unlink(t, node.parent, node.name, self._clock())

    def read(
        self,
        ino: int,
        epoch: int,
        offset: int,
        size: int,
        *,
        stream: int,
        wait: bool,
        interrupted: Callable[[], bool] | None = None,
    ) -> tuple[list[bytes | memoryview], Callable[[], None] | None]:
        """Buffers of the bytes asked for, cut at the end of the file, and what releases them.

        Args:
            epoch: content epoch of the node; an older one than the inode's reads the version
                that was current then.
            stream: the handle, for readahead.

        Raises:
            WouldBlock: not cached, and `wait` is False. Store errors as `ContentReader.read`.
        """
        for _ in range(3):
            # First: once it has no local bytes any more, the inode names the version they became.
            local = self.files.get(ino)
            content, size_now, current = self._version(ino, epoch)
            if local is None or not current:
                break
            below = self.files.below(local, offset, size)
            if below is not None:
                return self.read_version(*below, stream, wait, interrupted)
            parts = self.files.read(local, offset, size, wait=wait)
            if parts is not None:
                return [*parts], None
        if content is None:
            return [bytes(max(0, min(size, size_now - offset)))], None
        return self.read_version(content, offset, size, stream, wait, interrupted)

    def _version(self, ino: int, epoch: int) -> tuple[Content | None, int, bool]:
        """(version, size, whether it is the inode's present content)."""
        with self.db.view() as v:
            node = tree.inode(v, ino)
            if node is None:
                raise namespace.fail(errno.ESTALE)
            if epoch != node.epoch:
                old = tree.content_at(v, ino, epoch)
                if old is not None:
                    return old, old.size, False
            return node.content, node.size, True

    def read_version(
        self,
        content: Content,
        offset: int,
        size: int,
        stream: int,
        wait: bool,
        interrupted: Callable[[], bool] | None,
    ) -> tuple[list[bytes | memoryview], Callable[[], None] | None]:
        """As `read`, of exactly this version, whether a live file has it or not."""
        ref = content.ref()
        leases = self.reader.cached(ref, offset, size)
        self.reader.advise(stream, ref, offset, size)
        if leases is None:
            if not wait:
                raise WouldBlock
            leases = self.reader.read(ref, offset, size, interrupted=interrupted)
        held: list[Lease] = leases
        return [lease.data for lease in held], lambda: release_all(held)

    def truncate(self, ino: int, size: int, *, wait: bool) -> None:
        """truncate(2). May wait for an upload to stop."""
        self.files.truncate(ino, size, wait=wait)

    def write(self, ino: int, offset: int, data: memoryview, *, wait: bool) -> int:
        """Into the staging file: safe from kill -9 when it returns, from power loss after
        `fsync`."""
        return self.files.write(ino, offset, data, wait=wait)

    def fsync(self, ino: int) -> None:
        """Bytes, names and attributes so far survive power loss on this machine afterwards."""
        self.files.sync(ino)

    def size_at(self, ino: int, epoch: int, default: int) -> int:
        """Size of the version that an older content epoch of a file stands for."""
        with self.db.view() as v:
            content = tree.content_at(v, ino, epoch)
        return content.size if content is not None else default

    def cached_percent(self, content: Content) -> float:
        """How much of a version is in the block cache."""
        return self.reader.percent(content.ref())

    def now_ns(self) -> int:
        return self._clock()

    def totals(self) -> tuple[int, int]:
        """(bytes, files) of the pipe, about: for statfs(2)."""
        with self.db.view() as v:
            return tree.number(v, "bytes"), v.count("inodes") + v.count("oinodes")

    # --- state --------------------------------------------------------------------------------

    def state_of(self, ino: int) -> str:
        """`user.pipefs.state`: clean, dirty, uploading or conflict."""
        local = self.files.get(ino)
        with self.db.view() as v:
            node = tree.inode(v, ino)
            if node is None:
                raise namespace.fail(errno.ESTALE)
            if is_open(v, ino):
                return "conflict"
        if local is not None and local.reading:
            return "uploading"
        return "dirty" if node.dirty else "clean"

    def conflicts(self) -> list[Conflict]:
        with self.db.view() as v:
            return open_conflicts(v)

    def outbox(self, stays_local: Callable[[list[bytes]], bool] = lambda _n: False) -> Pending:
        """Count what is not in the store yet; `local_only` files do not count."""
        return count_pending(self.db, self.files, stays_local)

    def standing(self, stays_local: Callable[[list[bytes]], bool]) -> Standing:
        """What waits to go up now, to be waited for."""
        return Standing(self.db, self.files, stays_local)

    def close(self) -> None:
        """Record all state durably. The volume is not used afterwards."""
        self.files.close()
        self.reader.close()
        self.db.close()
