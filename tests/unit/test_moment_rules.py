"""What counts as there at a moment, and how little is asked of the store for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipefs import tree
from pipefs.db import StateDB
from pipefs.errors import AccessDenied, NotFound, StoreUnavailable, UsageError, WouldBlock
from pipefs.manifest import names_in
from pipefs.past.browsing import at
from pipefs.past.levelcache import LevelCache
from pipefs.past.levels import PRESENT, current_at, free
from pipefs.past.moment import SETTLED_NS, MomentView
from pipefs.past.nodes import MemoryNodes, NodeTable, PastNode, StateNodes, trim
from pipefs.past.resolving import open_view, view_at
from pipefs.past.views import ROOT
from pipefs.stores.local import LocalStore
from pipefs.stores.wrap import CountingStore, FaultStore
from pipefs.types import ObjectVersion
from tests.pasts import open_past, put_files, take
from tests.promises.promised import promise

NS = 10**9


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalStore]:
    store = LocalStore(tmp_path / "store")
    yield store
    store.close()


@pytest.fixture
def store(local: LocalStore) -> FaultStore:
    return FaultStore(local)


def view_of(store: FaultStore | CountingStore, moment_ns: int = PRESENT) -> MomentView:
    return MomentView(store, MemoryNodes(), moment_ns, "@then", time_ns=0)


# --- which version was current ------------------------------------------------------------------


def version(second: int, *, marker: bool = False, name: str = "") -> ObjectVersion:
    return ObjectVersion("k", name or f"v{second}", "", 1, second * NS, False, marker)


def test_of_one_second_the_newest_in_the_store_counts() -> None:
    listed = [version(5, name="third"), version(5, name="second"), version(5, name="first")]
    found = current_at(listed, 5 * NS)
    assert found is not None
    assert found.version_id == "third"
    assert current_at(listed, 5 * NS - 1) is None


def test_a_version_is_not_there_before_one_that_the_store_has_below_it() -> None:
    """A multipart upload has the time of its beginning."""
    listed = [version(1, name="upload"), version(7, name="put meanwhile"), version(0, name="old")]
    named = [found.version_id for t in (0, 1, 6, 7) if (found := current_at(listed, t * NS))]
    assert named == ["old", "old", "old", "upload"]


HISTORIES = st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=8)


@promise(
    "moment-exists",
    "A version exists from its LastModified on, but never before one that the store has below "
    "it, and of several with one time the newest counts.",
)
@given(HISTORIES, st.integers(-1, 11))
def test_current_is_the_last_that_began_with_all_before_it(
    history: list[tuple[int, bool]], second: int
) -> None:
    oldest_first = [version(s, marker=m, name=str(n)) for n, (s, m) in enumerate(history)]
    begun = [
        v
        for n, v in enumerate(oldest_first)
        if all(earlier.last_modified_ns <= second * NS for earlier in oldest_first[: n + 1])
    ]
    expected = begun[-1] if begun and not begun[-1].is_delete_marker else None
    assert current_at(oldest_first[::-1], second * NS) == expected


@given(HISTORIES)
def test_at_the_present_the_newest_counts_whatever_its_time(
    history: list[tuple[int, bool]],
) -> None:
    newest_first = [version(s, marker=m) for s, m in history]
    found = current_at(newest_first, PRESENT)
    assert found == (newest_first[0] if history and not history[0][1] else None)


@given(st.lists(st.binary(min_size=1, max_size=255), max_size=20))
def test_stand_ins_are_names_of_their_own(names: list[bytes]) -> None:
    taken: set[bytes] = set()
    for name in [*names, *names]:
        new = free(taken, name)
        assert new not in taken
        assert len(new) <= 255
        assert new == name or b"%2F" in new
        taken.add(new)


# --- names --------------------------------------------------------------------------------------


def test_keys_that_are_no_path_are_shown_under_stand_ins(store: FaultStore) -> None:
    long = "n" * 300
    keys = ["x//y", "../up", "a/./b", f"{long}/f", f"{long[:-1]}/f", "%2E%2E/up", "plain%20name"]
    for key in keys:
        store.put(key, key.encode())
    view = view_of(store)
    shown = {}
    for entry in view.entries():
        if entry.kind == "file":
            shown[entry.object_key] = entry.path
            assert all(0 < len(name) <= 255 for name in names_in(entry.path))
    assert sorted(shown) == sorted(keys)
    assert len(set(shown.values())) == len(keys)
    assert shown["plain%20name"] == "plain%20name"


# --- how much is asked --------------------------------------------------------------------------


def test_without_waiting_nothing_is_asked(local: LocalStore) -> None:
    local.put("d/f", b"1")
    counting = CountingStore(local)
    view = view_of(counting, 1 << 62)
    for call in (
        lambda: view.lookup(ROOT, b"d", wait=False),
        lambda: view.children(ROOT, b"", 10, wait=False),
    ):
        with pytest.raises(WouldBlock):
            call()
    assert counting.counts() == {}


def test_what_was_read_is_answered_without_waiting(local: LocalStore) -> None:
    local.put("d/f", b"1")
    local.put("f", b"1")
    then = local.head("f").last_modified_ns
    counting = CountingStore(local)
    late = then + 2 * SETTLED_NS
    view = MomentView(counting, MemoryNodes(), then, "@then", clock=lambda: late)
    listed = view.children(ROOT, b"", 10)
    before = counting.counts()
    assert view.children(ROOT, b"", 10, wait=False) == listed
    assert [view.lookup(ROOT, name, wait=False) for name, _ in listed] == [n for _, n in listed]
    assert counting.counts() == before


def test_an_attribute_is_asked_for_once_for_all_moments(local: LocalStore) -> None:
    moments = []
    local.put("kept", b"1")
    for n in range(3):
        local.put("changed", b"%d" % n)
        moments.append(local.head("changed").last_modified_ns)
    counting = CountingStore(local)
    table = MemoryNodes()
    for moment_ns in moments:
        view = MomentView(counting, table, moment_ns, "@then")
        assert [name for name, _ in view.children(ROOT, b"", 10)] == [b"changed", b"kept"]
    assert counting.counts()["head"].requests == 4


def test_a_directory_asked_for_name_by_name_is_listed_in_the_end(local: LocalStore) -> None:
    for n in range(30):
        local.put(f"f{n}", b"1")
    counting = CountingStore(local)
    view = view_of(counting)
    for n in range(30):
        view.lookup(ROOT, b"f%d" % n)
    assert counting.counts()["list_versions"].requests <= 10
    assert counting.counts()["list_level_versions"].requests >= 1


def test_a_moment_that_is_not_over_is_looked_at_again(local: LocalStore) -> None:
    now = [10**18]
    view = MomentView(local, MemoryNodes(), 1 << 62, "@now", time_ns=0, clock=lambda: now[0])
    assert view.children(ROOT, b"", 10) == []
    local.put("late", b"1")
    assert view.children(ROOT, b"", 10) == []
    now[0] += 2 * NS
    assert [name for name, _ in view.children(ROOT, b"", 10)] == [b"late"]


def test_a_moment_is_settled_some_seconds_later(local: LocalStore) -> None:
    now = [10**18]
    view = MomentView(local, MemoryNodes(), 10**18, "@then", clock=lambda: now[0])
    assert not view.settled()
    now[0] += SETTLED_NS
    assert view.settled()


def test_memory_is_kept_for_so_many_names_of_all_moments(local: LocalStore) -> None:
    for directory in "abc":
        for n in range(10):
            local.put(f"{directory}/{n}", b"1")
    then = local.head("c/9").last_modified_ns
    counting = CountingStore(local)
    levels, late = LevelCache(27), then + 2 * SETTLED_NS
    one, other = (
        MomentView(counting, MemoryNodes(), then, "@then", clock=lambda: late, levels=levels)
        for _ in range(2)
    )
    numbers = {view: dict(view.children(ROOT, b"", 9)) for view in (one, other)}

    def listings(view: MomentView, name: bytes) -> int:
        before = counting.counts()["list_level_versions"].requests
        assert len(view.children(numbers[view][name].ino, b"", 100)) == 10
        return counting.counts()["list_level_versions"].requests - before

    assert [listings(one, n) for n in (b"a", b"b")] == [1, 1]
    assert [listings(one, n) for n in (b"a", b"b")] == [0, 0]
    assert listings(other, b"a") == 1  # pushes out what was used longest ago
    assert [listings(one, n) for n in (b"b", b"a")] == [0, 1]


# --- when the store refuses ---------------------------------------------------------------------


def test_versions_that_may_not_be_read_are_shown_as_listed(store: FaultStore) -> None:
    made = [store.put(f"f{n}", b"123") for n in range(20)]
    store.fail("head", lambda: AccessDenied("no s3:GetObjectVersion"), times=10**6)
    found = view_of(store).children(ROOT, b"", 100)
    assert [node.size for _, node in found] == [3] * 20
    times = {v.key: v.last_modified_ns for v in store.list_versions()}
    assert [node.mtime_ns for _, node in found] == [times[name.decode()] for name, _ in found]
    assert {node.content.version_id for _, node in found if node.content} == {
        v.version_id for v in made
    }


def test_a_version_that_is_gone_is_left_out(store: FaultStore) -> None:
    kept, gone = store.put("kept", b"1"), store.put("gone", b"1")
    store.fail("head", lambda: NotFound("pruned"), key="gone", times=10**6)
    view = view_of(store)
    assert [name for name, _ in view.children(ROOT, b"", 10)] == [b"kept"]
    with pytest.raises(FileNotFoundError):
        view.lookup(ROOT, b"gone")
    assert kept.version_id != gone.version_id


def test_a_store_out_of_reach_is_an_error_and_no_empty_directory(store: FaultStore) -> None:
    store.put("d/f", b"1")
    store.put("d/g", b"1")
    for operation in ("list_level_versions", "list_versions", "head"):
        store.fail(operation, times=1)
        view = view_of(store)
        with pytest.raises(StoreUnavailable):
            view.children(ROOT, b"", 10)
            view.children(at(view, [b"d"]).ino, b"", 10)
        assert [n for n, _ in view.children(at(view, [b"d"]).ino, b"", 10)] == [b"f", b"g"]


# --- the table of numbers -----------------------------------------------------------------------


def node(name: bytes, version_id: str = "v", parent: int = ROOT) -> PastNode:
    return PastNode(parent, name, 0o100000, name.decode(), version_id)


@pytest.fixture(params=["memory", "state"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NodeTable]:
    if request.param == "memory":
        yield MemoryNodes()
        return
    db = StateDB(tmp_path / "state", tree.TABLES)
    yield StateNodes(db)
    db.close()


def test_each_path_and_version_has_one_number(table: NodeTable) -> None:
    nodes = [node(b"a"), node(b"a", "w"), node(b"b"), node(b"a", "v", 7), node(b"a")]
    numbers = [ino for ino, _ in table.number(nodes)]
    assert numbers[0] == numbers[4]
    assert len(set(numbers)) == 4
    assert ROOT not in numbers
    assert [ino for ino, _ in table.number(nodes)] == numbers
    assert table.get(numbers[1]) == nodes[1]
    assert table.get(10**6) is None


def test_many_nodes_get_numbers_in_one_call(table: NodeTable) -> None:
    nodes = [node(b"%d" % n) for n in range(1500)]
    found = table.number(nodes)
    assert [n for _, n in found] == nodes
    assert len({ino for ino, _ in found}) == 1500
    assert table.number(nodes[::-1]) == found[::-1]


def test_what_was_learnt_stays_with_the_number(table: NodeTable) -> None:
    ((ino, first),) = table.number([node(b"a")])
    learnt = PastNode(first.parent, first.name, first.kind, first.key, "v", known=True, mode=0o600)
    table.learn({ino: learnt})
    assert table.number([node(b"a")]) == [(ino, learnt)]


def test_numbers_of_versions_are_never_given_twice(table: NodeTable) -> None:
    assert table.version_numbers("k", ["a", "b"]) == {"a": 1, "b": 2}
    # "a" was pruned, and what follows goes on counting.
    assert table.version_numbers("k", ["b", "c"])["c"] == 3
    assert table.version_numbers("k", ["d"])["d"] == 4
    assert table.version_numbers("k", ["b", "d"])["b"] == 2
    assert table.version_numbers("other", ["z"]) == {"z": 1}


def test_a_fresh_mount_may_forget_numbers_but_not_those_of_versions(tmp_path: Path) -> None:
    db = StateDB(tmp_path / "state", tree.TABLES)
    table = StateNodes(db)
    nodes = [node(b"%d" % n) for n in range(600)]
    old = [ino for ino, _ in table.number(nodes)]
    table.version_numbers("k", ["a", "b"])
    trim(db, limit=600)
    assert [ino for ino, _ in table.number(nodes)] == old
    trim(db, limit=599)
    assert table.get(old[0]) is None
    assert not set(old) & {ino for ino, _ in table.number(nodes)}
    assert table.version_numbers("k", ["b", "c"])["c"] == 3
    db.close()


# --- names after the @ --------------------------------------------------------------------------


@promise("moment-future", "A time that is still to come is not found.")
def test_a_moment_still_to_come_is_not_found(local: LocalStore) -> None:
    with pytest.raises(NotFound, match="is still to come: @29991231T000000Z") as caught:
        view_at(local, "@2999-12-31", MemoryNodes())
    assert caught.value.hint.startswith("Now it is @2")


def test_a_view_of_a_moment_is_called_by_its_moment(local: LocalStore) -> None:
    assert view_at(local, "@2026-01-02T03:04+01:00", MemoryNodes()).label == "@20260102T020400Z"
    assert view_at(local, "@now", MemoryNodes()).moment_ns > 0


def test_a_name_is_a_snapshot_or_a_moment(local: LocalStore) -> None:
    past = open_past(local)
    made = take(past, put_files(local, {"f": b"1"}), tag="v1")
    for name in ("v1", "latest", made.id[:8]):
        assert open_view(past, name, MemoryNodes()).label == "v1"
    moment = open_view(past, "@now", MemoryNodes())
    assert [name for name, _ in moment.children(ROOT, b"", 10)] == [b"f"]
    with pytest.raises(NotFound, match="no snapshot 'nosuch'"):
        open_view(past, "nosuch", MemoryNodes())
    with pytest.raises(NotFound) as caught:
        open_view(past, "2h", MemoryNodes())
    assert caught.value.hint == "A time is written with an @ of its own: @2h"
    with pytest.raises(UsageError, match="is no time"):
        open_view(past, "@nosuch", MemoryNodes())
