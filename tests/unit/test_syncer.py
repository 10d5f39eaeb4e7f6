"""The thread that follows the log, and who asks it to do so now."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipefs.conflicts import Effects
from pipefs.errors import StoreUnavailable
from pipefs.stores.local import LocalStore
from pipefs.stores.wrap import FaultStore
from pipefsd.syncer import Health, Syncer
from tests.machines import Machine


@pytest.fixture
def store(tmp_path: Path) -> FaultStore:
    return FaultStore(LocalStore(tmp_path / "store"))


@pytest.fixture
def here(tmp_path: Path, store: FaultStore) -> Iterator[Machine]:
    machine = Machine(tmp_path / "here", store, name="here")
    machine.reconcile()
    yield machine
    machine.close()


@pytest.fixture
def there(tmp_path: Path, store: FaultStore) -> Iterator[Machine]:
    machine = Machine(tmp_path / "there", store, name="there")
    yield machine
    machine.close()


def syncer_of(machine: Machine, on_effects: Callable[[Effects], None]) -> Syncer:
    """Not started: each step is a call."""
    return Syncer(
        machine.volume,
        machine.follower,
        Health(),
        on_effects=on_effects,
        on_new_log=lambda: None,
        refresh_interval_s=3600,
        may_write=lambda: True,
    )


def test_a_refresh_returns_when_the_kernel_knows_what_another_thread_found(
    here: Machine, there: Machine
) -> None:
    """Who published something and asks for it to show must not read what was there before."""
    began, go_on = threading.Event(), threading.Event()
    told: list[Effects] = []

    def on_effects(effects: Effects) -> None:
        if effects.entries:
            began.set()
            assert go_on.wait(30)
            told.append(effects)

    syncer = syncer_of(here, on_effects)
    there.write("a", b"new")
    there.sync()
    step = threading.Thread(target=syncer.step)
    step.start()
    assert began.wait(30)
    done = threading.Event()

    def refresh() -> None:
        syncer.refresh(full=False)
        done.set()

    asking = threading.Thread(target=refresh)
    asking.start()
    assert not done.wait(0.1)
    go_on.set()
    assert done.wait(30)
    assert len(told) == 1 and here.read("a") == b"new"
    step.join()
    asking.join()


def test_what_was_followed_is_told_although_the_announcement_failed(
    here: Machine, there: Machine, store: FaultStore
) -> None:
    told: set[bytes] = set()

    def on_effects(effects: Effects) -> None:
        told.update(name for _, name in effects.entries)

    syncer = syncer_of(here, on_effects)
    here.write("mine", b"m")
    here.upload_all()
    there.write("theirs", b"t")
    there.sync()
    store.fail("put", key=".pipefs/commits/*", times=100)
    with pytest.raises(StoreUnavailable):
        syncer.step()
    assert told == {b"theirs"}
