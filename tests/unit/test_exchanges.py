"""Files that change places again and again while their objects follow behind."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipefs.stores.base import Store
from pipefs.stores.local import LocalStore
from pipefs.stores.wrap import FaultStore
from tests.machines import Machine, UnversionedStore, objects, sync_all
from tests.threaded import running

SEEDS = range(12)
NAMES = ["x", "y", "z"]


@pytest.fixture(params=["versions", "none"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store = LocalStore(tmp_path / "store")
    if request.param == "none":
        made = UnversionedStore(made)
    yield made
    made.close()


@pytest.fixture
def machine(store: Store, tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path / "here", store)
    for name in NAMES:
        made.write(name, name.encode())
    made.sync()
    yield made
    made.close()


@pytest.mark.parametrize("first", ["x", "y"])
def test_files_exchanged_back_keep_their_bytes(machine: Machine, first: str) -> None:
    """The object of one has followed, that of the other has not."""
    machine.swap("x", "y")
    for _ in range(2):
        machine.relocate(machine.ino(first))
    machine.swap("x", "y")
    machine.sync()
    machine.reconcile()
    machine.sync()
    whole = {name: name.encode() for name in NAMES}
    assert machine.tree() == whole
    assert objects(machine.store) == whole
    assert not machine.volume.conflicts()


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_lies_between_the_exchanges_every_name_has_its_bytes(
    machine: Machine, store: Store, tmp_path: Path, seed: int
) -> None:
    draw = random.Random(seed)
    expected = {name: name.encode() for name in NAMES}

    def exchange() -> None:
        one, two = draw.sample(NAMES, 2)
        machine.swap(one, two)
        expected[one], expected[two] = expected[two], expected[one]

    def over_and_back() -> None:
        one = draw.choice(NAMES)
        machine.mv(one, "aside")
        machine.relocate_all()
        machine.mv("aside", one)

    def save() -> None:
        name = draw.choice(NAMES)
        expected[name] = b"%d of %d" % (draw.getrandbits(30), seed)
        machine.write("draft", expected[name])
        machine.mv("draft", name)

    steps = [
        exchange,
        exchange,
        exchange,
        over_and_back,
        save,
        lambda: machine.relocate(machine.ino(draw.choice(NAMES))),
        lambda: machine.upload(machine.ino(draw.choice(NAMES))),
        machine.relocate_all,
        machine.announce,
        machine.follow,
        machine.delete_all,
        machine.reconcile,
    ]
    for _ in range(30):
        draw.choice(steps)()
        assert machine.tree() == expected
    other = Machine(tmp_path / "there", store, name="b")
    try:
        sync_all(machine, other)
        assert machine.tree() == other.tree() == objects(store) == expected
        assert not machine.volume.conflicts()
    finally:
        other.close()


def test_beside_uploads_and_snapshots_nothing_is_taken_for_somebody_elses(tmp_path: Path) -> None:
    """The objects of a thousand exchanges are under way in several threads at once."""
    store = FaultStore(LocalStore(tmp_path / "store"))
    with running(tmp_path / "here", store) as daemon:
        machine = daemon.machine
        for name in NAMES:
            machine.write(name, name.encode())
        daemon.flush()
        bytes_of = {machine.ino(name): name.encode() for name in NAMES}
        draw = random.Random(1)
        for n in range(1000):
            machine.swap(*draw.sample(NAMES, 2))
            if n % 10 == 0:
                daemon.syncer.poke()
                time.sleep(0.01)
            assert {machine.ino(n): machine.read(n) for n in NAMES} == bytes_of
        daemon.flush()
        assert machine.tree() == objects(store)
        assert {machine.ino(n): machine.read(n) for n in NAMES} == bytes_of
