"""A versioned bucket that other tools filled shows each of its past states, exactly."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from pipefs import tree
from pipefs.db import StateDB
from pipefs.past.browsing import at
from pipefs.past.levels import PRESENT
from pipefs.past.moment import MomentView
from pipefs.past.nodes import MemoryNodes, StateNodes
from pipefs.past.views import ROOT
from pipefs.stores.local import LocalStore
from pipefs.stores.s3 import S3Settings, S3Store
from pipefs.stores.wrap import CountingStore
from tests.pastmoments import NS, Filler, Shown, tree_in
from tests.promises.promised import promise
from tests.seaweed import SeaweedServer

T = TypeVar("T")
PAGE = [f"many/{n:04d}.csv" for n in range(1003)]
"""More than one page of a listing."""


@pytest.fixture(scope="module", params=["local", "s3"])
def filler(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Filler]:
    if request.param == "local":
        made = Filler(LocalStore(tmp_path_factory.mktemp("moments") / "store"))
    else:
        server: SeaweedServer = request.getfixturevalue("seaweed")
        store = S3Store(server.make_bucket(), "data/sales", S3Settings(engine="boto3"))
        made = Filler(store, server.client())
    yield made
    made.store.close()


States = list[tuple[int, Shown]]


@pytest.fixture(scope="module")
def table() -> MemoryNodes:
    """Shared, so that each version's attributes are asked for once."""
    return MemoryNodes()


@pytest.fixture(scope="module")
def states(filler: Filler) -> States:
    """Five states of one bucket: (moment, what was there)."""
    put, delete = filler.put, filler.delete
    noted = [filler.state()]  # before there was anything

    put("q1.csv", b"first")
    put("a/b/c.csv", b"deep")
    put("a/only.csv", b"alone in its folder, but for one deeper")
    put("gone/deep/x", b"x")
    put("ünï/日本.csv", b"1")
    put("with space & more/100%.csv", b"1")
    filler.put_all(PAGE, b"0")
    noted.append(filler.state())

    put("q1.csv", b"second, longer")
    delete("a/only.csv")
    delete("gone/deep/x")
    filler.put_all(PAGE[::3], b"overwritten")
    put("new/one.csv", b"1")
    noted.append(filler.state())

    filler.delete_all(PAGE[1:])
    delete("q1.csv")
    put("a/only.csv", b"again")
    put("gone/deep/x", b"again")
    noted.append(filler.state())

    filler.delete_all(list(filler.current))
    noted.append(filler.state())

    put("q1.csv", b"back")
    put("many/0001.csv", b"back")
    put("many/sub/x.csv", b"1")
    noted.append(filler.state())
    return noted


@promise(
    "moment-tree",
    "`@TIME` shows on any versioned bucket, of each key, the newest version in the store's "
    "order that existed then, unless that is a delete marker.",
)
def test_each_past_state_is_shown_exactly(
    filler: Filler, states: States, table: MemoryNodes
) -> None:
    for moment_ns, there in states:
        view = MomentView(filler.store, table, moment_ns, "@then")
        assert tree_in(view) == there
    assert [len(there) > 1003 for _, there in states] == [False, True, True, False, False, False]
    assert states[4][1] == {}


def test_the_present_is_the_last_state(filler: Filler, states: States) -> None:
    view = MomentView(filler.store, MemoryNodes(), PRESENT, "live", time_ns=0)
    assert tree_in(view) == states[-1][1]


def test_each_state_reads_its_own_bytes(filler: Filler, states: States) -> None:
    read = []
    for moment_ns, _ in states:
        view = MomentView(filler.store, MemoryNodes(), moment_ns, "@then")
        try:
            content = at(view, [b"q1.csv"]).content
        except FileNotFoundError:
            read.append(b"")
            continue
        assert content is not None
        read.append(filler.store.get(content.key, content.version_id, 0, 99))
    assert read == [b"", b"first", b"second, longer", b"", b"", b"back"]


@promise(
    "moment-numbers",
    "A path with one version has one inode number in all moments, also after a restart.",
)
def test_all_moments_share_one_table_that_outlives_the_process(
    filler: Filler, states: States, tmp_path: Path
) -> None:
    """Numbers stay what they are, and mean one version, whatever was looked at in between."""

    def look() -> dict[tuple[int, str], int]:
        db = StateDB(tmp_path / "state", tree.TABLES)
        found = {}
        for n, (moment_ns, _) in reversed(list(enumerate(states))):
            view = MomentView(filler.store, StateNodes(db), moment_ns, "@then")
            for entry in view.entries([b"a"]):
                found[n, entry.path] = at(view, [c.encode() for c in entry.path.split("/")]).ino
        db.close()
        return found

    first = look()
    assert look() == first
    same = [first[n, "a/b/c.csv"] for n in (1, 2, 3)]
    assert len(set(same)) == 1  # one version
    assert first[1, "a/only.csv"] != first[3, "a/only.csv"]
    assert len(set(first.values())) == 5  # a, a/b, c.csv, and two versions of only.csv


