"""A prune deletes what nobody needs, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipefs import catalog as cat
from pipefs import manifest
from pipefs.errors import Conflict, Corrupt, NotFound, Refused, UsageError
from pipefs.past.pruning import Held, prune, survey
from pipefs.past.taking import Taker, Wanted
from pipefs.stores.base import Store
from pipefs.stores.local import LocalStore
from tests.kept import DAY_NS, Pipe, later
from tests.promises.promised import promise


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = LocalStore(tmp_path / "store")
    yield store
    store.close()


@pytest.fixture
def pipe(tmp_path: Path, store: Store) -> Iterator[Pipe]:
    pipe = Pipe(tmp_path, store)
    yield pipe
    pipe.close()


def contents(pipe: Pipe) -> list[bytes]:
    """Of every version of every file, sorted."""
    return sorted(pipe.store.get(v.key, v.version_id, 0, 99) for v in pipe.versions())


def kinds(held: list[Held]) -> dict[str, tuple[int, int]]:
    """Label or kind → (versions, bytes), without pipefs' own."""
    return {h.label or h.kind: (h.versions, h.bytes) for h in held if h.kind != "own"}


def test_what_only_the_past_had_goes_and_snapshots_stay(pipe: Pipe) -> None:
    pipe.write("a", b"1")
    pipe.write("a", b"22")
    pipe.snapshot("v1")
    pipe.write("a", b"333")
    pipe.write("a", b"4444")
    pipe.write("b", b"b")
    pipe.rm("b")
    done = pipe.prune()
    assert contents(pipe) == [b"22", b"4444"]
    assert (done.deleted_versions >= 3, done.deleted_markers, done.locked) == (True, 1, 0)
    assert pipe.files() == {"a": b"4444"}
    pipe.check()


def test_a_survey_says_who_holds_what_and_changes_nothing(pipe: Pipe, store: Store) -> None:
    pipe.write("a", b"1")
    pipe.write("b", b"bb")
    pipe.snapshot("v1")
    pipe.write("c", b"ccc")
    pipe.snapshot("v2")
    for path in ("a", "b", "c"):
        pipe.write(path, b"new!")
    pipe.write("a", b"newer")
    before = list(store.list_versions(""))
    found = pipe.survey()
    assert list(store.list_versions("")) == before
    assert kinds(found.held) == {
        "live": (3, 13),
        "shared": (2, 3),  # a and b, as both snapshots have them
        "v2": (1, 3),  # c
        "free": (1, 4),  # new!
    } | {"free": (found.free.versions, found.free.bytes)}
    # Of pipefs' own, old versions of refs.json go too.
    assert found.free.versions > 1
    done = pipe.prune(found.horizon_ns + found.grace_ns)
    assert (done.deleted_versions, done.deleted_bytes) == (found.free.versions, found.free.bytes)
    pipe.check()


@promise(
    "retention-grace",
    "A version stays for the grace period after it was replaced, 24 hours at least, and so "
    "does each that the live tree had at any commit since.",
)
def test_what_was_replaced_within_the_grace_period_stays(pipe: Pipe) -> None:
    pipe.write("a", b"1")
    pipe.write("a", b"2")
    moment = time.time_ns()
    pipe.write("a", b"3")
    pipe.write("b", b"b")
    pipe.rm("b")
    found = kinds(pipe.survey(moment + DAY_NS).held)
    # b was in the tree of a commit of the grace period, which has a snapshot yet to come perhaps.
    assert (found["grace"], found["log"]) == ((1, 1), (1, 1))
    pipe.prune(moment + DAY_NS)
    assert contents(pipe) == [b"2", b"3", b"b"]
    pipe.prune()
    assert contents(pipe) == [b"3"]


def test_less_than_a_day_of_grace_is_refused(pipe: Pipe) -> None:
    pipe.write("a", b"1")
    for call in (survey, prune):
        with pytest.raises(UsageError, match="24 hours"):
            call(pipe.past(), grace_ns=DAY_NS - 1)


def test_a_pipe_without_a_log_is_refused(pipe: Pipe, store: Store) -> None:
    store.put("a", b"1")
    store.put("a", b"2")
    with pytest.raises(Refused, match="no log"):
        pipe.prune()
    assert contents(pipe) == [b"1", b"2"]


@promise(
    "retention-forgotten",
    "A forgotten snapshot can be brought back, whole, until a prune finds it forgotten for "
    "longer than the grace period; from then on no machine has it.",
)
def test_a_forgotten_snapshot_holds_its_versions_until_the_grace_is_over(pipe: Pipe) -> None:
    pipe.write("a", b"1")
    made = pipe.snapshot("v1")
    pipe.write("a", b"2")
    moment = time.time_ns()
    pipe.amend("forget", "v1")
    pipe.prune(moment + DAY_NS)
    pipe.check()
    assert kinds(pipe.survey(moment + DAY_NS).held)["v1"] == (1, 1)
    pipe.amend("forget", "v1", off=True)
    pipe.prune()
    pipe.check()
    pipe.amend("forget", "v1")
    done = pipe.prune()
    assert done.dropped == [made.id]
    assert contents(pipe) == [b"2"]
    with pytest.raises(NotFound):
        pipe.past().catalog.find("v1", forgotten=True)
    pipe.check()


