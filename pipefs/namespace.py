"""The rules of names: make, remove and rename in the live tree, as POSIX has them.

Each function is one change in the caller's transaction and raises `OSError` with the errno that
open(2), mkdir(2), unlink(2) and rename(2) give. No I/O, no permission checks (the kernel does
those with the attributes we show it).
"""

from __future__ import annotations

import errno
import os
import stat

from pipefs import acl, latest, links, tree
from pipefs.db import Txn, View
from pipefs.inodes import InoSource
from pipefs.keys import MAX_NAME_BYTES, MAX_PATH_BYTES, is_natural, stands_for_a_path
from pipefs.records import (
    Content,
    Dirty,
    Inode,
    decode_content,
    encode,
    ino_key,
    key_id,
)
from pipefs.types import ROOT_INO

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

_INHERITING = frozenset(
    {stat.S_IFREG, stat.S_IFDIR, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK}
)
"""Kinds that take the default access list of their directory: all but symbolic links."""


def fail(code: int, name: bytes = b"") -> OSError:
    return OSError(code, os.strerror(code), os.fsdecode(name))


def check_name(v: View, parent: int, name: bytes) -> None:
    """Whether a file may be made under this name.

    Raises:
        OSError: ENAMETOOLONG (name over 255 bytes, path over 8,192), EROFS (a name of ours),
            ENOENT (the directory itself has been removed).
    """
    if len(name) > MAX_NAME_BYTES:
        raise fail(errno.ENAMETOOLONG, name)
    if name == b".snapshots" or (parent == ROOT_INO and name == b".pipefs"):
        raise fail(errno.EROFS, name)
    names = tree.names_to(v, parent)
    if names is None:
        raise fail(errno.ENOENT, name)
    if sum(map(len, names)) + len(names) + len(name) > MAX_PATH_BYTES:
        raise fail(errno.ENAMETOOLONG, name)


def lookup(v: View, parent: int, name: bytes) -> Inode:
    """The file a name means (of a hard link: the one it is a link to)."""
    return links.target(v, _named(v, parent, name))


def _named(v: View, parent: int, name: bytes) -> Inode:
    """The inode that has this name: of a hard link, the link itself."""
    entry = tree.name_entry(v, parent, name)
    if entry is None:
        raise fail(errno.ENOENT, name)
    return tree.need(v, entry.ino)


def make(t: Txn, inos: InoSource, parent: int, name: bytes, node: Inode, now: int) -> Inode:
    """Give a new inode (number 0) a number and a name. EEXIST if the name is taken. It inherits
    the directory's default access list."""
    if tree.name_entry(t, parent, name) is not None:
        raise fail(errno.EEXIST, name)
    _inherit(t, parent, node)
    node.ino = inos.take(t)
    node.mtime_ns = node.ctime_ns = now
    node.dirty |= Dirty.ANNOUNCE
    tree.set_name(t, parent, name, node)
    tree.put_inode(t, node)
    if node.is_dir:
        want_marker(t, node.ino)
    tree.touch_dir(t, parent, now)
    return node


def _inherit(v: View, parent: int, node: Inode) -> None:
    if node.kind in _INHERITING:
        node.mode, node.xattrs = acl.inherit(tree.need(v, parent).xattrs, node.mode)


def make_nameless(t: Txn, inos: InoSource, parent: int, node: Inode, now: int) -> Inode:
    """Give a new file a number but no name (O_TMPFILE): an orphan until `link` names it. It
    inherits the default access list of `parent`."""
    _inherit(t, parent, node)
    node.ino = inos.take(t)
    node.mtime_ns = node.ctime_ns = now
    tree.put_inode(t, node)
    t.put("orphans", ino_key(node.ino), b"")
    return node


def link(t: Txn, inos: InoSource, ino: int, parent: int, name: bytes, now: int) -> Inode:
    """link(2): one more name for a file, or the first for a nameless one. Returns the file.

    EPERM for directories, EEXIST, ENOENT for a file whose last name was removed.
    """
    file = tree.inode(t, ino)
    if file is None:
        raise fail(errno.ESTALE, name)
    if file.is_dir:
        raise fail(errno.EPERM, name)
    if tree.name_entry(t, parent, name) is not None:
        raise fail(errno.EEXIST, name)
    if file.parent:
        further = links.new(file)
        further.ino, further.dirty = inos.take(t), Dirty.ANNOUNCE
        tree.set_name(t, parent, name, further)
        tree.put_inode(t, further)
        links.record(t, further)
    elif file.content is None:
        t.delete("orphans", ino_key(ino))
        tree.set_name(t, parent, name, file)
    else:
        raise fail(errno.ENOENT, name)
    _changed(t, file, now)
    tree.touch_dir(t, parent, now)
    return file


def unlink(t: Txn, parent: int, name: bytes, now: int) -> Inode:
    """Remove a name of something that is no directory; without another one the inode becomes an
    orphan. Returns the file."""
    node = _named(t, parent, name)
    if node.is_dir:
        raise fail(errno.EISDIR, name)
    _remove(t, parent, name, node, now)
    tree.touch_dir(t, parent, now)
    return links.target(t, node)


