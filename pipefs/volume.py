"""One pipe, whole: names, contents, and their way to and from the store. Usable without a mount.

    read     tree → local bytes or block cache → store
    write    mark → staging file → sealed → `transfers` → `follow` announces
    refresh  `follow` → tree → effects for the kernel

Thread-safe. Starts no thread and waits for the network only where a method says so, and only when
`wait` is True (else `WouldBlock`). Lock order: file, then state database.
"""

from __future__ import annotations

import errno
import stat
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

from pipefs import namespace, tree
from pipefs.blocks import BlockCache
from pipefs.cache.segments import Lease
from pipefs.content import ContentReader, release_all
from pipefs.db import StateDB, Txn
from pipefs.errors import WouldBlock
from pipefs.files import LocalFiles
from pipefs.inodes import InoSource
from pipefs.pending import Pending, count_pending
from pipefs.records import (
    Conflict,
    Content,
    Inode,
    NameEntry,
    decode_conflict,
    ino_key,
)
from pipefs.replies import Replies
from pipefs.rescue import rescue
from pipefs.staging import StagingArea
from pipefs.stores.base import Store


class Volume:
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
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.db = db
        self.store = store
        self.cache = cache
        self.reader = reader
        self.inos = InoSource()
        self.files = LocalFiles(db, staging, reader, clock=clock)
        self.replies = Replies(db)
        self._prefix_bytes = prefix_bytes
        self._clock = clock
        with db.update() as t:
            namespace.ensure_root(t, clock())

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

    # --- names --------------------------------------------------------------------------------

    def lookup(self, parent: int, name: bytes) -> Inode:
        """The inode at a name. OSError ENOENT."""
        with self.db.view() as v:
            node = namespace.lookup(v, parent, name)
        return self._with_local(node)

    def inode(self, ino: int) -> Inode:
        """The live inode, sizes and times of local bytes included. OSError ENOENT (or ESTALE:
        forgotten meanwhile)."""
        with self.db.view() as v:
            node = tree.inode(v, ino)
        if node is None:
            raise namespace.fail(errno.ESTALE)
        return self._with_local(node)

    def _with_local(self, node: Inode) -> Inode:
        if node.is_file:
            st = self.files.stat(node.ino)
            if st is not None:
                node.size = st.st_size
                node.mtime_ns = st.st_mtime_ns
                node.ctime_ns = max(node.ctime_ns, st.st_mtime_ns)
        return node

    def children(self, ino: int, after: bytes, limit: int) -> list[tuple[bytes, NameEntry]]:
        with self.db.view() as v:
            return tree.children(v, ino, after, limit)

    def child_inodes(self, entries: list[tuple[bytes, NameEntry]]) -> list[tuple[bytes, Inode]]:
        """Inodes of directory entries, in one look at the state."""
        with self.db.view() as v:
            found = [(name, tree.inode(v, entry.ino)) for name, entry in entries]
        return [(name, self._with_local(node)) for name, node in found if node is not None]

    def mkdir(
        self, parent: int, name: bytes, mode: int, uid: int, gid: int, *, unique: int = 0
    ) -> Inode:
        return self._make(parent, name, namespace.new_inode(stat.S_IFDIR, mode, uid, gid), unique)

    def symlink(
        self, parent: int, name: bytes, target: bytes, uid: int, gid: int, *, unique: int = 0
    ) -> Inode:
        node = namespace.new_inode(stat.S_IFLNK, 0o777, uid, gid)
        node.target, node.size = target, len(target)
        return self._make(parent, name, node, unique)

    def _make(self, parent: int, name: bytes, node: Inode, unique: int) -> Inode:
        with self._changing() as t:
            namespace.check_name(t, parent, name, prefix_bytes=self._prefix_bytes)
            namespace.make(t, self.inos, parent, name, node, self._clock())
            self.replies.record(t, unique, node.ino)
        return node

    def create(
        self,
        parent: int,
        name: bytes,
        mode: int,
        uid: int,
        gid: int,
        *,
        handle: int,
        unique: int = 0,
    ) -> Inode:
        """Make an empty file, open for writing by `handle` (0: not open)."""
        node = namespace.new_inode(stat.S_IFREG, mode, uid, gid)
        self.files.staging.require_room()
        try:
            with self._changing() as t:
                namespace.check_name(t, parent, name, prefix_bytes=self._prefix_bytes)
                namespace.make(t, self.inos, parent, name, node, self._clock())
                names = tree.names_to(t, node.ino) or [name]
                self.files.created(t, node, tree.path_text(names), handle)
                self.replies.record(t, unique, node.ino, handle)
        except BaseException:
            if node.ino:
                self.files.discard(node.ino)
            raise
        return node

    def unlink(self, parent: int, name: bytes, *, unique: int = 0) -> Inode:
        """Remove a file; returns its inode, now an orphan (see `forget_orphan`)."""
        with self._changing() as t:
            node = namespace.unlink(t, parent, name, self._clock())
            self.replies.record(t, unique, node.ino)
        return node

    def rmdir(self, parent: int, name: bytes, *, unique: int = 0) -> Inode:
        with self._changing() as t:
            node = namespace.rmdir(t, parent, name, self._clock())
            self.replies.record(t, unique, node.ino)
        return node

    def rename(
        self, parent: int, name: bytes, parent2: int, name2: bytes, flags: int, *, unique: int = 0
    ) -> Inode | None:
        """rename(2); returns what was replaced, now an orphan."""
        with self._changing() as t:
            namespace.check_name(t, parent2, name2, prefix_bytes=self._prefix_bytes)
            replaced = namespace.rename(t, parent, name, parent2, name2, flags, self._clock())
            self.replies.record(t, unique, replaced.ino if replaced is not None else 0)
        return replaced

    def forget_orphan(self, ino: int) -> None:
        """Nobody has this nameless inode open any more: let its bytes go."""
        with self.db.view() as v:
            node = tree.overlay_inode(v, ino)
        if node is None or node.parent:
            return
        self.files.discard(ino)
        with self.db.update() as t:
            namespace.purge(t, ino)

    def _changing(self) -> AbstractContextManager[Txn]:
        return self.inos.update(self.db)

    # --- attributes ---------------------------------------------------------------------------

    def set_attributes(
        self,
        ino: int,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
    ) -> Inode:
        """chmod, chown, utimens: recorded here, announced by commit, never a new version."""
        self.files.set_times(ino, atime_ns, mtime_ns)
        with self.db.update() as t:
            node = namespace.set_attributes(
                t, ino, (mode, uid, gid, atime_ns, mtime_ns), self._clock()
            )
        return self._with_local(node)

    def truncate(self, ino: int, size: int, *, wait: bool) -> None:
        """truncate(2). May wait for an upload to stop."""
        self.files.truncate(ino, size, wait=wait)

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
            content, size_now, current = self._version(ino, epoch)
            if current:
                local = self.files.get(ino)
                if local is not None:
                    parts = self.files.read(local, offset, size, wait=wait)
                    if parts is not None:
                        return [*parts], None
                    continue  # it went up while we looked: the inode names its version now
            break
        if content is None:
            return [bytes(max(0, min(size, size_now - offset)))], None
        return self._read_version(content, offset, size, stream, wait, interrupted)

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

    def _read_version(
        self,
        content: Content,
        offset: int,
        size: int,
        stream: int,
        wait: bool,
        interrupted: Callable[[], bool] | None,
    ) -> tuple[list[bytes | memoryview], Callable[[], None] | None]:
        ref = content.ref()
        leases = self.reader.cached(ref, offset, size)
        self.reader.advise(stream, ref, offset, size)
        if leases is None:
            if not wait:
                raise WouldBlock
            leases = self.reader.read(ref, offset, size, interrupted=interrupted)
        held: list[Lease] = leases
        return [lease.data for lease in held], lambda: release_all(held)

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
        if content.size == 0:
            return 100.0
        return self.cache.percent(self.reader.identity(content.ref()))

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
            if v.has("conflicts", ino_key(ino)):
                return "conflict"
        if local is not None and local.reading:
            return "uploading"
        return "dirty" if node.dirty else "clean"

    def conflicts(self) -> list[Conflict]:
        with self.db.view() as v:
            return [decode_conflict(raw) for _, raw in v.scan("conflicts")]

    def outbox(self, stays_local: Callable[[list[bytes]], bool] = lambda _n: False) -> Pending:
        """Count what is not in the store yet; `local_only` files do not count."""
        return count_pending(self.db, self.files, stays_local)

    def resolve(self, path: bytes) -> int:
        """Inode at a path relative to the root ("" is the root). OSError ENOENT."""
        names = [n for n in path.split(b"/") if n]
        with self.db.view() as v:
            node = tree.walk(v, names)
        if node is None:
            raise namespace.fail(errno.ENOENT, path)
        return node.ino

    def path_of(self, ino: int) -> str:
        """The live path as text, "" for the root and for what has no name any more."""
        with self.db.view() as v:
            names = tree.names_to(v, ino)
        return tree.path_text(names or [])

    def close(self) -> None:
        """Record all state durably. The volume is not used afterwards."""
        self.files.close()
        self.reader.close()
        self.db.close()
