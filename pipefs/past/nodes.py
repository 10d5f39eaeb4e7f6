"""Numbers for what past trees show: each path and version gets one, and keeps it.

A snapshot's numbers are places in its manifest; what comes from the store's own versions has no
such place, so here a number is given when something is first shown, and kept in a table. It names
a path with exactly one version, whatever the moment: two moments that show the same version share
its number, and what was asked of the store about it is asked once.

`StateNodes` keeps them in the state database, in short transactions; `MemoryNodes` serves one
command. Both are thread-safe.
"""

from __future__ import annotations

import stat
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec
import xxhash

from pipefs import tree
from pipefs.attributes import change_of
from pipefs.db import StateDB, Txn, View
from pipefs.past.views import ROOT
from pipefs.records import NO_MODE, Content, Inode, encode, ino_key, ino_of, key_id
from pipefs.types import ObjectVersion

_BATCH = 256
"""Nodes in one transaction: a few milliseconds."""


class PastNode(msgspec.Struct, array_like=True, frozen=True):
    """A directory, or a file as one version of its object. New fields go at the end."""

    parent: int
    """Number of the directory."""
    name: bytes
    kind: int
    """S_IFREG or S_IFDIR."""
    key: str
    """Object key; of a directory the prefix of all keys below it."""
    version: str | None = None
    """VersionId of a file, or of a directory's marker object; None: it has none."""
    etag: str = ""
    size: int = 0
    modified: int = 0
    """LastModified, ns."""
    known: bool = False
    """Whether the fields below are what the object's metadata says."""
    mode: int | None = None
    """Permission bits."""
    uid: int | None = None
    gid: int | None = None
    mtime: int | None = None

    @property
    def is_dir(self) -> bool:
        return self.kind == stat.S_IFDIR


def file_node(parent: int, name: bytes, found: ObjectVersion) -> PastNode:
    return _node(parent, name, stat.S_IFREG, found.key, found)


def directory_node(
    parent: int, name: bytes, prefix: str, marker: ObjectVersion | None = None
) -> PastNode:
    """A directory of all keys below `prefix`, with its marker object where there is one."""
    if marker is None:
        return PastNode(parent, name, stat.S_IFDIR, prefix, known=True)
    return _node(parent, name, stat.S_IFDIR, prefix, marker)


def _node(parent: int, name: bytes, kind: int, key: str, found: ObjectVersion) -> PastNode:
    node = PastNode(
        *(parent, name, kind, key, found.version_id, found.etag),
        size=0 if kind == stat.S_IFDIR else found.size,
        modified=found.last_modified_ns,
    )
    # Some stores tell the metadata in the listing.
    return described(node, found) if found.metadata else node


def described(node: PastNode, found: ObjectVersion) -> PastNode:
    """The node with what the metadata of its object says."""
    said = change_of(found, "")
    mode = None if said.mode is None else stat.S_IMODE(said.mode)
    return msgspec.structs.replace(
        node, known=True, mode=mode, uid=said.uid, gid=said.gid, mtime=said.mtime
    )


def inode_of(node: PastNode, ino: int, time_ns: int) -> Inode:
    """The inode of a node.

    Args:
        time_ns: mtime where nothing tells one.
    """
    plain = 0o755 if node.is_dir else 0o644
    mode = node.kind | (plain | NO_MODE if node.mode is None else node.mode)
    mtime = node.mtime if node.mtime is not None else node.modified or time_ns
    content = None
    if not node.is_dir:
        content = Content(node.key, node.version, node.etag, node.size)
    return Inode(
        ino=ino,
        mode=mode,
        uid=-1 if node.uid is None else node.uid,
        gid=-1 if node.gid is None else node.gid,
        size=node.size,
        mtime_ns=mtime,
        ctime_ns=node.modified or mtime,
        nlink=2 if node.is_dir else 1,
        parent=node.parent,
        name=node.name,
        content=content,
    )


Numbered = tuple[int, PastNode]


class NodeTable(Protocol):
    """Where numbers are kept."""

    def get(self, ino: int) -> PastNode | None:
        """What a number names; None: it was never given out here."""

    def number(self, nodes: Sequence[PastNode]) -> list[Numbered]:
        """The number of each, given now if it has none, and the node as it is kept: with its
        attributes, if they were learnt."""

    def learn(self, nodes: Mapping[int, PastNode]) -> None:
        """Keep nodes whose attributes are known now."""

    def version_numbers(self, key: str, versions: Sequence[str]) -> dict[str, int]:
        """Numbers of one object's versions, given oldest first: 1 for the oldest that this table
        ever saw, and never given to another one, also when the version is gone."""


