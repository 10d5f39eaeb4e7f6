"""`.versions/`: the history of each file of a directory, on every store that keeps one."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipefs import tree
from pipefs.db import StateDB
from pipefs.errors import WouldBlock
from pipefs.keys import name_of
from pipefs.past.browsing import at
from pipefs.past.fileversions import VersionsView, prefix_of
from pipefs.past.nodes import MemoryNodes, NodeTable, StateNodes
from pipefs.past.views import ROOT
from pipefs.stores.base import Store
from pipefs.stores.local import LocalStore
from pipefs.stores.s3 import S3Settings, S3Store
from tests.pastmoments import NS
from tests.promises.promised import promise
from tests.seaweed import SeaweedServer

_NAME = re.compile(rb"(\d{4})-(\d{8}T\d{6}Z)(.*)\Z")


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store
    if request.param == "local":
        made = LocalStore(tmp_path / "store")
    else:
        server: SeaweedServer = request.getfixturevalue("seaweed")
        made = S3Store(server.make_bucket(), "p", S3Settings(engine="boto3"))
    yield made
    made.close()


def view_of(store: Store, table: NodeTable | None = None, prefix: str = "") -> VersionsView:
    return VersionsView(store, table or MemoryNodes(), prefix)


def history(view: VersionsView, name: bytes) -> list[tuple[int, str | None]]:
    """(number, VersionId) of each version of a file."""
    out = []
    for found, node in view.children(at(view, [name]).ino, b"", 10**6):
        match = _NAME.match(found)
        assert match is not None
        assert node.content is not None
        out.append((int(match[1]), node.content.version_id))
    return out


@promise(
    "versions",
    "`.versions/FILE/` has a file for every version of FILE that the store still has, also "
    "when FILE is deleted, with its number, its time and FILE's suffix as the name.",
)
def test_t4_17_the_history_of_a_file_tells_number_time_and_size(store: Store) -> None:
    """Row T4-17: log(key)."""
    start = int(time.time())
    bodies = [b"1", b"22", b"333"]
    made = []
    for body in bodies:
        made.append(store.put("d/sales.csv.gz", body))
        store.delete("d/sales.csv.gz")
    view = view_of(store, prefix="d/")
    folder = at(view, [b"sales.csv.gz"])
    found = view.children(folder.ino, b"", 100)
    assert folder.is_dir
    names = [_NAME.match(name) for name, _ in found]
    assert [m[1] for m in names if m] == [b"0001", b"0002", b"0003"]
    assert {m[3] for m in names if m} == {b".csv.gz"}
    listed = [v for v in store.list_versions("d/") if not v.is_delete_marker]
    times = [v.last_modified_ns for v in reversed(listed)]
    assert [time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(t // NS)).encode() for t in times] == [
        m[2] for m in names if m
    ]
    assert [node.mtime_ns for _, node in found] == times
    assert start <= times[0] // NS <= time.time()
    read = []
    for (_, node), one in zip(found, made, strict=True):
        assert node.content is not None
        assert node.content.version_id == one.version_id
        read.append(store.get(node.content.key, node.content.version_id, 0, 99))
    assert read == bodies
    assert [node.size for _, node in found] == [1, 2, 3]


def test_every_file_that_ever_was_in_a_directory_has_a_history(store: Store) -> None:
    for key in ("top", "d/now", "d/deleted", "d/sub/deeper", "d/both", "d/both/x", "e/other"):
        store.put(key, b"1")
    store.delete("d/deleted")
    store.delete("d/never")  # a marker alone is no history
    view = view_of(store, prefix="d/")
    names = [name for name, _ in view.children(ROOT, b"", 100)]
    assert names == [b"both", b"deleted", b"now"]
    assert all(node.is_dir for _, node in view.children(ROOT, b"", 100))
    assert [name for name, _ in view.children(ROOT, b"both", 1)] == [b"deleted"]
    assert [n for n, _ in history(view, b"deleted")] == [1]
    for path in ([b"never"], [b"sub"], [b"missing"], [b"now", b"missing"]):
        with pytest.raises(FileNotFoundError):
            at(view, path)
    assert [name for name, _ in view_of(store).children(ROOT, b"", 100)] == [b"top"]


def test_attributes_of_a_version_are_its_own(store: Store) -> None:
    store.put("f", b"1", metadata={"mode": "33152", "mtime": "1700000000.5"})
    store.put("f", b"1")
    view = view_of(store)
    (_, old), (_, new) = view.children(at(view, [b"f"]).ino, b"", 10)
    assert (old.mode, old.mtime_ns) == (0o100600, 1_700_000_000 * NS + NS // 2)
    assert new.mode & 0o777 == 0o644


@promise(
    "versions-numbers",
    "A number in `.versions` means one version for as long as the local state lives, also "
    "when older versions are pruned.",
)
def test_numbers_stay_when_old_versions_are_pruned(store: Store, tmp_path: Path) -> None:
    made = [store.put("f", b"%d" % n).version_id for n in range(3)]
    db = StateDB(tmp_path / "state", tree.TABLES)
    table = StateNodes(db)
    assert history(view_of(store, table), b"f") == [(1, made[0]), (2, made[1]), (3, made[2])]
    store.delete_version("f", made[0] or "")
    made.append(store.put("f", b"3").version_id)
    view = view_of(store, table)
    inos = [n.ino for _, n in view.children(at(view, [b"f"]).ino, b"", 9)]
    db.close()
    db = StateDB(tmp_path / "state", tree.TABLES)
    table = StateNodes(db)
    view = view_of(store, table)
    assert history(view, b"f") == [(2, made[1]), (3, made[2]), (4, made[3])]
    assert [n.ino for _, n in view.children(at(view, [b"f"]).ino, b"", 9)] == inos
    assert [view.node(ino).size for ino in inos] == [1, 1, 1]
    # Elsewhere the count begins with what is there.
    assert [n for n, _ in history(view_of(store), b"f")] == [1, 2, 3]
    db.close()


def test_a_new_version_appears(store: Store) -> None:
    now = [time.time_ns()]
    view = VersionsView(store, MemoryNodes(), "", clock=lambda: now[0])
    store.put("f", b"1")
    assert [n for n, _ in history(view, b"f")] == [1]
    store.put("f", b"2")
    store.put("g", b"1")
    now[0] += 2 * NS
    assert [n for n, _ in history(view, b"f")] == [1, 2]
    assert [name for name, _ in view.children(ROOT, b"", 10)] == [b"f", b"g"]


def test_without_waiting_only_what_was_just_read_is_answered(store: Store) -> None:
    store.put("f", b"1")
    view = view_of(store)
    with pytest.raises(WouldBlock):
        view.children(ROOT, b"", 10, wait=False)
    with pytest.raises(WouldBlock):
        view.lookup(ROOT, b"f", wait=False)
    listed = view.children(ROOT, b"", 10)
    assert view.children(ROOT, b"", 10, wait=False) == listed


def test_directories_of_two_places_keep_their_numbers_apart(store: Store) -> None:
    for key in ("d/f", "e/f"):
        store.put(key, key.encode())
    table = MemoryNodes()
    found = {}
    for prefix in ("d/", "e/"):
        view = view_of(store, table, prefix)
        ((_, node),) = view.children(at(view, [b"f"]).ino, b"", 10)
        assert node.content is not None
        found[node.ino] = node.content.key
    assert sorted(found.values()) == ["d/f", "e/f"]


def test_many_versions_are_numbered_in_order(store: Store) -> None:
    made = [store.put("f.csv", b"%d" % n).version_id for n in range(120)]
    view = view_of(store)
    assert history(view, b"f.csv") == list(enumerate(made, 1))
    assert [e.path[:10] for e in view.entries([b"f.csv"])][:2] == ["f.csv", "f.csv/0001"]


def test_the_prefix_of_a_directory_comes_from_its_names(store: Store) -> None:
    store.put("a b/ünï/x", b"1")
    store.put("100%25/x", b"1")
    assert prefix_of(store, []) == ""
    assert prefix_of(store, [b"a b", "ünï".encode()]) == "a b/ünï/"
    assert prefix_of(store, [b"100%"]) == "100%/"
    assert prefix_of(store, [b"bad\xff\x01"]) == "bad%FF%01/"


def test_the_prefix_behind_a_stand_in_comes_from_the_store(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    for key in ("a//x", "../y", "n" * 300 + "/z"):
        store.put(key, b"1")
    long = "n" * 300
    for prefix, names in (
        ("a//", [b"a", b"%2F"]),
        ("../", [b"%2E%2E"]),
        (f"{long}/", [name_of(long)]),
    ):
        assert prefix_of(store, names) == prefix
        assert len(view_of(store, prefix=prefix).children(ROOT, b"", 9)) == 1
    store.close()
