"""Files that the kernel reads and writes itself, on real mounts: modes, lifetimes, changes.

What is passed through is seen in the record of open handles; that nobody is asked, by stopping the
worker. Files are opened in threads of their own: to the daemon each is another program.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipefs.stores.local import LocalStore
from pipefsd.backing import BackingRecord
from pipefsd.nodes import ino_of
from tests.mounted import Home, eventually

OLD, NEW = b"old bytes", b"NEW BYTES"
OPTIONS = ("quiet_period=0.2s", "min_version_interval=0.2s")


class Place:
    """One machine with pipe `p` mounted."""

    def __init__(self, url: str = "", *options: str, adopt: bool = False) -> None:
        self.home = Home()
        try:
            if adopt:
                self.home.run("create", url)
            else:
                self.home.create("p", url, *OPTIONS, *options)
            self.root = self.home.mount("p")
        except BaseException:
            self.home.close()
            raise

    @property
    def worker(self) -> int:
        return int(self.home.status("p")["pid"])

    def stored(self, name: str, data: bytes = OLD) -> Path:
        """A file that is in the store and nowhere else."""
        path = self.root / name
        path.write_bytes(data)
        self.flush()
        eventually(lambda: not self.staged(name), "the staging file goes")
        return path

    def flush(self) -> None:
        self.home.flush("p")

    def passed(self, path: Path) -> int:
        """How many handles of a file the kernel serves itself."""
        ino = path.stat().st_ino
        (record,) = self.home.home.rglob("*.backing")
        kept = BackingRecord(str(record), fresh=False)
        try:
            return sum(ino_of(one.node) == ino for _, one in kept.rows())
        finally:
            kept.close()

    def staged(self, name: str) -> list[str]:
        """Local files of a file, other than what may be used again."""
        ino = (self.root / name).stat().st_ino
        folder = self.home.state("p") / "staging"
        return [n for n in os.listdir(folder) if n.startswith(f"{ino:x}.")]

    def versions(self, key: str) -> list[bytes]:
        """What the store has had there, oldest first."""
        store = LocalStore(self.home.home / "stores" / "p")
        try:
            found = [v for v in store.list_versions(key) if v.key == key]
            return [store.get(key, v.version_id, 0, v.size) if v.size else b"" for v in found][::-1]
        finally:
            store.close()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """While the worker answers nobody. Who asks it waits until the test has failed."""
        pid = self.worker
        asked = threading.Event()

        def go_on() -> None:
            asked.set()
            os.kill(pid, signal.SIGCONT)

        timer = threading.Timer(5, go_on)
        os.kill(pid, signal.SIGSTOP)
        timer.start()
        try:
            yield
            assert not asked.is_set(), "the kernel asked the worker"
        finally:
            timer.cancel()
            os.kill(pid, signal.SIGCONT)


def fresh_thread(call: Callable[[], int]) -> int:
    """Call it as a program that did nothing before."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result(30)


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    fd = fresh_thread(lambda: os.open(path, flags, 0o644))
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    made = Place()
    try:
        yield made
    finally:
        made.home.close()


@pytest.fixture
def own() -> Iterator[Place]:
    """For a test that ends processes."""
    made = Place()
    try:
        yield made
    finally:
        made.home.close()


# --- modes -----------------------------------------------------------------------------------


def test_the_kernel_writes_and_reads_a_new_file_without_asking(place: Place) -> None:
    path = place.root / "alone"
    with opened(path, os.O_CREAT | os.O_RDWR) as fd:
        os.write(fd, b"0" * 400)
        assert place.passed(path) == 1
        with mmap.mmap(fd, 400) as page:
            # The first write after each look at the attributes asks whether it has capabilities.
            os.write(fd, b"0")
            with place.stopped():
                for _ in range(100):
                    os.write(fd, b"more")
                page[0:1] = b"1"
                assert os.pread(fd, 1000, 0) == b"1" + b"0" * 400 + b"more" * 100
        assert path.stat().st_size == 801
    written = b"1" + b"0" * 400 + b"more" * 100
    assert path.read_bytes() == written
    place.flush()
    assert place.versions("alone") == [written]
    assert not place.staged("alone")


