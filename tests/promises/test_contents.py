"""Promises about the bytes of files: write, truncate, holes, mappings, fsync."""

from __future__ import annotations

import mmap
import os
import resource
import signal
from pathlib import Path

from tests.promises.promised import Twin, opened, promise, tried

PAGE = mmap.PAGESIZE


@promise(
    "write",
    "Written bytes are seen at once by every reader of this machine, through any handle or "
    "mapping.",
)
def test_written_bytes_are_seen_through_everything(twin: Twin) -> None:
    def act(folder: Path) -> object:
        path = folder / "x"
        path.write_bytes(bytes(3 * PAGE))
        with (
            opened(path, os.O_RDWR) as writer,
            opened(path, os.O_RDONLY) as reader,
            mmap.mmap(reader, 0, prot=mmap.PROT_READ) as mapped,
        ):
            seen = [mapped[PAGE : PAGE + 5], os.pread(reader, 5, PAGE)]
            os.pwrite(writer, b"hello", PAGE)
            seen += [mapped[PAGE : PAGE + 5], os.pread(reader, 5, PAGE)]
            os.pwritev(writer, [b"over ", b"two pages"], 2 * PAGE - 7)
            seen += [mapped[2 * PAGE - 7 : 2 * PAGE + 7], os.pread(reader, 14, 2 * PAGE - 7)]
        return seen, path.stat().st_size

    seen, size = twin.same(act)
    assert seen == [bytes(5), bytes(5), b"hello", b"hello", *[b"over two pages"] * 2]
    assert size == 3 * PAGE


@promise(
    "write-beyond-end",
    "A write beyond the end makes the file longer, and the gap reads as zeros.",
)
def test_a_write_beyond_the_end_leaves_zeros(twin: Twin) -> None:
    def act(folder: Path) -> object:
        path = folder / "x"
        with opened(path, os.O_CREAT | os.O_RDWR) as fd:
            os.write(fd, b"head")
            os.pwrite(fd, b"tail", 70_000)
            os.pwrite(fd, b"", 90_000)
        return path.read_bytes()

    assert twin.same(act) == b"head" + bytes(70_000 - 4) + b"tail"


@promise(
    "read-end",
    "A read returns fewer bytes than asked only at the end of the file, and none beyond it.",
)
def test_reads_are_short_only_at_the_end(twin: Twin) -> None:
    def act(folder: Path) -> object:
        path = folder / "x"
        path.write_bytes(b"0123456789" * 30_000)
        with opened(path, os.O_RDONLY) as fd:
            counts = [len(os.pread(fd, 250_000, at)) for at in (0, 1, 100_000, 300_000, 400_000)]
            return counts, tried(os.pwrite, fd, b"x", 0), tried(os.pread, fd, 1, -1)

    assert twin.same(act) == ([250_000, 250_000, 200_000, 0, 0], "EBADF", "EINVAL")


@promise(
    "truncate",
    "`truncate` and `ftruncate` cut a file or lengthen it with zeros; what was cut never "
    "comes back.",
)
def test_truncating_cuts_and_lengthens_with_zeros(twin: Twin) -> None:
    def act(folder: Path) -> object:
        path = folder / "x"
        path.write_bytes(b"0123456789" * 1000)
        os.truncate(path, 5)
        cut = path.read_bytes()
        with opened(path, os.O_RDWR) as fd:
            os.ftruncate(fd, 20_000)
            longer = os.pread(fd, 30_000, 0)
            os.ftruncate(fd, 0)
            os.write(fd, b"again")
            os.ftruncate(fd, 8)
        return cut, longer, path.read_bytes()

    assert twin.same(act) == (b"01234", b"01234" + bytes(19_995), b"again\0\0\0")


@promise(
    "truncate-errors",
    "`truncate` is `EISDIR` for a directory and `EINVAL` for a negative length or a handle "
    "that may not write.",
)
def test_truncate_refuses_what_it_cannot_cut(twin: Twin) -> None:
    def act(folder: Path) -> object:
        (folder / "x").write_text("x")
        with opened(folder / "x", os.O_RDONLY) as fd:
            read_only = tried(os.ftruncate, fd, 0)
        return (
            read_only,
            tried(os.truncate, folder, 0),
            tried(os.truncate, folder / "x", -1),
            tried(os.truncate, folder / "missing", 0),
        )

    assert twin.same(act) == ("EINVAL", "EISDIR", "EINVAL", "ENOENT")


@promise(
    "large",
    "A file may be terabytes long; a write past the process's limit (`RLIMIT_FSIZE`) or past "
    "what the disk's file system can number is `EFBIG`.",
)
def test_a_file_may_be_terabytes_long(twin: Twin) -> None:
    def act(folder: Path) -> object:
        path = folder / "x"
        with opened(path, os.O_CREAT | os.O_RDWR) as fd:
            os.pwrite(fd, b"far", 3 << 40)
            found = os.pread(fd, 10, 3 << 40), os.pread(fd, 4, 2 << 40), os.fstat(fd).st_size
            too_far = tried(os.pwrite, fd, b"x", 17 << 40)
        path.unlink()  # a mount that outlives its tests would try to bring it up
        return found, too_far

    assert twin.same(act) == ((b"far", bytes(4), (3 << 40) + 3), "EFBIG")

    def limited(folder: Path) -> object:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
            with opened(folder / "y", os.O_CREAT | os.O_RDWR) as fd:
                return tried(os.pwrite, fd, b"x" * 10, 99_995), tried(os.pwrite, fd, b"x", 100_000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)

    assert twin.same(limited) == (5, "EFBIG")


