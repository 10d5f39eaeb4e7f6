"""The catalogue of snapshots in the state database, kept in step with the commit log.

Works in the caller's transaction; no I/O.
"""

from __future__ import annotations

import msgspec

from pipefs import tree
from pipefs.catalog import OPS, Catalog, Snapshot, catalog_of
from pipefs.commits import Commit
from pipefs.db import Txn, View

_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.Decoder(Snapshot).decode


def load(v: View) -> Catalog:
    """The catalogue as of the last applied commit."""
    return catalog_of((_decode(raw) for _, raw in v.scan("snapshots")), tree.number(v, "cutoff"))


def apply(t: Txn, commit: Commit) -> bool:
    """Do what a commit says about the catalogue; True if it says anything."""
    changes = [c for c in commit.changes if c.op in OPS]
    if not changes or commit.number <= tree.number(t, "shelved"):
        return False
    catalog = load(t)
    for change in changes:
        catalog.apply(change, commit.number, commit.time)
    store(t, catalog)
    return True


def store(t: Txn, catalog: Catalog) -> None:
    """Let this be the catalogue: rows that differ are written."""
    for key, raw in list(t.scan("snapshots")):
        found = catalog.snapshots.get(key.hex())
        if found is None:
            t.delete("snapshots", key)
        elif _encode(found) != raw:
            t.put("snapshots", key, _encode(found))
    for snapshot in catalog.snapshots.values():
        key = bytes.fromhex(snapshot.id)
        if not t.has("snapshots", key):
            t.put("snapshots", key, _encode(snapshot))
    tree.set_fact(t, "cutoff", b"%d" % catalog.cutoff)


def adopt(t: Txn, catalog: Catalog, number: int) -> None:
    """Take over a catalogue that is as of commit `number`: older entries of the log are in it."""
    store(t, catalog)
    tree.set_fact(t, "shelved", b"%d" % number)