def test_a_writer_joins_a_cached_reader_and_both_ask(place: Place) -> None:
    path = place.stored("cached-first")
    with opened(path, os.O_RDONLY) as reader, opened(path, os.O_RDWR | os.O_TRUNC) as writer:
        assert place.passed(path) == 0
        os.write(writer, NEW)
        assert os.pread(reader, 100, 0) == NEW
        with opened(path, os.O_RDONLY) as third:
            assert place.passed(path) == 0
            assert os.pread(third, 100, 0) == NEW
    place.flush()
    assert place.versions("cached-first")[-1] == NEW


def test_a_reader_joins_a_writer_that_is_passed_through(place: Place) -> None:
    path = place.root / "passed-first"
    with opened(path, os.O_CREAT | os.O_WRONLY) as writer:
        os.write(writer, OLD)
        with opened(path, os.O_RDONLY) as reader:
            assert place.passed(path) == 2
            os.pwrite(writer, NEW, 0)
            with place.stopped():
                assert os.pread(reader, 100, 0) == NEW


def test_a_writer_joins_a_reader_that_is_passed_through(place: Place) -> None:
    path = place.root / "sealed"
    path.write_bytes(OLD)
    with opened(path, os.O_RDONLY) as reader:
        assert place.passed(path) == 1
        with opened(path, os.O_WRONLY) as writer:
            assert place.passed(path) == 2
            os.write(writer, NEW)
            assert os.pread(reader, 100, 0) == NEW
    place.flush()
    assert place.versions("sealed")[-1] == NEW


def test_what_is_written_synchronously_asks_so_that_its_name_is_safe_too(place: Place) -> None:
    path = place.root / "synchronous"
    with opened(path, os.O_CREAT | os.O_WRONLY | os.O_DSYNC) as writer:
        assert place.passed(path) == 0
        os.write(writer, NEW)
    with (
        opened(path, os.O_WRONLY) as first,
        opened(path, os.O_WRONLY | os.O_SYNC) as second,
        opened(path, os.O_RDONLY | os.O_DIRECT),
    ):
        assert place.passed(path) == 3
        os.pwrite(second, OLD, 0)
        os.pwrite(first, b"!", len(OLD))
    assert path.read_bytes() == OLD + b"!"


def test_the_mode_changes_when_nothing_is_open(place: Place) -> None:
    path = place.stored("switches")
    with opened(path, os.O_RDONLY) as reader:
        assert os.pread(reader, 100, 0) == OLD
    with opened(path, os.O_WRONLY | os.O_TRUNC) as writer:
        eventually(lambda: place.passed(path) == 1, "the handle is recorded")
        os.write(writer, NEW)
    place.flush()
    eventually(lambda: not place.staged("switches"), "the staging file goes")
    with opened(path, os.O_RDONLY) as reader:
        assert place.passed(path) == 0
        assert os.pread(reader, 100, 0) == NEW


def test_the_first_cached_open_after_passthrough_shows_the_new_bytes(place: Place) -> None:
    path = place.stored("pages")
    libc = ctypes.CDLL(None, use_errno=True)
    with opened(path, os.O_RDONLY) as reader:
        assert os.pread(reader, 100, 0) == OLD
    with opened(path, os.O_RDWR | os.O_TRUNC) as writer:
        os.write(writer, b"x" * len(NEW))
        assert place.passed(path) == 1
        # The one way in which pages come to the kernel meanwhile: it asks us for them.
        assert libc.readahead(writer, ctypes.c_int64(0), len(NEW)) == 0
        os.pwrite(writer, NEW, 0)
    place.flush()
    eventually(lambda: not place.staged("pages"), "the staging file goes")
    with opened(path, os.O_RDONLY) as reader:
        assert place.passed(path) == 0
        assert os.pread(reader, 100, 0) == NEW


# --- changes that nobody saw -----------------------------------------------------------------


def _pinned(place: Place, name: str, reader: Callable[[Path], None]) -> Path:
    """A stored file whose staging file is kept by a reader; `reader` is called meanwhile."""
    path = place.root / name
    path.write_bytes(OLD)
    with opened(path, os.O_RDONLY):
        assert place.passed(path) == 1
        place.flush()
        eventually(lambda: place.staged(name) != [f"{path.stat().st_ino:x}.data"], "it went up")
        assert place.staged(name)[0].endswith(".kept")
        reader(path)
    return path


