"""Whose object is it? What this machine knows about a key that a listing or a look shows.

Reads, never changes; no I/O.
"""

from __future__ import annotations

from pipefs import tree
from pipefs.db import View
from pipefs.keys import names_of
from pipefs.records import Inode, decode_content, key_id
from pipefs.sent import row
from pipefs.types import ObjectVersion

REGISTRIES = tuple(f".quilt/{n}/" for n in ("packages", "named_packages", "snapshots", "v2"))
"""Where quilt3 and T4 keep what they know of a bucket: at its root. `.quilt/workflows/` and the
like are beside them and belong to people."""


def is_own_key(key: str, url: str = "") -> bool:
    """Whether a key is pipefs' or another system's, and no file of a pipe.

    Args:
        url: of the pipe. Where it is a whole bucket, `REGISTRIES` are no files either.
    """
    if key.startswith((".pipefs/", ".snapshots/")) or "/.snapshots/" in key:
        return True
    return key.startswith(REGISTRIES) and url.startswith("s3://") and "/" not in url[5:]


def base_file(v: View, key: str) -> Inode | None:
    """The base file whose object this key is, by path or by what it remembers."""
    ino = tree.base_walk(v, names_of(key))
    node = tree.base_inode(v, ino) if ino is not None else None
    if node is not None and node.content is not None and node.content.key == key:
        return node
    raw = v.get("bykey", key_id(key))
    other = tree.base_inode(v, int.from_bytes(raw, "big")) if raw is not None else None
    if other is not None and other.content is not None and other.content.key == key:
        return other
    return node if node is not None and node.is_file else None


def is_ours(v: View, node: Inode | None, found: ObjectVersion) -> bool:
    """Whether this object is a version that this machine knows, committed or not."""
    raw = v.get("gone", key_id(found.key))
    if raw is not None and decode_content(raw).etag == found.etag:
        return True
    live = tree.walk(v, names_of(found.key))
    raw = v.get("bykey", key_id(found.key))
    renamed = tree.inode(v, int.from_bytes(raw, "big")) if raw is not None else None
    for one in (node, live, renamed):
        content = one.content if one is not None else None
        if content is not None and content.key == found.key and content.etag == found.etag:
            same = found.version_id is None or found.version_id == content.version_id
            if same or content.version_id is None:
                return True
    return False


def is_under_way(v: View, found: ObjectVersion) -> bool:
    """Whether we put it there ourselves, and its landing is not recorded yet."""
    sent = row(v, found.key)
    return sent is not None and sent.is_it(found)


def file_of(v: View, found: ObjectVersion) -> tuple[int, bool]:
    """(base inode that this listed object belongs to or 0, whether it is what we know)."""
    node = base_file(v, found.key)
    mine = node is not None and node.content is not None and node.content.key == found.key
    return (node.ino if node is not None and mine else 0), is_ours(v, node, found)
