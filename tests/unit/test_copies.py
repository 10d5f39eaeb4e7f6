"""Copies below a mount: what moves bytes, what does not, and what they look like afterwards."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipefs.errors import StoreUnavailable, WouldBlock
from pipefs.ranges import COPY_LIMIT_BYTES, Place, Ranges
from pipefs.stores.local import LocalStore
from pipefs.stores.wrap import CountingStore, FaultStore
from tests.machines import Machine, UnversionedStore, sync_all

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


def test_a_copy_survives_kill_9_before_and_after_it_is_complete(machine: Machine) -> None:
    machine.write("f", noise(3 * MIB))
    machine.sync()
    clone(machine, "f", "g")
    machine.kill()
    assert machine.read("g") == noise(3 * MIB)
    # The mark is there, the size is not: an empty file, which grows by zeros and not by bytes.
    clone(machine, "f", "h")
    os.truncate(machine.volume.files.staging.path(machine.ino("h")), 0)
    machine.kill()
    assert machine.inode("h").size == 0
    machine.truncate("h", 2 * MIB)
    assert machine.read("h") == bytes(2 * MIB)
    machine.sync()
    assert (machine.read("g"), machine.read("h")) == (noise(3 * MIB), bytes(2 * MIB))
    assert machine.problems() == []


def test_a_copy_that_is_asked_for_again_is_made_once(machine: Machine) -> None:
    machine.write("f", noise(3 * MIB + 1))
    machine.sync()
    ranges = Ranges(machine.volume)
    source = place(machine, "f")
    with opened(machine, "g") as ino:
        for _ in range(2):
            assert ranges.copy(source, ino, 0, 1 << 40, wait=True) == 3 * MIB + 1
        machine.volume.write(ino, 5, memoryview(b"mine"), wait=True)
        assert ranges.copy(source, ino, 0, 1 << 40, wait=True) == 3 * MIB + 1
    assert machine.read("g") == noise(3 * MIB + 1)


def test_a_long_copy_in_several_requests_is_still_one_copy_in_the_store(
    machine: Machine, store: CountingStore
) -> None:
    machine.write("f", noise(5 * MIB + 9))
    machine.sync()
    ranges = Ranges(machine.volume)
    with opened(machine, "g") as ino:
        for offset in range(0, 6 * MIB, 1_500_000):
            ranges.copy(place(machine, "f", offset), ino, offset, 1_500_000, wait=True)
    machine.sync()
    assert (machine.read("g"), copies(store)) == (noise(5 * MIB + 9), 1)


def test_a_copy_that_goes_on_from_another_file_has_the_bytes_of_both(machine: Machine) -> None:
    machine.write("f", noise(4 * MIB, 1))
    machine.write("g", noise(4 * MIB, 2))
    machine.sync()
    ranges = Ranges(machine.volume)
    with opened(machine, "h") as ino:
        ranges.copy(place(machine, "f"), ino, 0, 2 * MIB, wait=True)
        ranges.copy(place(machine, "g", 2 * MIB), ino, 2 * MIB, 2 * MIB, wait=True)
    wanted = noise(4 * MIB, 1)[: 2 * MIB] + noise(4 * MIB, 2)[2 * MIB :]
    assert machine.read("h") == wanted
    machine.sync()
    assert machine.read("h") == wanted


def test_blocks_that_a_copy_covers_are_not_fetched_over_it(machine: Machine) -> None:
    machine.write("f", noise(3 * MIB, 1))
    machine.sync()
    machine.write("local", noise(MIB, 2))
    with opened(machine, "f") as ino:
        Ranges(machine.volume).copy(place(machine, "local"), ino, MIB, MIB, wait=True)
    wanted = noise(3 * MIB, 1)[:MIB] + noise(MIB, 2) + noise(3 * MIB, 1)[2 * MIB :]
    assert machine.read("f", MIB, MIB) == noise(MIB, 2)
    machine.sync()
    assert machine.read("f") == wanted


def test_the_beginning_of_a_file_is_copied_as_such(machine: Machine, store: CountingStore) -> None:
    machine.write("f", noise(4 * MIB))
    machine.sync()
    with opened(machine, "g") as ino:
        Ranges(machine.volume).copy(place(machine, "f"), ino, 0, 2 * MIB + 77, wait=True)
    assert machine.read("g") == noise(4 * MIB)[: 2 * MIB + 77]
    machine.sync()
    assert (machine.read("g"), copies(store)) == (noise(4 * MIB)[: 2 * MIB + 77], 0)


def test_a_copy_whose_source_version_was_deleted_goes_up_from_the_cache(
    machine: Machine, store: CountingStore
) -> None:
    machine.write("f", noise(3 * MIB))
    machine.sync()
    node = machine.inode("f")
    clone(machine, "f", "g")
    assert node.content is not None and node.content.version_id is not None
    machine.rm("f")
    machine.delete_all()
    store.delete_version("f", node.content.version_id)
    machine.sync()
    assert (machine.read("g"), store.get("g", None, 0, 1 << 24)) == (noise(3 * MIB), noise(3 * MIB))


def test_a_copy_in_the_store_whose_answer_is_lost_is_no_conflict(tmp_path: Path) -> None:
    faults = FaultStore(LocalStore(tmp_path / "store"))
    machine = Machine(tmp_path / "a", faults)
    machine.write("f", noise(3 * MIB))
    machine.sync()
    clone(machine, "f", "g")
    faults.fail("copy", lambda: StoreUnavailable("no answer"), lands=True)
    with pytest.raises(StoreUnavailable):
        machine.upload(machine.ino("g"))
    machine.kill()
    machine.sync()
    assert machine.tree() == {"f": noise(3 * MIB), "g": noise(3 * MIB)}
    assert machine.problems() == []
    machine.close()


def test_a_copy_of_a_name_that_somebody_else_takes_meanwhile_keeps_both(
    tmp_path: Path, store: CountingStore
) -> None:
    one, two = Machine(tmp_path / "1", store), Machine(tmp_path / "2", store, name="b")
    one.write("f", noise(3 * MIB))
    sync_all(one, two)
    two.write("g", b"theirs")
    two.sync()
    clone(one, "f", "g")
    sync_all(one, two)
    assert sorted(map(len, one.contents())) == [6, 3 * MIB, 3 * MIB]
    assert one.tree() == two.tree()
    one.close()
    two.close()


def test_stores_without_versions_get_the_bytes(tmp_path: Path) -> None:
    counting = CountingStore(UnversionedStore(LocalStore(tmp_path / "store")))
    machine = Machine(tmp_path / "a", counting)
    machine.write("f", noise(3 * MIB))
    machine.sync()
    clone(machine, "f", "g")
    machine.write("f", b"other")
    machine.upload(machine.ino("f"))
    machine.lose_cache()
    assert machine.read("g") == noise(3 * MIB)
    machine.sync()
    assert (machine.read("g"), machine.read("f")) == (noise(3 * MIB), b"other")
    assert copies(counting) == 0
    machine.close()


def test_any_range_is_copied_as_between_plain_files(tmp_path: Path, machine: Machine) -> None:
    rng = random.Random(11)
    ranges = Ranges(machine.volume)
    machine.write("stored", noise(3 * MIB + 5, 1))
    machine.write("below", noise(4 * MIB, 2))
    machine.sync()
    machine.write("local", noise(2 * MIB + 9, 3))
    plain = {}
    for name in ("stored", "below", "local"):
        plain[name] = os.open(tmp_path / name, os.O_RDWR | os.O_CREAT)
        os.write(plain[name], machine.read(name))
    for _ in range(40):
        origin, dest = rng.choice(("stored", "below", "local")), rng.choice(("below", "local"))
        at, to = rng.randrange(4 * MIB), rng.randrange(3 * MIB)
        length = rng.choice((10, 5000, MIB, MIB + 1))
        if origin == dest and abs(at - to) < length:
            continue
        with opened(machine, dest) as ino:
            copied = ranges.copy(place(machine, origin, at), ino, to, length, wait=True)
        size = os.fstat(plain[origin]).st_size
        assert copied == max(0, min(length, size - at))
        os.pwrite(plain[dest], os.pread(plain[origin], length, at), to)
        assert machine.inode(dest).size == os.fstat(plain[dest]).st_size
    for name, fd in plain.items():
        assert machine.read(name) == os.pread(fd, 1 << 24, 0)
        os.close(fd)


def test_overlapping_ranges_of_one_file_are_refused_and_others_copied(machine: Machine) -> None:
    machine.write("f", noise(MIB))
    ranges = Ranges(machine.volume)
    with opened(machine, "f") as ino:
        with pytest.raises(OSError, match="Invalid argument"):
            ranges.copy(place(machine, "f"), ino, 99, 100, wait=True)
        assert ranges.copy(place(machine, "f"), ino, 100, 100, wait=True) == 100
        assert ranges.copy(place(machine, "f", MIB), ino, 0, 100, wait=True) == 0
    assert machine.read("f") == noise(MIB)[:100] * 2 + noise(MIB)[200:]


def test_one_request_moves_a_bounded_number_of_bytes_and_none_on_a_thread_that_must_not_wait(
    machine: Machine,
) -> None:
    size = COPY_LIMIT_BYTES + MIB
    machine.write("big", b"")
    machine.truncate("big", size)
    ranges = Ranges(machine.volume)
    with opened(machine, "g") as ino:
        with pytest.raises(WouldBlock):
            ranges.copy(place(machine, "big"), ino, 0, size, wait=False)
        assert ranges.copy(place(machine, "big"), ino, 0, size, wait=True) == COPY_LIMIT_BYTES


def test_a_handle_on_an_older_content_copies_what_it_reads(
    tmp_path: Path, store: CountingStore
) -> None:
    one, two = Machine(tmp_path / "1", store), Machine(tmp_path / "2", store, name="b")
    one.write("f", noise(2 * MIB, 1))
    sync_all(one, two)
    old = place(one, "f")
    two.write("f", noise(3 * MIB, 2))
    sync_all(one, two)
    ranges = Ranges(one.volume)
    assert ranges.seek(old.ino, old.epoch, 0, os.SEEK_HOLE) == 2 * MIB
    with opened(one, "g") as ino:
        assert ranges.copy(old, ino, 0, 1 << 40, wait=True) == 2 * MIB
    assert one.read("g") == noise(2 * MIB, 1)
    one.close()
    two.close()
