"""The multi-version tree: committed base, local overlay, and the live view of both.

    base      names, inodes      the tree at the last applied commit; `history` holds what commits
                                 replaced, by commit number, so that a past tree is a lookup
    overlay   onames, oinodes    what is not committed yet: this *is* the outbox
    live      overlay, else base what the mount shows

Every function takes a transaction and does no I/O beyond it, so a caller makes several changes at
once or none. Nothing here talks to a network or starts a thread.

Invariants (checked by `pipefs.check`): an overlay name never equals the base name it hides; an
overlay inode has a name, an open handle (orphan) or a staging mark; `Inode.parent` and `name`
name a live entry.
"""

from __future__ import annotations

from collections.abc import Iterator

from pipefs.db import Txn, View
from pipefs.errors import Corrupt
from pipefs.keys import component_of, key_of
from pipefs.records import (
    Content,
    Dirty,
    Inode,
    NameEntry,
    decode_content,
    decode_inode,
    decode_name,
    encode,
    ino_key,
    name_key,
)
from pipefs.types import ROOT_INO, Ino

MAX_DEPTH = 1 << 16
"""Of a path, in names: more than any has, so that a damaged tree ends a walk."""

TABLES = (
    "facts",  # name → bytes: epoch, applied commit, counters
    "names",  # parent, name → NameEntry           base
    "inodes",  # ino → Inode                       base
    "history",  # parent, name, 0x00, commit → NameEntry, Inode: what that commit replaced
    "onames",  # parent, name → NameEntry          overlay; ino 0 is a tombstone
    "oinodes",  # ino → Inode                      overlay
    "ready",  # ino → b"": overlay inodes a commit may announce
    "staging",  # ino → Staging                    files with local bytes
    "gone",  # key_id → Content                       objects to delete in the store
    "latest",  # key_id → Latest: see `pipefs.latest`
    "sent",  # key_id → Sent: puts and copies whose landing is not recorded yet
    "relocate",  # ino → b""                       subtrees whose keys lag behind a rename
    "orphans",  # ino → b""                        no name any more, perhaps still open
    "epochs",  # ino, epoch → Content              versions that open handles may still read
    "conflicts",  # ino → Conflict
    "markers",  # ino → since, ns                  empty directories that want a marker object
    "replies",  # slot → Reply: what was answered last, for requests that come again
    "bykey",  # key_id → ino                          base files whose key is not their path
    "links",  # ino of a file, ino of a hard link → b"": see `pipefs.links`
    "snapshots",  # id → Snapshot: see `pipefs.shelf`
    "touched",  # digest of a path → path: see `pipefs.touched`
    "views",  # identity ↔ number of the past views that the kernel may know
    "pastnodes",  # number → PastNode: see `pipefs.past.nodes`
    "pastnames",  # digest of what a node is → its number
    "pastnumbers",  # key_id, number → VersionId: of versions, in `.versions/`
    "buried",  # key_id → Content: see `pipefs.buried`
)

# --- reading ----------------------------------------------------------------------------------


def name_entry(v: View, parent: int, name: bytes) -> NameEntry | None:
    """The live entry, or None."""
    raw = v.get("onames", name_key(parent, name))
    if raw is not None:
        entry = decode_name(raw)
        return entry if entry.ino else None
    raw = v.get("names", name_key(parent, name))
    return decode_name(raw) if raw is not None else None


def base_name(v: View, parent: int, name: bytes) -> NameEntry | None:
    raw = v.get("names", name_key(parent, name))
    return decode_name(raw) if raw is not None else None


def overlay_name(v: View, parent: int, name: bytes) -> NameEntry | None:
    raw = v.get("onames", name_key(parent, name))
    return decode_name(raw) if raw is not None else None


def inode(v: View, ino: int) -> Inode | None:
    """The live inode, or None."""
    raw = v.get("oinodes", ino_key(ino))
    if raw is None:
        raw = v.get("inodes", ino_key(ino))
    return decode_inode(raw) if raw is not None else None


def base_inode(v: View, ino: int) -> Inode | None:
    raw = v.get("inodes", ino_key(ino))
    return decode_inode(raw) if raw is not None else None