def test_a_number_is_answered_without_a_look_at_the_store(
    filler: Filler, states: States, tmp_path: Path
) -> None:
    """After a restart the kernel asks about numbers that nobody has listed yet."""
    db = StateDB(tmp_path / "state", tree.TABLES)
    moment_ns = states[1][0]
    nodes = [n for _, n in MomentView(filler.store, StateNodes(db), moment_ns, "").children(
        ROOT, b"", 100)]  # fmt: skip
    db.close()
    db = StateDB(tmp_path / "state", tree.TABLES)
    counting = CountingStore(filler.store)
    view = MomentView(counting, StateNodes(db), moment_ns, "")
    assert [view.node(n.ino, wait=False) for n in nodes] == nodes
    assert counting.counts() == {}
    db.close()


def test_entries_come_in_the_order_of_manifests(filler: Filler, states: States) -> None:
    moment_ns, there = states[3]
    view = MomentView(filler.store, MemoryNodes(), moment_ns, "@then")
    paths = [entry.path for entry in view.entries()]
    assert paths == [
        *("a", "gone", "many", "new", "with space & more", "ünï"),
        *("a/b", "a/only.csv", "a/b/c.csv"),
        *("gone/deep", "gone/deep/x", "many/0000.csv", "new/one.csv"),
        *("with space & more/100%.csv", "ünï/日本.csv"),
    ]
    assert set(paths) == set(there)
    assert [e.path for e in view.entries([b"a", b"b"])] == ["a/b", "a/b/c.csv"]
    assert [e.path for e in view.entries([b"a", b"only.csv"])] == ["a/only.csv"]
    assert list(view.entries([b"q1.csv"])) == []
    (one,) = view.entries([b"gone", b"deep", b"x"])
    assert (one.version, one.size, one.kind) == (there["gone/deep/x"], 5, "file")


@promise(
    "moment-directories",
    "A directory is there at a moment if its marker object or any key below it was.",
)
def test_a_directory_is_there_while_anything_below_it_is(filler: Filler, states: States) -> None:
    there = []
    for moment_ns, _ in states:
        view = MomentView(filler.store, MemoryNodes(), moment_ns, "@then")
        names = [name for name, _ in view.children(ROOT, b"", 100)]
        singly = MomentView(filler.store, MemoryNodes(), moment_ns, "@then")
        try:
            found = singly.lookup(ROOT, b"gone").is_dir
        except FileNotFoundError:
            found = False
        assert found == (b"gone" in names)
        there.append(found)
    assert there == [False, True, False, True, False, False]


def test_times_and_sizes_are_those_of_the_versions(filler: Filler, states: States) -> None:
    (before_ns, _), (after_ns, _) = states[1], states[2]
    view = MomentView(filler.store, MemoryNodes(), after_ns, "@then")
    node = at(view, [b"q1.csv"])
    assert node.size == len(b"second, longer")
    assert before_ns < node.mtime_ns <= after_ns
    assert node.ctime_ns == node.mtime_ns
    assert stat.S_ISREG(node.mode)
    folder = at(view, [b"a"])
    assert (folder.mtime_ns, stat.S_ISDIR(folder.mode)) == (after_ns, True)


def test_a_directory_is_listed_in_pieces_of_any_size(
    filler: Filler, states: States, table: MemoryNodes
) -> None:
    moment_ns, there = states[1]
    view = MomentView(filler.store, table, moment_ns, "@then")
    many = at(view, [b"many"]).ino
    names: list[bytes] = []
    while some := view.children(many, names[-1] if names else b"", 300):
        names += [name for name, _ in some]
    assert names == sorted(p[5:].encode() for p in there if p.startswith("many/"))
    assert [n for n, _ in view.children(many, b"0500.csv", 2)] == [b"0501.csv", b"0502.csv"]
    assert view.children(many, b"1002.csv", 5) == []


@promise(
    "moment-names",
    "In a moment a file beside a directory of its name has the stand-in that it has in the "
    "live tree, and what pipefs keeps in the bucket is hidden.",
)
def test_files_beside_directories_of_their_name_have_stand_ins(filler: Filler) -> None:
    filler.put("beside/x", b"file")
    file_only = filler.state()[0]
    filler.put("beside/x/y", b"below")
    both = filler.state()[0]
    filler.delete("beside/x/y")
    folder_is_gone = filler.state()[0]
    shown = []
    for moment_ns in (file_only, both, folder_is_gone):
        view = MomentView(filler.store, MemoryNodes(), moment_ns, "@then")
        found = view.children(at(view, [b"beside"]).ino, b"", 10)
        shown.append([(name, node.is_dir) for name, node in found])
        singly = MomentView(filler.store, MemoryNodes(), moment_ns, "@then")
        for name, is_dir in shown[-1]:
            assert at(singly, [b"beside", name]).is_dir == is_dir
    assert shown == [[(b"x", False)], [(b"x", True), (b"x%2F", False)], [(b"x", False)]]


