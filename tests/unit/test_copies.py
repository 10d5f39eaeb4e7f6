"""Copies below a mount: what moves bytes, what does not, and what they look like afterwards."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipefs.ranges import Place, Ranges
from pipefs.stores.local import LocalStore
from pipefs.stores.wrap import CountingStore
from tests.machines import Machine, sync_all

MIB = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> CountingStore:
    return CountingStore(LocalStore(tmp_path / "store"))


@pytest.fixture
def machine(tmp_path: Path, store: CountingStore) -> Iterator[Machine]:
    made = Machine(tmp_path / "a", store)
    yield made
    made.close()


@contextlib.contextmanager
def opened(machine: Machine, path: str, *, truncate: bool = False) -> Iterator[int]:
    ino, handle = machine.open(path, truncate=truncate)
    try:
        yield ino
    finally:
        machine.volume.close_write(ino, handle)


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def place(machine: Machine, path: str, offset: int = 0) -> Place:
    node = machine.inode(path)
    return Place(node.ino, node.epoch, offset, 1)


def clone(machine: Machine, old: str, new: str) -> int:
    """What `cp` does."""
    source = place(machine, old)
    with opened(machine, new) as ino:
        size = machine.inode(old).size
        return Ranges(machine.volume).copy(source, ino, 0, size, wait=True)


def sent(store: CountingStore) -> int:
    """Bytes of files that went up; commits are small."""
    return sum(c.bytes_out for name, c in store.counts().items() if name == "put")


def copies(store: CountingStore) -> int:
    counts = store.counts().get("copy")
    return counts.requests if counts is not None else 0


def test_a_copy_of_a_file_in_the_store_moves_no_bytes_now_nor_when_it_goes_up(
    machine: Machine, store: CountingStore
) -> None:
    data = noise(9 * MIB + 5)
    machine.write("f", data)
    machine.sync()
    machine.lose_cache()
    before, fetched = sent(store), store.counts()["get"].bytes_in
    assert clone(machine, "f", "g") == len(data)
    machine.chmod("g", 0o600)
    assert machine.inode("g").size == len(data)
    assert machine.volume.files.staging.used_bytes() < MIB
    machine.sync()
    assert (copies(store), store.counts()["get"].bytes_in - fetched < MIB) == (1, True)
    assert sent(store) - before < MIB
    assert machine.read("g") == data
    assert store.head("g").metadata["mode"] == str(0o100600)
    assert machine.problems() == []


def test_a_copy_of_a_copy_that_is_not_up_yet_moves_no_bytes_either(
    machine: Machine, store: CountingStore
) -> None:
    machine.write("f", noise(2 * MIB))
    machine.sync()
    before = sent(store)
    clone(machine, "f", "g")
    assert machine.read("g") == noise(2 * MIB)
    clone(machine, "g", "h")
    machine.sync()
    assert (machine.read("h"), copies(store), sent(store) - before < MIB) == (
        noise(2 * MIB),
        2,
        True,
    )


def test_what_is_written_into_a_copy_lies_over_the_sources_bytes(
    tmp_path: Path, store: CountingStore
) -> None:
    one, two = Machine(tmp_path / "1", store), Machine(tmp_path / "2", store, name="b")
    data = noise(5 * MIB + 9)
    one.write("f", data)
    sync_all(one, two)
    one.lose_cache()
    clone(one, "f", "g")
    one.write("g", b"changed", offset=2 * MIB + 3)
    one.write("g", b"end", offset=6 * MIB)
    expected = bytearray(data) + bytes(6 * MIB - len(data)) + b"end"
    expected[2 * MIB + 3 : 2 * MIB + 10] = b"changed"
    assert one.read("g") == expected
    sync_all(one, two)
    assert (one.read("g"), two.read("g"), two.read("f")) == (expected, expected, data)
    one.close()
    two.close()


@pytest.mark.parametrize("fate", ["overwritten", "removed", "renamed"])
def test_a_copy_keeps_its_bytes_whatever_becomes_of_the_source(
    tmp_path: Path, store: CountingStore, fate: str
) -> None:
    one, two = Machine(tmp_path / "1", store), Machine(tmp_path / "2", store, name="b")
    one.write("f", noise(3 * MIB))
    sync_all(one, two)
    one.lose_cache()
    clone(one, "f", "g")
    if fate == "overwritten":
        two.write("f", b"new")
    elif fate == "removed":
        two.rm("f")
    else:
        two.mv("f", "elsewhere")
    two.sync()
    one.follow()
    assert one.read("g") == noise(3 * MIB)
    one.write("h", b"")
    sync_all(one, two)
    assert (one.read("g"), two.read("g")) == (noise(3 * MIB), noise(3 * MIB))
    assert one.problems() == two.problems() == []
    one.close()
    two.close()
