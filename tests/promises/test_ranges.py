"""Ranges of files: reserved, zeroed, searched for holes, and copied."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

from tests.promises.promised import (
    NOBODY,
    Twin,
    acting_as,
    c_function,
    fallocate,
    mode_of,
    on_kernel,
    opened,
    promise,
    tried,
)

KIB, MIB = 1 << 10, 1 << 20
KEEP, PUNCH, COLLAPSE, ZERO, INSERT = 0x01, 0x02, 0x08, 0x10, 0x20
RDWR = os.O_RDWR | os.O_CREAT

_lseek = c_function("lseek", ctypes.c_int, ctypes.c_long, ctypes.c_int, result=ctypes.c_long)


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def in_file(path: Path, data: bytes, act: Callable[[int], object]) -> tuple[object, int, bytes]:
    """What `act` on a handle of a file with these bytes gives, the file's size, its bytes."""
    path.write_bytes(data)
    with opened(path, os.O_RDWR) as fd:
        return act(fd), os.fstat(fd).st_size, os.pread(fd, 64 * MIB, 0)


@promise(
    "fallocate",
    "`fallocate` reserves space on this machine's disk and lengthens the file to the end of "
    "the range, with `FALLOC_FL_KEEP_SIZE` not; bytes that are there stay, and new ones are "
    "zeros.",
)
def test_a_reserved_range_is_there_and_no_byte_changes(twin: Twin) -> None:
    data = noise(100 * KIB)
    for mode in (0, KEEP):
        for offset, length in ((0, 4096), (50_000, 300_000), (2 * MIB + 1, 77)):

            def act(folder: Path, m: int = mode, o: int = offset, n: int = length) -> object:
                return in_file(folder / "f", data, lambda fd: tried(fallocate, fd, m, o, n))

            twin.same(act)

    def taken(folder: Path) -> bool:
        with opened(folder / "g", RDWR) as fd:
            fallocate(fd, 0, 0, 8 * MIB)
            return os.fstat(fd).st_blocks * 512 >= 8 * MIB

    assert twin.same(taken)


@promise(
    "fallocate-zeros",
    "`FALLOC_FL_PUNCH_HOLE` and `FALLOC_FL_ZERO_RANGE` make a range read as zeros for every "
    "handle and mapping, and leave all other bytes as they are.",
)
def test_zeroed_ranges_are_zeros_and_the_rest_stays(twin: Twin) -> None:
    data = noise(3 * MIB + 1000)
    for mode in (PUNCH | KEEP, ZERO, ZERO | KEEP):
        for offset, length in (
            (0, 1),
            (4095, 4098),
            (MIB, MIB),
            (MIB - 7, 2 * MIB),
            (3 * MIB, MIB),
        ):

            def act(folder: Path, m: int = mode, o: int = offset, n: int = length) -> object:
                return in_file(folder / "f", data, lambda fd: tried(fallocate, fd, m, o, n))

            twin.same(act)


@promise(
    "fallocate-times",
    "A successful `fallocate` sets `mtime` and `ctime`, also one that changes no byte.",
)
def test_fallocate_sets_the_times(twin: Twin) -> None:
    def changed(folder: Path, mode: int) -> tuple[bool, bool]:
        path = folder / "f"
        path.write_bytes(noise(64 * KIB))
        os.utime(path, (1, 1))
        before = path.stat()
        time.sleep(0.02)
        with opened(path, os.O_RDWR) as fd:
            fallocate(fd, mode, 4096, 4096)
        after = path.stat()
        return after.st_mtime > before.st_mtime, after.st_ctime_ns > before.st_ctime_ns

    for mode in (0, KEEP, PUNCH | KEEP, ZERO):
        assert twin.same(lambda folder, m=mode: changed(folder, m)) == (True, True)


@promise(
    "fallocate-errors",
    "`fallocate` is `EINVAL` for an empty or negative range, `EFBIG` past what the disk can "
    "number, `EBADF` for a handle that may not write, and `EOPNOTSUPP` for modes that move "
    "bytes.",
)
def test_what_fallocate_refuses(twin: Twin) -> None:
    def outcomes(folder: Path) -> list[object]:
        path = folder / "f"
        path.write_bytes(noise(64 * KIB))
        with opened(path, os.O_RDWR) as fd, opened(path, os.O_RDONLY) as reader:
            return [
                tried(fallocate, fd, 0, 0, 0),
                tried(fallocate, fd, 0, -1, 10),
                tried(fallocate, fd, 0, 0, -10),
                tried(fallocate, fd, PUNCH, 0, 10),
                tried(fallocate, fd, 0, 1 << 62, 10),
                tried(fallocate, reader, 0, 0, 10),
                os.fstat(fd).st_size,
                path.read_bytes(),
            ]

    twin.same(outcomes)
    path = twin.ours / "g"
    with opened(path, RDWR) as fd:
        os.ftruncate(fd, 64 * KIB)
        for mode in (COLLAPSE, INSERT):
            assert tried(fallocate, fd, mode, 4096, 4096) == "EOPNOTSUPP"


