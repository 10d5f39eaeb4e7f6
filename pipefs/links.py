"""Hard links: further names of a file, and which file they mean.

A file's own inode has one name, like every inode; its object follows that one. Each further name
is an inode of kind `HARD_LINK` that only says which file it stands for (`Inode.alias`). So a link
is made, renamed, removed, announced and rebased by the rules for names that all inodes share, and
the store keeps one object however many names there are. When the file's own name goes, the oldest
link lends the file its place (`promote`): that is a rename of the file over the link.

The table `links` (file, link) finds the links of a file. It may name links that are gone from the
base or from the live tree: readers look at the link itself.

Works in transactions that the caller gives; no I/O. Links exist for everything but directories.
"""

from __future__ import annotations

import stat
from collections.abc import Callable

from pipefs import tree
from pipefs.db import Txn, View
from pipefs.records import HARD_LINK, Inode, encode, ino_key
from pipefs.types import ROOT_INO

SUBDIRS_COUNTED = 512
"""Names of a directory that are looked at to count its subdirectories."""


def target(v: View, node: Inode) -> Inode:
    """The file that a name's inode stands for: itself, unless it is a hard link.

    Raises:
        Corrupt: a link without its file.
    """
    return tree.need(v, node.alias) if node.alias else node


def of(v: View, ino: int) -> list[Inode]:
    """Live hard links of a file, the oldest first."""
    if not v.count("links"):
        return []
    found = [tree.inode(v, int.from_bytes(k[8:], "big")) for k, _ in _rows(v, ino)]
    return [n for n in found if n is not None and n.parent and n.alias == ino]


def in_base(v: View, ino: int) -> list[Inode]:
    """Hard links of a file in the base."""
    if not v.count("links"):
        return []
    found = [tree.base_inode(v, int.from_bytes(k[8:], "big")) for k, _ in _rows(v, ino)]
    return [n for n in found if n is not None and n.alias == ino]


def _rows(v: View, ino: int) -> list[tuple[bytes, bytes]]:
    return list(v.scan("links", ino_key(ino), ino_key(ino + 1)))


def count(v: View, node: Inode) -> int:
    """st_nlink: names of a file; of a directory 2 and its subdirectories, or 1 ("not counted")
    where it has many names."""
    if not node.is_dir:
        return 1 + len(of(v, node.ino)) if node.parent else 0
    if not node.parent and node.ino != ROOT_INO:
        return 0
    names = tree.children(v, node.ino, limit=SUBDIRS_COUNTED + 1)
    if len(names) > SUBDIRS_COUNTED:
        return 1
    return 2 + sum(entry.kind == stat.S_IFDIR for _, entry in names)


def record(t: Txn, link: Inode) -> None:
    """Let the file be found by its links; `link` has its number and its file."""
    t.put("links", ino_key(link.alias) + ino_key(link.ino), b"")


def forget(t: Txn, link: Inode) -> None:
    """The link is in the base no more, or in the live tree no more; in both: drop its row."""
    live, base = tree.inode(t, link.ino), tree.base_inode(t, link.ino)
    if (live is None or not live.parent) and base is None:
        t.delete("links", ino_key(link.alias) + ino_key(link.ino))


def new(file: Inode) -> Inode:
    """A link to this file, without a number yet."""
    return Inode(ino=0, mode=HARD_LINK, alias=file.ino)


def remove(t: Txn, link: Inode) -> None:
    """Take a live link's name away; the file keeps the others."""
    tree.clear_name(t, link.parent, link.name)
    link.parent, link.name, link.dirty = 0, b"", 0
    t.delete("conflicts", ino_key(link.ino))
    if t.has("inodes", ino_key(link.ino)):
        tree.put_inode(t, link)  # it says that the base's name is no longer live
    else:
        tree.drop_overlay_inode(t, link.ino)
    t.delete("ready", ino_key(link.ino))
    forget(t, link)


def promote(t: Txn, file: Inode, link: Inode) -> None:
    """Let the file take a link's place: the link ends, its name is the file's own now. The caller
    has taken care of the file's former name, and stores the file."""
    parent, name = link.parent, link.name
    remove(t, link)
    tree.set_name(t, parent, name, file)


def retarget(t: Txn, old: int, new: int) -> None:
    """In the base another inode has taken a file's place: its links follow."""
    for link in in_base(t, old):
        link.alias = new
        t.put("inodes", ino_key(link.ino), encode(link))
        record(t, link)
        mine = tree.overlay_inode(t, link.ino)
        if mine is not None and mine.alias == old:
            mine.alias = new
            t.put("oinodes", ino_key(mine.ino), encode(mine))
        t.delete("links", ino_key(old) + ino_key(link.ino))


def all_local(
    v: View, node: Inode, names: list[bytes], stays_local: Callable[[list[bytes]], bool]
) -> bool:
    """Whether every name of a file is one that never goes up."""
    if not stays_local(names):
        return False
    return all(stays_local(tree.names_to(v, link.ino) or []) for link in of(v, node.ino))
