"""From the overlay to a commit, and back: what to announce, and what a landed commit settles.

`collect` compares each overlay inode and tombstone with the base and says what other machines
should learn. Only finished things are announced: contents that are in the store, deletions that
have landed there; names, directories, links and attributes at once. So names that are born and go
before a commit leave no trace. `land` moves what was announced from the overlay into the base;
what changed meanwhile stays in the overlay.

Works in transactions that the caller gives; no I/O.
"""

from __future__ import annotations

import base64
import stat
from collections.abc import Callable
from dataclasses import dataclass, field

from pipefs import basetree, links, tree
from pipefs.commits import MAX_CHANGES, Change
from pipefs.db import Txn, View
from pipefs.keys import component_of, is_natural
from pipefs.records import (
    NO_MODE,
    Dirty,
    Inode,
    NameEntry,
    decode_inode,
    decode_name,
    encode,
    ino_key,
    key_id,
    name_key,
)
from pipefs.types import ROOT_INO


@dataclass(slots=True)
class Batch:
    """What one commit announces, with what is needed to settle it afterwards."""

    changes: list[Change] = field(default_factory=list)
    nodes: list[Inode] = field(default_factory=list)
    """Inodes as announced, parents before children."""
    removed: list[tuple[int, bytes]] = field(default_factory=list)
    """Names whose deletion is announced."""
    settled: list[tuple[int, int]] = field(default_factory=list)
    """(ino, generation) of overlay inodes that turned out to owe nothing."""


def collect(
    v: View,
    limit: int = MAX_CHANGES,
    stays_local: Callable[[list[bytes]], bool] = lambda _names: False,
) -> Batch:
    """At most about `limit` changes that may be announced now, parents first. What the base does
    not have and `stays_local` matches (asked as `Policy.stays_local` is) is never announced."""
    nodes = []
    kept: list[tuple[int, int]] = []
    for k, _ in v.scan("ready", limit=2 * limit):
        node = tree.overlay_inode(v, int.from_bytes(k, "big"))
        names = tree.names_to(v, node.ino) if node is not None else None
        if node is None or names is None:
            continue
        if _is_kept(v, node, names, stays_local):
            kept.append((node.ino, node.generation))
        else:
            nodes.append((node, names))
    # Parents before children; hard links after their files.
    nodes.sort(key=lambda item: (item[0].alias != 0, len(item[1])))
    blocked: set[int] = set()
    while True:
        batch, moved = _plan(v, nodes, blocked, limit)
        removals = _Removals(v, moved)
        more = {n.ino for n in batch.nodes if not removals.makes_way(n)}
        if not more:
            break
        blocked |= more
    # In a full batch too: a directory made anew takes its name only along with what was below.
    removals.add_to(batch)
    batch.settled += kept
    return batch


def _is_kept(
    v: View, node: Inode, names: list[bytes], stays_local: Callable[[list[bytes]], bool]
) -> bool:
    """Whether others never hear of this inode: each of its names stays local, or for a hard link
    its own name or each name of its file."""
    if not names or tree.base_inode(v, node.ino) is not None:
        return False
    if node.is_dir:
        return stays_local([*names, b""])
    if not node.alias:
        return links.all_local(v, node, names, stays_local)
    file = links.target(v, node)
    return stays_local(names) or links.all_local(
        v, file, tree.names_to(v, file.ino) or [], stays_local
    )


def _plan(
    v: View, nodes: list[tuple[Inode, list[bytes]]], blocked: set[int], limit: int
) -> tuple[Batch, set[int]]:
    """What these inodes announce, and which of them move."""
    batch = Batch()
    moved: set[int] = set()
    planned: set[int] = set()
    for node, names in nodes:
        if len(batch.changes) >= limit:
            break
        if node.ino in blocked or not _parent_announced(v, node, planned):
            continue
        changes = _changes_for(v, node, names, planned)
        if changes is None:
            continue
        if not changes:
            batch.settled.append((node.ino, node.generation))
            continue
        batch.changes += changes
        batch.nodes.append(node)
        planned.add(node.ino)
        if any(c.op == "move" for c in changes):
            moved.add(node.ino)
    return batch, moved


def _parent_announced(v: View, node: Inode, planned: set[int]) -> bool:
    return node.ino == ROOT_INO or node.parent in planned or v.has("inodes", ino_key(node.parent))


def _changes_for(
    v: View, node: Inode, names: list[bytes], planned: set[int]
) -> list[Change] | None:
    """Changes that announce this inode; None: not finished yet; []: the base knows all of it."""
    base = tree.base_inode(v, node.ino)
    path = tree.path_text(names)
    if base is None:
        if tree.waits_for_content(v, node):
            return None
        return _link(v, node, path, planned) if node.alias else [_creation(node, path)]
    changes = []
    if (base.parent, base.name) != (node.parent, node.name):
        source = tree.base_names_to(v, node.ino)
        if source is None:
            return None
        changes.append(Change(op="move", path=path, source=tree.path_text(source)))
    if node.is_file and node.content is not None and not node.content.same_version(base.content):
        changes.append(_put(node, path, base))
    elif _attributes(node) != _attributes(base):
        changes.append(_attr(node, path))
    return changes


