"""A small complete filesystem in memory: the transport's own partner in tests and benchmarks.

Semantics are those of a plain Unix directory, as far as the transport can show them. What tests
need beyond that: every operation is counted, reads are recorded with their sizes, and a `gate`
makes the reads (and flushes) of chosen files wait as a cold read of a bucket would.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterable

from pipefsd.transports.base import (
    Attr,
    Caller,
    DirEntry,
    Entry,
    Features,
    Notifier,
    Opened,
    ReadReply,
    SetAttr,
    Statfs,
)
from tests.mount.memfs_state import MemState, fail

_TRUNCATING_MODES = (0, 1)  # default, and FALLOC_FL_KEEP_SIZE


class MemFs(MemState):
    """Implements `pipefsd.transports.base.Operations`."""

    def start(self, notifier: Notifier, features: Features) -> None:
        self.notifier, self.features = notifier, features
        self.started.set()

    def stop(self) -> None:
        self.stopped.set()

    def lookup(self, caller: Caller, parent: int, name: bytes) -> Entry:
        self._seen("lookup", caller)
        with self._lock:
            node = self._get(parent).children.get(name)
            return Entry(0, None, self.ttl_s, 0) if node is None else self._entry(node)

    def forget(self, node: int, nlookup: int) -> None:
        self.calls["forget"] += 1
        with self._lock:
            if node in self._nodes:
                self._nodes[node].lookups -= nlookup

    def getattr(self, caller: Caller, node: int, fh: int | None) -> tuple[Attr, float]:
        self._seen("getattr", caller)
        return self._get(node).attr, self.ttl_s

    def setattr(self, caller: Caller, node: int, change: SetAttr) -> tuple[Attr, float]:
        self._seen("setattr", caller)
        with self._lock:
            n = self._get(node)
            a = n.attr
            if change.size is not None:
                del n.data[change.size :]
                n.data.extend(bytes(change.size - len(n.data)))
                self._touch(node)
            if change.mode is not None:
                a.mode = stat.S_IFMT(a.mode) | change.mode
            if change.kill_suidgid:
                a.mode &= ~stat.S_ISUID
                if a.mode & 0o010:
                    a.mode &= ~stat.S_ISGID
            a.uid = a.uid if change.uid is None else change.uid
            a.gid = a.gid if change.gid is None else change.gid
            a.atime_ns = a.atime_ns if change.atime_ns is None else change.atime_ns
            a.mtime_ns = a.mtime_ns if change.mtime_ns is None else change.mtime_ns
            a.ctime_ns = time.time_ns()
            return a, self.ttl_s

    def readlink(self, caller: Caller, node: int) -> bytes:
        self._seen("readlink", caller)
        return self._get(node).target

    def mknod(self, caller: Caller, parent: int, name: bytes, mode: int, rdev: int) -> Entry:
        self._seen("mknod", caller)
        with self._lock:
            return self._entry(self._add(caller, parent, name, mode, rdev))

    def mkdir(self, caller: Caller, parent: int, name: bytes, mode: int) -> Entry:
        self._seen("mkdir", caller)
        with self._lock:
            return self._entry(self._add(caller, parent, name, stat.S_IFDIR | mode))

    def symlink(self, caller: Caller, parent: int, name: bytes, target: bytes) -> Entry:
        self._seen("symlink", caller)
        with self._lock:
            node = self._add(caller, parent, name, stat.S_IFLNK | 0o777)
            self._nodes[node].target = target
            self._nodes[node].attr.size = len(target)
            return self._entry(node)

    def link(self, caller: Caller, node: int, parent: int, name: bytes) -> Entry:
        self._seen("link", caller)
        with self._lock:
            folder = self._get(parent)
            if name in folder.children:
                raise fail(errno.EEXIST)
            folder.children[name] = node
            self._get(node).attr.nlink += 1
            return self._entry(node)

    def _remove(self, parent: int, name: bytes, *, folder: bool) -> None:
        names = self._get(parent).children
        if name not in names:
            raise fail(errno.ENOENT)
        n = self._nodes[names[name]]
        if stat.S_ISDIR(n.attr.mode) != folder:
            raise fail(errno.ENOTDIR if folder else errno.EISDIR)
        if n.children:
            raise fail(errno.ENOTEMPTY)
        del names[name]
        n.attr.nlink = 0 if folder else n.attr.nlink - 1
        if folder:
            self._nodes[parent].attr.nlink -= 1

    def unlink(self, caller: Caller, parent: int, name: bytes) -> None:
        self._seen("unlink", caller)
        with self._lock:
            self._remove(parent, name, folder=False)

    def rmdir(self, caller: Caller, parent: int, name: bytes) -> None:
        self._seen("rmdir", caller)
        with self._lock:
            self._remove(parent, name, folder=True)

    def rename(
        self, caller: Caller, parent: int, name: bytes, parent2: int, name2: bytes, flags: int
    ) -> None:
        self._seen("rename", caller)
        with self._lock:
            source, target = self._get(parent).children, self._get(parent2).children
            if name not in source:
                raise fail(errno.ENOENT)
            if flags & 1 and name2 in target:
                raise fail(errno.EEXIST)
            if flags & 2:
                if name2 not in target:
                    raise fail(errno.ENOENT)
                source[name], target[name2] = target[name2], source[name]
                return
            if name2 in target and target[name2] != source[name]:
                moved = stat.S_ISDIR(self._nodes[source[name]].attr.mode)
                self._remove(parent2, name2, folder=moved)
            target[name2] = source.pop(name)

    def create(
        self, caller: Caller, parent: int, name: bytes, mode: int, flags: int
    ) -> tuple[Entry, Opened]:
        self._seen("create", caller)
        with self._lock:
            node = self._add(caller, parent, name, stat.S_IFREG | (mode & 0o7777))
            return self._entry(node), Opened(self._open(node), self.keep_cache)

    def open(self, caller: Caller, node: int, flags: int) -> Opened:
        self._seen("open", caller)
        with self._lock:
            n = self._get(node)
            if flags & os.O_TRUNC:
                n.data = bytearray()
                self._touch(node)
            opened = Opened(self._open(node), self.keep_cache, self.direct_io)
            if n.backing is not None:
                opened.backing_fd = self._backing_fds[opened.fh] = os.open(n.backing, os.O_RDWR)
            return opened

    def read(self, caller: Caller, node: int, fh: int, offset: int, size: int) -> ReadReply:
        self._wait(caller, node)
        self._seen("read", caller)
        self.read_sizes.append(size)
        n = self._get(node)
        if n.backing is not None:
            with open(n.backing, "rb") as f:
                return ReadReply([os.pread(f.fileno(), size, offset)])
        view = memoryview(n.data)[offset : offset + size]
        return ReadReply([view], view.release)

    def write(self, caller: Caller, node: int, fh: int, offset: int, data: memoryview) -> int:
        self._seen("write", caller)
        with self._lock:
            n = self._get(node)
            if self.discard:
                n.attr.size = max(n.attr.size, offset + len(data))
                return len(data)
            if offset > len(n.data):
                n.data.extend(bytes(offset - len(n.data)))
            n.data[offset : offset + len(data)] = data
            self._touch(node)
            return len(data)

    def flush(self, caller: Caller, node: int, fh: int) -> None:
        self._seen("flush", caller)

    def release(self, caller: Caller, node: int, fh: int, flags: int) -> None:
        self._seen("release", caller)
        self._handles.pop(fh, None)
        if fh in self._backing_fds:
            os.close(self._backing_fds.pop(fh))

    def fsync(self, caller: Caller, node: int, fh: int, datasync: bool) -> None:
        self._seen("fdatasync" if datasync else "fsync", caller)

    def opendir(self, caller: Caller, node: int, flags: int) -> Opened:
        self._seen("opendir", caller)
        with self._lock:
            n = self._get(node)
            return Opened(self._open([(b".", node), (b"..", n.parent), *n.children.items()]))

    def readdir(
        self, caller: Caller, node: int, fh: int, offset: int, plus: bool
    ) -> Iterable[DirEntry]:
        self._seen("readdirplus" if plus else "readdir", caller)
        listing = self._handles[fh]
        assert isinstance(listing, list)
        for number, (name, child) in enumerate(listing[offset:], offset + 1):
            attr = self._nodes[child].attr
            entry = None
            if plus and name not in (b".", b".."):
                entry = Entry(child, attr, self.ttl_s, self.ttl_s)
            yield DirEntry(name, attr.ino, attr.mode, number, entry)

    def looked_up(self, node: int) -> None:
        self._nodes[node].lookups += 1

    def releasedir(self, caller: Caller, node: int, fh: int) -> None:
        self._seen("releasedir", caller)
        self._handles.pop(fh, None)

    def fsyncdir(self, caller: Caller, node: int, fh: int, datasync: bool) -> None:
        self._seen("fsyncdir", caller)

    def statfs(self, caller: Caller, node: int) -> Statfs:
        self._seen("statfs", caller)
        return Statfs(1 << 20, 1 << 19, 1 << 19, 1000, 500)

    def access(self, caller: Caller, node: int, mask: int) -> None:
        self._seen("access", caller)
        raise fail(errno.ENOSYS)

    def getxattr(self, caller: Caller, node: int, name: bytes) -> bytes:
        self._seen("getxattr", caller)
        if self.xattr_less:
            raise fail(errno.ENOSYS)
        try:
            return self._get(node).xattrs[name]
        except KeyError:
            raise fail(errno.ENODATA) from None

    def listxattr(self, caller: Caller, node: int) -> list[bytes]:
        self._seen("listxattr", caller)
        return list(self._get(node).xattrs)

    def setxattr(
        self,
        caller: Caller,
        node: int,
        name: bytes,
        value: bytes,
        flags: int,
        kill_sgid: bool = False,
    ) -> None:
        self._seen("setxattr", caller)
        known = self._get(node).xattrs
        if flags & os.XATTR_CREATE and name in known:
            raise fail(errno.EEXIST)
        if flags & os.XATTR_REPLACE and name not in known:
            raise fail(errno.ENODATA)
        known[name] = value

    def removexattr(self, caller: Caller, node: int, name: bytes) -> None:
        self._seen("removexattr", caller)
        if self._get(node).xattrs.pop(name, None) is None:
            raise fail(errno.ENODATA)

    def tmpfile(self, caller: Caller, parent: int, mode: int, flags: int) -> tuple[Entry, Opened]:
        """Refused: what a program sees of that is the transport's doing."""
        self._seen("tmpfile", caller)
        raise fail(errno.EOPNOTSUPP)

    def fallocate(
        self, caller: Caller, node: int, fh: int, offset: int, length: int, mode: int
    ) -> None:
        self._seen("fallocate", caller)
        if mode not in _TRUNCATING_MODES:
            raise fail(errno.EOPNOTSUPP)
        with self._lock:
            n = self._get(node)
            if not mode:
                n.data.extend(bytes(max(0, offset + length - len(n.data))))
            self._touch(node)

    def lseek(self, caller: Caller, node: int, fh: int, offset: int, whence: int) -> int:
        self._seen("lseek", caller)
        size = len(self._get(node).data)
        if offset >= size:
            raise fail(errno.ENXIO)
        return offset if whence == os.SEEK_DATA else size

    def copy_file_range(
        self,
        caller: Caller,
        node_in: int,
        fh_in: int,
        offset_in: int,
        node_out: int,
        fh_out: int,
        offset_out: int,
        length: int,
    ) -> int:
        self._seen("copy_file_range", caller)
        with self._lock:
            piece = memoryview(bytes(self._get(node_in).data[offset_in : offset_in + length]))
            return self.write(caller, node_out, fh_out, offset_out, piece)

    def syncfs(self, caller: Caller) -> None:
        self._seen("syncfs", caller)
