"""What any view can tell by its names alone: the inode at a path, a whole tree in order."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence

from pipefs.manifest import Entry, path_of
from pipefs.past.entries import entry_of
from pipefs.past.views import ROOT, PastView
from pipefs.records import Inode

BATCH = 1000
_MAX_LINKS = 40


def fail(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def names_below(view: PastView, ino: int) -> Iterator[tuple[bytes, Inode]]:
    """Every name of a directory, ascending. Waits for the store."""
    after = b""
    while True:
        some = view.children(ino, after, BATCH)
        yield from some
        if len(some) < BATCH:
            return
        after = some[-1][0]


def at(view: PastView, names: Sequence[bytes], *, follow: bool = False) -> Inode:
    """The inode at a path. Waits for the store.

    Args:
        follow: where symbolic links lead; those on the way are always followed.

    Raises:
        OSError: ENOENT, ENOTDIR, ELOOP; EXDEV for a link that leads out of the tree.
    """
    todo = list(reversed(names))
    above = [view.node(ROOT)]
    links = 0
    while todo:
        name = todo.pop()
        if name in (b"", b"."):
            continue
        if name == b"..":
            if len(above) == 1:
                raise fail(errno.EXDEV)
            above.pop()
            continue
        if not above[-1].is_dir:
            raise fail(errno.ENOTDIR)
        found = view.lookup(above[-1].ino, name)
        if not stat.S_ISLNK(found.mode) or not (todo or follow):
            above.append(found)
            continue
        links += 1
        if links > _MAX_LINKS:
            raise fail(errno.ELOOP)
        if found.target.startswith(b"/"):
            raise fail(errno.EXDEV)
        todo += reversed(found.target.split(b"/"))
    return above[-1]


def entries(view: PastView, names: Sequence[bytes]) -> Iterator[Entry]:
    """`PastView.entries` by way of `lookup` and `children`, for a view without hard links."""
    ino = ROOT
    for depth, name in enumerate(names, 1):
        try:
            found = view.lookup(ino, name)
        except (FileNotFoundError, NotADirectoryError):
            return
        ino = found.ino
        if depth == len(names):
            yield entry_of(found, path_of(names))
            if not found.is_dir:
                return
    # Directories still to come, the next one on top.
    todo: list[tuple[list[bytes], int]] = [(list(names), ino)]
    while todo:
        above, ino = todo.pop()
        below: list[tuple[list[bytes], int]] = []
        for name, node in names_below(view, ino):
            path = [*above, name]
            yield entry_of(node, path_of(path))
            if node.is_dir:
                below.append((path, node.ino))
        todo += reversed(below)
