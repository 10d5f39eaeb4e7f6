"""A small complete filesystem in memory: the transport's own partner in tests and benchmarks.

Semantics are those of a plain Unix directory, as far as the transport can show them. What tests
need beyond that: every operation is counted, reads are recorded with their sizes, and a `gate`
makes the reads (and flushes) of chosen files wait as a cold read of a bucket would.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

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
    WouldBlock,
)
from pipefsd.transports.kernel.session import KernelSession, Negotiated

_TRUNCATING_MODES = (0, 1)  # default, and FALLOC_FL_KEEP_SIZE


def _fail(code: int) -> OSError:
    return OSError(code, os.strerror(code))


@dataclass(slots=True)
class Node:
    attr: Attr
    parent: int = 1
    data: bytearray = field(default_factory=bytearray)
    children: dict[bytes, int] = field(default_factory=dict)
    target: bytes = b""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    lookups: int = 0
    backing: str | None = None
    """A real file that holds the bytes instead of `data`; opened for passthrough."""


class MemFs:
    """Implements `pipefsd.transports.base.Operations`. Thread safe by one lock."""

    def __init__(self, *, ttl_s: float = 3600.0, keep_cache: bool = False) -> None:
        self.ttl_s = ttl_s
        self.keep_cache = keep_cache
        self.direct_io = False
        self.discard = False
        """Writes only change the size: a benchmark's own memory traffic is not the transport's."""
        self.xattr_less = False
        """Answer ENOSYS to xattr requests, as a filesystem without them does."""
        self.calls: Counter[str] = Counter()
        self.read_sizes: list[int] = []
        self.interrupted = 0
        self.waiting = 0
        self.resent: list[str] = []
        self.callers: list[tuple[int, int]] = []
        self.gate: Callable[[int], bool] | None = None
        """gate(node) True: a read of that node has to wait."""
        self.notifier: Notifier | None = None
        self.features: Features | None = None
        self.stopped = threading.Event()
        self.started = threading.Event()
        self._lock = threading.RLock()
        self._nodes: dict[int, Node] = {}
        self._next = 1
        self._handles: dict[int, list[tuple[bytes, int]] | int] = {}
        self._backing_fds: dict[int, int] = {}
        self._fh = 0
        self._new(stat.S_IFDIR | 0o755, 0, 0)

    # --- for tests -------------------------------------------------------------------------
    def node_of(self, path: str) -> int:
        node = 1
        for part in os.fsencode(path).strip(b"/").split(b"/"):
            node = self._nodes[node].children[part]
        return node

    def put(self, name: str, data: bytes | bytearray, *, mode: int = 0o644) -> int:
        """Make or change a root file behind the kernel's back."""
        with self._lock:
            key = os.fsencode(name)
            node = self._nodes[1].children.get(key)
            if node is None:
                node = self._new(stat.S_IFREG | mode, os.getuid(), os.getgid())
                self._nodes[1].children[key] = node
            self._nodes[node].data = bytearray(data)
            self._touch(node)
            return node

    def drop(self, name: str) -> int:
        with self._lock:
            return self._nodes[1].children.pop(os.fsencode(name))

    def back(self, name: str, path: str) -> int:
        """A root file whose bytes are the real file `path`."""
        node = self.put(name, b"")
        self._nodes[node].backing = path
        self._nodes[node].attr.size = os.stat(path).st_size
        return node

    def open_handles(self) -> int:
        return len(self._handles)

    def lookups(self, path: str) -> int:
        return self._nodes[self.node_of(path)].lookups

    # --- inner -----------------------------------------------------------------------------
    def _new(self, mode: int, uid: int, gid: int, parent: int = 1, rdev: int = 0) -> int:
        node, self._next = self._next, self._next + 1
        now = time.time_ns()
        links = 2 if stat.S_ISDIR(mode) else 1
        attr = Attr(node, mode, links, uid, gid, 0, now, now, now, rdev)
        self._nodes[node] = Node(attr, parent)
        return node

    def _touch(self, node: int) -> None:
        n = self._nodes[node]
        now = time.time_ns()
        if n.backing is None:
            n.attr.size = len(n.data)
        n.attr.blocks = (n.attr.size + 511) // 512
        n.attr.mtime_ns = n.attr.ctime_ns = now

    def _get(self, node: int) -> Node:
        try:
            return self._nodes[node]
        except KeyError:
            raise _fail(errno.ESTALE) from None

    def _entry(self, node: int) -> Entry:
        n = self._nodes[node]
        n.lookups += 1
        return Entry(node, n.attr, self.ttl_s, self.ttl_s)

    def _add(self, caller: Caller, parent: int, name: bytes, mode: int, rdev: int = 0) -> int:
        folder = self._get(parent)
        if name in folder.children:
            raise _fail(errno.EEXIST)
        node = self._new(mode, caller.uid, caller.gid, parent, rdev)
        folder.children[name] = node
        if stat.S_ISDIR(mode):
            folder.attr.nlink += 1
        return node

    def _open(self, value: list[tuple[bytes, int]] | int) -> int:
        self._fh += 1
        self._handles[self._fh] = value
        return self._fh

    def _seen(self, what: str, caller: Caller) -> None:
        self.calls[what] += 1
        if caller.resent:
            self.resent.append(what)

    def _wait(self, caller: Caller, node: int) -> None:
        if self.gate is None or not self.gate(node):
            return
        if not caller.may_block:
            raise WouldBlock
        with self._lock:
            self.waiting += 1
        try:
            while self.gate(node):
                if caller.interrupted():
                    self.interrupted += 1
                    raise _fail(errno.EINTR)
                time.sleep(0.005)
        finally:
            with self._lock:
                self.waiting -= 1

    # --- Operations ------------------------------------------------------------------------
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
                raise _fail(errno.EEXIST)
            folder.children[name] = node
            self._get(node).attr.nlink += 1
            return self._entry(node)

    def _remove(self, parent: int, name: bytes, *, folder: bool) -> None:
        names = self._get(parent).children
        if name not in names:
            raise _fail(errno.ENOENT)
        n = self._nodes[names[name]]
        if stat.S_ISDIR(n.attr.mode) != folder:
            raise _fail(errno.ENOTDIR if folder else errno.EISDIR)
        if n.children:
            raise _fail(errno.ENOTEMPTY)
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
                raise _fail(errno.ENOENT)
            if flags & 1 and name2 in target:
                raise _fail(errno.EEXIST)
            if flags & 2:
                if name2 not in target:
                    raise _fail(errno.ENOENT)
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
        raise _fail(errno.ENOSYS)

    def getxattr(self, caller: Caller, node: int, name: bytes) -> bytes:
        self._seen("getxattr", caller)
        if self.xattr_less:
            raise _fail(errno.ENOSYS)
        try:
            return self._get(node).xattrs[name]
        except KeyError:
            raise _fail(errno.ENODATA) from None

    def listxattr(self, caller: Caller, node: int) -> list[bytes]:
        self._seen("listxattr", caller)
        return list(self._get(node).xattrs)

    def setxattr(self, caller: Caller, node: int, name: bytes, value: bytes, flags: int) -> None:
        self._seen("setxattr", caller)
        known = self._get(node).xattrs
        if flags & os.XATTR_CREATE and name in known:
            raise _fail(errno.EEXIST)
        if flags & os.XATTR_REPLACE and name not in known:
            raise _fail(errno.ENODATA)
        known[name] = value

    def removexattr(self, caller: Caller, node: int, name: bytes) -> None:
        self._seen("removexattr", caller)
        if self._get(node).xattrs.pop(name, None) is None:
            raise _fail(errno.ENODATA)

    def fallocate(
        self, caller: Caller, node: int, fh: int, offset: int, length: int, mode: int
    ) -> None:
        self._seen("fallocate", caller)
        if mode not in _TRUNCATING_MODES:
            raise _fail(errno.EOPNOTSUPP)
        with self._lock:
            n = self._get(node)
            if not mode:
                n.data.extend(bytes(max(0, offset + length - len(n.data))))
            self._touch(node)

    def lseek(self, caller: Caller, node: int, fh: int, offset: int, whence: int) -> int:
        self._seen("lseek", caller)
        size = len(self._get(node).data)
        if offset >= size:
            raise _fail(errno.ENXIO)
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


def main() -> None:
    """`memfs.py FD RECORD GATE REPORT [die]`: serve one file, "data", as a worker would.

    RECORD holds what was negotiated, if an earlier worker got that far. While GATE exists, reads
    wait. REPORT gets the operations that were asked again. "die" ends the process after INIT was
    recorded and before it is answered.
    """
    fd, record, gate, report = int(sys.argv[1]), *map(Path, sys.argv[2:5])

    def keep(agreed: Negotiated) -> None:
        record.write_bytes(msgspec.json.encode(agreed))
        if "die" in sys.argv:
            os._exit(1)

    fs = MemFs()
    fs.put("data", bytes(range(256)) * 4096)
    fs.gate = lambda node: gate.exists()
    known = msgspec.json.decode(record.read_bytes(), type=Negotiated) if record.exists() else None
    session = KernelSession(fd, fs, negotiated=known, on_negotiated=keep)
    signal.signal(signal.SIGTERM, lambda *_: session.stop())
    reason = session.run()
    report.write_text(" ".join([reason, *fs.resent]))


if __name__ == "__main__":
    main()
