"""The live tree of one pipe: names, directories, links and attributes, as POSIX has them.

Each method is one update of the state database, durable against kill -9 when it returns, and
never waits for the network. Contents are `pipefs.volume`'s, which builds on this room.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager

from pipefs import links, namespace, tree
from pipefs.db import StateDB, Txn
from pipefs.files import LocalFiles
from pipefs.inodes import InoSource
from pipefs.records import HARD_LINK, Dirty, Inode, NameEntry
from pipefs.replies import Replies


class LiveTree:
    """Names and attributes. Thread-safe; lock order: file, then state database.

    Args:
        prefix_bytes: length of the prefix in the store, which counts towards S3's key limit.
    """

    def __init__(
        self,
        db: StateDB,
        files: LocalFiles,
        *,
        prefix_bytes: int,
        clock: Callable[[], int],
    ) -> None:
        self.db = db
        self.files = files
        self.inos = InoSource()
        self.replies = Replies(db)
        self._clock = clock
        with db.update() as t:
            namespace.ensure_root(t, clock())
            if tree.number(t, "prefix_bytes") != prefix_bytes:
                tree.set_fact(t, "prefix_bytes", b"%d" % prefix_bytes)

    # --- names --------------------------------------------------------------------------------

    def lookup(self, parent: int, name: bytes) -> Inode:
        """The inode at a name. OSError ENOENT."""
        with self.db.view() as v:
            node = namespace.lookup(v, parent, name)
            node.nlink = links.count(v, node)
        return self._with_local(node)

    def inode(self, ino: int, *, counted: bool = False) -> Inode:
        """The live inode, sizes and times of local bytes included. OSError ESTALE: forgotten
        meanwhile.

        Args:
            counted: `nlink` is wanted too (of a directory it takes a look at its names).
        """
        with self.db.view() as v:
            node = tree.inode(v, ino)
            if node is None:
                raise namespace.fail(errno.ESTALE)
            if counted:
                node.nlink = links.count(v, node)
        return self._with_local(node)

    def _with_local(self, node: Inode) -> Inode:
        if node.is_file:
            st = self.files.stat(node.ino)
            if st is None and node.dirty & Dirty.CONTENT:
                return self._gone_up(node)
            if st is not None:
                node.size = st.st_size
                if node.mtime_ns != st.st_mtime_ns:  # written since it was set
                    node.mtime_ns = st.st_mtime_ns
                    node.ctime_ns = max(node.ctime_ns, st.st_mtime_ns)
        return node

    def _gone_up(self, node: Inode) -> Inode:
        """It had local bytes when it was looked up: the inode has their size and time now."""
        with self.db.view() as v:
            found = tree.inode(v, node.ino)
        if found is None:
            return node
        found.nlink = node.nlink
        return found

    def children(self, ino: int, after: bytes, limit: int) -> list[tuple[bytes, NameEntry]]:
        """Names of a directory after `after`, ascending, with the files they mean."""
        with self.db.view() as v:
            found = tree.children(v, ino, after, limit)
            for n, (name, entry) in enumerate(found):
                if entry.kind == HARD_LINK:
                    file = links.target(v, tree.need(v, entry.ino))
                    found[n] = (name, NameEntry(file.ino, file.kind))
        return found

    def child_inodes(self, entries: list[tuple[bytes, NameEntry]]) -> list[tuple[bytes, Inode]]:
        """Inodes of directory entries, in one look at the state."""
        with self.db.view() as v:
            found = [(name, tree.inode(v, entry.ino)) for name, entry in entries]
            known = [(name, node) for name, node in found if node is not None]
            for _, node in known:
                node.nlink = links.count(v, node)
        return [(name, self._with_local(node)) for name, node in known]

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

    def mknod(
        self,
        parent: int,
        name: bytes,
        mode: int,
        rdev: int,
        uid: int,
        gid: int,
        *,
        unique: int = 0,
    ) -> Inode:
        """A FIFO, socket or device node, by the type bits of `mode`."""
        node = namespace.new_inode(stat.S_IFMT(mode), mode, uid, gid)
        node.rdev = rdev
        return self._make(parent, name, node, unique)

    def _make(self, parent: int, name: bytes, node: Inode, unique: int) -> Inode:
        with self._changing() as t:
            namespace.check_name(t, parent, name)
            namespace.make(t, self.inos, parent, name, node, self._clock())
            self.replies.record(t, unique, node.ino)
        node.nlink = 2 if node.is_dir else 1
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
                namespace.check_name(t, parent, name)
                namespace.make(t, self.inos, parent, name, node, self._clock())
                names = tree.names_to(t, node.ino) or [name]
                self.files.created(t, node, tree.path_text(names), handle)
                self.replies.record(t, unique, node.ino, handle)
        except BaseException:
            if node.ino:
                self.files.discard(node.ino)
            raise
        return node

    def create_nameless(
        self, parent: int, mode: int, uid: int, gid: int, *, handle: int, unique: int = 0
    ) -> Inode:
        """O_TMPFILE: an empty file in a directory without a name, open for writing by `handle`.
        It ends with its last handle, unless `link` has named it."""
        node = namespace.new_inode(stat.S_IFREG, mode, uid, gid)
        self.files.staging.require_room()
        try:
            with self._changing() as t:
                namespace.make_nameless(t, self.inos, parent, node, self._clock())
                self.files.created(t, node, "", handle)
                self.replies.record(t, unique, node.ino, handle)
        except BaseException:
            if node.ino:
                self.files.discard(node.ino)
            raise
        node.nlink = 0  # not 1: the kernel itself refuses to name what O_EXCL opened
        return node

    def link(self, ino: int, parent: int, name: bytes, *, unique: int = 0) -> Inode:
        """One more name for a file; returns the file."""
        with self._changing() as t:
            namespace.check_name(t, parent, name)
            file = namespace.link(t, self.inos, ino, parent, name, self._clock())
            self.replies.record(t, unique, ino)
            file.nlink = links.count(t, file)
        return self._with_local(file)

    def unlink(self, parent: int, name: bytes, *, unique: int = 0) -> Inode:
        """Remove a name; returns its file, an orphan if that was the last (`forget_orphan`)."""
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
            namespace.check_name(t, parent2, name2)
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
            node.nlink = links.count(t, node)
        return self._with_local(node)

    def resolve(self, path: bytes) -> int:
        """Inode at a path relative to the root ("" is the root). OSError ENOENT."""
        names = [n for n in path.split(b"/") if n]
        with self.db.view() as v:
            node = tree.walk(v, names)
        if node is None:
            raise namespace.fail(errno.ENOENT, path)
        return node.alias or node.ino

    def path_of(self, ino: int) -> str:
        """The live path as text, "" for the root and for what has no name any more."""
        with self.db.view() as v:
            names = tree.names_to(v, ino)
        return tree.path_text(names or [])