def overlay_inode(v: View, ino: int) -> Inode | None:
    raw = v.get("oinodes", ino_key(ino))
    return decode_inode(raw) if raw is not None else None


def need(v: View, ino: int) -> Inode:
    """The live inode of a name that exists.

    Raises:
        Corrupt: a name without its inode.
    """
    found = inode(v, ino)
    if found is None:
        raise Corrupt(f"the tree has a name for inode {ino} but not the inode")
    return found


def children(
    v: View, parent: int, after: bytes = b"", limit: int = 1 << 30
) -> list[tuple[bytes, NameEntry]]:
    """Live names of a directory that sort after `after`, ascending, at most `limit`.

    Reads about `limit` rows of base and overlay each, however large the directory is.
    """
    return children_from(v, parent, after + b"\0" if after else b"", limit)


def children_from(v: View, parent: int, first: bytes, limit: int) -> list[tuple[bytes, NameEntry]]:
    """As `children`, from the name `first` on."""
    out: list[tuple[bytes, NameEntry]] = []
    while len(out) < limit:
        want = limit - len(out)
        start, stop = name_key(parent, first), ino_key(parent + 1)
        over = [(k[8:], x) for k, x in v.scan("onames", start, stop, limit=want)]
        base = [(k[8:], x) for k, x in v.scan("names", start, stop, limit=want)]
        # A list that was cut says nothing about names after its last one.
        ends = [rows[-1][0] for rows in (over, base) if len(rows) == want]
        end = min(ends) if ends else None
        merged = dict(base)
        merged.update(over)
        for name in sorted(merged):
            if end is not None and name > end:
                break
            entry = decode_name(merged[name])
            if entry.ino:
                out.append((name, entry))
        if end is None:
            break
        first = end + b"\0"
    return out[:limit]


def is_empty(v: View, ino: int) -> bool:
    return not children(v, ino, limit=1)


def names_to(v: View, ino: int) -> list[bytes] | None:
    """The live path of an inode as names below the root; None if it has no name any more."""
    out: list[bytes] = []
    while ino != ROOT_INO:
        node = inode(v, ino)
        if node is None or node.parent == 0 or len(out) > MAX_DEPTH:
            return None
        out.append(node.name)
        ino = Ino(node.parent)
    out.reverse()
    return out


def path_text(names: list[bytes]) -> str:
    """A path as text for messages, commits and manifests: escaped like a key, "" is the root."""
    return "/".join(map(component_of, names))


def key_for(v: View, names: list[bytes]) -> str:
    """The key of a path in this pipe's store, whose prefix counts towards S3's limit."""
    return key_of(names, prefix_bytes=number(v, "prefix_bytes"))


def walk(v: View, names: list[bytes]) -> Inode | None:
    """The live inode at a path, or None."""
    ino = int(ROOT_INO)
    for name in names:
        entry = name_entry(v, ino, name)
        if entry is None:
            return None
        ino = entry.ino
    return inode(v, ino)


def base_walk(v: View, names: list[bytes]) -> int | None:
    """Inode number at a path of the base, or None."""
    ino = int(ROOT_INO)
    for name in names:
        entry = base_name(v, ino, name)
        if entry is None:
            return None
        ino = entry.ino
    return ino


def base_children(
    v: View, parent: int, first: bytes = b"", limit: int | None = None
) -> Iterator[tuple[bytes, NameEntry]]:
    """Names of a directory of the base from `first` on, ascending, at most `limit`."""
    for k, raw in v.scan("names", name_key(parent, first), ino_key(parent + 1), limit=limit):
        yield k[8:], decode_name(raw)


# --- facts ------------------------------------------------------------------------------------


def fact(v: View, name: str, default: bytes = b"") -> bytes:
    found = v.get("facts", name.encode())
    return default if found is None else found


def set_fact(t: Txn, name: str, value: bytes) -> None:
    t.put("facts", name.encode(), value)


def number(v: View, name: str, default: int = 0) -> int:
    found = v.get("facts", name.encode())
    return default if found is None else int(found)


# --- changing the overlay ---------------------------------------------------------------------