def test_a_file_opened_and_closed_unwritten_makes_no_version(place: Place) -> None:
    def touch(path: Path) -> None:
        with opened(path, os.O_RDWR):
            assert place.passed(path) == 2
        place.flush()
        assert place.staged("unwritten")[0].endswith(".kept")

    path = _pinned(place, "unwritten", touch)
    eventually(lambda: not place.staged("unwritten"), "the kept file goes")
    assert place.versions("unwritten") == [OLD]
    assert path.read_bytes() == OLD


def test_touching_an_empty_file_makes_no_version(place: Place) -> None:
    path = place.stored("empty", b"")
    with opened(path, os.O_WRONLY) as fd:
        assert place.passed(path) == 1
        os.utime(fd, ns=(10**18, 10**18))
    place.flush()
    assert path.stat().st_mtime_ns == 10**18
    assert place.versions("empty") == [b""]


def test_a_mapping_that_outlives_its_handle_is_waited_for(place: Place) -> None:
    path = place.root / "mapped"
    path.write_bytes(OLD)
    with opened(path, os.O_RDWR) as fd:
        page = mmap.mmap(fd, len(OLD))
    # Closed, and still being written: as for any open file, `flush` does not wait for it.
    eventually(
        lambda: place.home.run("flush", "p", "--timeout", "1", code=None).returncode == 0,
        "it counts as open",
    )
    assert place.versions("mapped") == []
    page[:] = NEW
    page.close()
    place.flush()
    assert place.versions("mapped") == [NEW]
    eventually(lambda: not place.staged("mapped"), "the staging file goes")
    assert path.read_bytes() == NEW


def test_a_write_by_mmap_alone_is_noticed(place: Place) -> None:
    def write(path: Path) -> None:
        with opened(path, os.O_RDWR) as fd, mmap.mmap(fd, len(OLD)) as page:
            page[:] = NEW

    path = _pinned(place, "by-mmap", write)
    place.flush()
    assert place.versions("by-mmap") == [OLD, NEW]
    assert path.read_bytes() == NEW


def test_what_is_asked_of_a_file_that_is_passed_through_is_right(place: Place) -> None:
    path = place.root / "asked"
    with opened(path, os.O_CREAT | os.O_RDWR) as fd:
        os.write(fd, b"0123456789")
        assert path.stat().st_size == 10
        os.ftruncate(fd, 4)
        assert os.pread(fd, 100, 0) == b"0123"
        os.truncate(path, 6)
        assert os.pread(fd, 100, 0) == b"0123\0\0"
        os.posix_fallocate(fd, 0, 8)
        assert os.fstat(fd).st_size == 8
        os.fsync(fd)
        os.utime(fd, ns=(10**18, 10**18 + 1))
        assert path.stat().st_mtime_ns == 10**18 + 1
        with opened(path, os.O_WRONLY | os.O_APPEND) as log:
            os.write(log, b"end")
        assert os.pread(fd, 100, 0) == b"0123\0\0\0\0end"
        assert place.home.status("p")["dirty_files"] == 1
        assert place.passed(path) == 1
    place.flush()
    assert place.versions("asked") == [b"0123\0\0\0\0end"]
    assert place.home.status("p")["dirty_files"] == 0


# --- how long a staging file lives -----------------------------------------------------------


def test_who_writes_after_the_upload_writes_into_what_a_reader_has_open(place: Place) -> None:
    path = place.root / "goes-on"
    path.write_bytes(OLD)
    with opened(path, os.O_RDONLY) as reader:
        place.flush()
        assert place.versions("goes-on") == [OLD]
        with opened(path, os.O_WRONLY) as writer:
            assert place.passed(path) == 2
            os.write(writer, NEW)
            assert os.pread(reader, 100, 0) == NEW
        place.flush()
        assert place.versions("goes-on") == [OLD, NEW]
        with opened(path, os.O_WRONLY | os.O_TRUNC):
            assert os.pread(reader, 100, 0) == b""
    place.flush()
    eventually(lambda: not place.staged("goes-on"), "the kept file goes")
    assert place.versions("goes-on") == [OLD, NEW, b""]


def test_a_removed_file_stays_for_those_who_have_it_open_or_mapped(place: Place) -> None:
    path = place.root / "removed"
    with opened(path, os.O_CREAT | os.O_RDWR) as fd:
        os.write(fd, OLD)
        page = mmap.mmap(fd, len(OLD))
        path.unlink()
        os.pwrite(fd, b"OLD", 0)
        assert os.pread(fd, 100, 0) == b"OLD bytes"
    # Others come and go: what is used again must not be this file.
    for n in range(20):
        (place.root / f"after{n}").write_bytes(b"z" * 4096)
    assert page[:] == b"OLD bytes"
    page[:] = NEW
    assert page[:] == NEW
    page.close()


