"""Walking a tree of the state database in the order of manifests, from any place on.

Read in short transactions, some hundred names at a time; nothing of a large directory is held.
The caller sees to it that the tree stands still, or takes what it finds.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from typing import Protocol

from pipefs import links, tree
from pipefs.db import StateDB
from pipefs.errors import Corrupt
from pipefs.keys import component_of
from pipefs.manifest import Entry, Place, path_of
from pipefs.past.entries import entry_of
from pipefs.records import Inode
from pipefs.types import ROOT_INO

_BATCH = 512

Listed = tuple[bytes, int, Entry | None]
"""A name, its inode number, and its line; None: it has none."""
Sub = tuple[bytes, int]
"""A directory's name and inode number."""


class Source(Protocol):
    """A tree that can be walked."""

    def root(self) -> Inode:
        """The root directory's inode."""

    def directory(self, names: Sequence[bytes]) -> list[int]:
        """Inode numbers from the root down this path, as far as there are directories."""

    def listed(self, ino: int, names: list[bytes], first: bytes, limit: int) -> list[Listed]:
        """At most `limit` names of the directory `ino` at path `names`, from `first` on."""

    def subdirectories(self, ino: int, first: bytes, limit: int) -> tuple[list[Sub], bytes]:
        """Directories among `limit` names from `first` on, and where to go on; b"": the end."""


class BaseSource:
    """The base of a pipe's tree: what is committed and applied."""

    def __init__(self, db: StateDB) -> None:
        self._db = db

    def root(self) -> Inode:
        with self._db.view() as v:
            found = tree.base_inode(v, ROOT_INO)
        return found or Inode(ino=ROOT_INO, mode=stat.S_IFDIR | 0o755)

    def directory(self, names: Sequence[bytes]) -> list[int]:
        found = [int(ROOT_INO)]
        with self._db.view() as v:
            for name in names:
                entry = tree.base_name(v, found[-1], name)
                if entry is None or not stat.S_ISDIR(entry.kind):
                    break
                found.append(entry.ino)
        return found

    def listed(self, ino: int, names: list[bytes], first: bytes, limit: int) -> list[Listed]:
        above = path_of(names) + "/" if names else ""
        out: list[Listed] = []
        with self._db.view() as v:
            linked = v.count("links") > 0
            for name, found in tree.base_children(v, ino, first, limit):
                node = tree.base_inode(v, found.ino)
                if node is None:
                    raise Corrupt(f"the tree has a name for inode {found.ino} but not the inode")
                link = path_of(tree.base_names_to(v, node.alias) or []) if node.alias else ""
                several = linked and not node.is_dir and not node.alias
                count = len(links.in_base(v, node.ino)) if several else 0
                line = entry_of(node, above + component_of(name), link=link, links=count)
                out.append((name, found.ino, line))
        return out

    def subdirectories(self, ino: int, first: bytes, limit: int) -> tuple[list[Sub], bytes]:
        with self._db.view() as v:
            rows = list(tree.base_children(v, ino, first, limit))
        found = [(name, e.ino) for name, e in rows if stat.S_ISDIR(e.kind)]
        return found, rows[-1][0] + b"\0" if len(rows) == limit else b""


def walk(source: Source, start: Place = (b"", b"")) -> Iterator[Entry]:
    """Every line from a place on, in order."""
    names = start[0].split(b"\0") if start[0] else []
    known = source.directory(names)
    # Directories still to come: those after the path to the start, the nearest on top.
    todo: list[Iterator[tuple[list[bytes], int]]] = [
        _subdirectories(source, ino, names[:depth], names[depth])
        for depth, ino in enumerate(known[: len(names)])
    ]
    if len(known) == len(names) + 1:
        yield from _list(source, known[-1], names, start[1])
        todo.append(_subdirectories(source, known[-1], names, b""))
    while todo:
        following = next(todo[-1], None)
        if following is None:
            todo.pop()
            continue
        at, ino = following
        yield from _list(source, ino, at, b"")
        todo.append(_subdirectories(source, ino, at, b""))


def _list(source: Source, ino: int, names: list[bytes], first: bytes) -> Iterator[Entry]:
    """Lines of one directory from the name `first` on."""
    while True:
        batch = source.listed(ino, names, first, _BATCH)
        for _, _, line in batch:
            if line is not None:
                yield line
        if len(batch) < _BATCH:
            return
        first = batch[-1][0] + b"\0"


def _subdirectories(
    source: Source, ino: int, names: list[bytes], after: bytes
) -> Iterator[tuple[list[bytes], int]]:
    """Directories of a directory after the name `after`."""
    first = after + b"\0" if after else b""
    while True:
        found, first = source.subdirectories(ino, first, _BATCH)
        for name, child in found:
            yield [*names, name], child
        if not first:
            return
