"""Stores without conditional puts: one machine commits at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipefs.commits import Change, CommitLog, Position
from pipefs.errors import Busy
from pipefs.lease import LENGTH_S, SPARE_S, WriterLease
from pipefs.stores.local import LocalStore


class Clock:
    def __init__(self) -> None:
        self.now = 10**18

    def __call__(self) -> int:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += int(seconds * 1e9)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def lease(store: LocalStore, clock: Clock, name: str) -> WriterLease:
    return WriterLease(store, author=f"ann@{name}", writer=name, clock=clock, wait=clock.wait)


def test_the_second_machine_waits_until_the_first_one_lets_its_lease_run_out(
    store: LocalStore,
) -> None:
    clock = Clock()
    first, second = lease(store, clock, "lab1"), lease(store, clock, "lab2")
    assert first.hold()
    assert not second.hold()
    assert second.holder == "ann@lab1"
    clock.wait(LENGTH_S + SPARE_S + 1)
    assert second.hold()
    assert not first.hold()


def test_a_lease_that_is_used_is_renewed(store: LocalStore) -> None:
    clock = Clock()
    first, second = lease(store, clock, "lab1"), lease(store, clock, "lab2")
    for _ in range(10):
        assert first.hold()
        clock.wait(LENGTH_S * 0.7)
        assert not second.hold()


def test_of_two_that_take_it_at_once_one_has_it(store: LocalStore) -> None:
    clock = Clock()
    second = lease(store, clock, "lab2")

    def meanwhile(seconds: float) -> None:
        # The other machine read the lease before ours was there, and puts its own now.
        store.delete(".pipefs/lease.json")
        assert second.hold()
        clock.wait(seconds)

    first = WriterLease(store, author="ann@lab1", writer="lab1", clock=clock, wait=meanwhile)
    assert not first.hold()
    assert first.holder == "ann@lab2"
    assert second.hold()


def test_commits_without_conditional_puts_go_by_the_lease(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipefs.lease.SETTLE_S", 0.0)
    logs = [
        CommitLog(store, author=f"ann@{name}", writer=name, conditional=lambda: False)
        for name in ("lab1", "lab2")
    ]
    change = [Change(op="mkdir", path="d")]
    assert logs[0].append(Position(), change, time_ns=1) is not None
    with pytest.raises(Busy, match="ann@lab1 writes this pipe"):
        logs[1].append(Position(), change, time_ns=2)
    assert logs[0].append(Position(), change, time_ns=3) is None