def put_inode(t: Txn, node: Inode) -> None:
    """Store a changed live inode in the overlay; its generation grows."""
    node.generation += 1
    key = ino_key(node.ino)
    t.put("oinodes", key, encode(node))
    named = node.parent or node.ino == ROOT_INO  # others hear nothing of an orphan
    if named and node.dirty & Dirty.ANNOUNCE and not waits_for_content(t, node):
        t.put("ready", key, b"")
        if node.is_file and t.count("links"):
            _links_are_ready(t, node.ino)


def waits_for_content(v: View, node: Inode) -> bool:
    """Whether an inode cannot be announced yet: its file, or that of a hard link, has no version
    in the store."""
    if node.alias:
        file = inode(v, node.alias)
        return file is None or waits_for_content(v, file)
    return node.is_file and node.content is None


def _links_are_ready(t: Txn, ino: int) -> None:
    for k, _ in t.scan("links", ino_key(ino), ino_key(ino + 1)):
        link = overlay_inode(t, int.from_bytes(k[8:], "big"))
        if link is not None and link.parent and link.alias == ino and link.dirty & Dirty.ANNOUNCE:
            t.put("ready", k[8:], b"")


def set_name(t: Txn, parent: int, name: bytes, node: Inode) -> None:
    """Let a live name mean this inode, and the inode remember it (store the inode afterwards)."""
    node.parent, node.name = parent, name
    base = base_name(t, parent, name)
    if base is not None and base.ino == node.ino:
        t.delete("onames", name_key(parent, name))
    else:
        t.put("onames", name_key(parent, name), encode(NameEntry(node.ino, node.kind)))


def clear_name(t: Txn, parent: int, name: bytes, gone_key: str = "") -> None:
    """Remove a live name: a tombstone where the base has it, no trace where it has not.

    Args:
        gone_key: key whose deletion in the store must land before other machines are told.
    """
    if t.has("names", name_key(parent, name)):
        t.put("onames", name_key(parent, name), encode(NameEntry(0, 0, 0, gone_key)))
    else:
        t.delete("onames", name_key(parent, name))


def settle(t: Txn, node: Inode) -> None:
    """Drop the overlay inode if it owes nothing and the base has the same inode."""
    if node.dirty == 0 and t.has("inodes", ino_key(node.ino)):
        t.delete("oinodes", ino_key(node.ino))
    if not node.dirty & Dirty.ANNOUNCE:
        t.delete("ready", ino_key(node.ino))


def put_removed(t: Txn, node: Inode) -> None:
    """Record that an inode the base has is removed here, and that nobody has it open."""
    gone = decode_inode(encode(node))
    gone.parent, gone.name, gone.nlink, gone.dirty = 0, b"", 0, 0
    put_inode(t, gone)


def drop_overlay_inode(t: Txn, ino: int) -> None:
    t.delete("oinodes", ino_key(ino))
    t.delete("ready", ino_key(ino))


def base_names_to(v: View, ino: int) -> list[bytes] | None:
    out: list[bytes] = []
    while ino != ROOT_INO:
        node = base_inode(v, ino)
        if node is None or len(out) > MAX_DEPTH:
            return None
        out.append(node.name)
        ino = node.parent
    out.reverse()
    return out


def files_of_base(v: View) -> Iterator[Inode]:
    """Every file of the base, by inode number."""
    for _, raw in v.scan("inodes"):
        node = decode_inode(raw)
        if node.is_file:
            yield node


def content_at(v: View, ino: int, epoch: int) -> Content | None:
    """The version an older content epoch of an inode stands for, or None."""
    raw = v.get("epochs", ino_key(ino) + epoch.to_bytes(4, "big"))
    if raw is None:
        return None
    return decode_content(raw)


def forget_epochs(t: Txn) -> None:
    """A fresh mount: no handle of an older one is open."""
    for k, _ in list(t.scan("epochs")):
        t.delete("epochs", k)


def touch_dir(t: Txn, ino: int, now_ns: int) -> None:
    """A name of this directory changed: its times follow, to be announced with the next commit."""
    node = need(t, ino)
    node.mtime_ns = node.ctime_ns = now_ns
    node.dirty |= Dirty.ANNOUNCE
    put_inode(t, node)