def test_the_objects_of_a_dropped_snapshot_go_and_then_its_line(pipe: Pipe, store: Store) -> None:
    pipe.write("a", b"1")
    first = pipe.snapshot("v1")
    pipe.write("a", b"2")
    pipe.snapshot("v2")
    pipe.amend("forget", "v1")
    pipe.prune()
    with pytest.raises(NotFound):
        store.head(cat.object_key(first.id))
    with pytest.raises(NotFound):
        store.head(manifest.key_of_object(first.body.root))
    assert pipe.past().catalog.snapshots[first.id].dropped
    assert pipe.prune().deleted_versions > 0  # old versions of refs.json
    assert first.id not in pipe.past().catalog.snapshots
    pipe.check()


def test_a_prune_with_nothing_to_do_leaves_no_trace(pipe: Pipe, store: Store) -> None:
    pipe.write("a", b"1")
    pipe.snapshot("v1")
    pipe.prune()
    pipe.prune()
    before = list(store.list_versions(""))
    done = pipe.prune()
    assert (done.deleted_versions, done.deleted_markers) == (0, 0)
    assert list(store.list_versions("")) == before


def test_a_protected_snapshot_is_not_dropped_even_if_an_entry_says_so(pipe: Pipe) -> None:
    pipe.write("a", b"1")
    pipe.snapshot("v1")
    pipe.write("a", b"2")
    pipe.amend("protect", "v1")
    pipe.amend("forget", "v1")
    pipe.prune()
    pipe.check()
    assert pipe.past().catalog.find("v1").protected


def test_a_renamed_file_whose_object_has_not_followed_stays_readable(pipe: Pipe) -> None:
    m = pipe.machine
    pipe.write("a", b"old log")
    m.mv("a", "a.1")
    m.announce()
    pipe.write_elsewhere("a", b"new log")
    # The tree has a.1 at the key a, in a version that is not current any more.
    pipe.prune()
    assert pipe.files() == {"a": b"new log", "a.1": b"old log"}
    pipe.snapshot("v1")
    m.sync()
    pipe.prune()
    pipe.check()


def test_what_another_tool_replaced_long_ago_stays_until_somebody_noticed(
    pipe: Pipe, store: Store
) -> None:
    pipe.write("a", b"ours")
    store.put("a", b"theirs")
    pipe.prune()
    # Nobody has listed the bucket: the tree, and a snapshot of it, have the version of before.
    made = pipe.taker().take(Wanted(tag="v1")).snapshot
    pipe.shown[made.id] = {"a": b"ours"}
    pipe.check()
    pipe.machine.reconcile()
    pipe.amend("forget", "v1")
    pipe.prune()
    assert contents(pipe) == [b"theirs"]


def test_a_snapshot_of_a_directory_holds_what_is_below_it(pipe: Pipe) -> None:
    for path in ("a", "d/b", "dd"):
        if path.startswith("d/"):
            pipe.machine.mkdir("d")
        pipe.write(path, path.encode())
    pipe.snapshot("v1", path="d")
    for path in ("a", "d/b", "dd"):
        pipe.write(path, b"new")
    assert kinds(pipe.survey().held)["v1"] == (1, 3)
    pipe.prune()
    assert contents(pipe) == [b"d/b", b"new", b"new", b"new"]
    pipe.check()


def test_the_past_of_a_log_that_was_deleted_is_kept(pipe: Pipe, store: Store) -> None:
    pipe.write("a", b"1")
    pipe.snapshot("v1")
    pipe.prune()
    pipe.write("a", b"2")
    for item in list(store.list(".pipefs/commits/")):
        store.delete(item.key)
    store.delete(cat.REFS_KEY)
    pipe.machine.follower.check_log()
    pipe.machine.sync()
    pipe.machine.reconcile()
    pipe.write("a", b"3")
    past = pipe.past()
    assert past.catalog.cutoff == 0, "a number of the old log means nothing in the new one"
    pipe.prune()
    assert contents(pipe) == [b"1", b"3"]
    pipe.check()
    pipe.snapshot("v2")