def _is(node: PastNode) -> bytes:
    """What makes a node itself, in 16 bytes."""
    same = (node.parent, node.name, node.kind, node.key, node.version, node.etag, node.modified)
    return xxhash.xxh3_128_digest(encode(same))


def _next_numbers(known: Mapping[str, int], versions: Iterable[str]) -> dict[str, int]:
    """Numbers for versions that have none yet."""
    last = max(known.values(), default=0)
    return {v: last + n for n, v in enumerate((v for v in versions if v not in known), 1)}


class MemoryNodes:
    """Numbers for one process's life."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # protects the tables below; a leaf
        self._nodes: dict[int, PastNode] = {}
        self._numbers: dict[bytes, int] = {}
        self._versions: dict[str, dict[str, int]] = {}

    def get(self, ino: int) -> PastNode | None:
        with self._lock:
            return self._nodes.get(ino)

    def number(self, nodes: Sequence[PastNode]) -> list[Numbered]:
        with self._lock:
            return [self._number(node) for node in nodes]

    def _number(self, node: PastNode) -> Numbered:
        ino = self._numbers.setdefault(_is(node), len(self._numbers) + ROOT + 1)
        return ino, self._nodes.setdefault(ino, node)

    def learn(self, nodes: Mapping[int, PastNode]) -> None:
        with self._lock:
            self._nodes.update(nodes)

    def version_numbers(self, key: str, versions: Sequence[str]) -> dict[str, int]:
        with self._lock:
            known = self._versions.setdefault(key, {})
            known.update(_next_numbers(known, versions))
            return dict(known)


_decode = msgspec.msgpack.Decoder(PastNode).decode
_NEXT = "next_past"


class StateNodes:
    """Numbers in the state database: tables `pastnodes`, `pastnames`, `pastnumbers`."""

    def __init__(self, db: StateDB) -> None:
        self._db = db

    def get(self, ino: int) -> PastNode | None:
        with self._db.view() as v:
            raw = v.get("pastnodes", ino_key(ino))
        return _decode(raw) if raw is not None else None

    def number(self, nodes: Sequence[PastNode]) -> list[Numbered]:
        out: list[Numbered] = []
        for first in range(0, len(nodes), _BATCH):
            some = nodes[first : first + _BATCH]
            with self._db.view() as v:
                found = [self._find(v, node) for node in some]
            if None in found:
                with self._db.update() as t:
                    found = [self._find(t, node) or self._add(t, node) for node in some]
            out += [numbered for numbered in found if numbered is not None]
        return out

    @staticmethod
    def _find(v: View, node: PastNode) -> Numbered | None:
        number = v.get("pastnames", _is(node))
        raw = v.get("pastnodes", number) if number is not None else None
        if number is None or raw is None:
            return None
        return ino_of(number), _decode(raw)

    @staticmethod
    def _add(t: Txn, node: PastNode) -> Numbered:
        ino = tree.number(t, _NEXT, ROOT + 1)
        tree.set_fact(t, _NEXT, b"%d" % (ino + 1))
        t.put("pastnames", _is(node), ino_key(ino))
        t.put("pastnodes", ino_key(ino), encode(node))
        return ino, node

    def learn(self, nodes: Mapping[int, PastNode]) -> None:
        items = list(nodes.items())
        for first in range(0, len(items), _BATCH):
            with self._db.update() as t:
                for ino, node in items[first : first + _BATCH]:
                    t.put("pastnodes", ino_key(ino), encode(node))

    def version_numbers(self, key: str, versions: Sequence[str]) -> dict[str, int]:
        with self._db.view() as v:
            known = self._known(v, key)
        if all(version in known for version in versions):
            return known
        with self._db.update() as t:
            known = self._known(t, key)
            fresh = _next_numbers(known, versions)
            for version, number in fresh.items():
                t.put("pastnumbers", key_id(key) + number.to_bytes(4, "big"), version.encode())
        return known | fresh

    @staticmethod
    def _known(v: View, key: str) -> dict[str, int]:
        start = key_id(key)
        rows = v.scan("pastnumbers", start, start + b"\xff" * 4)
        return {raw.decode(): int.from_bytes(k[16:], "big") for k, raw in rows}


def trim(db: StateDB, limit: int = 500_000) -> None:
    """Forget all numbers once there are more than `limit`: for a fresh mount, where nobody holds
    one. Numbers of versions stay."""
    with db.view() as v:
        if v.count("pastnodes") <= limit:
            return
    for table in ("pastnames", "pastnodes"):
        while True:
            with db.update() as t:
                keys = [k for k, _ in t.scan(table, limit=_BATCH)]
                for k in keys:
                    t.delete(table, k)
            if not keys:
                break