def test_what_pipefs_keeps_in_the_bucket_is_hidden(filler: Filler) -> None:
    for key in (".pipefs/x", ".snapshots/y", "hidden/.snapshots/z", "shown/.pipefs/w", ".dot/x"):
        filler.put(key, b"1")
    moment_ns = filler.state()[0]
    view = MomentView(filler.store, MemoryNodes(), moment_ns, "@then")
    names = [name for name, _ in view.children(ROOT, b"", 100)]
    assert not {b".pipefs", b".snapshots", b"hidden"} & set(names)
    assert {b".dot", b"shown"} <= set(names)
    assert [e.path for e in view.entries([b"shown"])][1:] == ["shown/.pipefs", "shown/.pipefs/w"]
    for name in (b".pipefs", b".snapshots", b"hidden"):
        singly = MomentView(filler.store, MemoryNodes(), moment_ns, "@then")
        with pytest.raises(FileNotFoundError):
            singly.lookup(ROOT, name)


@promise(
    "moment-attributes",
    "A file at a moment has the size and the bytes of its version, and the mode, owner and "
    "`mtime` of its metadata, or LastModified where that tells none.",
)
def test_attributes_are_those_of_the_version(filler: Filler) -> None:
    old = {"mtime": "1700000000.123456789", "mode": "33152", "uid": "1000", "gid": "100"}
    filler.put("attr/f", b"1", old)
    first = filler.state()[0]
    filler.put("attr/f", b"2", {"mtime": "1800000000", "mode": "33261"})
    second = filler.state()[0]
    view = MomentView(filler.store, MemoryNodes(), first, "@then")
    node = at(view, [b"attr", b"f"])
    assert (node.mode, node.uid, node.gid) == (0o100600, 1000, 100)
    assert node.mtime_ns == 1_700_000_000_123_456_789
    assert node.ctime_ns // NS <= first // NS
    view = MomentView(filler.store, MemoryNodes(), second, "@then")
    ((_, node),) = view.children(at(view, [b"attr"]).ino, b"", 10)
    assert (node.mode, node.uid, node.gid) == (0o100755, -1, -1)
    assert node.mtime_ns == 1_800_000_000 * NS


def test_a_marker_makes_a_directory_and_tells_its_attributes(filler: Filler) -> None:
    before = filler.state()[0]
    filler.put("marked/", b"", {"mode": "16832", "mtime": "1700000000"})
    after = filler.state()[0]
    view = MomentView(filler.store, MemoryNodes(), after, "@then")
    node = at(view, [b"marked"])
    if filler.store.head("marked/").metadata:
        assert (node.mode, node.mtime_ns) == (0o40700, 1_700_000_000 * NS)
    else:  # SeaweedFS 4.48 keeps none of a marker
        assert stat.S_ISDIR(node.mode)
        assert before < node.mtime_ns <= after
    assert (node.size, node.content) == (0, None)
    assert view.children(node.ino, b"", 10) == []
    view = MomentView(filler.store, MemoryNodes(), before, "@then")
    with pytest.raises(FileNotFoundError):
        at(view, [b"marked"])


def test_numbers_of_nothing_and_wrong_kinds_are_errors(filler: Filler) -> None:
    filler.put("errors/f", b"1")
    view = MomentView(filler.store, MemoryNodes(), filler.state()[0], "@then")
    file = at(view, [b"errors", b"f"])
    with pytest.raises(OSError, match="Stale"):
        view.node(1 << 39)
    with pytest.raises(NotADirectoryError):
        view.lookup(file.ino, b"x")
    with pytest.raises(NotADirectoryError):
        view.children(file.ino, b"", 1)
    with pytest.raises(FileNotFoundError):
        view.lookup(ROOT, b"missing")


def test_a_single_file_is_found_without_listing_its_directory(filler: Filler) -> None:
    filler.put("single/one/x", b"1")
    asked: list[tuple[str, str]] = []

    class Noting(CountingStore):
        def _around(self, operation: str, key: str, call: Callable[[], T]) -> T:
            asked.append((operation, key))
            return super()._around(operation, key, call)

    counting = Noting(filler.store)
    view = MomentView(counting, MemoryNodes(), filler.state()[0], "@then")
    at(view, [b"single", b"one", b"x"])
    asked[:] = [one for one in asked if one[0] != "head"]
    counts = counting.counts()
    assert counts["list_versions"].requests == counts["list_level_versions"].requests == 3
    assert len(asked) == 6
    assert not any(prefix.endswith("/") for operation, prefix in asked if "level" in operation)
    listed = len(asked)
    view.children(at(view, [b"single"]).ino, b"", 10)
    assert ("list_level_versions", "single/") in asked[listed:]
