"""Puts and copies that landed in the store though nobody was told: a process died, an answer was
lost. Their objects never become somebody else's, and none is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipefs.errors import StoreUnavailable
from pipefs.stores.local import LocalStore
from pipefs.stores.wrap import FaultStore
from tests.machines import Machine, objects


@pytest.fixture
def store(tmp_path: Path) -> FaultStore:
    return FaultStore(LocalStore(tmp_path / "store"))


@pytest.fixture
def machine(tmp_path: Path, store: FaultStore) -> Machine:
    return Machine(tmp_path / "lab1", store)


def lose_the_answer(machine: Machine, store: FaultStore, path: str, data: bytes) -> None:
    """The upload of a new file lands; this machine does not learn of it."""
    machine.write(path, data)
    store.fail("put", key=path, lands=True)
    with pytest.raises(StoreUnavailable):
        machine.upload(machine.ino(path))
    assert objects(store)[path] == data


def rest(machine: Machine) -> None:
    machine.reconcile()
    machine.sync()
    machine.reconcile()
    machine.sync()
    assert not machine.volume.conflicts()
    assert not list(machine.problems())


def test_the_next_try_adopts_what_landed(machine: Machine, store: FaultStore) -> None:
    lose_the_answer(machine, store, "a", b"one")
    rest(machine)
    assert machine.tree() == objects(store) == {"a": b"one"}


def test_a_file_removed_meanwhile_leaves_no_object(machine: Machine, store: FaultStore) -> None:
    lose_the_answer(machine, store, "a", b"one")
    machine.rm("a")
    rest(machine)
    assert machine.tree() == objects(store) == {}


def test_a_file_renamed_meanwhile_is_at_its_new_key_only(
    machine: Machine, store: FaultStore
) -> None:
    lose_the_answer(machine, store, "a", b"one")
    machine.mv("a", "b")
    rest(machine)
    assert machine.tree() == objects(store) == {"b": b"one"}


def test_a_new_file_at_the_key_is_no_conflict_with_oneself(
    machine: Machine, store: FaultStore
) -> None:
    lose_the_answer(machine, store, "a", b"one")
    machine.mv("a", "b")
    machine.write("a", b"two")
    rest(machine)
    assert machine.tree() == objects(store) == {"a": b"two", "b": b"one"}


def test_a_file_removed_and_made_again_is_no_conflict(machine: Machine, store: FaultStore) -> None:
    lose_the_answer(machine, store, "a", b"one")
    machine.rm("a")
    machine.write("a", b"two")
    rest(machine)
    assert machine.tree() == objects(store) == {"a": b"two"}


def test_a_copy_that_landed_is_not_made_again(machine: Machine, store: FaultStore) -> None:
    machine.write("a", b"one")
    machine.sync()
    machine.mv("a", "b")
    store.fail("copy", lands=True)
    with pytest.raises(StoreUnavailable):
        machine.relocate_all()
    rest(machine)
    assert machine.tree() == objects(store) == {"b": b"one"}


def test_a_copy_whose_file_moved_on_leaves_no_object(machine: Machine, store: FaultStore) -> None:
    machine.write("a", b"one")
    machine.sync()
    machine.mv("a", "b")
    store.fail("copy", lands=True)
    with pytest.raises(StoreUnavailable):
        machine.relocate_all()
    machine.mv("b", "c")
    rest(machine)
    assert machine.tree() == objects(store) == {"c": b"one"}
