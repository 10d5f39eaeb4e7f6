"""One volume against a plain directory: the same random operations, the same tree after each.

Between them the outbox goes up in random pieces, another machine's log is followed, the process is
killed: none of that may show. The state's invariants hold after every step, and in the end the
bucket has exactly the live files.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipefs import sparse
from pipefs.ranges import Place, Ranges
from pipefs.stores.local import LocalStore
from tests.machines import Machine, objects
from tests.ram import ram_folder

# A walk is a fixed number of steps; how long they take is the machine's matter.
pytestmark = pytest.mark.timeout(600)

MIB = 1 << 20
OLD_NS = 10**18
"""Times before this (2001) were set by `utimes`; the clock gives later ones."""

names = st.sampled_from(["a", "b", "c"])
directories = st.sampled_from(["d", "e", "d/d", "d/e"])
paths = st.one_of(names, st.tuples(directories, names).map("/".join))
anything = st.one_of(paths, directories)
offsets = st.sampled_from([0, 1, 5, MIB - 3, MIB, 2 * MIB + 7])
lengths = st.sampled_from([0, 1, 9, 4096, MIB, MIB + 11])


class VolumeMachine(RuleBasedStateMachine):
    @initialize()
    def make(self) -> None:
        self.directory = self.make_folder()
        self.store = LocalStore(self.directory / "store")
        self.machine = Machine(self.directory / "machine", self.store)
        self.plain = self.directory / "plain"
        self.plain.mkdir()
        self.count = 0
        self.kept: tuple[int, int, int] | None = None
        """(inode, handle, plain descriptor) of a file that stays open for writing."""

    def make_folder(self) -> Path:
        return Path(tempfile.mkdtemp(prefix="pipefs-model-"))

    def both(self, ours: Callable[[], object], plain: Callable[[], object]) -> None:
        """One operation on each side: it works on both, or fails on both."""
        failed = None
        try:
            plain()
        except OSError as e:
            failed = e
        try:
            ours()
        except OSError as e:
            assert failed is not None, f"only ours failed: {e}"
        else:
            assert failed is None, f"only the plain directory failed: {failed}"

    def at(self, path: str) -> Path:
        return self.plain / path

    def is_file(self, path: str) -> bool:
        with contextlib.suppress(OSError):
            return stat.S_ISREG(os.lstat(self.at(path)).st_mode)
        return False

    def data(self, length: int) -> bytes:
        self.count += 1
        return (b"%d," % self.count * (length // 2 + 1))[:length]

    # --- contents -----------------------------------------------------------------------------

    @rule(path=paths, length=lengths)
    def replace(self, path: str, length: int) -> None:
        if os.path.lexists(self.at(path)) and not self.is_file(path):
            return
        data = self.data(length)
        self.both(lambda: self.machine.write(path, data), lambda: self._plain_new(path, data))

    def _plain_new(self, path: str, data: bytes) -> None:
        fd = os.open(self.at(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.write(fd, data)
        os.close(fd)

    @rule(path=paths, offset=offsets, length=lengths)
    def write_at(self, path: str, offset: int, length: int) -> None:
        if self.is_file(path):
            data = self.data(length)
            self.machine.write(path, data, offset=offset)
            with self.at(path).open("r+b") as f:
                f.seek(offset)
                f.write(data)

    @rule(path=paths, length=st.integers(1, 9))
    def append(self, path: str, length: int) -> None:
        if self.is_file(path):
            self.write_at(path, self.at(path).stat().st_size, length)

    @rule(path=paths, size=offsets)
    def truncate(self, path: str, size: int) -> None:
        if self.is_file(path):
            self.machine.truncate(path, size)
            os.truncate(self.at(path), size)

    @rule(
        path=paths,
        offset=offsets,
        length=st.sampled_from([1, MIB]),
        mode=st.sampled_from(sparse.MODES),
    )
    def allocate(self, path: str, offset: int, length: int, mode: int) -> None:
        if self.is_file(path):
            ino, handle = self.machine.open(path)
            Ranges(self.machine.volume).allocate(ino, offset, length, mode, wait=True)
            self.machine.volume.close_write(ino, handle)
            fd = os.open(self.at(path), os.O_RDWR)
            sparse.allocate(fd, mode, offset, length)
            os.close(fd)

    @rule(which=st.integers(0, 9), new=paths, stored=st.booleans())
    def copy(self, which: int, new: str, stored: bool) -> None:
        """As cp does it: what is in the store is not moved."""
        files = [path for path, node in self.machine.walk() if node.is_file]
        if not files or (os.path.lexists(self.at(new)) and not self.is_file(new)):
            return
        old = files[which % len(files)]
        if stored:
            self.step("sync")
        data = self.at(old).read_bytes()
        if old != new:
            self.both(lambda: self._copy(old, new, len(data)), lambda: self._plain_new(new, data))

    def _copy(self, old: str, new: str, size: int) -> None:
        node = self.machine.inode(old)
        ino, handle = self.machine.open(new, truncate=True)
        done = 0
        while done < size:
            place = Place(node.ino, node.epoch, done, 1)
            done += Ranges(self.machine.volume).copy(place, ino, done, size, wait=True)
        self.machine.volume.close_write(ino, handle)

    @rule(path=paths, offset=offsets, length=lengths)
    def read_range(self, path: str, offset: int, length: int) -> None:
        if self.is_file(path):
            expected = self.at(path).read_bytes()[offset : offset + length]
            assert self.machine.read(path, offset, length) == expected

    @precondition(lambda self: self.kept is None)
    @rule(path=paths)
    def open_and_keep(self, path: str) -> None:
        if self.is_file(path):
            self.kept = (*self.machine.open(path), os.open(self.at(path), os.O_RDWR))

    @precondition(lambda self: self.kept is not None)
    @rule(offset=offsets, length=st.integers(1, 9))
    def write_kept(self, offset: int, length: int) -> None:
        assert self.kept is not None
        data = self.data(length)
        self.machine.volume.write(self.kept[0], offset, memoryview(data), wait=True)
        os.pwrite(self.kept[2], data, offset)

    @rule()
    def close_kept(self) -> None:
        if self.kept is not None:
            self.machine.volume.close_write(self.kept[0], self.kept[1])
            os.close(self.kept[2])
            self.kept = None

    # --- names and attributes -----------------------------------------------------------------

    @rule(path=directories)
    def mkdir(self, path: str) -> None:
        self.both(lambda: self.machine.mkdir(path), lambda: os.mkdir(self.at(path), 0o755))

    @rule(path=paths, to=st.sampled_from(["one", "../two"]))
    def symlink(self, path: str, to: str) -> None:
        self.both(lambda: self.machine.symlink(path, to), lambda: os.symlink(to, self.at(path)))

    @rule(path=anything)
    def unlink(self, path: str) -> None:
        self.close_kept()
        self.both(lambda: self.machine.rm(path), lambda: os.unlink(self.at(path)))

    @rule(path=anything)
    def rmdir(self, path: str) -> None:
        self.both(lambda: self.machine.rmdir(path), lambda: os.rmdir(self.at(path)))

    @rule(old=anything, new=anything)
    def rename(self, old: str, new: str) -> None:
        self.close_kept()
        self.both(lambda: self.machine.mv(old, new), lambda: os.rename(self.at(old), self.at(new)))

    @rule(path=anything, mode=st.sampled_from([0o600, 0o755, 0o4711]))
    def chmod(self, path: str, mode: int) -> None:
        if os.path.lexists(self.at(path)) and not os.path.islink(self.at(path)):
            self.machine.chmod(path, mode)
            os.chmod(self.at(path), mode)

    @rule(path=paths, seconds=st.integers(1, 10**8))
    def utimes(self, path: str, seconds: int) -> None:
        if self.is_file(path):
            ns = seconds * 10**9 + 7
            self.machine.volume.set_attributes(self.machine.ino(path), mtime_ns=ns)
            os.utime(self.at(path), ns=(ns, ns))

    # --- what must not show -------------------------------------------------------------------

    @rule(which=st.integers(0, 3))
    def upload_one(self, which: int) -> None:
        inos = self.machine.volume.files.inos()
        if inos:
            self.machine.upload(inos[which % len(inos)])

    @rule(which=st.integers(0, 3))
    def relocate_one(self, which: int) -> None:
        due = self.machine.relocator.due()
        if due:
            self.machine.relocate(due[which % len(due)])

    @rule(which=st.integers(0, 3))
    def delete_one(self, which: int) -> None:
        due = self.machine.transfers.deletions()
        if due:
            self.machine.transfers.delete(due[which % len(due)])

    @rule(
        step=st.sampled_from(["mark_all", "announce", "follow", "reconcile", "upload_all", "sync"])
    )
    def step(self, step: str) -> None:
        if step == "sync":
            self.close_kept()
        getattr(self.machine, step)()

    @rule()
    def kill(self) -> None:
        if self.kept is not None:
            os.close(self.kept[2])
            self.kept = None
        self.machine.kill()

    @rule()
    def lose_the_cache(self) -> None:
        """The block cache may go at any time: what is not in the store is not in it alone."""
        self.close_kept()
        self.machine.lose_cache()

    # --- what holds ---------------------------------------------------------------------------

    @invariant()
    def trees_are_equal(self) -> None:
        if not hasattr(self, "machine"):
            return
        problems = self.machine.problems()
        assert not problems, problems
        ours = dict(self.machine.walk())
        found = {
            os.path.relpath(os.path.join(top, name), self.plain)
            for top, dirs, files in os.walk(self.plain)
            for name in dirs + files
        }
        assert set(ours) == found
        for path, node in ours.items():
            status = os.lstat(self.at(path))
            assert stat.S_IFMT(node.mode) == stat.S_IFMT(status.st_mode), path
            if node.is_file:
                assert self.machine.read_inode(node) == self.at(path).read_bytes(), path
                assert node.size == status.st_size, path
                self._same_time(path, node.mtime_ns, status.st_mtime_ns)
            if stat.S_ISLNK(node.mode):
                assert os.fsdecode(node.target) == os.readlink(self.at(path)), path
            else:
                assert node.mode == status.st_mode, path

    @staticmethod
    def _same_time(path: str, ours: int, plain: int) -> None:
        if plain < OLD_NS:
            assert ours == plain, path
        else:
            assert ours >= OLD_NS, path

    def teardown(self) -> None:
        if not hasattr(self, "machine"):
            return
        try:
            self.close_kept()
            self.machine.sync()
            self.machine.reconcile()
            self.machine.sync()
            self.trees_are_equal()
            files = {p: s for p, s in self.machine.tree().items() if isinstance(s, bytes)}
            assert objects(self.store) == files
            assert self.machine.volume.conflicts() == []
        finally:
            self.machine.close()
            self.store.close()
            shutil.rmtree(self.directory, ignore_errors=True)


class InMemory(VolumeMachine):
    """Many more walks in the same time; tmpfs knows fewer ways of fallocate(2) than a disk's file
    system."""

    def make_folder(self) -> Path:
        return ram_folder("pipefs-model-")


def walks(count: int) -> settings:
    return settings(
        max_examples=count,
        stateful_step_count=35,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


VolumeMachine.TestCase.settings = walks(15)
InMemory.TestCase.settings = walks(45)
test_volume = VolumeMachine.TestCase
test_volume_in_memory = InMemory.TestCase