def _link(v: View, node: Inode, path: str, planned: set[int]) -> list[Change] | None:
    """A new hard link, once its file is in the base or in the same batch."""
    known = tree.names_to if node.alias in planned else tree.base_names_to
    file = known(v, node.alias) if node.alias in planned or _in_base(v, node.alias) else None
    return [Change(op="link", path=path, source=tree.path_text(file))] if file else None


def _in_base(v: View, ino: int) -> bool:
    return v.has("inodes", ino_key(ino))


def _attributes(n: Inode) -> tuple[object, ...]:
    times = () if n.is_file and n.dirty & Dirty.CONTENT else (n.mtime_ns, n.atime_ns)
    return (n.mode, n.uid, n.gid, n.xattrs or None, *times)


def _id_or_none(value: int) -> int | None:
    return None if value < 0 else value


def wire_xattrs(xattrs: dict[bytes, bytes] | None) -> dict[str, str] | None:
    if not xattrs:
        return None
    return {component_of(k): base64.b64encode(v).decode() for k, v in xattrs.items()}


def _common(change: Change, node: Inode) -> Change:
    change.mode = None if node.mode & NO_MODE else node.mode
    change.uid, change.gid = _id_or_none(node.uid), _id_or_none(node.gid)
    change.mtime, change.ctime = node.mtime_ns, node.ctime_ns
    if node.atime_ns not in (0, node.mtime_ns):
        change.atime = node.atime_ns
    change.xattrs = wire_xattrs(node.xattrs)
    return change


def _creation(node: Inode, path: str) -> Change:
    if node.is_dir:
        return _common(Change(op="mkdir", path=path), node)
    if stat.S_ISLNK(node.mode):
        return _common(Change(op="symlink", path=path, target=component_of(node.target)), node)
    if not node.is_file:
        return _common(Change(op="special", path=path, rdev=node.rdev), node)
    return _put(node, path, None)


def _put(node: Inode, path: str, base: Inode | None) -> Change:
    content = node.content
    assert content is not None
    old = base.content if base is not None else None
    change = Change(
        op="put",
        path=path,
        key="" if content.key == path else content.key,
        version=content.version_id,
        etag=content.etag,
        size=content.size,
        checksum=content.checksum,
        replaces=(old.version_id or old.etag) if old is not None else None,
        same=old is not None and old.key != content.key and old.etag == content.etag,
    )
    return _common(change, node)


def _attr(node: Inode, path: str) -> Change:
    change = _common(Change(op="attr", path=path), node)
    if node.is_file and node.dirty & Dirty.CONTENT:
        change.mtime = change.ctime = None
    if not node.xattrs:
        change.xattrs = {}
    return change


class _Removals:
    """Base names that are gone for everybody once a batch lands. `moved`: inodes it moves."""

    def __init__(self, v: View, moved: set[int]) -> None:
        self._v = v
        self._moved = moved
        self._known: dict[tuple[int, bytes], bool] = {}

    def add_to(self, batch: Batch) -> None:
        """Add the tombstones whose deletion has landed; a directory's once all its names go."""
        for k, raw in self._v.scan("onames"):
            entry = decode_name(raw)
            parent, name = int.from_bytes(k[:8], "big"), k[8:]
            base = tree.base_name(self._v, parent, name)
            if base is None or base.ino in self._moved or entry.ino == base.ino:
                continue
            if (entry.ino == 0 or stat.S_ISDIR(base.kind)) and self._goes(parent, name):
                names = tree.base_names_to(self._v, parent)
                if names is not None:
                    batch.changes.append(Change(op="delete", path=tree.path_text([*names, name])))
                    batch.removed.append((parent, name))

    def makes_way(self, node: Inode) -> bool:
        """Whether the base has room at the name of an inode that the batch announces: what was
        there moves in the same batch or is gone. A file that was removed may be replaced."""
        base = tree.base_name(self._v, node.parent, node.name)
        if base is None or base.ino == node.ino or base.ino in self._moved:
            return True
        # It lives on elsewhere only if the overlay says where: the name is another inode's here.
        live = tree.overlay_inode(self._v, base.ino)
        if live is not None and live.parent:
            return False
        return not stat.S_ISDIR(base.kind) or self._goes(node.parent, node.name)

    def _goes(self, parent: int, name: bytes) -> bool:
        place = (parent, name)
        if place not in self._known:
            self._known[place] = False
            base = tree.base_name(self._v, parent, name)
            assert base is not None
            self._known[place] = base.ino in self._moved or self._deletable(parent, name, base)
        return self._known[place]

    def _deletable(self, parent: int, name: bytes, base: NameEntry) -> bool:
        over = tree.overlay_name(self._v, parent, name)
        if over is None or over.ino == base.ino:
            return False
        if over.ino == 0 and over.key and self._v.has("gone", key_id(over.key)):
            return False
        live = tree.overlay_inode(self._v, base.ino)
        if live is not None and live.parent:
            return False  # it lives on under another name, whose move is not in this batch
        if not stat.S_ISDIR(base.kind):
            # A name taken over by a new file is announced by that file's `put`.
            return over.ino == 0
        return all(self._goes(base.ino, n) for n, _ in tree.base_children(self._v, base.ino))


