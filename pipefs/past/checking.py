"""Is the catalogue of snapshots whole? The log, `refs.json` and the objects against each other.

Yields `Fault`s; an intact past yields none. What a dying machine left half-made is completed on the
way, since that can only help: an entry of the log without its object, an object without its entry,
a catalogue that is not what the log says. With `repair` also what another program deleted is
brought back, as far as its bytes are anywhere. `pipefs.past.verifying` looks at the files.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from pipefs import catalog as cat
from pipefs import manifest, refs
from pipefs.catalog import Catalog, Snapshot
from pipefs.commits import Change, CommitLog
from pipefs.errors import Corrupt, NewerFormat, NotFound
from pipefs.past.holding import strangers
from pipefs.past.opened import Past, view_of
from pipefs.stores.base import Store
from pipefs.types import ObjectVersion


class Fault(msgspec.Struct, frozen=True):
    """Something that is not as it should be."""

    kind: str
    """object, entry, catalogue, hidden, root, part; version, size, content, unpinned, count."""
    where: str
    """A key, a path of the pipe, or a snapshot."""
    detail: str
    fixed: bool = False
    """It is as it should be now."""
    note: bool = False
    """Nothing is lost by it."""


def catalogue(past: Past, *, repair: bool = False, dry_run: bool = False) -> Iterator[Fault]:
    """Every snapshot in the catalogue, the objects that are not in it, and `refs.json`.

    Args:
        repair: bring back what another program deleted. dry_run: change nothing at all.
    """
    catalog = past.refresh()
    lying = _lying(past.store)
    yield from _objects(past, catalog, lying, dry_run)
    yield from _strangers(past, catalog, lying, repair=repair, dry_run=dry_run)
    there = {v.key for v in past.store.list(manifest.PREFIX)}
    seen: set[str] = set()
    for snapshot in list(past.catalog.snapshots.values()):
        if not snapshot.dropped:
            yield from own_objects(past, snapshot, there, seen, repair=repair and not dry_run)
    yield from _refs(past, dry_run)


def _lying(store: Store) -> dict[str, ObjectVersion]:
    """Id of a snapshot → the newest version or marker of its object."""
    found: dict[str, ObjectVersion] = {}
    for item in store.list_versions(cat.PREFIX):
        found.setdefault(item.key.removeprefix(cat.PREFIX).removesuffix(".json"), item)
    return found


# --- objects and entries ------------------------------------------------------------------------


def _objects(
    past: Past, catalog: Catalog, lying: dict[str, ObjectVersion], dry_run: bool
) -> Iterator[Fault]:
    """Each snapshot of the log has its object: a machine may have died between the two."""
    for snapshot in catalog.snapshots.values():
        found = lying.get(snapshot.id)
        if snapshot.dropped:
            continue
        key = cat.object_key(snapshot.id)
        if found is not None and not found.is_delete_marker:
            data = past.store.get(key, found.version_id, 0, 1 << 30)
            if cat.id_of(data) == snapshot.id:
                continue
            why = "its bytes are not those that its name promises"
        else:
            why = "the log has the snapshot, but its object is missing"
        text = _text_of(past.store, snapshot)
        if text and not dry_run:
            past.store.put(key, cat.object_bytes(text), content_type="application/json")
        yield Fault("object", key, why, fixed=bool(text) and not dry_run)


def _text_of(store: Store, snapshot: Snapshot) -> str:
    """The text of a snapshot's object, made anew or from the log; "" if neither has it."""
    text = cat.encode_body(snapshot.body)
    if cat.id_of(cat.object_bytes(text)) == snapshot.id:
        return text
    log = CommitLog(store, author="", writer="")
    found = log.read(snapshot.number) if snapshot.number else None
    for change in found.commit.changes if found is not None else []:
        if change.op == "snapshot" and cat.id_of(cat.object_bytes(change.data)) == snapshot.id:
            return change.data  # written by a pipefs that knows more fields than this one
    return ""


