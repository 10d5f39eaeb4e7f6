"""The past on the mount: `.snapshots`, what is in it, and everything below; read-only.

The `Operations` of all nodes that are not live. What a view shows never changes, so the kernel
keeps names, attributes and pages for as long as it likes. A name made in `.snapshots` takes a
snapshot, one removed forgets it; everything else that would write is EROFS.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from pipefs import acl
from pipefs.content import ContentReader
from pipefs.errors import PipefsError, WouldBlock
from pipefs.keys import MAX_NAME_BYTES
from pipefs.manifest import path_of
from pipefs.past.views import ROOT, PastView
from pipefs.records import NO_MODE, Inode
from pipefsd.directories import DirectoryHandle
from pipefsd.nodes import Kind, epoch_of, ino_of, kind_of, past_node
from pipefsd.ownership import Ownership
from pipefsd.pastxattrs import check_known, get_xattr, list_xattrs
from pipefsd.readonly import ReadOnly, log_unreadable
from pipefsd.serving import CACHE_S
from pipefsd.snapdirs import SOON_S, SnapshotDirs, fail, link_to
from pipefsd.transports.base import (
    Attr,
    Caller,
    DirEntry,
    Entry,
    Features,
    Notifier,
    Opened,
    ReadReply,
    Statfs,
)
from pipefsd.views import Views


class Snapshots(Protocol):
    """What is done to snapshots from the mount. Each waits."""

    def make(self, path: list[bytes], tag: str, interrupted: Callable[[], bool]) -> None:
        """Take a snapshot of a directory. OSError."""

    def forget(self, path: list[bytes], name: bytes) -> None:
        """Forget one, or where it has several tags take this one away. OSError EPERM: it is
        protected, or of another directory than this."""


class Past(ReadOnly):
    """The past of one mount. See `transports.base.Operations` for each method.

    Args:
        snapdirs: None where there is nothing but one view (`mount NAME@SNAP`).
        root: number of the view that the mount's root shows; None: the root is live.
    """

    def __init__(
        self,
        views: Views,
        reader: ContentReader,
        ownership: Ownership,
        snapdirs: SnapshotDirs | None,
        snapshots: Snapshots | None,
        *,
        root: int | None = None,
    ) -> None:
        self._views = views
        self._reader = reader
        self._owner = ownership
        self._snapdirs = snapdirs
        self._snapshots = snapshots
        self.root = root
        self._acls = False
        """The kernel enforces access lists; known from `start` on."""
        # Above what the live file system counts from: readahead knows streams by handle.
        self._handles = itertools.count(time.time_ns() // 1000 + (1 << 60))
        self._generations: dict[int, int] = {}
        """Nodes that lost a name by rmdir. To the kernel such a directory is dead for ever, and a
        snapshot may have other names, or come back."""
        self._listings: dict[int, list[DirEntry]] = {}
        self._directories: dict[int, DirectoryHandle[Inode]] = {}

    def start(self, notifier: Notifier, features: Features) -> None:
        self._acls = features.acls

    # --- nodes --------------------------------------------------------------------------------

    def _split(self, node: int) -> tuple[Kind, int, int]:
        """(kind, number of the view, inode number) of a node."""
        if node == ROOT and self.root is not None:
            return Kind.VIEW, self.root, ROOT
        return kind_of(node), epoch_of(node), ino_of(node)

    def _view(self, index: int, wait: bool) -> PastView:
        try:
            return self._views.view(index, wait=wait)
        except PipefsError as e:
            raise log_unreadable(self._views.identity(index), e) from e

    def _inode(self, node: int, wait: bool) -> tuple[Inode, int]:
        """(inode of the view, number of the view). OSError ESTALE."""
        kind, index, ino = self._split(node)
        if kind is Kind.ALIAS:
            return link_to(self._views, index), index
        return self._view(index, wait).node(ino, wait=wait), index

    def _attr(self, found: Inode, node: int) -> Attr:
        uid, gid = self._owner.shown(found.uid, found.gid)
        return Attr(
            # Never that of a live file: `cp` would say that they are the same.
            ino=node,
            mode=self._mode(found, acls=self._acls),
            # Of a directory 1, which says that nobody counted what is below it.
            nlink=1 if found.is_dir else found.nlink,
            uid=uid,
            gid=gid,
            size=found.size,
            mtime_ns=found.mtime_ns,
            ctime_ns=found.ctime_ns,
            atime_ns=found.atime_ns or found.mtime_ns,
            rdev=found.rdev,
            blocks=-(-found.size // 512),
        )

    def _mode(self, found: Inode, *, acls: bool) -> int:
        """`acls`: the kernel is told of its access list too."""
        mode = found.mode
        if mode & NO_MODE:
            mode = mode & ~NO_MODE & ~self._owner.umask
        return acl.mode_without(found.xattrs, mode) if found.xattrs and not acls else mode

    def snapdir(self, ino: int) -> Entry:
        """The `.snapshots` of a live directory."""
        node = past_node(Kind.SNAPDIR, 0, ino)
        return Entry(node, self._snapdir_attr(node), CACHE_S, SOON_S)

    def _snapdir_attr(self, node: int) -> Attr:
        """As the live directory: who may make a name there may make a snapshot of it."""
        kind, _, ino = self._split(node)
        like = Inode(ino=ROOT, mode=stat.S_IFDIR | 0o755)
        if kind is Kind.SNAPDIR and self._snapdirs is not None:
            like = self._snapdirs.directory(ino)
        uid, gid = self._owner.shown(like.uid, like.gid)
        now = time.time_ns()
        return Attr(node, self._mode(like, acls=False), 1, uid, gid, 0, now, now, now)

    def versions(self, names: list[bytes]) -> Entry:
        """The `.versions` of a live directory. Waits for nothing."""
        index = self._views.number(f"versions:{path_of(names)}")
        node = past_node(Kind.VIEW, index, ROOT)
        return Entry(node, self._snapdir_attr(node), CACHE_S, SOON_S)

    # --- names --------------------------------------------------------------------------------

    def lookup(self, caller: Caller, parent: int, name: bytes) -> Entry:
        if len(name) > MAX_NAME_BYTES:
            raise fail(errno.ENAMETOOLONG)
        kind, index, ino = self._split(parent)
        try:
            if kind is Kind.SNAPDIR:
                return self._lookup_snapshot(ino, name, caller.may_block)
            view = self._view(index, caller.may_block)
            found = view.lookup(ino, name, wait=caller.may_block)
        except FileNotFoundError:
            # A snapshot of this name may be made at any moment; in a view nothing ever is.
            return Entry(0, None, self._ttl_s(index) if kind is Kind.VIEW else 0.0, 0.0)
        node = past_node(Kind.VIEW, index, found.ino)
        return Entry(node, self._attr(found, node), self._ttl_s(index), CACHE_S)

    def _ttl_s(self, index: int) -> float:
        """Names of a view never change, but those in `.versions` grow."""
        return SOON_S if self._views.grows(index) else CACHE_S

    def _lookup_snapshot(self, ino: int, name: bytes, wait: bool) -> Entry:
        if self._snapdirs is None:
            raise fail(errno.ENOENT)
        found = self._snapdirs.lookup(ino, name, wait=wait)
        node = past_node(found.kind, found.index, found.node.ino)
        attr, generation = self._attr(found.node, node), self._generations.get(node, 0)
        return Entry(node, attr, found.ttl_s, CACHE_S, generation)

    def getattr(self, caller: Caller, node: int, fh: int | None) -> tuple[Attr, float]:
        kind, index, ino = self._split(node)
        if kind is Kind.SNAPDIR or (kind is Kind.VIEW and ino == ROOT and self._views.grows(index)):
            return self._snapdir_attr(node), SOON_S
        found, _ = self._inode(node, caller.may_block)
        return self._attr(found, node), CACHE_S

    def readlink(self, caller: Caller, node: int) -> bytes:
        found, _ = self._inode(node, caller.may_block)
        if not stat.S_ISLNK(found.mode):
            raise fail(errno.EINVAL)
        return found.target

    def mkdir(self, caller: Caller, parent: int, name: bytes, mode: int) -> Entry:
        kind, _, ino = self._split(parent)
        if kind is not Kind.SNAPDIR or self._snapdirs is None or self._snapshots is None:
            raise fail(errno.EROFS)
        if not caller.may_block:
            raise WouldBlock
        try:
            found = self._lookup_snapshot(ino, name, True)
        except FileNotFoundError:
            path = self._snapdirs.path(ino)
            self._snapshots.make(path, os.fsdecode(name), caller.interrupted)
            return self._lookup_snapshot(ino, name, True)
        if caller.resent:
            return found  # the worker before this one took it
        raise fail(errno.EEXIST)

    def rmdir(self, caller: Caller, parent: int, name: bytes) -> None:
        kind, _, ino = self._split(parent)
        if kind is not Kind.SNAPDIR or self._snapdirs is None or self._snapshots is None:
            raise fail(errno.EROFS)
        if not caller.may_block:
            raise WouldBlock
        try:
            node = self._lookup_snapshot(ino, name, True).node
            self._snapshots.forget(self._snapdirs.path(ino), name)
            self._generations[node] = max(int(time.time()), self._generations.get(node, 0) + 1)
        except FileNotFoundError:
            if not caller.resent:  # else the worker before this one did it
                raise

    # --- directories --------------------------------------------------------------------------

    def opendir(self, caller: Caller, node: int, flags: int) -> Opened:
        fh = next(self._handles)
        kind, _, ino = self._split(node)
        if kind is Kind.SNAPDIR:
            self._listings[fh] = self._list_snapshots(node, ino, caller.may_block)
        else:
            self._directories[fh] = DirectoryHandle(ino)
        return Opened(fh)

    def _list_snapshots(self, node: int, ino: int, wait: bool) -> list[DirEntry]:
        found = self._snapdirs.names(ino, wait=wait) if self._snapdirs is not None else []
        out = [DirEntry(b".", node, stat.S_IFDIR, 1), DirEntry(b"..", ino, stat.S_IFDIR, 2)]
        for name, is_link in found:
            kind = stat.S_IFLNK if is_link else stat.S_IFDIR
            # No number yet: it costs a look into the manifest, which a lookup makes.
            out.append(DirEntry(name, node + len(out), kind, len(out) + 1))
        return out

    def readdir(
        self, caller: Caller, node: int, fh: int, offset: int, plus: bool
    ) -> Iterator[DirEntry]:
        kind, index, ino = self._split(node)
        if kind is Kind.SNAPDIR:
            if fh not in self._listings or offset == 0:
                self._listings[fh] = self._list_snapshots(node, ino, caller.may_block)
            return iter(self._listings[fh][offset:])
        directory = self._directories.get(fh)
        if directory is None:  # opened before this worker took over
            directory = self._directories[fh] = DirectoryHandle(ino)
        return self._list_view(directory, index, node, offset, plus, caller.may_block)

    def _list_view(
        self,
        directory: DirectoryHandle[Inode],
        index: int,
        node: int,
        offset: int,
        plus: bool,
        wait: bool,
    ) -> Iterator[DirEntry]:
        view, ino = self._view(index, wait), directory.ino
        if offset == 0:
            directory.rewind()
            yield DirEntry(b".", node, stat.S_IFDIR, 1)
        if offset <= 1:
            parent = view.node(ino, wait=wait).parent or ROOT
            yield DirEntry(b"..", past_node(Kind.VIEW, index, parent), stat.S_IFDIR, 2)

        def fetch(after: bytes, limit: int) -> list[tuple[bytes, Inode]]:
            return view.children(ino, after, limit, wait=wait)

        position, ttl_s = max(0, offset - 2), self._ttl_s(index)
        while batch := directory.at(position, fetch):
            for name, found in batch:
                position += 1
                child = past_node(Kind.VIEW, index, found.ino)
                entry = Entry(child, self._attr(found, child), ttl_s, CACHE_S) if plus else None
                yield DirEntry(name, child, found.kind, position + 2, entry)

    def releasedir(self, caller: Caller, node: int, fh: int) -> None:
        self._listings.pop(fh, None)
        self._directories.pop(fh, None)

    # --- contents -----------------------------------------------------------------------------

    def open(self, caller: Caller, node: int, flags: int) -> Opened:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_TRUNC):
            raise fail(errno.EROFS)
        return Opened(next(self._handles), keep_cache=True)

    def read(self, caller: Caller, node: int, fh: int, offset: int, size: int) -> ReadReply:
        found, index = self._inode(node, caller.may_block)
        if found.content is None:
            return ReadReply([bytes(max(0, min(size, found.size - offset)))])
        ref = found.content.ref()
        try:
            leases = self._reader.cached(ref, offset, size)
            self._reader.advise(fh, ref, offset, size)
            if leases is None:
                if not caller.may_block:
                    raise WouldBlock
                leases = self._reader.read(ref, offset, size, interrupted=caller.interrupted)
        except PipefsError as e:
            raise log_unreadable(f"{self._views.identity(index)} {ref.key}", e) from e
        held = leases

        def release() -> None:
            for lease in held:
                lease.release()

        return ReadReply([lease.data for lease in held], release)

    def release(self, caller: Caller, node: int, fh: int, flags: int) -> None:
        self._reader.close_stream(fh)

    def lseek(self, caller: Caller, node: int, fh: int, offset: int, whence: int) -> int:
        found, _ = self._inode(node, caller.may_block)
        if not 0 <= offset < found.size:
            raise fail(errno.ENXIO)
        return offset if whence == os.SEEK_DATA else found.size

    def names(self, index: int) -> set[bytes]:
        """Names in the root of a view."""
        return {name for name, _ in self._view(index, True).children(ROOT, b"", 1 << 30)}

    def content(self, node: int, wait: bool) -> Inode:
        """The inode of a past file, to copy from."""
        return self._inode(node, wait)[0]

    def getxattr(self, caller: Caller, node: int, name: bytes) -> bytes:
        if self._split(node)[0] is not Kind.VIEW:
            check_known(name, acls=self._acls)
            raise fail(errno.ENODATA)
        found, index = self._inode(node, caller.may_block)
        label = self._view(index, caller.may_block).label
        return get_xattr(found, name, label, self._cached, acls=self._acls)

    def _cached(self, found: Inode) -> float:
        assert found.content is not None
        return self._reader.percent(found.content.ref())

    def listxattr(self, caller: Caller, node: int) -> list[bytes]:
        if self._split(node)[0] is not Kind.VIEW:
            return []
        found = self._inode(node, caller.may_block)[0]
        return list_xattrs(found, trusted=caller.uid == 0, acls=self._acls)

    def statfs(self, caller: Caller, node: int) -> Statfs:
        return Statfs(0, 0, 0, 0, 0, 4096)
