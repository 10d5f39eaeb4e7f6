"""A snapshot is taken while a prune runs, at every step of either: neither harms the other.

Each request to the store is a step. Before each of them in turn the other side runs from its
beginning to its end. The tree has what a prune could take for garbage: parts of a forgotten
snapshot that the next one is made of, and live files whose version is not the newest of its key.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from pipefs import manifest
from pipefs.commits import Change
from pipefs.errors import Conflict
from pipefs.past import manifests
from pipefs.past.opened import Past
from pipefs.past.pruning import prune
from pipefs.stores.base import Store
from pipefs.stores.local import LocalStore
from pipefs.stores.wrapper import WrapperStore
from tests.kept import DAY_NS, Pipe
from tests.promises.promised import promise

T = TypeVar("T")


class StepStore(WrapperStore):
    """Calls `at_step` before one of its requests; counts them."""

    def __init__(self, inner: Store, step: int = 0, at_step: Callable[[], None] | None = None):
        super().__init__(inner)
        self.steps = 0
        self._step, self._at_step = step, at_step

    def _around(self, operation: str, key: str, call: Callable[[], T]) -> T:
        self.steps += 1
        if self.steps == self._step and self._at_step is not None:
            at_step, self._at_step = self._at_step, None
            at_step()
        return call()


@pytest.fixture(autouse=True)
def _small_and_old_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "MIN_ENTRIES", 2)
    monkeypatch.setattr(manifest, "MEAN_ENTRIES", 2)
    # Whatever lay there when a snapshot began is older than a prune's grace in these tests.
    monkeypatch.setattr(manifests, "YOUNG_NS", 0)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[bool], Pipe]]:
    made: list[Pipe] = []

    def make_pipe(changed: bool) -> Pipe:
        """A pipe whose one snapshot is forgotten for longer than the grace period."""
        folder = tmp_path / str(len(made))
        pipe = Pipe(folder, LocalStore(folder / "store"))
        made.append(pipe)
        m = pipe.machine
        m.mkdir("d")
        for name in ("a", "b", "c", "d/e", "d/f", "d/g", "h"):
            m.write(name, b"first " + name.encode())
        m.sync()
        pipe.snapshot("v1")
        pipe.amend("forget", "v1")
        if changed:
            pipe.write("d/f", b"second")
            m.mv("a", "a.1")
            m.announce()
            # a.1 is a version of the key a that is not current
            pipe.write_elsewhere("a", b"in the place of a.1")
            pipe.store.put("b", b"of another tool, which nobody has listed")
        pipe.moment_ns = time.time_ns() + 1 + DAY_NS
        return pipe

    yield make_pipe
    for pipe in made:
        pipe.close()
        pipe.store.close()


def steps_of(run: Callable[[StepStore], object], store: Store) -> int:
    counting = StepStore(store)
    run(counting)
    return counting.steps


def run_prune(store: Store, now_ns: int) -> None:
    past = Past(store, author="other@there", writer="other")
    prune(past, now_ns=now_ns)


@pytest.mark.parametrize("changed", [False, True], ids=["unchanged", "changed"])
def test_a_prune_at_any_step_of_a_snapshot(make: Callable[[bool], Pipe], changed: bool) -> None:
    first = make(changed)
    steps = steps_of(lambda s: first.snapshot("v2", taker=first.taker(s)), first.store)
    assert steps > 5
    for step in range(1, steps + 1):
        pipe = make(changed)
        now_ns = pipe.moment_ns
        between = StepStore(pipe.store, step, lambda: run_prune(pipe.store, now_ns))  # noqa: B023
        try:
            pipe.snapshot("v2", taker=pipe.taker(between))
        except Conflict:
            pipe.snapshot("v2")
        run_prune(pipe.store, now_ns)
        pipe.check()


@promise(
    "retention-kept",
    "A prune deletes no version that a snapshot names, be it kept, forgotten for less than "
    "the grace period, or just being taken on another machine.",
)
@pytest.mark.parametrize("changed", [False, True], ids=["unchanged", "changed"])
def test_a_snapshot_at_any_step_of_a_prune(make: Callable[[bool], Pipe], changed: bool) -> None:
    first = make(changed)
    steps = steps_of(lambda s: run_prune(s, first.moment_ns), first.store)
    assert steps > 10
    for step in range(1, steps + 1):
        pipe = make(changed)
        now_ns = pipe.moment_ns
        run_prune(StepStore(pipe.store, step, lambda: _take(pipe)), now_ns)  # noqa: B023
        pipe.check()
        run_prune(pipe.store, now_ns)
        pipe.check()


def _take(pipe: Pipe) -> None:
    pipe.snapshot("v2")


@pytest.mark.parametrize("changed", [False, True], ids=["unchanged", "changed"])
def test_two_prunes_at_once(make: Callable[[bool], Pipe], changed: bool) -> None:
    first = make(changed)
    steps = steps_of(lambda s: run_prune(s, first.moment_ns), first.store)
    for step in range(1, steps + 1, 2):
        pipe = make(changed)
        pipe.snapshot("v2")
        now_ns = pipe.moment_ns
        run_prune(
            StepStore(pipe.store, step, lambda: run_prune(pipe.store, now_ns)),  # noqa: B023
            now_ns,
        )
        pipe.check()


def test_a_snapshot_is_brought_back_at_any_step_of_a_prune(make: Callable[[bool], Pipe]) -> None:
    first = make(True)
    steps = steps_of(lambda s: run_prune(s, first.moment_ns), first.store)
    back, gone = 0, 0
    for step in range(1, steps + 1):
        pipe = make(True)
        (snapshot_id,) = pipe.shown

        def undo(pipe: Pipe = pipe, snapshot_id: str = snapshot_id) -> None:
            change = Change(op="forget", path="", snapshot=snapshot_id, off=True)
            pipe.past().amend(lambda c: [] if c.snapshots[snapshot_id].dropped else [change])

        run_prune(StepStore(pipe.store, step, undo), pipe.moment_ns)
        if pipe.past().catalog.snapshots[snapshot_id].dropped:
            gone += 1
            continue
        back += 1
        assert not pipe.past().catalog.snapshots[snapshot_id].forgotten
        pipe.check()
    assert back > 3
    assert gone > 3
