"""The tree of `MemFs` and what tests do to it behind the kernel's back."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from pipefsd.transports.base import (
    Attr,
    Caller,
    Entry,
    Features,
    Notifier,
    WouldBlock,
)


def fail(code: int) -> OSError:
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


class MemState:
    """Nodes, handles and counters. Thread safe by one lock."""

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
            raise fail(errno.ESTALE) from None

    def _entry(self, node: int) -> Entry:
        n = self._nodes[node]
        n.lookups += 1
        return Entry(node, n.attr, self.ttl_s, self.ttl_s)

    def _add(self, caller: Caller, parent: int, name: bytes, mode: int, rdev: int = 0) -> int:
        folder = self._get(parent)
        if name in folder.children:
            raise fail(errno.EEXIST)
        node = self._new(mode & ~caller.umask, caller.uid, caller.gid, parent, rdev)
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
                    raise fail(errno.EINTR)
                time.sleep(0.005)
        finally:
            with self._lock:
                self.waiting -= 1
