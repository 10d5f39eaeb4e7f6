"""Ranges of contents below a mount: reserved, zeroed, found and copied, beside a plain file."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipefs import sparse
from pipefs.errors import NoSpace, WouldBlock
from pipefs.ranges import Ranges
from pipefs.staging import StagingArea
from pipefs.stores.local import LocalStore
from pipefs.stores.wrap import CountingStore
from tests.machines import Machine
from tests.mounted import small_disk

MIB = 1 << 20
PUNCH = sparse.PUNCH_HOLE | sparse.KEEP_SIZE
ZERO, ZERO_KEEP = sparse.ZERO_RANGE, sparse.ZERO_RANGE | sparse.KEEP_SIZE


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


@contextlib.contextmanager
def failing(code: int) -> Iterator[None]:
    with pytest.raises(OSError, match=re.escape(os.strerror(code))) as caught:
        yield
    assert caught.value.errno == code


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


# --- reserving and zeroing --------------------------------------------------------------------


def test_every_mode_does_to_a_partly_present_file_what_it_does_to_a_plain_one(
    tmp_path: Path, machine: Machine
) -> None:
    rng = random.Random(7)
    data = noise(5 * MIB + 777)
    for turn in range(6):
        path = f"f{turn}"
        machine.write(path, data)
        machine.sync()
        plain = os.open(tmp_path / path, os.O_RDWR | os.O_CREAT)
        os.write(plain, data)
        ranges = Ranges(machine.volume)
        with opened(machine, path) as ino:
            for _ in range(8):
                mode = rng.choice(sparse.MODES)
                offset, length = rng.randrange(6 * MIB), rng.choice((1, 4096, MIB, 3 * MIB + 5))
                ranges.allocate(ino, offset, length, mode, wait=True)
                sparse.allocate(plain, mode, offset, length)
                machine.volume.write(ino, offset // 2, memoryview(b"between"), wait=True)
                os.pwrite(plain, b"between", offset // 2)
                assert machine.inode(path).size == os.fstat(plain).st_size
            assert machine.read(path) == os.pread(plain, 1 << 24, 0)
        machine.sync()
        assert machine.read(path) == os.pread(plain, 1 << 24, 0)
        os.close(plain)
    assert machine.problems() == []


def test_zeroing_whole_blocks_fetches_none_and_parts_of_blocks_only_those(
    machine: Machine, store: CountingStore
) -> None:
    machine.write("f", noise(8 * MIB))
    machine.sync()
    machine.lose_cache()
    before = store.counts()["get"].bytes_in
    ranges = Ranges(machine.volume)
    with opened(machine, "f") as ino:
        ranges.allocate(ino, MIB, 4 * MIB, PUNCH, wait=False)
        assert store.counts()["get"].bytes_in == before
        with pytest.raises(WouldBlock):
            ranges.allocate(ino, 6 * MIB + 10, 10, ZERO, wait=False)
        ranges.allocate(ino, 6 * MIB + 10, 10, ZERO, wait=True)
        fetched = store.counts()["get"].bytes_in - before
    assert fetched == MIB
    expected = bytearray(noise(8 * MIB))
    expected[MIB : 5 * MIB] = bytes(4 * MIB)
    expected[6 * MIB + 10 : 6 * MIB + 20] = bytes(10)
    assert machine.read("f") == expected


def test_a_reservation_takes_space_on_the_staging_disk_and_extends_the_file(
    machine: Machine,
) -> None:
    ranges = Ranges(machine.volume)
    with opened(machine, "f") as ino:
        ranges.allocate(ino, 0, 4 * MIB, sparse.KEEP_SIZE, wait=True)
        assert machine.inode("f").size == 0
        ranges.allocate(ino, MIB, MIB, 0, wait=True)
        assert machine.inode("f").size == 2 * MIB
        assert machine.volume.files.staging.used_bytes() >= 4 * MIB
    machine.sync()
    assert machine.read("f") == bytes(2 * MIB)


@pytest.mark.parametrize(
    ("mode", "offset", "length", "code"),
    [
        (0x08, 0, 4096, errno.EOPNOTSUPP),
        (0x20, 0, 4096, errno.EOPNOTSUPP),
        (sparse.PUNCH_HOLE, 0, 4096, errno.EOPNOTSUPP),
        (0, 0, 0, errno.EINVAL),
        (0, -1, 10, errno.EINVAL),
        (0, 1 << 62, 4096, errno.EFBIG),
    ],
)
def test_what_cannot_be_allocated_is_refused_and_changes_nothing(
    machine: Machine, mode: int, offset: int, length: int, code: int
) -> None:
    machine.write("f", b"as it was")
    with opened(machine, "f") as ino:
        with failing(code):
            Ranges(machine.volume).allocate(ino, offset, length, mode, wait=True)
        assert machine.read("f") == b"as it was"


def test_the_staging_limit_holds_for_reservations(machine: Machine, tmp_path: Path) -> None:
    machine.volume.files.staging = StagingArea(
        machine.volume.files.staging.directory, limit_bytes=8 * MIB
    )
    with opened(machine, "f") as ino, pytest.raises(NoSpace):
        Ranges(machine.volume).allocate(ino, 0, 9 * MIB, 0, wait=True)


def test_a_disk_without_zero_range_gets_zeros_and_a_full_one_says_so(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk:
        fd = os.open(disk / "f", os.O_RDWR | os.O_CREAT)
        os.pwrite(fd, b"x" * MIB, 0)
        sparse.allocate(fd, ZERO_KEEP, 100, 2 * MIB)
        assert os.fstat(fd).st_size == MIB
        assert os.pread(fd, MIB, 0) == b"x" * 100 + bytes(MIB - 100)
        sparse.allocate(fd, ZERO, 100, MIB)
        assert os.fstat(fd).st_size == MIB + 100
        with failing(errno.ENOSPC):
            sparse.allocate(fd, 0, 0, 64 * MIB)
        os.close(fd)


# --- data and holes ---------------------------------------------------------------------------


def holes_of(seek: Callable[[int, int], int], size: int) -> list[tuple[int, int]]:
    """The map of a file as tar and cp make it: (start, end) of each range of data."""
    found, at = [], 0
    while at < size:
        try:
            start = seek(at, os.SEEK_DATA)
        except OSError as e:
            assert e.errno == errno.ENXIO
            break
        at = seek(start, os.SEEK_HOLE)
        found.append((start, at))
    return found


def test_data_and_holes_of_a_written_file_are_those_of_a_plain_one(
    machine: Machine, tmp_path: Path
) -> None:
    plain = os.open(tmp_path / "plain", os.O_RDWR | os.O_CREAT)
    ranges = Ranges(machine.volume)
    with opened(machine, "f") as ino:
        for offset in (0, 3 * MIB, 9 * MIB + 4096):
            machine.volume.write(ino, offset, memoryview(b"data" * 1024), wait=True)
            os.pwrite(plain, b"data" * 1024, offset)
        machine.truncate("f", 12 * MIB)
        os.ftruncate(plain, 12 * MIB)
        for offset in (0, 1, 4096, 5 * MIB, 9 * MIB + 4096, 12 * MIB - 1):
            for whence in (os.SEEK_DATA, os.SEEK_HOLE):
                try:
                    expected = os.lseek(plain, offset, whence)
                except OSError as e:
                    with failing(e.errno or 0):
                        ranges.seek(ino, 0, offset, whence)
                else:
                    assert ranges.seek(ino, 0, offset, whence) == expected
        for offset in (-1, 12 * MIB, 13 * MIB):
            with failing(errno.ENXIO):
                ranges.seek(ino, 0, offset, os.SEEK_DATA)
    os.close(plain)


def test_blocks_that_are_only_in_the_store_are_data(machine: Machine) -> None:
    machine.write("f", noise(4 * MIB))
    machine.sync()
    machine.lose_cache()
    ranges = Ranges(machine.volume)
    with opened(machine, "f") as ino:
        ranges.allocate(ino, MIB, MIB, PUNCH, wait=True)
        machine.volume.write(ino, 3 * MIB, memoryview(noise(MIB)), wait=True)
        machine.truncate("f", 6 * MIB)
        found = holes_of(lambda at, whence: ranges.seek(ino, 0, at, whence), 6 * MIB)
    assert found == [(0, MIB), (2 * MIB, 4 * MIB)]


def test_zeros_of_a_version_are_holes_where_the_cache_knows_them_and_data_where_not(
    machine: Machine,
) -> None:
    data = noise(MIB) + bytes(2 * MIB) + noise(MIB) + bytes(500)
    machine.write("f", data)
    machine.sync()
    ranges = Ranges(machine.volume)
    node = machine.inode("f")
    assert machine.volume.files.get(node.ino) is None

    def seek(at: int, whence: int) -> int:
        return ranges.seek(node.ino, node.epoch, at, whence)

    assert holes_of(seek, node.size) == [(0, MIB), (3 * MIB, 4 * MIB)]
    machine.lose_cache()
    ranges = Ranges(machine.volume)
    assert holes_of(seek, node.size) == [(0, node.size)]
    with failing(errno.ENXIO):
        seek(node.size, os.SEEK_HOLE)


def test_a_file_of_a_tebibyte_takes_no_space_and_has_one_hole(machine: Machine) -> None:
    ranges = Ranges(machine.volume)
    with opened(machine, "f") as ino:
        machine.truncate("f", 1 << 40)
        machine.volume.write(ino, 1 << 39, memoryview(b"middle"), wait=True)
        found = holes_of(lambda at, whence: ranges.seek(ino, 0, at, whence), 1 << 40)
        assert [(start, end - start < MIB) for start, end in found] == [(1 << 39, True)]
        machine.truncate("f", 10)
    assert machine.volume.files.staging.used_bytes() < MIB
