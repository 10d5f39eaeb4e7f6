"""The catalogue of snapshots as it lies in the bucket: read, written, and put together again.

`.pipefs/refs.json` is the catalogue as of one commit, so that nobody reads the whole log for it;
the log has what came since. Where both are gone, the snapshot objects tell what they can.
"""

from __future__ import annotations

import logging

from pipefs import catalog as cat
from pipefs.catalog import Catalog
from pipefs.commits import Change, CommitLog, Position, commit_key, decode_commit, digest
from pipefs.errors import Corrupt, NotFound, PipefsError
from pipefs.stores.base import Store

log = logging.getLogger(__name__)


def load(store: Store) -> tuple[Catalog, Position]:
    """The catalogue and its place in the log.

    At position 0 the log is to be read from its beginning: it is another one by now; what the
    snapshot objects tell is in it all the same.
    """
    try:
        refs = cat.decode_refs(store.get(cat.REFS_KEY, None, 0, 1 << 30))
    except NotFound:
        return from_log(store)
    except Corrupt as e:
        log.warning("%s: put together again from the log and the snapshots", e)
        return from_log(store)
    found = cat.catalog_of(refs.snapshots, refs.cutoff)
    place = place_of(store, refs.epoch, refs.commit)
    if place is None:
        return from_objects(store, found), Position()
    return found, place


def from_log(store: Store) -> tuple[Catalog, Position]:
    """The catalogue from the whole log, and the log's end; and each snapshot object that the log
    does not know, with the name that it was made with.

    Raises:
        LogReplaced: somebody deleted or replaced a part of the log.
    """
    found, place = Catalog(), Position()
    entries = CommitLog(store, author="", writer="")
    while read := entries.after(place):
        commit = read.commit
        for change in commit.changes:
            if change.op in cat.OPS:
                found.apply(change, commit.number, commit.time)
        place = Position(commit.epoch, commit.number, read.digest)
    for snapshot in from_objects(store).snapshots.values():
        if snapshot.id not in found.snapshots:
            snapshot.tags = [t for t in snapshot.tags if found.tagged(t) is None]
            found.snapshots[snapshot.id] = snapshot
    return found, place


def place_of(store: Store, epoch: str, number: int) -> Position | None:
    """The place of a commit in the log; None if the log in the bucket has another one there."""
    key = commit_key(number)
    try:
        data = store.get(key, None, 0, 1 << 30)
        if decode_commit(data, key).epoch != epoch:
            return None
    except (NotFound, Corrupt):
        return None
    return Position(epoch, number, digest(data))


def save(store: Store, catalog: Catalog, position: Position) -> None:
    """Write the catalogue for those who come later. A hint: where it fails, or another machine's
    older one comes last, the log has what is missing."""
    try:
        store.put(
            cat.REFS_KEY,
            cat.encode_refs(catalog, position.epoch, position.number),
            content_type="application/json",
        )
    except PipefsError as e:
        log.warning("the catalogue of snapshots was not written: %s", e)


def from_objects(store: Store, known: Catalog | None = None) -> Catalog:
    """A catalogue with every snapshot object there is; what is new in it has the name that it was
    made with, what has no object is left out."""
    known = known or Catalog()
    found = Catalog()  # the cut-off is a number of the log, and that is another one now
    for item in store.list(cat.PREFIX):
        snapshot_id = item.key.removeprefix(cat.PREFIX).removesuffix(".json")
        if snapshot_id in known.snapshots:
            found.snapshots[snapshot_id] = known.snapshots[snapshot_id]
            continue
        try:
            text = store.get(item.key, None, 0, 1 << 30).decode().removesuffix("\n")
            found.apply(Change(op="snapshot", path="", data=text), 0, 0)
        except (NotFound, Corrupt, UnicodeDecodeError) as e:
            log.warning("%s is left out: %s", item.key, e)
    return found
