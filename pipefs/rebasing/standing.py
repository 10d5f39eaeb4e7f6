"""What of a local change a commit of others must not lose. Pure."""

from __future__ import annotations

from pipefs.records import (
    Dirty,
    Inode,
)


def is_kept(node: Inode, parent: int, name: bytes) -> bool:
    """Whether a file that was only renamed here outlives its deletion there: where the store has
    no versions its bytes are gone."""
    versioned = not node.is_file or node.content is None or node.content.version_id is not None
    return versioned and (node.parent, node.name) != (parent, name)


def is_uploaded(mine: Inode, old: Inode, *, or_copied: bool) -> bool:
    """Whether ours is a version in the store that the base does not know: other bytes, or with
    `or_copied` a copy of the same bytes under our name."""
    if mine.dirty & Dirty.CONTENT or mine.content is None or not has_news(mine, old):
        return False
    return or_copied or old.content is None or mine.content.etag != old.content.etag


def is_apart(mine: Inode, old: Inode, node: Inode) -> bool:
    """Whether our bytes and theirs are two contents that know nothing of each other: ours is not
    in the store yet, or went up under another key."""
    if mine.dirty & Dirty.CONTENT:
        return True
    elsewhere = mine.content and node.content and mine.content.key != node.content.key
    return bool(elsewhere) and is_uploaded(mine, old, or_copied=False)


def has_news(mine: Inode, base: Inode | None) -> bool:
    """Whether a local inode has other bytes than the base: changed, or uploaded and about to be
    announced."""
    if mine.dirty & Dirty.CONTENT or mine.content is None:
        return bool(mine.dirty & Dirty.CONTENT)
    return base is None or not mine.content.same_version(base.content)
