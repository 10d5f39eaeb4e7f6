"""Two or three machines on one pipe: random operations, partial synchronising, kills.

At the end everybody synchronises until nothing moves. Then all trees are equal; no content that
anybody closed is lost: it is live, or somebody who saw it replaced or removed it; and the bucket
holds exactly the live files, each at its own key.
"""

from __future__ import annotations

import contextlib
import shutil

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pipefs.errors import Conflict, NotFound
from pipefs.stores.base import Store
from pipefs.stores.local import LocalStore
from tests.machines import Machine, UnversionedStore, objects, sync_all, versions
from tests.ram import ram_folder

# A walk is a fixed number of steps; how long they take is the machine's matter.
pytestmark = pytest.mark.timeout(600)

names = st.sampled_from(["a", "b", "c"])
paths = st.one_of(
    names,
    st.tuples(st.sampled_from(["a", "d", "e"]), names).map("/".join),
    st.tuples(st.sampled_from(["d", "e"]), st.sampled_from(["d", "e"]), names).map("/".join),
)
directories = st.sampled_from(["a", "d", "e", "d/e", "e/d", "d/d"])
anything = st.one_of(paths, directories)
who = st.integers(0, 2)

tuned = settings(
    max_examples=60,
    stateful_step_count=35,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


class TwoMachines(RuleBasedStateMachine):
    machines = 2
    unreadable: tuple[type[Exception], ...] = ()
    """What a read may end with: a store without versions has no bytes for an outdated tree."""

    @initialize()
    def make(self) -> None:
        self.directory = ram_folder("pipefs-model-")
        self.store = self.make_store()
        self.all = [
            Machine(self.directory / name, self.store, name=name) for name in "xyz"[: self.machines]
        ]
        self.count = 0
        self.closed: set[bytes] = set()
        self.seen_replaced: set[bytes] = set()

    def make_store(self) -> Store:
        return LocalStore(self.directory / "store")

    # --- users --------------------------------------------------------------------------------

    def _replaces(self, m: Machine, path: str) -> None:
        """The user of `m` is about to replace or remove what is at `path`, having seen it."""
        with contextlib.suppress(OSError, *self.unreadable):
            node = m.inode(path)
            if node.is_file:
                self.seen_replaced.add(m.read_inode(node))

    @rule(n=who, path=paths, same=st.integers(0, 5))
    def write(self, n: int, path: str, same: int) -> None:
        m = self.all[n % self.machines]
        self.count += 1
        data = b"the same" if same == 0 else b"%s %d" % (m.name.encode(), self.count)
        with contextlib.suppress(
            FileNotFoundError, NotADirectoryError, IsADirectoryError, *self.unreadable
        ):
            before = self._content(m, path)
            m.write(path, data)
            if before is not None:
                self.seen_replaced.add(before)
            if data != b"the same":
                self.closed.add(data)

    @rule(n=who, path=paths)
    def edit(self, n: int, path: str) -> None:
        m = self.all[n % self.machines]
        before = None
        with contextlib.suppress(OSError, *self.unreadable):
            before = self._content(m, path)
        if before is None:
            return
        self.count += 1
        m.write(path, b"[%d]" % self.count, offset=len(before))
        self.seen_replaced.add(before)
        self.closed.add(before + b"[%d]" % self.count)

    @staticmethod
    def _content(m: Machine, path: str) -> bytes | None:
        """A file's bytes; None where there is nothing.

        Raises:
            IsADirectoryError: the path is a directory or a link.
        """
        try:
            node = m.inode(path)
        except FileNotFoundError:
            return None
        if not node.is_file:
            raise IsADirectoryError(path)
        return m.read_inode(node)

    @rule(n=who, path=anything)
    def remove(self, n: int, path: str) -> None:
        m = self.all[n % self.machines]
        with contextlib.suppress(OSError, *self.unreadable):
            before = self._shown(m, path)
            m.rm(path)
            self.seen_replaced |= before
        with contextlib.suppress(OSError, *self.unreadable):
            m.rmdir(path)

    @staticmethod
    def _shown(m: Machine, path: str) -> set[bytes]:
        node = m.inode(path)
        return {m.read_inode(node)} if node.is_file else set()

    @rule(n=who, old=anything, new=anything)
    def rename(self, n: int, old: str, new: str) -> None:
        m = self.all[n % self.machines]
        before: set[bytes] = set()
        with contextlib.suppress(OSError, *self.unreadable):
            before = self._shown(m, new)
        with contextlib.suppress(OSError, *self.unreadable):
            if m.ino(old) == m.ino(new):
                return
        with contextlib.suppress(OSError, *self.unreadable):
            m.mv(old, new)
            self.seen_replaced |= before

    @rule(n=who, one=anything, two=anything)
    def swap(self, n: int, one: str, two: str) -> None:
        with contextlib.suppress(OSError, *self.unreadable):
            self.all[n % self.machines].swap(one, two)

    @rule(n=who, path=directories)
    def mkdir(self, n: int, path: str) -> None:
        with contextlib.suppress(OSError, *self.unreadable):
            self.all[n % self.machines].mkdir(path)

    @rule(n=who, path=paths, to=st.sampled_from(["one", "two"]))
    def symlink(self, n: int, path: str, to: str) -> None:
        with contextlib.suppress(OSError, *self.unreadable):
            self.all[n % self.machines].symlink(path, to)

    @rule(n=who, path=paths, new=paths)
    def link(self, n: int, path: str, new: str) -> None:
        with contextlib.suppress(OSError, *self.unreadable):
            self.all[n % self.machines].link(path, new)

    @rule(n=who, path=paths)
    def mkfifo(self, n: int, path: str) -> None:
        with contextlib.suppress(OSError, *self.unreadable):
            self.all[n % self.machines].mkfifo(path)

    @rule(n=who, path=anything, mode=st.sampled_from([0o600, 0o755, 0o640]))
    def chmod(self, n: int, path: str, mode: int) -> None:
        with contextlib.suppress(OSError, *self.unreadable):
            self.all[n % self.machines].chmod(path, mode)

    # --- steps towards the store --------------------------------------------------------------

    @rule(n=who, which=st.integers(0, 3))
    def upload_one(self, n: int, which: int) -> None:
        inos = self.all[n % self.machines].volume.files.inos()
        if inos:
            self.all[n % self.machines].upload(inos[which % len(inos)])

    @rule(n=who, which=st.integers(0, 3))
    def relocate_one(self, n: int, which: int) -> None:
        due = self.all[n % self.machines].relocator.due()
        if due:
            self.all[n % self.machines].relocate(due[which % len(due)])

    @rule(n=who, which=st.integers(0, 3))
    def delete_one(self, n: int, which: int) -> None:
        due = self.all[n % self.machines].transfers.deletions()
        if due:
            self.all[n % self.machines].transfers.delete(due[which % len(due)])

    @rule(n=who)
    def mark_directories(self, n: int) -> None:
        self.all[n % self.machines].mark_all()

    @rule(n=who)
    def announce(self, n: int) -> None:
        self.all[n % self.machines].announce()

    @rule(n=who)
    def follow(self, n: int) -> None:
        self.all[n % self.machines].follow()

    @rule(n=who)
    def reconcile(self, n: int) -> None:
        self.all[n % self.machines].reconcile()

    @rule(n=who)
    def synchronise(self, n: int) -> None:
        self.all[n % self.machines].sync()

    @rule(n=who)
    def kill(self, n: int) -> None:
        m = self.all[n % self.machines]
        before = {path: (node.mode, node.size) for path, node in m.walk()}
        m.kill()
        assert {path: (node.mode, node.size) for path, node in m.walk()} == before

    # --- what holds ---------------------------------------------------------------------------

    @invariant()
    def state_is_sound(self) -> None:
        for m in getattr(self, "all", []):
            problems = m.problems()
            assert not problems, (m.name, problems)

    def teardown(self) -> None:
        if not hasattr(self, "all"):
            return
        try:
            self.all_is_well()
        finally:
            for m in self.all:
                m.close()
            self.store.close()
            shutil.rmtree(self.directory, ignore_errors=True)

    def all_is_well(self) -> None:
        sync_all(*self.all)
        for m in self.all:
            m.reconcile()
        sync_all(*self.all)
        self.state_is_sound()
        trees = [m.tree() for m in self.all]
        for m, found in zip(self.all, trees, strict=True):
            assert found == trees[0], m.name
            assert m.modes() == self.all[0].modes(), m.name
            assert m.linked() == self.all[0].linked(), m.name
        files = self.all[0].own_files()
        self.bucket_is_the_tree(files)
        self.nothing_is_lost(set(files.values()))

    def bucket_is_the_tree(self, files: dict[str, bytes]) -> None:
        # A listing there may find an upload of ours before its commit, beside a directory of that
        # name: it then stays, under a stand-in name (`a%2F` for the key `a`), as a copy.
        assert objects(self.store) == {p.replace("%2F", ""): data for p, data in files.items()}

    def nothing_is_lost(self, live: set[bytes]) -> None:
        assert self.closed - self.seen_replaced - live == set()


class ThreeMachines(TwoMachines):
    machines = 3


class WithoutVersions(TwoMachines):
    unreadable = (Conflict, NotFound)

    def make_store(self) -> Store:
        return UnversionedStore(LocalStore(self.directory / "store"))


class BesideAnotherTool(TwoMachines):
    """Somebody uses the bucket without pipefs. What that program replaces is kept as a version."""

    @rule(key=paths)
    def put(self, key: str) -> None:
        self.count += 1
        self.store.put(key, b"tool %d" % self.count)
        self.closed.add(b"tool %d" % self.count)

    @rule(key=paths)
    def delete(self, key: str) -> None:
        self.store.delete(key)

    def bucket_is_the_tree(self, files: dict[str, bytes]) -> None:
        # Keys `a` and `a/b` cannot both be paths: one file has a stand-in name.
        assert sorted(objects(self.store).values()) == sorted(files.values())

    def nothing_is_lost(self, live: set[bytes]) -> None:
        kept = live | versions(self.store)
        assert self.closed - self.seen_replaced - kept == set()


for machine in (TwoMachines, ThreeMachines, WithoutVersions, BesideAnotherTool):
    machine.TestCase.settings = tuned
test_two_machines = TwoMachines.TestCase
test_three_machines = ThreeMachines.TestCase
test_machines_on_a_store_without_versions = WithoutVersions.TestCase
test_machines_beside_another_tool = BesideAnotherTool.TestCase