@promise(
    "mmap-shared",
    "What is written through a shared mapping is seen by every reader here at once, and is in "
    "the file after `msync`, `munmap` or `close`.",
)
def test_shared_mappings_write_the_file(twin: Twin) -> None:
    def act(folder: Path) -> object:
        path = folder / "x"
        path.write_bytes(bytes(5 * PAGE))
        with opened(path, os.O_RDWR) as fd, mmap.mmap(fd, 0) as one, mmap.mmap(fd, 0) as two:
            one[PAGE - 3 : PAGE + 3] = b"shared"
            seen = [two[PAGE - 3 : PAGE + 3], os.pread(fd, 6, PAGE - 3)]
            one.flush()
            two[4 * PAGE :] = b"z" * PAGE
        return seen, path.read_bytes()

    seen, content = twin.same(act)
    assert seen == [b"shared", b"shared"]
    assert content[PAGE - 3 : PAGE + 3] == b"shared"
    assert content[4 * PAGE :] == b"z" * PAGE


@promise(
    "mmap-private",
    "What is written through a private mapping stays in its process, and pages that it did "
    "not write follow the file.",
)
def test_private_mappings_leave_the_file_alone(twin: Twin) -> None:
    def act(folder: Path) -> object:
        path = folder / "x"
        path.write_bytes(b"a" * 2 * PAGE)
        with (
            opened(path, os.O_RDWR) as fd,
            mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE) as private,
        ):
            private[:4] = b"mine"
            os.pwrite(fd, b"theirs", PAGE)
            seen = private[:4], private[PAGE : PAGE + 6]
        return seen, path.read_bytes()

    assert twin.same(act) == (
        (b"mine", b"theirs"),
        b"a" * PAGE + b"theirs" + b"a" * (PAGE - 6),
    )


@promise(
    "mmap-outlives",
    "A mapping outlives the handle and the name of its file.",
)
def test_a_mapping_outlives_handle_and_name(twin: Twin) -> None:
    def act(folder: Path) -> object:
        path = folder / "x"
        path.write_bytes(b"b" * 100)
        with opened(path, os.O_RDWR) as fd:
            mapped = mmap.mmap(fd, 100)
        path.unlink()
        with mapped:
            mapped[10:15] = b"still"
            return mapped[8:17], len(os.listdir(folder))

    assert twin.same(act) == (b"bbstillbb", 0)


@promise(
    "fsync",
    "When `fsync` or `fdatasync` of a file or directory has returned, its bytes and all names "
    "and attributes answered before are on this machine's disk.",
)
def test_fsync_of_everything_that_can_be_opened(twin: Twin) -> None:
    # What is there after a power loss: tests/crash/test_power_loss.py.
    def act(folder: Path) -> object:
        (folder / "x").write_text("x")
        for path, flags in ((folder / "x", os.O_RDWR), (folder / "x", 0), (folder, os.O_DIRECTORY)):
            with opened(path, flags) as fd:
                os.fsync(fd)
                os.fdatasync(fd)
        os.sync()
        return (folder / "x").read_text()

    assert twin.same(act) == "x"


@promise(
    "unlink-open",
    "A file or directory that was removed while it is open goes on working for its handles: "
    "bytes, size, attributes and new writes, with a link count of 0.",
)
def test_an_open_file_outlives_its_name(twin: Twin) -> None:
    def act(folder: Path) -> object:
        path = folder / "x"
        path.write_bytes(b"before")
        with opened(path, os.O_RDWR) as fd, opened(path, os.O_RDONLY) as reader:
            path.unlink()
            path.write_bytes(b"another")
            os.pwrite(fd, b" and after", 6)
            os.fchmod(fd, 0o640)
            os.ftruncate(fd, 12)
            os.utime(fd, ns=(1, 2))
            found = os.fstat(reader)
            again = Path(f"/proc/self/fd/{fd}").read_bytes()
            file = (os.pread(reader, 50, 0), again, found.st_nlink, found.st_size)
            file += (oct(found.st_mode), found.st_mtime_ns)
        sub = folder / "sub"
        sub.mkdir()
        with opened(sub, os.O_DIRECTORY) as fd:
            sub.rmdir()
            directory = os.listdir(fd), os.fstat(fd).st_nlink
            made = tried(os.open, "y", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
        return file, directory, made, path.read_bytes()

    file, directory, made, another = twin.same(act)
    assert file == (b"before and a", b"before and a", 0, 12, "0o100640", 2)
    assert (directory, made, another) == (([], 0), "ENOENT", b"another")


@promise(
    "sendfile",
    "`sendfile`, `splice` and `readv` move the same bytes that `read` and `write` do.",
)
def test_other_ways_of_moving_bytes(twin: Twin) -> None:
    def act(folder: Path) -> object:
        (folder / "x").write_bytes(b"0123456789" * 5000)
        with opened(folder / "x", 0) as source, opened(folder / "y", 0o102) as target:
            sent = 0
            while count := os.sendfile(target, source, None, 1 << 16):
                sent += count
            os.lseek(source, 3, os.SEEK_SET)
            read_end, write_end = os.pipe()
            spliced = os.splice(source, write_end, 4)
            os.splice(read_end, target, 4, offset_dst=0)
            os.close(read_end)
            os.close(write_end)
            buffers = [bytearray(3), bytearray(5)]
            os.preadv(target, buffers, 0)
        return sent, spliced, buffers, (folder / "y").stat().st_size

    assert twin.same(act) == (50_000, 4, [b"345", b"64567"], 50_000)
