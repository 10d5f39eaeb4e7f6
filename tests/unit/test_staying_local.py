"""Names that never go up, and paths that no key can carry: neither keeps the rest from rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipefs.follow import Follower
from pipefs.policy import Policy
from pipefs.stores.local import LocalStore
from tests.machines import Machine, objects


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "lab1", LocalStore(tmp_path / "store"))


def keeping_local(machine: Machine, *patterns: str) -> None:
    policy = Policy(0.0, 0.0, patterns)
    machine.transfers.policy = policy
    machine.follower = Follower(
        machine.db,
        machine.store,
        machine.volume.inos,
        author="ann@lab1",
        writable=lambda: True,
        policy=policy,
    )


def test_local_only_covers_directories_and_links(machine: Machine, tmp_path: Path) -> None:
    keeping_local(machine, "*.tmp", "cache")
    machine.write("data.csv", b"1")
    machine.mkdir("cache")
    machine.write("cache/block", b"2")
    machine.symlink("link.tmp", "data.csv")

    machine.upload_all()
    machine.follower.announce()

    other = Machine(tmp_path / "lab2", machine.store, name="b")
    other.follow()
    assert other.tree() == objects(machine.store) == {"data.csv": b"1"}
    assert "cache/block" in machine.tree()
    with machine.db.view() as v:
        assert v.count("ready") == 0


def test_a_local_only_link_that_is_renamed_out_of_the_pattern_goes_up(
    machine: Machine, tmp_path: Path
) -> None:
    keeping_local(machine, "*.tmp")
    machine.symlink("link.tmp", "data.csv")
    machine.follower.announce()
    machine.mv("link.tmp", "link")
    machine.follower.announce()

    other = Machine(tmp_path / "lab2", machine.store, name="b")
    other.follow()
    assert other.tree() == {"link": "data.csv"}


def test_a_file_with_one_name_that_goes_up_goes_up(machine: Machine, tmp_path: Path) -> None:
    keeping_local(machine, "*.tmp")
    machine.write("a.tmp", b"1")
    machine.link("a.tmp", "a")
    machine.write("b.tmp", b"2")
    machine.link("b.tmp", "b2.tmp")
    machine.write("c", b"3")
    machine.link("c", "c.tmp")

    machine.upload_all()
    machine.follower.announce()

    other = Machine(tmp_path / "lab2", machine.store, name="b")
    other.follow()
    assert other.tree() == {"a.tmp": b"1", "a": b"1", "c": b"3"}
    with machine.db.view() as v:
        assert v.count("ready") == 0
    assert machine.volume.outbox(machine.transfers.policy.stays_local).waiting == 0


def test_a_file_whose_key_a_renamed_directory_makes_too_long_gets_a_shortened_key(
    machine: Machine, tmp_path: Path
) -> None:
    deep = "/".join(["x" * 200] * 4)
    machine.mkdir("d")
    for depth in range(1, 5):
        machine.mkdir("d/" + "/".join(["x" * 200] * depth))
    machine.write(f"d/{deep}/file", b"one")
    machine.sync()
    machine.mv("d", "e" * 250)
    machine.sync()
    ((key, data),) = objects(machine.store).items()
    assert data == b"one" and key.startswith("e" * 250 + "/" + "x" * 200) and len(key) <= 1024

    machine.write("e" * 250 + f"/{deep}/file", b"two")
    machine.sync()

    assert objects(machine.store) == {key: b"two"}
    other = Machine(tmp_path / "lab2", machine.store, name="b")
    other.follow()
    assert other.read("e" * 250 + f"/{deep}/file") == b"two"


def test_a_listing_tells_how_much_the_pipe_holds(machine: Machine) -> None:
    machine.write("a", b"x" * 1000)
    machine.write("b", b"y" * 24)
    machine.sync()
    machine.reconcile()
    assert machine.volume.totals()[0] == 1024
