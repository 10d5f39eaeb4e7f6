"""Machines that write, take snapshots, forget some and prune: what is kept is as it was."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from pipefs.commits import Change
from pipefs.errors import Conflict, Refused
from pipefs.past.manifests import ManifestStore
from pipefs.past.pruning import prune
from pipefs.past.taking import Taker, Wanted
from pipefs.past.walking import BaseSource, walk
from tests.kept import later
from tests.machines import Machine, sync_all
from tests.model.test_two_machines import BesideAnotherTool, TwoMachines, tuned, who
from tests.pasts import open_past


class Pruned(TwoMachines):
    """Every prune finds all that was done before it older than its grace period, so the machines
    are synchronised first: one that was away for longer may miss what it only renamed."""

    @rule(n=who)
    def snapshot(self, n: int) -> None:
        m = self.all[n % self.machines]
        m.follow()
        taker = Taker(m.db, self.store, m.follower, ManifestStore(self.store, None), author="a@b")
        shown = self._base(m)
        try:
            taken = taker.take(Wanted())
        except Conflict:
            return
        self.noted().setdefault(taken.snapshot.id, shown)

    def noted(self) -> dict[str, dict[str, bytes]]:
        """Id of a snapshot → its files."""
        if not hasattr(self, "_noted"):
            self._noted: dict[str, dict[str, bytes]] = {}
        return self._noted

    def _base(self, m: Machine) -> dict[str, bytes]:
        return {
            e.path: self.store.get(e.object_key, e.version, 0, 1 << 20)
            for e in walk(BaseSource(m.db))
            if e.kind == "file"
        }

    @rule(which=st.integers(0, 5), off=st.booleans())
    def forget(self, which: int, off: bool) -> None:
        past = open_past(self.store)
        found = sorted(past.catalog.snapshots)
        if found:
            change = Change(op="forget", path="", snapshot=found[which % len(found)], off=off)
            past.amend(lambda _: [change])

    @rule()
    def prune(self) -> None:
        sync_all(*self.all)
        try:
            prune(open_past(self.store), now_ns=later())
        except Refused:
            return  # nothing was announced yet
        self.snapshots_are_as_they_were()

    def all_is_well(self) -> None:
        super().all_is_well()
        self.prune()
        for m in self.all:
            m.lose_cache()
            m.tree()

    def snapshots_are_as_they_were(self) -> None:
        past = open_past(self.store)
        for snapshot in past.catalog.snapshots.values():
            if snapshot.dropped:
                continue
            shown = {
                e.path: self.store.get(e.object_key, e.version, 0, 1 << 20)
                for e in past.view(snapshot.id, forgotten=True).entries()
                if e.kind == "file"
            }
            assert shown == self.noted()[snapshot.id], snapshot.short


class PrunedBesideATool(Pruned, BesideAnotherTool):
    def nothing_is_lost(self, live: set[bytes]) -> None:
        pass  # what the other program replaced may be pruned


for machine in (Pruned, PrunedBesideATool):
    machine.TestCase.settings = settings(tuned, max_examples=20)
test_what_is_kept_is_as_it_was = Pruned.TestCase
test_beside_another_tool_too = PrunedBesideATool.TestCase
