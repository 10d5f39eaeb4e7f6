"""Taking a snapshot: the base at one commit as a manifest, and its name in the log.

Order: parts, root, entry in the log, snapshot object, catalogue. Whatever dies in between leaves
parts that nothing refers to, or an entry from which `check` makes the object again: the entry has
the object's whole text. The caller keeps the base still meanwhile (the daemon's syncer, or the
lock on the state), and has brought up what is to be in it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pipefs import catalog as cat
from pipefs import manifest, touched
from pipefs.catalog import Body, Catalog, Snapshot
from pipefs.commits import PROGRAM, Change, Position
from pipefs.conflicts import Effects
from pipefs.db import StateDB
from pipefs.errors import Conflict, Corrupt, NotFound, PipefsError, PreconditionFailed
from pipefs.follow import Follower
from pipefs.manifest import Root
from pipefs.past.building import PUTS_AT_ONCE, build
from pipefs.past.manifests import ManifestStore, ManifestView
from pipefs.past.opened import view_of
from pipefs.past.walking import BaseSource
from pipefs.stores.base import Store

OPEN_NAMED = 1000
"""Open files that a snapshot names; of more it says how many there were."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a snapshot is to be."""

    path: str = ""
    """Escaped like a key; "" is the whole pipe."""
    tag: str = ""
    message: str = ""
    metrics: Mapping[str, str] = field(default_factory=dict)
    open: Sequence[str] = ()
    """Files that are open for writing now."""
    move_tag: bool = False
    """Another snapshot may lose the tag to this one."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A snapshot that was taken, or found to be there already."""

    snapshot: Snapshot
    unchanged: bool
    """Nothing changed since this one: it only got the tag."""
    effects: Effects