@promise(
    "ranges-set-id",
    "`fallocate` and `copy_file_range` by who is not root take the set-id bits that a write takes.",
)
def test_set_id_bits_go_when_a_range_changes(twin: Twin) -> None:
    def bits(folder: Path) -> list[int]:
        path, source = folder / "f", folder / "s"
        source.write_bytes(noise(4096))
        found = []
        for uid in (0, NOBODY):
            for how in ("fallocate", "copy"):
                path.write_bytes(b"x")
                path.chmod(0o6777)
                with acting_as(uid, uid), opened(path, os.O_RDWR) as fd, opened(source, 0) as src:
                    if how == "copy":
                        os.copy_file_range(src, fd, 100, 0, 0)
                    else:
                        fallocate(fd, 0, 0, 4096)
                found.append(mode_of(path))
        return found

    assert twin.same(bits) == [0o6777, 0o6777, 0o777, 0o777]


@promise(
    "seek-data",
    "`SEEK_DATA` and `SEEK_HOLE` find the holes of a file that is not in the store yet as "
    "they were made, never call data a hole, and are `ENXIO` from the end on.",
)
@on_kernel
def test_data_and_holes_are_found(twin: Twin) -> None:
    def outcomes(folder: Path) -> list[object]:
        with opened(folder / "f", RDWR) as fd:
            for offset in (0, 3 * MIB, 9 * MIB + 64 * KIB):
                os.pwrite(fd, noise(128 * KIB), offset)
            os.ftruncate(fd, 12 * MIB)
            fallocate(fd, PUNCH | KEEP, 3 * MIB, 64 * KIB)
            asked = (-1, 0, 1, 128 * KIB, MIB, 3 * MIB, 9 * MIB, 10 * MIB, 12 * MIB - 1, 12 * MIB)
            return [
                tried(_lseek, fd, offset, whence)
                for offset in (*asked, 13 * MIB)
                for whence in (os.SEEK_DATA, os.SEEK_HOLE)
            ]

    twin.same(outcomes)


@promise(
    "copy-file-range",
    "`copy_file_range` copies between files of one mount as `read` and `write` would, perhaps "
    "fewer bytes than asked, and is 0 from the end of its source on.",
)
def test_copied_ranges_are_equal(twin: Twin) -> None:
    data, other = noise(3 * MIB + 99, 1), noise(2 * MIB, 2)

    def copy(folder: Path, at: int, to: int, length: int) -> tuple[bytes, bytes]:
        (folder / "a").write_bytes(data)
        (folder / "b").write_bytes(other)
        with opened(folder / "a", os.O_RDONLY) as src, opened(folder / "b", os.O_RDWR) as fd:
            while length > 0 and (done := os.copy_file_range(src, fd, length, at, to)):
                at, to, length = at + done, to + done, length - done
            return os.pread(fd, 64 * MIB, 0), (folder / "b").read_bytes()

    for at, to, length in ((0, 0, 1 << 30), (1, 2, MIB), (MIB, 3 * MIB, 5 * MIB), (4 * MIB, 0, 9)):
        twin.same(lambda folder, a=at, t=to, n=length: copy(folder, a, t, n))


@promise(
    "copy-file-range-errors",
    "`copy_file_range` is `EINVAL` for overlapping ranges of one file and `EBADF` for a "
    "handle that appends or may not write.",
)
def test_what_copy_file_range_refuses(twin: Twin) -> None:
    def outcomes(folder: Path) -> list[object]:
        path = folder / "f"
        path.write_bytes(noise(64 * KIB))
        append = os.O_WRONLY | os.O_APPEND
        with opened(path, os.O_RDWR) as fd, opened(path, append) as end, opened(path, 0) as reader:
            return [
                tried(os.copy_file_range, fd, fd, 100, 0, 50),
                tried(os.copy_file_range, fd, end, 100, 0, 0),
                tried(os.copy_file_range, fd, reader, 100, 0, 4096),
                tried(os.copy_file_range, fd, fd, 100, 0, 64 * KIB),
                path.read_bytes(),
            ]

    assert twin.same(outcomes)[0] == errno.errorcode[errno.EINVAL]
