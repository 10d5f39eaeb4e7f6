"""Changing the base tree: what landed commits put there and take away.

Keeps three things true with each change: `history` (what a commit replaced, if anything may still
ask for it), `bykey` (files whose key is not their path) and `links` (hard links of what went).
Works in the caller's transaction; no I/O.
"""

from __future__ import annotations

import stat

from pipefs import links, touched, tree
from pipefs.db import Txn
from pipefs.keys import component_of
from pipefs.records import (
    Inode,
    NameEntry,
    decode_inode,
    encode,
    ino_key,
    ino_of,
    key_id,
    name_key,
)


def put(t: Txn, parent: int, name: bytes, node: Inode, commit: int) -> None:
    """Put an inode under a name of the base as of `commit`; the name's former state is history."""
    _remember(t, parent, name, commit)
    node = _as_base(node, parent, name)
    t.put("names", name_key(parent, name), encode(NameEntry(node.ino, node.kind, commit)))
    old = tree.base_inode(t, node.ino)
    above = tree.base_names_to(t, parent)
    _index_key(t, node, old, above)
    t.put("inodes", ino_key(node.ino), encode(node))
    moved = old is not None and (old.parent, old.name) != (parent, name)
    if moved and node.is_dir:
        _index_below(t, node.ino)
    if node.alias:
        links.record(t, node)
        touched.record_inode(t, node.alias)
    if above is not None:
        touched.record(t, [*above, name], below=moved and node.is_dir)
    if moved:
        touched.record_links(t, node.ino, below=node.is_dir)


def drop(t: Txn, parent: int, name: bytes, commit: int, *, keep_inode: bool = False) -> None:
    """Remove a name of the base as of `commit` (with its inode, unless it moves elsewhere)."""
    entry = tree.base_name(t, parent, name)
    if entry is None:
        return
    _remember(t, parent, name, commit)
    above = tree.base_names_to(t, parent)
    if above is not None:  # else what is above went before, and was recorded with all below it
        touched.record(t, [*above, name], below=stat.S_ISDIR(entry.kind))
    t.delete("names", name_key(parent, name))
    if not keep_inode:
        node = tree.base_inode(t, entry.ino)
        if node is not None:
            _unindex_key(t, node)
        t.delete("inodes", ino_key(entry.ino))
        over = tree.overlay_inode(t, entry.ino)
        if over is not None and not over.parent and not t.has("orphans", ino_key(entry.ino)):
            tree.drop_overlay_inode(t, entry.ino)
        if node is not None and node.alias:
            links.forget(t, node)
            touched.record_inode(t, node.alias)


def _as_base(node: Inode, parent: int, name: bytes) -> Inode:
    copy = decode_inode(encode(node))
    copy.parent, copy.name, copy.dirty, copy.generation = parent, name, 0, 0
    if copy.is_file and copy.content is not None:
        copy.size = copy.content.size  # newer bytes may be in staging: they are the overlay's
    return copy


def _index_key(t: Txn, node: Inode, old: Inode | None, above: list[bytes] | None) -> None:
    """Keep `bykey` true: keys that are not their file's path, so a listing can find the file."""
    if old is not None:
        _unindex_key(t, old)
    if node.content is None:
        return
    if above is None or "/".join(map(component_of, [*above, node.name])) != node.content.key:
        k = key_id(node.content.key)
        other = tree.base_inode(t, ino_of(t.get("bykey", k) or ino_key(0)))
        if other is None or other.content is None or other.content.key != node.content.key:
            t.put("bykey", k, ino_key(node.ino))


def _index_below(t: Txn, directory: int) -> None:
    """A directory of the base moved: the keys of all files below it are no longer their paths."""
    todo = [directory]
    while todo:
        at = todo.pop()
        above = tree.base_names_to(t, at)
        for _, entry in list(tree.base_children(t, at)):
            node = tree.base_inode(t, entry.ino)
            if node is not None and node.is_dir:
                todo.append(node.ino)
            elif node is not None:
                _index_key(t, node, node, above)


def _unindex_key(t: Txn, node: Inode) -> None:
    """Take a base file out of `bykey`; another file that has the same object stays."""
    if node.content is not None:
        k = key_id(node.content.key)
        if t.get("bykey", k) == ino_key(node.ino):
            t.delete("bykey", k)


def _remember(t: Txn, parent: int, name: bytes, commit: int) -> None:
    """Keep what a name of the base was until `commit`, if anything may still ask for it."""
    entry = tree.base_name(t, parent, name)
    if entry is None or entry.commit >= commit or commit <= tree.number(t, "history_from", 1 << 62):
        return
    node = tree.base_inode(t, entry.ino)
    if node is not None:
        key = name_key(parent, name) + b"\0" + commit.to_bytes(8, "big")
        t.put("history", key, encode((entry, node)))