class Taker:
    """Takes snapshots of one pipe. One call at a time."""

    def __init__(
        self,
        db: StateDB,
        store: Store,
        follower: Follower,
        manifests: ManifestStore,
        *,
        author: str,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._db = db
        self._store = store
        self._follower = follower
        self._manifests = manifests
        self._author = author
        self._clock = clock

    def take(self, wanted: Wanted) -> Taken:
        """
        Raises:
            Conflict: the tag belongs to another snapshot. NotFound: there is no such path.
            StoreError: the store does not answer; nothing was taken.
        """
        started_ns = self._clock()
        effects = self._follower.follow()
        catalog = self._follower.catalog()
        self._check_tag(catalog, wanted, catalog.latest(wanted.path))
        place = self._follower.position()
        lender = catalog.latest()
        name, root = self.manifest(lender)
        view = ManifestView(self._manifests, root, wanted.tag, _names(wanted.path))
        if wanted.path and view.find(_names(wanted.path)) is None:
            raise NotFound(f"there is no {wanted.path!r} to take a snapshot of")
        made: list[str] = []

        def plan(catalog: Catalog) -> list[Change]:
            same = self._same(catalog, wanted, view)
            self._check_tag(catalog, wanted, same)
            made[:] = [same.id if same is not None else ""]
            if same is not None:
                return _tag(wanted, same)
            self._check_safe(catalog, place, lender, started_ns)
            body = self._body(catalog, wanted, view, place, name)
            text = cat.encode_body(body)
            made[:] = [cat.id_of(cat.object_bytes(text)), text]
            change = Change(op="snapshot", path=wanted.path, data=text)
            return [change, *_tag(wanted, None, made[0])]

        more, _ = self._follower.amend(plan)
        effects.merge(more)
        if len(made) > 1:
            put_object(self._store, made[1])
        found = self._follower.catalog().snapshots[made[0]]
        return Taken(found, len(made) == 1, effects)

    def _check_safe(
        self, catalog: Catalog, place: Position, lender: Snapshot | None, started_ns: int
    ) -> None:
        """That no prune takes what this snapshot names (docs/design/011-retention.md).

        Raises:
            Conflict: one could. To begin again is enough.
        """
        again = "take the snapshot again"
        if catalog.cutoff > place.number:
            raise Conflict(f"old versions were pruned meanwhile; {again}")
        now = catalog.snapshots.get(lender.id) if lender is not None else None
        if lender is not None and (now is None or now.forgotten):
            raise Conflict(f"the snapshot that it builds on was forgotten meanwhile; {again}")
        if self._clock() - started_ns > cat.GRACE_NS // 2:
            raise Conflict(f"it took half of the time for which a prune spares its parts; {again}")

    def manifest(self, lender: Snapshot | None = None) -> tuple[str, Root]:
        """The manifest of the base as it is, stored; its name, and its root.

        Parts of the baseline that did not change are taken as they are. Those of `lender`, a
        snapshot that is kept, stay for its sake; the others are renewed, since nobody may need
        them any more.
        """
        with self._db.view() as v:
            known, changed = touched.baseline(v), touched.all_of(v)
        put: set[str] = set()

        def store(data: bytes) -> str:
            put.add(self._manifests.put(data))
            return manifest.name_of_object(data)

        root = build(BaseSource(self._db), store, self._baseline(known), changed)
        stays = self._baseline(lender.body.root) if lender is not None else None
        held = put.union(p.part for p in stays.parts) if stays is not None else put
        try:
            with ThreadPoolExecutor(PUTS_AT_ONCE) as pool:
                left = [p.part for p in root.parts if p.part not in held]
                list(pool.map(self._manifests.renew, left))
        except (NotFound, Corrupt):
            root = build(BaseSource(self._db), store, None, [])  # gone, and not kept here either
        name = self._manifests.put(manifest.encode_root(root))
        with self._db.update() as t:
            touched.start(t, name)
        return name, root

    def _baseline(self, name: str) -> Root | None:
        if not name:
            return None
        try:
            return self._manifests.root(name)
        except (NotFound, Corrupt):
            return None  # somebody deleted it: the next one is made of the whole tree

    @staticmethod
    def _check_tag(catalog: Catalog, wanted: Wanted, same: Snapshot | None) -> None:
        """`same`: the snapshot that may have the tag already."""
        if not wanted.tag:
            return
        holder = catalog.tagged(cat.check_tag(wanted.tag))
        taken = holder is not None and not holder.forgotten and holder is not same
        if holder is not None and taken and not wanted.move_tag:
            raise Conflict(
                f"the tag {wanted.tag!r} belongs to the snapshot {holder.short} of "
                f"{holder.body.time[:16]}Z",
                hint="Choose another one, or move it: --force",
            )

    def _same(self, catalog: Catalog, wanted: Wanted, view: ManifestView) -> Snapshot | None:
        """The newest snapshot of this path, if nothing is different now."""
        newest = catalog.latest(wanted.path)
        if newest is None:
            return None
        try:
            before = view_of(self._manifests, newest)
            if [p.part for p in before.refs()] == [p.part for p in view.refs()]:
                return newest
            if not wanted.path:
                return None
            names = _names(wanted.path)
            pairs = itertools.zip_longest(before.entries(names), view.entries(names))
            return newest if all(a == b for a, b in pairs) else None
        except (PipefsError, OSError):
            return None  # it cannot be read: all the more reason for a new one

    def _body(
        self, catalog: Catalog, wanted: Wanted, view: ManifestView, place: Position, root: str
    ) -> Body:
        if wanted.path:
            lines = list(view.entries(_names(wanted.path)))
            files = [e for e in lines if e.kind == "file"]
            sizes = (len(lines), len(files), sum(e.size for e in files))
        else:
            sizes = (view.root.entries, view.root.files, view.root.bytes)
        newest = catalog.latest()
        return Body(
            format=cat.FORMAT,
            name=wanted.tag,
            time=time_text(self._clock()),
            author=self._author,
            host=self._author.rpartition("@")[2],
            program=PROGRAM,
            message=wanted.message,
            metrics=dict(wanted.metrics),
            path=wanted.path,
            parent=newest.id if newest is not None else "",
            epoch=place.epoch,
            commit=place.number,
            root=root,
            entries=sizes[0],
            files=sizes[1],
            bytes=sizes[2],
            open=sorted(wanted.open)[:OPEN_NAMED],
            open_count=len(wanted.open),
        )


def _tag(wanted: Wanted, same: Snapshot | None, snapshot_id: str = "") -> list[Change]:
    """The entry that gives the tag: to a snapshot that is there, or where another one loses it."""
    if not wanted.tag or (same is not None and wanted.tag in same.tags):
        return []
    if same is None and not wanted.move_tag:
        return []  # it is made with it
    to = same.id if same is not None else snapshot_id
    return [Change(op="tag", path="", tag=wanted.tag, snapshot=to, force=wanted.move_tag)]


def put_object(store: Store, text: str) -> None:
    """Put a snapshot's object, if it is not there."""
    data = cat.object_bytes(text)
    key = cat.object_key(cat.id_of(data))
    try:
        store.put(key, data, content_type="application/json", if_none_match=True)
    except PreconditionFailed:
        pass  # put already, with the same bytes: its name says so


def time_text(time_ns: int) -> str:
    """`2026-11-28T12:00:00.123456Z`."""
    at = datetime.fromtimestamp(time_ns // 10**9, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{time_ns % 10**9 // 1000:06d}Z"


def _names(path: str) -> list[bytes]:
    return manifest.names_in(path)