def test_a_remote_change_leaves_a_reader_its_version() -> None:
    a = Place()
    url = f"file://{a.home.home}/stores/p"
    b = Place(url, adopt=True)
    try:
        path = b.root / "both"
        path.write_bytes(OLD)
        with opened(path, os.O_RDONLY) as reader:
            assert b.passed(path) == 1
            b.flush()
            eventually(lambda: (a.root / "both").exists(), "it is seen on the other machine")
            (a.root / "both").write_bytes(NEW)
            a.flush()
            eventually(lambda: path.read_bytes() == NEW, "the change is seen")
            assert os.pread(reader, 100, 0) == OLD
            with opened(path, os.O_WRONLY | os.O_APPEND) as writer:
                os.write(writer, b"!")
                assert os.pread(reader, 100, 0) == OLD
        b.flush()
        eventually(
            lambda: (a.root / "both").read_bytes() == NEW + b"!", "it is one line of changes"
        )
        assert not b.home.status("p")["conflicts"]
    finally:
        b.home.close()
        a.home.close()


# --- workers that end ------------------------------------------------------------------------


def _replaced(own: Place) -> None:
    """kill -9 of the worker; returns when the next one answers."""
    before = own.worker
    os.kill(before, signal.SIGKILL)
    eventually(lambda: own.worker not in (0, before), "a worker takes over")


def test_a_writer_goes_on_while_its_worker_is_killed_and_replaced(own: Place) -> None:
    path, cached = own.root / "goes-on", own.stored("cached")
    kept = own.root / "kept"
    kept.write_bytes(OLD)
    with (
        opened(path, os.O_CREAT | os.O_RDWR) as fd,
        opened(cached, os.O_RDONLY) as reader,
        opened(kept, os.O_RDONLY) as pinned,
    ):
        own.flush()
        os.write(fd, b"0")
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(lambda: [os.write(fd, b"more") for _ in range(5000)])
            _replaced(own)
            assert set(done.result(30)) == {4}
        with opened(path, os.O_RDWR) as second, opened(cached, os.O_RDWR) as writer:
            assert own.passed(path) == 2
            assert own.passed(cached) == 0
            os.pwrite(second, b"1", 0)
            os.write(writer, NEW)
            assert os.pread(reader, 100, 0) == NEW
        with opened(kept, os.O_RDWR) as writer:
            os.write(writer, NEW)
            assert os.pread(pinned, 100, 0) == NEW
    eventually(lambda: own.passed(path) == 0, "it is released")
    with opened(own.root / "later", os.O_CREAT | os.O_RDWR):
        assert own.passed(own.root / "later") == 1
    own.flush()
    assert own.versions("goes-on")[-1] == b"1" + b"more" * 5000
    assert own.versions("cached") == [OLD, NEW]
    assert own.versions("kept") == [OLD, NEW]
    eventually(lambda: not own.staged("kept"), "the kept file goes")


def test_what_was_written_unseen_is_found_after_kill_9_of_everything(own: Place) -> None:
    path, kept = own.root / "unseen", own.root / "kept"
    kept.write_bytes(OLD)
    with opened(kept, os.O_RDONLY), opened(path, os.O_CREAT | os.O_RDWR) as fd:
        own.flush()
        os.write(fd, NEW)
        with opened(kept, os.O_RDWR) as writer:
            os.write(writer, NEW)
            own.home.kill_all()
            os.write(fd, b"!")
    own.home.mount("p")
    assert path.read_bytes() == NEW + b"!"
    assert kept.read_bytes() == NEW
    own.flush()
    assert own.versions("unseen") == [NEW + b"!"]
    assert own.versions("kept") == [OLD, NEW]
    eventually(lambda: not own.staged("kept"), "the staging file goes")


def test_passthrough_can_be_turned_off() -> None:
    off = Place("", "passthrough=off")
    try:
        assert "passthrough" not in off.home.status("p")["features"]
        path = off.root / "file"
        with opened(path, os.O_CREAT | os.O_RDWR) as fd:
            os.write(fd, NEW)
            assert os.pread(fd, 100, 0) == NEW
            assert not list(off.home.home.rglob("*.backing"))
    finally:
        off.home.close()
