"""Whose object is it? What this machine knows about a key that a listing or a look shows.

Reads, never changes; no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipefs import buried, latest, outbox, tree
from pipefs.attributes import change_of
from pipefs.commits import Change
from pipefs.db import View
from pipefs.keys import PARKED, names_of, stands_for_a_path
from pipefs.records import Inode, decode_content, key_id
from pipefs.sent import row
from pipefs.types import ObjectVersion

REGISTRIES = tuple(f".quilt/{n}/" for n in ("packages", "named_packages", "snapshots", "v2"))
"""Where quilt3 and T4 keep what they know of a bucket: at its root. `.quilt/workflows/` and the
like are beside them and belong to people."""

COMMIT_EXPECTED_NS = 600 * 10**9
"""A machine announces its uploads within seconds; a busy one, within minutes."""


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
    if _is_content_of(node, found):
        return True  # nearly always, and at hand
    raw = v.get("gone", key_id(found.key))
    if raw is not None and decode_content(raw).etag == found.etag:
        return True
    if latest.is_latest(v, found) or buried.has(v, found) or _is_copy_of_parked(node, found):
        return True
    live = tree.walk(v, names_of(found.key))
    raw = v.get("bykey", key_id(found.key))
    renamed = tree.inode(v, int.from_bytes(raw, "big")) if raw is not None else None
    return _is_content_of(live, found) or _is_content_of(renamed, found)


def _is_content_of(node: Inode | None, found: ObjectVersion) -> bool:
    content = node.content if node is not None else None
    if content is None or content.key != found.key or content.etag != found.etag:
        return False
    same = found.version_id is None or found.version_id == content.version_id
    return same or content.version_id is None


def _is_copy_of_parked(node: Inode | None, found: ObjectVersion) -> bool:
    """Whether an object at its file's own key is the copy of bytes that waited elsewhere; the
    commit that says so follows."""
    content = node.content if node is not None else None
    if content is None or not content.key.startswith(PARKED):
        return False
    return (content.etag, content.size) == (found.etag, found.size)


def is_under_way(v: View, found: ObjectVersion) -> bool:
    """Whether we put it there ourselves, and its landing is not recorded yet."""
    sent = row(v, found.key)
    return sent is not None and sent.is_it(found)


def file_of(v: View, found: ObjectVersion) -> tuple[int, bool]:
    """(base inode that this listed object belongs to or 0, whether it is what we know)."""
    node = base_file(v, found.key)
    mine = node is not None and node.content is not None and node.content.key == found.key
    return (node.ino if node is not None and mine else 0), is_ours(v, node, found)


def made_elsewhere(
    v: View, current: Mapping[str, ObjectVersion | None], now_ns: int
) -> dict[str, Change]:
    """What a look at keys shows that nobody has told us, as changes to commit, by key.

    Args:
        current: what the store has at these keys; None: nothing.
    """
    held = outbox.held_by_renamed(v)
    found = {
        key: _difference(v, key, seen, now_ns)
        for key, seen in current.items()
        if seen is None or (key, seen.etag) not in held
    }
    return {key: change for key, change in found.items() if change is not None}


def _difference(v: View, key: str, found: ObjectVersion | None, now_ns: int) -> Change | None:
    node = base_file(v, key)
    mine = node if node is not None and node.content and node.content.key == key else None
    names = tree.base_names_to(v, mine.ino) if mine is not None else None
    if found is None:
        return Change(op="delete", path=tree.path_text(names)) if names else None
    if is_ours(v, node, found) or is_under_way(v, found):
        return None
    # One of our own was a file's when it was asked for, and has followed to its key since.
    if node is None and (is_own_key(key) or _is_unheard_of(found, now_ns)):
        return None
    change = change_of(found, tree.path_text(names or _free_names(v, key)))
    if mine is not None and mine.content is not None:
        change.replaces = mine.content.version_id or mine.content.etag
    return change


def _is_unheard_of(found: ObjectVersion, now_ns: int) -> bool:
    """An object whose path only its commit can tell, which is on its way most likely."""
    young = now_ns - found.last_modified_ns < COMMIT_EXPECTED_NS
    return young and stands_for_a_path(found.key)


def _free_names(v: View, key: str) -> list[bytes]:
    """The path of a key; beside a directory of that name, a stand-in."""
    names = names_of(key)
    ino = tree.base_walk(v, names)
    node = tree.base_inode(v, ino) if ino is not None else None
    return [*names[:-1], names[-1] + b"%2F"] if node is not None and node.is_dir else names
