"""What a change of a commit says, as records of the tree. Pure."""

from __future__ import annotations

import base64
import stat

from pipefs.commits import Change
from pipefs.keys import bytes_of
from pipefs.records import HARD_LINK, NO_MODE, Content, Inode

_KINDS = {"mkdir": stat.S_IFDIR, "symlink": stat.S_IFLNK}


def inode_of(change: Change, commit_time_ns: int) -> Inode:
    """A base inode as a change describes it; number 0 until one is chosen."""
    kind = _KINDS.get(change.op, stat.S_IFREG)
    if change.op == "special":
        kind = stat.S_IFMT(change.mode or stat.S_IFIFO)
    elif change.op == "link":
        return Inode(ino=0, mode=HARD_LINK)
    plain = {stat.S_IFDIR: 0o755, stat.S_IFLNK: 0o777}.get(kind, 0o644)
    at = change.mtime if change.mtime is not None else commit_time_ns
    target = bytes_of(change.target)
    return Inode(
        ino=0,
        mode=change.mode if change.mode is not None else kind | plain | NO_MODE,
        uid=-1 if change.uid is None else change.uid,
        gid=-1 if change.gid is None else change.gid,
        size=len(target) if kind == stat.S_IFLNK else change.size,
        mtime_ns=at,
        ctime_ns=change.ctime if change.ctime is not None else at,
        atime_ns=change.atime or 0,
        rdev=change.rdev,
        target=target,
        xattrs=xattrs_of(change),
    )


def merge_attributes(node: Inode, change: Change) -> None:
    """Apply an `attr` change: what it does not name stays."""
    if change.mode is not None:
        node.mode = node.kind | stat.S_IMODE(change.mode)
    node.uid = node.uid if change.uid is None else change.uid
    node.gid = node.gid if change.gid is None else change.gid
    if change.mtime is not None:
        node.mtime_ns, node.atime_ns = change.mtime, change.atime or 0
    node.ctime_ns = node.ctime_ns if change.ctime is None else change.ctime
    if change.xattrs is not None:
        node.xattrs = xattrs_of(change)


_CARRIED = (
    *("mode", "uid", "gid", "mtime_ns", "ctime_ns", "atime_ns"),
    *("target", "rdev", "alias"),
)


def carry_over(mine: Inode, old: Inode, new: Inode) -> None:
    """Merge attributes: what we left as it was (`old`) becomes what it is now (`new`)."""
    for name in _CARRIED:
        if getattr(mine, name) == getattr(old, name):
            setattr(mine, name, getattr(new, name))
    mine.xattrs = _merged(mine.xattrs or {}, old.xattrs or {}, new.xattrs or {})
    if not mine.is_file and mine.target == new.target:
        mine.size = new.size


def _merged(
    mine: dict[bytes, bytes], old: dict[bytes, bytes], new: dict[bytes, bytes]
) -> dict[bytes, bytes] | None:
    """Extended attributes, each by itself: two machines may set different ones at once."""
    found = {}
    for name in {*mine, *new}:
        value = mine.get(name)
        value = new.get(name) if value == old.get(name) else value
        if value is not None:
            found[name] = value
    return found or None


def fill_in(mine: Inode, theirs: Inode) -> None:
    """Both made the same thing: what the store does not know of ours is as they have it."""
    if mine.mode & NO_MODE:
        mine.mode = theirs.mode
    mine.uid = theirs.uid if mine.uid < 0 else mine.uid
    mine.gid = theirs.gid if mine.gid < 0 else mine.gid


def xattrs_of(change: Change) -> dict[bytes, bytes] | None:
    if not change.xattrs:
        return None
    return {bytes_of(k): base64.b64decode(v) for k, v in change.xattrs.items()}


def content_of(change: Change) -> Content:
    key = change.key or change.path
    return Content(key, change.version, change.etag, change.size, change.checksum)


def same_thing(mine: Inode, theirs: Inode) -> bool:
    """Whether two inodes made independently are one: same version, link target, or directory."""
    if mine.kind != theirs.kind:
        return False
    if mine.is_file:
        return theirs.content is not None and theirs.content.same_version(mine.content)
    same = (mine.target, mine.rdev, mine.alias) == (theirs.target, theirs.rdev, theirs.alias)
    return mine.is_dir or same