def rmdir(t: Txn, parent: int, name: bytes, now: int) -> Inode:
    node = _named(t, parent, name)
    if not node.is_dir:
        raise fail(errno.ENOTDIR, name)
    if not tree.is_empty(t, node.ino):
        raise fail(errno.ENOTEMPTY, name)
    _remove(t, parent, name, node, now)
    tree.touch_dir(t, parent, now)
    return node


def _remove(t: Txn, parent: int, name: bytes, node: Inode, now: int) -> None:
    """Take a name from the live tree, and with the last one the inode."""
    if node.alias:
        links.remove(t, node)
        _changed(t, tree.need(t, node.alias), now)
    elif further := links.of(t, node.ino):
        tree.clear_name(t, parent, name, _tombstone_key(t, parent, name, moving=node.ino))
        links.promote(t, node, further[0])
        node.ctime_ns = now
        _moved(t, node, now)
    else:
        _remove_last(t, parent, name, node, now)
    if tree.is_empty(t, parent):
        want_marker(t, parent)


def _changed(t: Txn, file: Inode, now: int) -> None:
    """The number of a file's names changed: so does its ctime."""
    file.ctime_ns = now
    file.dirty |= Dirty.ANNOUNCE
    tree.put_inode(t, file)


def _remove_last(t: Txn, parent: int, name: bytes, node: Inode, now: int) -> None:
    if node.content is not None:
        want_gone(t, node.content)
    marker = _marker_to_go(t, node) if node.is_dir else None
    key = _tombstone_key(t, parent, name, moving=0)
    tree.clear_name(t, parent, name, marker.key if marker is not None else key)
    if marker is not None:
        want_gone(t, marker)
    node.nlink = 0
    node.parent, node.name, node.ctime_ns, node.dirty = 0, b"", now, 0
    tree.put_inode(t, node)
    t.delete("ready", ino_key(node.ino))
    t.delete("relocate", ino_key(node.ino))
    t.delete("conflicts", ino_key(node.ino))
    t.put("orphans", ino_key(node.ino), b"")


def want_gone(t: Txn, content: Content) -> None:
    """The object should be deleted in the store, if it still is this version then."""
    if not latest.was_replaced(t, content):
        t.put("gone", key_id(content.key), encode(content))


def want_marker(t: Txn, ino: int) -> None:
    """This directory is empty: unless it fills soon, it wants a marker object `dir/`."""
    if ino != ROOT_INO and not t.has("markers", ino_key(ino)):
        t.put("markers", ino_key(ino), b"")


def _marker_to_go(t: Txn, node: Inode) -> Content | None:
    """The marker object of a directory that is removed. One that another machine put is not
    known here: an entry without ETag asks for whatever is there."""
    raw = t.get("markers", ino_key(node.ino))
    t.delete("markers", ino_key(node.ino))
    if raw:
        return decode_content(raw)
    names = tree.base_names_to(t, node.ino) if t.has("inodes", ino_key(node.ino)) else None
    key = tree.key_for(t, names) if names else ""
    return Content(key + "/", None, "", 0) if key and not stands_for_a_path(key) else None


def _tombstone_key(v: View, parent: int, name: bytes, moving: int) -> str:
    """Key whose deletion must land before the base's name may be announced as gone; "" when the
    base's inode is the one that moves away."""
    base = tree.base_name(v, parent, name)
    if base is None or base.ino == moving:
        return ""
    node = tree.base_inode(v, base.ino)
    return node.content.key if node is not None and node.content is not None else ""


def rename(
    t: Txn, parent: int, name: bytes, parent2: int, name2: bytes, flags: int, now: int
) -> Inode | None:
    """rename(2) with RENAME_NOREPLACE or RENAME_EXCHANGE; returns what was replaced.

    A directory moves in O(1): its children stay where they are, below it.
    """
    node = _named(t, parent, name)
    found = tree.name_entry(t, parent2, name2)
    other = tree.need(t, found.ino) if found is not None else None
    if other is not None and (other.alias or other.ino) == (node.alias or node.ino):
        return None  # two names of one file: rename(2) leaves both
    _check_rename(t, node, parent, other, parent2, name2, flags)
    if flags & RENAME_EXCHANGE and other is not None:
        _exchange(t, node, other, (parent, name), (parent2, name2))
    else:
        if other is not None:
            _remove(t, parent2, name2, other, now)
        tree.clear_name(t, parent, name, _tombstone_key(t, parent, name, moving=node.ino))
        tree.set_name(t, parent2, name2, node)
        if tree.is_empty(t, parent):
            want_marker(t, parent)
    node.ctime_ns = now
    _moved(t, node, now)
    if node.alias:
        _changed(t, tree.need(t, node.alias), now)
    for directory in {parent, parent2}:
        tree.touch_dir(t, directory, now)
    return links.target(t, other) if other is not None and not flags & RENAME_EXCHANGE else None


