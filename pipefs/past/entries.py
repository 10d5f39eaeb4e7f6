"""Entries of manifests and inodes of trees, each made of the other. Pure."""

from __future__ import annotations

import base64
import stat
from typing import TypeVar

from pipefs.keys import bytes_of, component_of
from pipefs.manifest import Entry, Head, kind_name
from pipefs.records import NO_MODE, Content, Inode

Described = TypeVar("Described", Entry, Head)

_PLAIN = {stat.S_IFDIR: 0o755, stat.S_IFLNK: 0o777}


def entry_of(node: Inode, path: str, *, link: str = "", links: int = 0) -> Entry:
    """The line of an inode; `link`: it is a further name of the file at that path."""
    if link:
        return Entry(path=path, kind="link", link=link)
    entry = _described(Entry(path=path, kind=kind_name(node.kind), links=links), node)
    if node.atime_ns not in (0, node.mtime_ns):
        entry.atime = node.atime_ns
    if node.is_file:
        content = node.content
        entry.size = node.size
        if content is not None:
            entry.key = "" if content.key == path else content.key
            entry.version, entry.etag = content.version_id, content.etag
            entry.checksum = content.checksum
    elif stat.S_ISLNK(node.mode):
        entry.target, entry.size = component_of(node.target), len(node.target)
    else:
        entry.rdev = node.rdev
    return entry


def head_of(root: Inode) -> Head:
    return _described(Head(), root)


def _described(item: Described, node: Inode) -> Described:
    item.mode = None if node.mode & NO_MODE else node.mode
    item.uid = None if node.uid < 0 else node.uid
    item.gid = None if node.gid < 0 else node.gid
    item.mtime, item.ctime = node.mtime_ns, node.ctime_ns
    item.xattrs = _wire(node.xattrs)
    return item


def _wire(xattrs: dict[bytes, bytes] | None) -> dict[str, str] | None:
    if not xattrs:
        return None
    return {component_of(k): base64.b64encode(v).decode() for k, v in xattrs.items()}


def inode_of(entry: Entry | Head, ino: int, *, parent: int = 0, name: bytes = b"") -> Inode:
    """An inode as an entry (or a root's head) describes it. Not for a `link`: look its file up."""
    kind = entry.type_bits if isinstance(entry, Entry) else stat.S_IFDIR
    mode = entry.mode if entry.mode is not None else kind | _PLAIN.get(kind, 0o644) | NO_MODE
    node = Inode(
        ino=ino,
        mode=mode,
        uid=-1 if entry.uid is None else entry.uid,
        gid=-1 if entry.gid is None else entry.gid,
        mtime_ns=entry.mtime or 0,
        ctime_ns=entry.ctime or entry.mtime or 0,
        nlink=2 if kind == stat.S_IFDIR else 1,
        parent=parent,
        name=name,
        xattrs=xattrs_of(entry.xattrs),
    )
    if isinstance(entry, Entry):
        node.size, node.atime_ns = entry.size, entry.atime or 0
        node.rdev, node.target = entry.rdev, bytes_of(entry.target)
        node.nlink += entry.links
        if kind == stat.S_IFREG:
            node.content = content_of(entry)
    return node


def content_of(entry: Entry) -> Content | None:
    """The version an entry stands for; None: it has none in the store."""
    if entry.kind != "file" or not (entry.version or entry.etag):
        return None
    return Content(entry.key or entry.path, entry.version, entry.etag, entry.size, entry.checksum)


def xattrs_of(wire: dict[str, str] | None) -> dict[bytes, bytes] | None:
    """Extended attributes of an entry."""
    if not wire:
        return None
    return {bytes_of(k): base64.b64decode(v) for k, v in wire.items()}
