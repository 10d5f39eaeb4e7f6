"""What the snapshots of a pipe hold: every version they name, and their own objects.

Roots are read first, so a part that several snapshots share is read once. Memory: ten bytes a
version (`pipefs.past.marks`), about 400 a part, and `_AT_ONCE` parts decoded.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pipefs import catalog as cat
from pipefs.catalog import Catalog, Snapshot, covers
from pipefs.errors import Corrupt, NewerFormat, NotFound
from pipefs.manifest import Entry
from pipefs.past.manifests import ManifestStore
from pipefs.past.marks import MANY, SHARED, Marks
from pipefs.past.opened import view_of
from pipefs.stores.base import Store

_AT_ONCE = 16

_Claims = dict[str, int]
"""Path of a snapshot → its number, or `SHARED`: who has a part, as far as that path."""


@dataclass(slots=True)
class Holdings:
    """What must stay, and for whom."""

    snapshots: list[Snapshot]
    """A holder's number is its place here."""
    marks: Marks = field(default_factory=Marks)
    manifests: set[str] = field(default_factory=set)
    """Names of the parts and roots."""


def held_by(store: Store, snapshots: Sequence[Snapshot]) -> Holdings:
    """What these snapshots hold.

    Raises:
        Corrupt: one of them cannot be read, so nobody can say what it holds.
    """
    found = Holdings(list(snapshots))
    manifests = ManifestStore(store, None)  # read once: keeping them here would fill the disk
    claims: dict[str, _Claims] = {}
    for number, snapshot in enumerate(found.snapshots):
        _claim(manifests, snapshot, min(number, MANY), claims)
        found.manifests.add(snapshot.body.root)
    found.manifests.update(claims)
    for name, entries in _parts(manifests, claims, found.snapshots):
        _mark(found.marks, entries, claims[name])
    return found


def _claim(
    manifests: ManifestStore, snapshot: Snapshot, number: int, claims: dict[str, _Claims]
) -> None:
    try:
        parts = [ref.part for ref in view_of(manifests, snapshot).refs()]
    except (NotFound, Corrupt, NewerFormat) as e:
        raise _unreadable(snapshot, e) from e
    for part in parts:
        claimed = claims.setdefault(part, {})
        known = claimed.get(snapshot.body.path)
        claimed[snapshot.body.path] = number if known is None else SHARED


def _parts(
    manifests: ManifestStore, claims: dict[str, _Claims], snapshots: Sequence[Snapshot]
) -> Iterator[tuple[str, list[Entry]]]:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        names = iter(claims)
        while batch := list(itertools.islice(names, _AT_ONCE)):
            waiting = [(name, pool.submit(manifests.part, name)) for name in batch]
            for name, part in waiting:
                try:
                    yield name, part.result().entries
                except (NotFound, Corrupt) as e:
                    number = next(iter(claims[name].values()))
                    named = snapshots[number] if number < len(snapshots) else None
                    raise _unreadable(named, e) from e


def _mark(marks: Marks, entries: Sequence[Entry], claims: _Claims) -> None:
    everywhere = claims.get("") if len(claims) == 1 else None
    for entry in entries:
        if entry.kind != "file" or entry.version is None:
            continue
        if everywhere is not None:
            marks.add(entry.object_key, entry.version, everywhere)
            continue
        for path, number in claims.items():
            if covers(path, entry.path):
                marks.add(entry.object_key, entry.version, number)


def _unreadable(snapshot: Snapshot | None, why: Exception) -> Corrupt:
    name = f"the snapshot {snapshot.label}" if snapshot is not None else "a snapshot"
    at = f"@{snapshot.label}" if snapshot is not None else ""
    return Corrupt(
        f"{name} cannot be read, so nobody can say which versions it needs: {why}",
        hint=f"See what is wrong with it: pipefs check NAME{at}",
    )


def strangers(store: Store, catalog: Catalog) -> list[Snapshot]:
    """Snapshots whose objects lie in the bucket and which the catalogue does not know.

    Somebody deleted the log, or copied them there; a prune keeps what they name. An object below a
    delete marker counts too: pipefs makes none there, so another program did.
    """
    found: dict[str, Snapshot] = {}
    for item in store.list_versions(cat.PREFIX):
        snapshot_id = item.key.removeprefix(cat.PREFIX).removesuffix(".json")
        if item.is_delete_marker or snapshot_id in catalog.snapshots or snapshot_id in found:
            continue
        data = store.get(item.key, item.version_id, 0, 1 << 30)
        if cat.id_of(data) == snapshot_id:  # else it is no snapshot, whatever its name says
            found[snapshot_id] = Snapshot(id=snapshot_id, body=cat.decode_body(data, item.key))
    return list(found.values())
