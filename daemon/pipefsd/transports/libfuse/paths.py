"""From libfuse's paths to nodes: names, files that lost theirs, and open handles.

Each name is looked up anew; only the directories on the way to it are remembered, until one of
them is renamed or removed, here or elsewhere. Lookups are not given back (`forget`): a filesystem
served this way must not rest on their count.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections import OrderedDict
from typing import Final

from pipefsd.transports.base import Attr, Caller, Entry, Operations

ROOT: Final = 1
_REMEMBERED_OPENS: Final = 16384
_REMEMBERED_FOLDERS: Final = 16384

Shown = tuple[int, int, int]
"""Node, mtime and size: a file that agrees in all three has the content it had."""


def fail(code: int) -> OSError:
    return OSError(code, os.strerror(code))


class Paths:
    """Paths of one mount. Used from every thread of the loop."""

    def __init__(self, operations: Operations) -> None:
        self._ops = operations
        self._folders: dict[bytes, int] = {b"": ROOT}
        """Paths of directories without the last "/", with all that lead to them."""
        self._hidden: dict[bytes, int] = {}
        """libfuse's name for an open file that lost its own → its node."""

    def node(self, caller: Caller, path: bytes) -> int:
        """Raises ENOENT, ENOTDIR."""
        return self.entry(caller, path).node if path != b"/" else ROOT

    def entry(self, caller: Caller, path: bytes) -> Entry:
        """What a path other than the root means."""
        hidden = self.hidden(path)
        if hidden is not None:
            attr, _ttl_s = self._ops.getattr(caller, hidden, None)
            return Entry(hidden, attr, 0.0, 0.0)
        parent, name = self.parent(caller, path)
        return self._lookup(caller, parent, name)

    def parent(self, caller: Caller, path: bytes) -> tuple[int, bytes]:
        """The node of the directory, which must be one, and the last name."""
        folder, _, name = path.rpartition(b"/")
        folders = self._folders
        node = folders.get(folder)
        if node is None:
            above, its_name = self.parent(caller, folder)
            found = self._lookup(caller, above, its_name)
            if found.attr is None or not stat.S_ISDIR(found.attr.mode):
                raise fail(errno.ENOTDIR)
            node = found.node
            if len(folders) > _REMEMBERED_FOLDERS:
                self.forget_folders()
            # Into the table from before the lookup: one that was moved meanwhile is in none.
            folders[folder] = node
        return node, name

    def forget_folders(self) -> None:
        """Some directory is not where it was."""
        self._folders = {b"": ROOT}

    def moved(self, *paths: bytes) -> None:
        """These names mean something else now."""
        if any(path in self._folders for path in paths):
            self.forget_folders()

    def _lookup(self, caller: Caller, parent: int, name: bytes) -> Entry:
        found = self._ops.lookup(caller, parent, name)
        if not found.node or found.attr is None:
            raise fail(errno.ENOENT)
        return found

    def hide(self, path: bytes, node: int) -> None:
        """`path` is what libfuse calls an open file from now on, for as long as it is open."""
        self._hidden[_last(path)] = node

    def hidden(self, path: bytes) -> int | None:
        # By the last name alone, which libfuse uses once: its directory may be renamed.
        return self._hidden.get(_last(path)) if self._hidden else None

    def reveal(self, path: bytes) -> bool:
        """Forget what `hide` said; False when it said nothing."""
        return self._hidden.pop(_last(path), None) is not None


def _last(path: bytes) -> bytes:
    return path.rpartition(b"/")[2]


class _File:
    """What libfuse takes for one file, while it is open: nodes → handles on each."""

    __slots__ = ("nodes", "path")

    def __init__(self, path: bytes) -> None:
        self.path = path
        self.nodes: dict[int, int] = {}


class Handles:
    """Open files and directories, and what the kernel's pages of a path were read from.

    libfuse knows a file by its path, so the pages of two contents of one path are in one place:
    they are dropped when the content is another, and a handle beside one that is open on another
    content bypasses them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handles: dict[int, tuple[int, _File | None]] = {}
        self._open: dict[bytes, _File] = {}
        self._shown: OrderedDict[bytes, Shown] = OrderedDict()
        self._folders: dict[int, tuple[int, int]] = {}
        """Node of an open directory → the kernel's number of it, and how many handles."""

    def node(self, fh: int) -> int:
        return self._handles[fh][0]

    def add(self, fh: int, node: int, path: bytes, attr: Attr | None) -> tuple[bool, bool]:
        """(the kernel's pages are still right, they must be bypassed); without `attr` the content
        changes by this open."""
        now = None if attr is None else (node, attr.mtime_ns, attr.size)
        with self._lock:
            file = self._open.setdefault(path, _File(path))
            self._handles[fh] = (node, file)
            mixed = any(other != node for other in file.nodes)
            file.nodes[node] = file.nodes.get(node, 0) + 1
            kept = now is not None and self._shown.get(path) == now
            if now is None or mixed:
                self._shown.pop(path, None)
            else:
                self._shown[path] = now
                self._shown.move_to_end(path)
                if len(self._shown) > _REMEMBERED_OPENS:
                    self._shown.popitem(last=False)
        return kept and not mixed, mixed

    def add_directory(self, fh: int, node: int, number: int) -> None:
        """`number`: what the kernel calls it."""
        with self._lock:
            self._handles[fh] = (node, None)
            self._folders[node] = (number, self._folders.get(node, (0, 0))[1] + 1)

    def remove_directory(self, fh: int) -> int:
        """What the kernel calls it if this was its last handle, else 0."""
        with self._lock:
            node, _ = self._handles.pop(fh)
            number, handles = self._folders[node]
            if handles > 1:
                self._folders[node] = (number, handles - 1)
                return 0
            del self._folders[node]
            return number

    def number(self, node: int) -> int:
        """What the kernel calls an open directory; 0 for one that is not open."""
        return self._folders.get(node, (0, 0))[0]

    def folders_open(self) -> bool:
        return bool(self._folders)

    def remove(self, fh: int) -> None:
        with self._lock:
            node, file = self._handles.pop(fh)
            if file is None:
                return
            file.nodes[node] -= 1
            if not file.nodes[node]:
                del file.nodes[node]
            if not file.nodes and self._open.get(file.path) is file:
                del self._open[file.path]

    def moved(self, path: bytes, to: bytes | None) -> None:
        """The file at `path` is at `to` now (None: nowhere), in place of what was there."""
        with self._lock:
            self._shown.pop(path, None)
            file = self._open.pop(path, None)
            if to is not None:
                self._shown.pop(to, None)
                self._open.pop(to, None)
                if file is not None:
                    file.path = to
                    self._open[to] = file
