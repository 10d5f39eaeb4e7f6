"""What the log tells of a tree's versions, beside the trees that the machines really had.

A machine takes a snapshot of the base that it has. So for each commit number, the versions in the
bases that stood at this number or a later one must be among those the log tells.
"""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import settings
from hypothesis.stateful import invariant

from pipefs.past.marks import key_hash, version_hash
from pipefs.past.shown import shown_since
from pipefs.past.walking import BaseSource, walk
from tests.machines import Machine
from tests.model.test_two_machines import BesideAnotherTool, ThreeMachines, tuned

Version = tuple[str, str]


def base_of(m: Machine) -> Iterator[Version]:
    for entry in walk(BaseSource(m.db)):
        if entry.kind == "file" and entry.version is not None:
            yield entry.object_key, entry.version


class _Watched(ThreeMachines):
    """Notes each base that a machine could have taken a snapshot of."""

    @invariant()
    def note_the_bases(self) -> None:
        if not hasattr(self, "all"):
            return
        if not hasattr(self, "seen"):
            self.seen: dict[int, set[Version]] = {}
        for m in self.all:
            number = m.follower.position().number
            self.seen.setdefault(number, set()).update(base_of(m))

    def all_is_well(self) -> None:
        super().all_is_well()
        self.note_the_bases()
        here = self.all[0].follower.position()
        for since in range(1, here.number + 1):
            wanted = {v for n, found in self.seen.items() if n >= since for v in found}
            for after in {0, *(n for n in self.seen if n <= since)}:
                self.compare(wanted, since, after)

    def compare(self, wanted: set[Version], since: int, after: int) -> None:
        known = self.seen[after] if after else set()
        found, doubtful = shown_since(
            self.store,
            self.all[0].follower.position(),
            since,
            after=after,
            known=lambda key, version: (key, version) in known,
        )
        told = set(found) | {version_hash(*v) for v in known}
        missing = {v for v in wanted if version_hash(*v) not in told}
        assert {v for v in missing if key_hash(v[0]) not in doubtful} == set()


class WatchedWithTool(_Watched, BesideAnotherTool):
    pass


for machine in (_Watched, WatchedWithTool):
    machine.TestCase.settings = settings(tuned, max_examples=20)
test_the_log_tells_of_every_version_that_a_base_had = _Watched.TestCase
test_the_log_tells_of_them_beside_another_tool = WatchedWithTool.TestCase