# --- after the commit -------------------------------------------------------------------------


def settle(t: Txn, batch: Batch) -> None:
    """Drop overlay inodes that owe nothing (no commit was needed for them)."""
    for ino, generation in batch.settled:
        node = tree.overlay_inode(t, ino)
        if node is not None and node.generation == generation:
            node.dirty &= ~Dirty.ANNOUNCE
            t.put("oinodes", ino_key(ino), encode(node))
            tree.settle(t, node)


def land(t: Txn, batch: Batch, number: int) -> None:
    """Move what commit `number` announced from the overlay into the base."""
    settle(t, batch)
    for parent, name in batch.removed:
        basetree.drop(t, parent, name, number)
        over = tree.overlay_name(t, parent, name)
        if over is not None and over.ino == 0:
            t.delete("onames", name_key(parent, name))
    for node in batch.nodes:
        old = tree.base_inode(t, node.ino)
        if old is not None and (old.parent, old.name) != (node.parent, node.name):
            basetree.drop(t, old.parent, old.name, number, keep_inode=True)
            _clear_tombstone(t, old.parent, old.name)
    for node in batch.nodes:
        _land_node(t, node, number)
    for node in batch.nodes:
        # Renamed back while the commit was under way: the name that it has was the base's.
        live = tree.inode(t, node.ino)
        if live is not None and live.parent:
            tree.set_name(t, live.parent, live.name, live)


def _clear_tombstone(t: Txn, parent: int, name: bytes) -> None:
    over = tree.overlay_name(t, parent, name)
    if over is not None and over.ino == 0 and not t.has("names", name_key(parent, name)):
        t.delete("onames", name_key(parent, name))


def _land_node(t: Txn, node: Inode, number: int) -> None:
    if node.ino == ROOT_INO:
        _land_root(t, node)
        return
    replaced = tree.base_name(t, node.parent, node.name)
    if replaced is not None and replaced.ino != node.ino:
        basetree.drop(t, node.parent, node.name, number)
    live = tree.inode(t, node.ino)
    basetree.put(t, node.parent, node.name, node, number)
    over = tree.overlay_name(t, node.parent, node.name)
    here = live is not None and (live.parent, live.name) == (node.parent, node.name)
    if here:
        t.delete("onames", name_key(node.parent, node.name))
    elif over is None:
        # Renamed or removed while the commit was under way: its old name must not come back.
        removed = live is None or not live.parent
        gone = node.content.key if removed and node.content is not None else ""
        tree.clear_name(t, node.parent, node.name, gone)
    current = tree.overlay_inode(t, node.ino)
    if live is None:
        # Removed and forgotten while the commit was under way: the base has it now, so the
        # overlay must say again that it is gone.
        tree.put_removed(t, node)
    elif current is not None and current.generation == node.generation:
        current.dirty &= ~Dirty.ANNOUNCE
        t.put("oinodes", ino_key(node.ino), encode(current))
        tree.settle(t, current)
    if here and live is not None and live.content is not None:
        names = tree.names_to(t, node.ino)
        if names and not is_natural(live.content.key, names):
            # A directory above it was renamed by somebody else while its object was on its way.
            t.put("relocate", ino_key(node.ino), b"0")


def _land_root(t: Txn, node: Inode) -> None:
    current = tree.overlay_inode(t, 1)
    base = decode_inode(encode(node))
    base.dirty = base.generation = 0
    t.put("inodes", ino_key(1), encode(base))
    if current is not None and current.generation == node.generation:
        tree.drop_overlay_inode(t, 1)


def held_by_renamed(v: View) -> set[tuple[str, str]]:
    """(key, ETag) of versions of ours whose files have another name by now, announced or not:
    until their copies are done they are at keys that may be another file's already."""
    held = set()
    for ino, _ in v.scan("relocate"):
        node = tree.inode(v, int.from_bytes(ino, "big"))
        if node is not None and node.content is not None:
            held.add((node.content.key, node.content.etag))
    return held