def _check_rename(
    v: View, node: Inode, parent: int, other: Inode | None, parent2: int, name2: bytes, flags: int
) -> None:
    if flags & RENAME_NOREPLACE and other is not None:
        raise fail(errno.EEXIST, name2)
    if flags & RENAME_EXCHANGE and other is None:
        raise fail(errno.ENOENT, name2)
    if node.is_dir and _is_below(v, parent2, node.ino):
        raise fail(errno.EINVAL, name2)
    if other is None:
        return
    if flags & RENAME_EXCHANGE:
        if other.is_dir and _is_below(v, parent, other.ino):
            raise fail(errno.EINVAL, name2)
        return
    if other.is_dir and not node.is_dir:
        raise fail(errno.EISDIR, name2)
    if node.is_dir and not other.is_dir:
        raise fail(errno.ENOTDIR, name2)
    if other.is_dir and not tree.is_empty(v, other.ino):
        raise fail(errno.ENOTEMPTY, name2)


def _is_below(v: View, ino: int, ancestor: int) -> bool:
    """Whether `ino` is `ancestor` or a directory below it."""
    while ino and ino != ROOT_INO:
        if ino == ancestor:
            return True
        node = tree.inode(v, ino)
        ino = node.parent if node is not None else 0
    return ino == ancestor


def _exchange(
    t: Txn, node: Inode, other: Inode, place: tuple[int, bytes], place2: tuple[int, bytes]
) -> None:
    tree.set_name(t, *place2, node)
    tree.set_name(t, *place, other)
    _moved(t, other, node.ctime_ns)


def _moved(t: Txn, node: Inode, now: int) -> None:
    """Store an inode under its new name; its objects (or those below it) are to follow."""
    node.dirty |= Dirty.ANNOUNCE
    tree.put_inode(t, node)
    if node.is_dir:
        t.put("relocate", ino_key(node.ino), b"%d" % now)
    elif node.content is not None:
        names = tree.names_to(t, node.ino)
        if names is None or not is_natural(node.content.key, names):
            t.put("relocate", ino_key(node.ino), b"%d" % now)
            remember_key(t, node.ino, node.content)
        else:
            t.delete("relocate", ino_key(node.ino))


def remember_key(t: Txn, ino: int, content: Content) -> None:
    """A file's object is at a key that is not its path's, and no commit says so: whoever looks at
    that key is to know whose it is."""
    base = tree.base_inode(t, ino)
    if base is None or base.content is None or base.content.key != content.key:
        t.put("bykey", key_id(content.key), ino_key(ino))


Attributes = tuple[int | None, int | None, int | None, int | None, int | None]
"""mode, uid, gid, atime and mtime in ns; None leaves alone."""


def set_attributes(t: Txn, ino: int, new: Attributes, now: int) -> Inode:
    """chmod, chown and utimens of a live inode, or of one that is only open any more."""
    node = tree.inode(t, ino)
    if node is None:
        raise fail(errno.ESTALE)
    mode, uid, gid, atime_ns, mtime_ns = new
    if mode is not None:
        node.mode = node.kind | stat.S_IMODE(mode)
    node.uid = node.uid if uid is None else uid
    node.gid = node.gid if gid is None else gid
    node.mtime_ns = node.mtime_ns if mtime_ns is None else mtime_ns
    if atime_ns is not None:
        node.atime_ns = 0 if atime_ns == node.mtime_ns else atime_ns
    node.ctime_ns = now
    if node.parent or ino == ROOT_INO:
        node.dirty |= Dirty.ANNOUNCE
    tree.put_inode(t, node)
    return node


def new_inode(kind: int, mode: int, uid: int, gid: int) -> Inode:
    """An inode before it has a number. `mode`: permission bits, already masked."""
    return Inode(
        ino=0,
        mode=kind | stat.S_IMODE(mode),
        uid=uid,
        gid=gid,
        dirty=Dirty.CONTENT if kind == stat.S_IFREG else 0,
    )


def ensure_root(t: Txn, now: int) -> None:
    """Make the root directory of an empty tree, in the base."""
    if tree.base_inode(t, ROOT_INO) is None:
        root = Inode(ino=ROOT_INO, mode=stat.S_IFDIR | 0o755, mtime_ns=now, ctime_ns=now)
        t.put("inodes", ino_key(ROOT_INO), encode(root))


def purge(t: Txn, ino: int) -> None:
    """Forget an orphan that nobody has open any more. While the base still has the inode, its
    overlay record stays: it says that the base's name is no longer live."""
    node = tree.overlay_inode(t, ino)
    if node is None or node.parent or ino == ROOT_INO:
        return
    t.delete("staging", ino_key(ino))
    t.delete("orphans", ino_key(ino))
    if not t.has("inodes", ino_key(ino)):
        tree.drop_overlay_inode(t, ino)


__all__ = [
    "RENAME_EXCHANGE",
    "RENAME_NOREPLACE",
    "check_name",
    "ensure_root",
    "link",
    "lookup",
    "make",
    "make_nameless",
    "new_inode",
    "purge",
    "rename",
    "rmdir",
    "unlink",
    "want_gone",
    "want_marker",
]
