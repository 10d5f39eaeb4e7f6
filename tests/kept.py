"""A pipe with snapshots for tests of retention: what each snapshot must show is noted.

    pipe = Pipe(folder, store)
    pipe.write("a", b"1"); pipe.snapshot("v1"); pipe.write("a", b"2")
    pipe.prune(); pipe.check()

Everything real: machines with their own state, the taker, the store.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from pipefs.catalog import GRACE_NS, Snapshot
from pipefs.commits import Change
from pipefs.past.manifests import ManifestStore
from pipefs.past.opened import Past
from pipefs.past.pruning import Hook, Report, prune, survey
from pipefs.past.taking import Taker, Wanted
from pipefs.stores.base import Store
from pipefs.types import ObjectVersion
from tests.machines import Machine
from tests.pasts import open_past

DAY_NS = GRACE_NS


def later(days: float = 1.0) -> int:
    """A clock at which all that happened until now is older than a grace period of a day."""
    return time.time_ns() + int(days * DAY_NS) + 1


class Pipe:
    """One pipe on one machine, and what its snapshots showed when they were taken."""

    def __init__(self, folder: Path, store: Store, *, name: str = "here") -> None:
        self.store = store
        self.machine = Machine(folder / name, store, name=name)
        self.manifests = ManifestStore(store, None)
        self.moment_ns = 0
        """A clock for a prune that spares what comes after; set by the test."""
        self.shown: dict[str, dict[str, bytes]] = {}
        """Id of a snapshot → what its files have."""

    def close(self) -> None:
        self.machine.close()

    def past(self) -> Past:
        return open_past(self.store, name="someone")

    # --- what a user does ---------------------------------------------------------------------

    def write(self, path: str, data: bytes) -> None:
        self.machine.write(path, data)
        self.machine.sync()

    def write_elsewhere(self, path: str, data: bytes) -> None:
        """Another machine writes, and this one hears of it; nothing of this one's goes up."""
        other = Machine(self.machine.directory.with_name("elsewhere"), self.store, name="elsewhere")
        try:
            other.follow()
            other.write(path, data)
            other.sync()
        finally:
            other.close()
        self.machine.follow()

    def rm(self, path: str) -> None:
        self.machine.rm(path)
        self.machine.sync()

    def files(self, path: str = "") -> dict[str, bytes]:
        """The live files at and below a path."""
        return {
            p: self.machine.read_inode(node)
            for p, node in self.machine.walk()
            if node.is_file and (not path or p == path or p.startswith(path + "/"))
        }

    def snapshot(self, tag: str = "", *, path: str = "", taker: Taker | None = None) -> Snapshot:
        shown = self.files(path)
        found = (taker or self.taker()).take(Wanted(tag=tag, path=path)).snapshot
        self.shown[found.id] = shown
        return found

    def taker(self, store: Store | None = None) -> Taker:
        m = self.machine
        manifests = ManifestStore(store or self.store, None)
        return Taker(m.db, store or m.store, m.follower, manifests, author="user@here")

    def amend(self, op: str, name: str, *, off: bool = False) -> None:
        """forget, protect or tag a snapshot by its tag or id."""
        past = self.past()
        found = past.catalog.find(name, forgotten=True)
        past.amend(lambda _: [Change(op=op, path="", snapshot=found.id, off=off)])

    # --- retention ----------------------------------------------------------------------------

    def survey(self, now_ns: int = 0, extra: Iterable[tuple[str, str]] = ()) -> Report:
        return survey(self.past(), now_ns=now_ns or later(), extra_marks=extra)

    def prune(
        self,
        now_ns: int = 0,
        *,
        extra: Iterable[tuple[str, str]] = (),
        hook: Hook = lambda _step: None,
        past: Past | None = None,
    ) -> Report:
        return prune(past or self.past(), now_ns=now_ns or later(), extra_marks=extra, hook=hook)

    def versions(self, prefix: str = "") -> list[ObjectVersion]:
        """Every version of the user's files, delete markers left out."""
        return [
            v
            for v in self.store.list_versions(prefix)
            if not v.is_delete_marker and not v.key.startswith(".pipefs/")
        ]

    def check(self) -> None:
        """Every snapshot in the catalogue shows what it showed, byte for byte, and the live tree
        can be read."""
        past = self.past()
        for snapshot in past.catalog.snapshots.values():
            if not snapshot.dropped:
                assert self.read(past, snapshot) == self.shown[snapshot.id], snapshot.label
        self.machine.lose_cache()
        self.files()

    def read(self, past: Past, snapshot: Snapshot) -> dict[str, bytes]:
        view = past.view(snapshot.id, forgotten=True)
        return {
            e.path: self.store.get(e.object_key, e.version, 0, 1 << 20)
            for e in view.entries()
            if e.kind == "file"
        }
