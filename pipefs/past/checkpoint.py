"""A tree from the newest snapshot: a machine that is new to a pipe need not read all of its log.

The base is filled from the manifest, and following goes on from the commit that the snapshot is of.
A crash while it is filled leaves a part and a fact that says so; the next opening begins again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from pipefs import refs, shelf, touched, tree
from pipefs.catalog import Catalog, Snapshot
from pipefs.commits import Position
from pipefs.db import StateDB
from pipefs.errors import Corrupt, NotFound
from pipefs.inodes import InoSource
from pipefs.manifest import Entry, Root
from pipefs.past.entries import content_of, inode_of, xattrs_of
from pipefs.past.manifests import ManifestStore, Part
from pipefs.records import HARD_LINK, Inode, NameEntry, encode, ino_key, key_id
from pipefs.statedb.bulk import Bulk
from pipefs.stores.base import Store
from pipefs.types import ROOT_INO

log = logging.getLogger(__name__)

_TYPE = 0o170000
"""File type bits of a mode."""

_FILLED = ("names", "inodes", "bykey", "links", "history", "touched")


def start_from_snapshot(
    db: StateDB, inos: InoSource, store: Store, manifests: ManifestStore
) -> bool:
    """Fill the empty state of a pipe from its newest whole snapshot; False: there is none that
    serves, and the log is to be read from its beginning.

    Raises:
        Store errors. Then nothing was filled, or a part that the next call removes.
    """
    if not _is_empty(db):
        return False
    catalog, place = refs.load(store)
    if not place.number:
        return False
    found = _newest(catalog, place)
    at = refs.place_of(store, found.body.epoch, found.body.commit) if found is not None else None
    if found is None or at is None:
        return False
    try:
        root = manifests.root(found.body.root)
        _fill(db, inos, manifests, root)
    except (NotFound, Corrupt) as e:
        log.warning("the snapshot %s cannot be started from: %s", found.label, e)
        _empty(db)
        return False
    with db.update() as t:
        shelf.adopt(t, catalog, place.number)
        touched.start(t, found.body.root)
        tree.set_fact(t, "epoch", at.epoch.encode())
        tree.set_fact(t, "commit", b"%d" % at.number)
        tree.set_fact(t, "digest", at.digest.encode())
        tree.set_fact(t, "bytes", b"%d" % root.bytes)
        tree.set_fact(t, "relist", b"0")
        tree.set_fact(t, "filling", b"")
    log.info("started from the snapshot %s, commit %d", found.label, at.number)
    return True


def _newest(catalog: Catalog, place: Position) -> Snapshot | None:
    """The snapshot of the whole pipe in this log that is of the last commit."""
    found = [
        s
        for s in catalog.kept()
        if not s.body.path and s.body.epoch == place.epoch and s.body.commit <= place.number
    ]
    return max(found, key=lambda s: s.body.commit, default=None)


def _is_empty(db: StateDB) -> bool:
    """Whether nothing is known of the pipe yet; what a crash left of an earlier filling goes."""
    with db.view() as v:
        if tree.number(v, "commit") or v.count("onames") or v.count("staging"):
            return False
        part = bool(tree.fact(v, "filling"))
        empty = not v.count("names")
    if part:
        _empty(db)
    return part or empty


def _empty(db: StateDB) -> None:
    with db.view() as v:
        root = tree.base_inode(v, ROOT_INO)
    with db.bulk() as bulk:
        for table in _FILLED:
            bulk.clear(table)
        if root is not None:
            bulk.put("inodes", [(ino_key(ROOT_INO), encode(root))])
    with db.update() as t:
        tree.set_fact(t, "filling", b"")


def _fill(db: StateDB, inos: InoSource, manifests: ManifestStore, root: Root) -> None:
    with db.update() as t:
        tree.set_fact(t, "filling", b"1")
        first = max(2, tree.number(t, "next_ino", 2))
        # Reserved before they are used: no number is ever given out twice.
        tree.set_fact(t, "next_ino", b"%d" % (first + root.entries + 1))
    inos.undo()
    filler = _Filler(first)
    with db.bulk() as bulk:
        bulk.put("inodes", [(ino_key(ROOT_INO), encode(_root(root)))])
        for ref in root.parts:
            filler.add(bulk, manifests.part(ref.part))
        filler.add_links(bulk)


def _root(root: Root) -> Inode:
    node = inode_of(root.head, ROOT_INO)
    node.parent, node.nlink = 0, 1
    return node


def _node(entry: Entry, ino: int, parent: int, name: bytes) -> Inode:
    """As `inode_of`; files with all their attributes, which most are, in half the time."""
    if entry.kind != "file" or None in (entry.mode, entry.uid, entry.gid, entry.mtime):
        node = inode_of(entry, ino, parent=parent, name=name)
        node.nlink = 1
        return node
    mtime = entry.mtime or 0
    return Inode(
        ino=ino,
        mode=entry.mode or 0,
        uid=entry.uid or 0,
        gid=entry.gid or 0,
        size=entry.size,
        mtime_ns=mtime,
        ctime_ns=entry.ctime or mtime,
        atime_ns=entry.atime or 0,
        parent=parent,
        name=name,
        content=content_of(entry),
        xattrs=xattrs_of(entry.xattrs) if entry.xattrs else None,
    )


class _Filler:
    """Rows of a tree, part by part, in the order of the manifest: parents come before children."""

    def __init__(self, first: int) -> None:
        self._next = first
        self._directories: dict[bytes, int] = {b"": int(ROOT_INO)}
        """Directories by path, names joined by NUL: of a pipe's files few are any."""
        self._links: list[tuple[int, bytes, str]] = []
        self._linked: dict[str, int] = {}
        """Files that have further names, by path."""

    def add(self, bulk: Bulk, part: Part) -> None:
        names, inodes, keys = [], [], []
        within, parent = b"", int(ROOT_INO)
        for entry, (directory, name) in zip(part.entries, part.places, strict=True):
            if directory != within:
                within, parent = directory, self._parent(directory, entry)
            ino, self._next = self._next, self._next + 1
            place = parent.to_bytes(8, "big") + name
            if entry.kind == "link":
                self._links.append((ino, place, entry.link))
                continue
            if entry.kind == "dir":
                self._directories[directory + b"\0" + name if directory else name] = ino
            elif entry.links:
                self._linked[entry.path] = ino
            if entry.key:
                keys.append((key_id(entry.key), ino_key(ino)))
            node = _node(entry, ino, parent, name)
            names.append((place, encode(NameEntry(ino, node.mode & _TYPE, 0))))
            inodes.append((ino.to_bytes(8, "big"), encode(node)))
        bulk.put("names", names)
        bulk.put("inodes", inodes)
        bulk.put("bykey", keys)

    def _parent(self, directory: bytes, entry: Entry) -> int:
        found = self._directories.get(directory)
        if found is None:
            raise Corrupt(f"{entry.path} lies in no directory of its manifest")
        return found

    def add_links(self, bulk: Bulk) -> None:
        bulk.put("names", self._link_names())
        bulk.put("inodes", self._link_inodes())
        bulk.put("links", [(ino_key(a) + ino_key(i), b"") for i, _, a in self._resolved()])

    def _resolved(self) -> Iterator[tuple[int, bytes, int]]:
        for ino, place, path in self._links:
            file = self._linked.get(path)
            if file is None:
                raise Corrupt(f"a hard link in the manifest names {path}, which is not there")
            yield ino, place, file

    def _link_names(self) -> Iterator[tuple[bytes, bytes]]:
        for ino, place, _ in self._resolved():
            yield place, encode(NameEntry(ino, HARD_LINK, 0))

    def _link_inodes(self) -> Iterator[tuple[bytes, bytes]]:
        for ino, place, file in self._resolved():
            parent, name = int.from_bytes(place[:8], "big"), place[8:]
            node = Inode(ino=ino, mode=HARD_LINK, parent=parent, name=name, alias=file)
            yield ino_key(ino), encode(node)
