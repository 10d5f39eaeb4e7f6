"""Waiting for what was to go up at one moment comes to an end, whatever programs do meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipefs.pending import Standing
from pipefs.stores.local import LocalStore
from tests.machines import Machine, objects


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    store = LocalStore(tmp_path / "store")
    yield store
    store.close()


@pytest.fixture
def machine(tmp_path: Path, store: LocalStore) -> Iterator[Machine]:
    machine = Machine(tmp_path / "here", store)
    yield machine
    machine.close()


def standing(machine: Machine) -> Standing:
    return machine.volume.standing(lambda _names: False)


def bring_up(machine: Machine) -> None:
    """One round of all that the uploader does."""
    machine.upload_all()
    machine.relocate_all()
    machine.delete_all()


def test_what_changes_later_is_not_waited_for(machine: Machine) -> None:
    machine.write("a", b"first")
    found = standing(machine)
    machine.write("b", b"later")
    assert found.left() == (1, 5)
    machine.upload(machine.ino("a"))
    machine.write("a", b"and again")
    assert found.left() == (0, 0)
    assert standing(machine).left() == (2, 14)


def test_a_file_that_is_changed_again_counts_until_a_version_of_it_is_up(machine: Machine) -> None:
    machine.write("a", b"first")
    found = standing(machine)
    machine.write("a", b"second")
    assert found.left() == (1, 6)
    machine.upload(machine.ino("a"))
    assert found.left() == (0, 0)


@pytest.mark.parametrize("end", ["removed", "open"])
def test_what_is_removed_or_opened_is_not_waited_for(machine: Machine, end: str) -> None:
    machine.write("a", b"first")
    found = standing(machine)
    if end == "removed":
        machine.rm("a")
    else:
        machine.open("a")
    assert found.left() == (0, 0)


def test_a_renamed_directory_is_waited_for_with_all_below_it(
    machine: Machine, store: LocalStore
) -> None:
    machine.mkdir("d")
    machine.mkdir("d/e")
    machine.write("d/e/a", b"deep")
    machine.sync()
    machine.mv("d", "moved")
    found = standing(machine)
    rounds = 0
    while found.left() != (0, 0):
        bring_up(machine)
        rounds += 1
        assert rounds < 10
    assert objects(store) == {"moved/e/a": b"deep"}


def test_a_rename_that_comes_later_is_not_waited_for(machine: Machine) -> None:
    for name in ("a", "b"):
        machine.write(name, name.encode())
    machine.sync()
    machine.mv("a", "a2")
    found = standing(machine)
    began = time.time_ns()
    while machine.volume.now_ns() <= began:
        time.sleep(0.001)  # its clock goes on in steps of some ms
    machine.mv("b", "b2")
    assert found.left() == (1, 0)
    machine.relocate(machine.ino("a2"))
    assert found.left() == (1, 0)  # the object at its old key is to go
    machine.mv("b2", "b3")
    machine.delete_all()
    assert found.left() == (0, 0)
    assert standing(machine).left() == (1, 0)


def test_a_log_that_is_rotated_and_stays_open_is_not_waited_for(
    machine: Machine, store: LocalStore
) -> None:
    machine.write("log", b"old lines")
    machine.sync()
    machine.mv("log", "log.1")
    machine.open("log")
    found = standing(machine)
    machine.relocate_all()
    machine.delete_all()
    assert found.left() == (0, 0)
    assert objects(store)["log.1"] == b"old lines"