def test_a_snapshot_object_that_the_log_does_not_know_holds_its_versions(
    pipe: Pipe, store: Store
) -> None:
    pipe.write("a", b"1")
    made = pipe.snapshot("v1")
    pipe.write("a", b"2")
    catalog = pipe.past().catalog
    text = cat.encode_body(made.body).replace('"name":"v1"', '"name":"v0"')
    stranger = cat.id_of(cat.object_bytes(text))
    store.put(cat.object_key(stranger), cat.object_bytes(text))
    assert stranger not in catalog.snapshots
    pipe.amend("forget", "v1")
    # It even counts when another program deleted it in the usual way.
    store.delete(cat.object_key(stranger))
    pipe.prune()
    assert b"1" in contents(pipe)
    assert store.head(manifest.key_of_object(made.body.root)).size > 0


@promise(
    "retention-unreadable",
    "A prune that cannot read a snapshot or the log deletes nothing and names it.",
)
def test_what_cannot_be_read_stops_everything(pipe: Pipe, store: Store) -> None:
    pipe.write("a", b"1")
    made = pipe.snapshot("v1")
    pipe.write("a", b"2")
    pipe.write("a", b"3")
    store.delete(manifest.key_of_object(made.body.root))
    with pytest.raises(Corrupt, match="v1 cannot be read") as caught:
        pipe.prune()
    assert "pipefs check NAME@v1" in caught.value.hint
    assert contents(pipe) == [b"1", b"2", b"3"]


def test_a_hole_in_the_log_stops_everything(pipe: Pipe, store: Store) -> None:
    for data in (b"1", b"2", b"3"):
        pipe.write("a", data)
    pipe.snapshot("v1", path="a")
    store.delete(f".pipefs/commits/{1:020d}.json")
    with pytest.raises((Corrupt, NotFound)):
        pipe.prune()
    assert contents(pipe) == [b"1", b"2", b"3"]


@promise("retention-apart", "Another pipe below the prefix is left alone by a prune.")
def test_another_pipe_below_is_left_alone(pipe: Pipe, store: Store) -> None:
    pipe.write("a", b"1")
    pipe.write("a", b"2")
    store.put("sub/.pipefs/pipe.json", b"{}")
    for data in (b"s1", b"s2"):
        store.put("sub/x", data)
    store.put("sub/.pipefs/manifests/p.jsonl.gz", b"part")
    done = pipe.prune()
    assert done.nested == ["sub/"]
    assert contents(pipe) == [b"2", b"part", b"s1", b"s2", b"{}"]


def test_what_other_systems_need_is_given_as_extra_marks(pipe: Pipe) -> None:
    pipe.write("a", b"1")
    pipe.write("a", b"22")
    pipe.write("a", b"333")
    old = [("a", v.version_id or "") for v in pipe.versions() if v.size == 1]
    assert kinds(pipe.survey(extra=old).held)["foreign"] == (1, 1)
    pipe.prune(extra=old)
    assert contents(pipe) == [b"1", b"333"]


def test_no_snapshot_is_made_of_a_commit_before_the_cut_off(
    pipe: Pipe, tmp_path: Path, store: Store
) -> None:
    pipe.write("a", b"1")
    other = Pipe(tmp_path, store, name="there")
    other.machine.sync()

    class Slow(Taker):
        """One that others overtake while it puts its parts."""

        def manifest(self, *args: object) -> object:  # type: ignore[override]  # as it comes
            found = super().manifest(*args)  # type: ignore[arg-type]
            other.write("a", b"2")
            other.write("a", b"3")
            other.prune()
            return found

    m = pipe.machine
    slow = Slow(m.db, store, m.follower, pipe.manifests, author="user@here")
    with pytest.raises(Conflict, match="pruned meanwhile"):
        slow.take(Wanted(tag="v1"))
    pipe.snapshot("v1")
    pipe.check()
    other.close()


def test_the_cut_off_is_the_first_commit_of_the_grace_period(pipe: Pipe) -> None:
    pipe.write("a", b"1")
    moment = time.time_ns()
    number = pipe.past().position.number
    pipe.write("a", b"2")
    pipe.write("a", b"3")
    assert pipe.survey(moment + DAY_NS).cutoff == number + 1
    head = pipe.past().position.number
    assert pipe.survey().cutoff == head, "all are older: the newest one can still be taken"
    assert pipe.survey(moment - DAY_NS).cutoff == 1


def test_a_machine_may_prune_while_its_clock_is_wrong(pipe: Pipe) -> None:
    pipe.write("a", b"1")
    pipe.write("a", b"2")
    # Without a clock of the test, the store's own time counts: nothing is a day old.
    assert prune(pipe.past()).deleted_versions == 0
    assert contents(pipe) == [b"1", b"2"]


def test_a_directory_of_many_versions_goes_in_batches(pipe: Pipe, store: Store) -> None:
    pipe.write("keep", b"1")
    for n in range(1100):
        store.put(f"x/{n % 7}", b"%d" % n)
    steps: list[str] = []
    pipe.prune(later(), hook=steps.append)
    assert steps.count("batch") >= 2
    assert len(pipe.versions("x/")) == 7