def _strangers(
    past: Past,
    catalog: Catalog,
    lying: dict[str, ObjectVersion],
    *,
    repair: bool,
    dry_run: bool,
) -> Iterator[Fault]:
    """Each object has its entry in the log: the log may have been deleted since."""
    unannounced = [s for s in catalog.snapshots.values() if not s.number and not s.dropped]
    for snapshot in [*unannounced, *strangers(past.store, catalog)]:
        found = lying.get(snapshot.id)
        hidden = found is not None and found.is_delete_marker
        act = not dry_run and (repair or not hidden)
        key = cat.object_key(snapshot.id)
        text = cat.encode_body(snapshot.body)
        if cat.id_of(cat.object_bytes(text)) != snapshot.id:
            act = False
        if act:
            if hidden:
                past.store.put(key, cat.object_bytes(text), content_type="application/json")
            _announce(past, text)
        if hidden:
            yield Fault("hidden", key, "another program deleted this snapshot", fixed=act)
        else:
            yield Fault("entry", key, "the log does not know this snapshot", fixed=act)


def _announce(past: Past, text: str) -> None:
    change = Change(op="snapshot", path="", data=text)
    snapshot_id = cat.id_of(cat.object_bytes(text))

    def plan(catalog: Catalog) -> list[Change]:
        known = catalog.snapshots.get(snapshot_id)
        return [] if known is not None and known.number else [change]

    past.amend(plan)


def _refs(past: Past, dry_run: bool) -> Iterator[Fault]:
    """`refs.json` says what the log says, or less of it, but nothing else."""
    if not past.catalog.snapshots:
        return
    try:
        written = cat.decode_refs(past.store.get(cat.REFS_KEY, None, 0, 1 << 30))
        same = cat.catalog_of(written.snapshots, written.cutoff) == past.catalog
        why = "" if same else "it is not what the log says"
    except (NotFound, Corrupt) as e:
        why = e.message
    if why:
        if not dry_run:
            refs.save(past.store, past.catalog, past.position)
        yield Fault("catalogue", cat.REFS_KEY, why, fixed=not dry_run)


# --- roots and parts ----------------------------------------------------------------------------


def own_objects(
    past: Past, snapshot: Snapshot, there: set[str], seen: set[str], *, repair: bool
) -> Iterator[Fault]:
    """A snapshot's root and parts are there; with `repair` they are put back from what this
    machine has kept, or from below a delete marker.

    Args:
        there: keys of the manifest objects in the bucket. seen: parts looked at before.
    """
    root = snapshot.body.root
    try:
        parts = view_of(past.manifests, snapshot).refs()
    except (NotFound, Corrupt, NewerFormat) as e:
        fixed = repair and not isinstance(e, NewerFormat) and _put_back(past, root)
        yield Fault("root", snapshot.label, e.message, fixed=fixed)
        if not fixed:
            return
        parts = view_of(past.manifests, snapshot).refs()
    for name in [root, *(p.part for p in parts)]:
        key = manifest.key_of_object(name)
        if key in there or name in seen:
            continue
        seen.add(name)
        kind = "root" if name == root else "part"
        fixed = repair and _put_back(past, name)
        yield Fault(kind, snapshot.label, f"{key} is gone from the store", fixed=fixed)


def _put_back(past: Past, name: str) -> bool:
    """Put a part or root again that this machine has, or that a delete marker hides."""
    try:
        past.manifests.renew(name)
        return True
    except (NotFound, Corrupt):
        pass
    key = manifest.key_of_object(name)
    for version in past.store.list_versions(key):
        if version.key != key or version.is_delete_marker:
            continue
        packed = past.store.get(key, version.version_id, 0, 1 << 30)
        try:
            data = manifest.uncompress(packed, name)
        except Corrupt:
            continue
        past.manifests.put(data)
        return True
    return False
