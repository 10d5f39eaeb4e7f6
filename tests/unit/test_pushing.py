"""Push: from a plain folder into a pipe, without a mount."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipefs import sending
from pipefs.errors import (
    Busy,
    Conflict,
    NoSpace,
    NotFound,
    ReadOnly,
    Refused,
    ServerFault,
    StoreUnavailable,
)
from pipefs.folder import pushing
from pipefs.folder.deciding import Folder
from pipefs.folder.orphans import orphans
from pipefs.folder.record import Record
from pipefs.folder.reports import Options, PartlyMoved
from pipefs.folder.states import _TICK_NS
from pipefs.stores.local import LocalStore
from pipefs.stores.wrap import FaultStore, WrapperStore
from tests.folders import User
from tests.promises.promised import promise
from tests.replicas import requests


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def ann(tmp_path: Path, store: LocalStore) -> Iterator[User]:
    user = User(tmp_path, tmp_path / "store", "ann")
    user.write("a.csv", "1", mtime=1_700_000_000.25).chmod(0o640)
    user.write("d/b.csv", "22", mtime=1_700_000_100)
    user.write("d/c.txt", "333", mtime=1_700_000_200)
    yield user
    user.close()


@pytest.fixture
def bob(tmp_path: Path, store: LocalStore) -> Iterator[User]:
    user = User(tmp_path, tmp_path / "store", "bob")
    yield user
    user.close()


ALL = {"a.csv": "1", "d/b.csv": "22", "d/c.txt": "333"}


def keys(store: LocalStore) -> list[str]:
    return sorted(o.key for o in store.list("") if not o.key.startswith(".pipefs/"))


def faulty(user: User, monkeypatch: pytest.MonkeyPatch) -> FaultStore:
    made = FaultStore(user.replica.store)
    monkeypatch.setattr(type(user.replica), "store", property(lambda _self: made))
    return made


def test_d6_07_push_sends_files_with_times_and_modes(
    ann: User, bob: User, store: LocalStore
) -> None:
    report = ann.push()
    assert report.files == list(ALL)
    assert (report.bytes, report.direction) == (6, "push")
    first, head = report.files[0], store.head("a.csv")
    assert (first.size, first.is_new, first.version) == (1, True, head.version_id)
    assert float(head.metadata["mtime"]) == 1_700_000_000.25
    bob.pull()
    assert bob.has() == ALL
    status = (bob.path / "a.csv").stat()
    assert (status.st_mtime_ns, status.st_mode & 0o777) == (1_700_000_000_250_000_000, 0o640)


@promise(
    "moved-unchanged",
    "Where nothing changed, pull and push read no file and cost two requests, and those of "
    "a listing where the last is older than five minutes.",
)
def test_d6_07_what_is_in_step_is_neither_sent_nor_read_again(
    ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    while time.time_ns() - (ann.path / "d/c.txt").stat().st_ctime_ns < 2 * _TICK_NS:
        time.sleep(0.01)  # a file that was just written may be written again without a trace
    ann.push()
    before = requests(ann.replica)
    monkeypatch.setattr("pipefs.folder.deciding.open", _not_read, raising=False)
    assert ann.push(cached=True).files == []
    assert requests(ann.replica) - before <= 3
    monkeypatch.undo()
    ann.write("a.csv", "new")
    assert ann.push().files == ["a.csv"]


def _not_read(*_: object, **__: object) -> None:
    raise AssertionError("a file was read")


def test_d6_08_a_preview_says_what_would_be_sent_and_does_nothing(
    ann: User, store: LocalStore
) -> None:
    report = ann.push(dry_run=True)
    assert (report.files, report.bytes, report.dry_run) == (list(ALL), 6, True)
    assert keys(store) == []


@promise(
    "push-unpulled",
    "While the pipe has changes that the folder has not seen a push changes nothing and "
    "names them; named files and mode `all` go all the same.",
)
def test_d6_09_a_push_waits_for_a_pull_of_what_others_changed(
    ann: User, bob: User, store: LocalStore
) -> None:
    ann.push()
    bob.pull()
    bob.write("d/b.csv", "bob's")
    bob.push()
    ann.write("a.csv", "ann's")
    with pytest.raises(Conflict, match=r"not pulled: d/b\.csv") as raised:
        ann.push()
    assert "pipefs pull p --dest " in raised.value.hint
    assert store.get("a.csv", None, 0, 1) == b"1"
    ann.pull()
    assert ann.push().files == ["a.csv"]
    bob.write("d/c.txt", "bob's")
    bob.push("d/c.txt")
    assert ann.push(mode="all").files == list(ALL)
    assert store.get("d/c.txt", None, 0, 3) == b"333"


@promise(
    "push-expected",
    "A push puts each file in the place of the version that it saw there: where somebody "
    "else was faster, theirs stays, and the file is named as not pushed.",
)
def test_d6_09_who_loses_a_race_overwrites_nothing(
    ann: User, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann.push()
    for path in ("a.csv", "d/b.csv", "new.csv"):
        ann.write(path, "ann's")
    real = pushing.Publisher.publish

    def later(*given: object, **how: object) -> object:
        for key in ("a.csv", "new.csv"):
            store.put(key, b"theirs")
        return real(*given, **how)  # type: ignore[arg-type]  # what publish takes

    monkeypatch.setattr(pushing.Publisher, "publish", later)
    with pytest.raises(PartlyMoved, match="2 of 3 files were not pushed") as raised:
        ann.push()
    monkeypatch.undo()
    report = raised.value.report
    assert (report.files, sorted(report.failed)) == (["d/b.csv"], ["a.csv", "new.csv"])
    assert store.get("a.csv", None, 0, 6) == store.get("new.csv", None, 0, 6) == b"theirs"
    with pytest.raises(Conflict, match=r"not pulled: a\.csv, new\.csv"):
        ann.push()


def test_d6_10_modes_of_a_push(ann: User) -> None:
    ann.push("a.csv")
    ann.write("a.csv", "changed")
    assert ann.push(mode="new", dry_run=True).files == ["d/b.csv", "d/c.txt"]
    assert ann.push(mode="mod", dry_run=True).files == ["a.csv"]
    assert ann.push(mode="all").files == list(ALL)
    assert ann.push(mode="all").files == list(ALL)


def test_d6_11_named_files_are_sent_whatever_is_there(
    ann: User, bob: User, store: LocalStore
) -> None:
    bob.write("a.csv", "bob's")
    bob.push()
    assert ann.push("a.csv").files == ["a.csv"]
    assert store.get("a.csv", None, 0, 1) == b"1"
    with pytest.raises(NotFound, match=r"there is no file none\.csv in the folder"):
        ann.push("none.csv")


def test_d6_12_d6_14_filters_and_the_newest(ann: User) -> None:
    assert ann.push(include="*.csv", exclude="d/*").files == ["a.csv"]
    assert ann.push(nrecent=1).files == ["d/c.txt"]
    assert ann.push(nrecent=-1).files == []
    assert ann.push().files == ["d/b.csv"]


def test_d6_13_the_pipes_own_filters_count_where_a_call_says_none(ann: User, bob: User) -> None:
    for user in (ann, bob):
        _set(user, include=("*.csv",), exclude=("d/*",))
    assert ann.push().files == ["a.csv"]
    assert ann.push(exclude="").files == ["d/b.csv"]
    assert ann.push(include="", exclude="").files == ["d/c.txt"]
    assert bob.pull().files == ["a.csv"]
    assert bob.pull(exclude="").files == ["d/b.csv"]


def test_dk_14_what_was_deleted_in_the_pipe_is_not_pushed_again(
    ann: User, store: LocalStore
) -> None:
    ann.push()
    store.delete("a.csv")
    report = ann.push()
    assert (report.files, report.gone) == ([], ["a.csv"])
    ann.write("a.csv", "changed since")
    assert ann.push().files == ["a.csv"]


def test_dk_15_push_with_delete_takes_away_what_is_not_here(ann: User, store: LocalStore) -> None:
    ann.push()
    (ann.path / "a.csv").unlink()
    (ann.path / "d/c.txt").unlink()
    assert ann.push().deleted == []
    report = ann.push(delete=True, include="*.csv", dry_run=True)
    assert (report.files, report.deleted) == ([], ["a.csv"])
    assert keys(store) == list(ALL)
    assert ann.push(delete=True, include="*.csv").deleted == ["a.csv"]
    assert keys(store) == ["d/b.csv", "d/c.txt"]
    assert ann.push(delete=True).deleted == ["d/c.txt"]
    assert ann.push(delete=True).deleted == []


def test_a_folder_that_is_a_link_to_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    with pytest.raises(Refused, match="is a link that leads nowhere"):
        Folder.at(tmp_path / "link")


def test_dk_26_an_empty_folder_deletes_nothing(ann: User, store: LocalStore) -> None:
    ann.push()
    shutil.rmtree(ann.path)
    with pytest.raises(NotFound, match="there is no folder"):
        ann.push(delete=True)
    ann.path.mkdir()
    with pytest.raises(Refused, match="has no files: with --delete, all 3 files"):
        ann.push(delete=True)
    assert keys(store) == list(ALL)
    assert ann.push(delete=True, empty_ok=True).deleted == list(ALL)
    assert keys(store) == []


@promise(
    "moved-delete",
    "Pull and push delete only with `--delete`, of what their filters take, never what was "
    "written meanwhile or stays local by `local_only`, and not everything of a side because"
    " the other is empty, unless `-y` is given.",
)
def test_dk_15_pull_with_delete_takes_away_what_the_pipe_has_not(
    ann: User, bob: User, store: LocalStore
) -> None:
    ann.push()
    bob.pull()
    bob.write("mine.csv", "never pushed")
    bob.write("d/b.csv", "changed")
    for key in ALL:
        store.delete(key)
    with pytest.raises(Refused, match="p has no files"):
        bob.pull(delete=True)
    store.put("new.csv", b"n")
    report = bob.pull(delete=True, dry_run=True)
    assert (report.files, report.deleted) == (["new.csv"], [*ALL, "mine.csv"])
    assert report.lost == ["d/b.csv", "mine.csv"]
    assert bob.pull(delete=True, exclude="mine*").deleted == list(ALL)
    assert bob.has() == {"mine.csv": "never pushed", "new.csv": "n"}
    assert not (bob.path / "d").exists()


def test_a_file_becomes_a_folder_and_back(ann: User, bob: User) -> None:
    ann.push()
    bob.pull()
    (ann.path / "a.csv").unlink()
    ann.write("a.csv/x", "now in a folder")
    shutil.rmtree(ann.path / "d")
    ann.write("d", "now a file")
    with pytest.raises(PartlyMoved, match="2 of 2 files were not pushed"):
        ann.push()  # what is in the way would have to be deleted
    report = ann.push(delete=True)
    assert (report.files, report.deleted) == (["a.csv/x", "d"], list(ALL))
    with pytest.raises(PartlyMoved) as raised:
        bob.pull()
    assert raised.value.report.failed == {
        "a.csv/x": "a file is where its folder has to be",
        "d": "a folder with files is there",
    }
    assert bob.has() == ALL
    bob.pull(delete=True)
    assert bob.has() == ann.has() == {"a.csv/x": "now in a folder", "d": "now a file"}
    (ann.path / "a.csv/x").unlink()
    ann.push(delete=True)
    (ann.path / "a.csv").rmdir()
    ann.write("a.csv", "a file again")  # its folder in the pipe is empty, and in nobody's way
    assert ann.push().files == ["a.csv"]
    bob.pull(delete=True)
    assert bob.has() == ann.has() == {"a.csv": "a file again", "d": "now a file"}


def test_files_that_stay_local_are_neither_sent_nor_deleted(ann: User, store: LocalStore) -> None:
    _set(ann, local_only=("*.tmp",))
    ann.write("x.tmp", "x")
    report = ann.push()
    assert report.files == list(ALL)
    assert "local_only" in report.left_out["x.tmp"]
    assert ann.pull(delete=True).deleted == []
    assert "x.tmp" in ann.has()


def _set(user: User, **settings: object) -> None:
    pipe = user.replica.pipe
    user.replica.pipe = replace(pipe, settings=replace(pipe.settings, **settings))  # type: ignore[arg-type]


# --- safety -------------------------------------------------------------------------------------


def test_a_file_that_is_written_meanwhile_is_sent_again(
    ann: User, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_during_publish(ann, monkeypatch, times=1)
    assert ann.push().files == list(ALL)
    monkeypatch.undo()
    assert store.get("a.csv", None, 0, 9) == b"written 1"
    assert ann.push().files == []


@promise(
    "push-whole",
    "A file that is written while it is pushed goes up as it was at one time, as its size "
    "and times tell, or not at all; once more as it is then, and is named as not pushed "
    "when it changes again.",
)
def test_a_file_that_is_written_all_the_time_is_told(
    ann: User, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_during_publish(ann, monkeypatch, times=9)
    with pytest.raises(PartlyMoved, match=r"a\.csv: it is written to all the time"):
        ann.push()
    monkeypatch.undo()
    assert store.get("a.csv", None, 0, 9) == b"written 1"
    assert ann.push().files == ["a.csv"]
    assert store.get("a.csv", None, 0, 9) == b"written 2"


def _write_during_publish(user: User, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    real, count = pushing.Publisher.publish, iter(range(1, times + 1))

    def publish(*given: object, **how: object) -> object:
        done = real(*given, **how)  # type: ignore[arg-type]  # what publish takes
        if (n := next(count, None)) is not None:
            user.write("a.csv", f"written {n}")
        return done

    monkeypatch.setattr(pushing.Publisher, "publish", publish)


def test_a_file_that_changes_while_it_is_read_never_goes_up_torn(
    ann: User, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ann.write("large", b"a" * (2 << 20))
    real = sending.Sender._put_once

    def put(self: object, job: object, wanted: object, found: object, there: object) -> object:
        done = real(self, job, wanted, found, there)  # type: ignore[arg-type]  # what it takes
        with place.open("r+b") as file:
            file.write(os.urandom(8))
        return done

    monkeypatch.setattr(sending.Sender, "_put_once", put)
    with pytest.raises(PartlyMoved, match="large changes while it is sent"):
        ann.push("large")
    monkeypatch.undo()
    assert [o.key for o in store.list("large")] == []


def test_a_file_that_went_meanwhile_is_told(ann: User, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pushing.Publisher.publish

    def publish(*given: object, **how: object) -> object:
        (ann.path / "a.csv").unlink(missing_ok=True)
        return real(*given, **how)  # type: ignore[arg-type]  # what publish takes

    monkeypatch.setattr(pushing.Publisher, "publish", publish)
    with pytest.raises(PartlyMoved, match=r"a\.csv: there is no file"):
        ann.push()


def test_what_was_sent_before_the_store_failed_is_not_sent_again(
    ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushing, "PART_FILES", 10)
    many = [f"many/{n:02}" for n in range(40)]
    for path in many:
        ann.write(path, path)
    faults = faulty(ann, monkeypatch)
    faults.fail("put", key="many/20", times=100)
    with pytest.raises(StoreUnavailable):
        ann.push()
    monkeypatch.undo()
    before = requests(ann.replica, "put")
    rest = set(ann.push().files)
    assert "many/20" in rest and len(rest) < 34
    assert requests(ann.replica, "put") - before <= len(rest) + 4  # and a commit for each part
    assert ann.push().files == []


class Dies(WrapperStore):
    """Ends the process, as it were, when a commit is about to be written."""

    def put(self, key: str, *given: object, **how: object) -> object:  # type: ignore[override]
        if key.startswith(".pipefs/commits/") and self.armed:
            raise SystemExit(9)
        return self.inner.put(key, *given, **how)  # type: ignore[arg-type]  # as it was called

    armed = True


def test_a_pipe_in_the_pipe_is_not_deleted_with_it(ann: User, store: LocalStore) -> None:
    """One of s3://bucket/projects, and another of s3://bucket/projects/inner."""
    for key in ("inner/.pipefs/format.json", "inner/x.csv"):
        store.put(key, b"{}")
    for include in ("*.csv", None):
        report = ann.push(delete=True, mode="all", include=include)
        assert report.deleted == []
    assert report.left_out == {"inner": "another pipe is there, and stays"}
    assert "inner/x.csv" in keys(store)


@promise(
    "push-resumed",
    "A push that is killed loses nothing: the next one sends again at most what was on its way.",
)
def test_a_file_that_the_store_cannot_keep_is_told_and_the_others_move(
    ann: User, bob: User, monkeypatch: pytest.MonkeyPatch, store: LocalStore
) -> None:
    made = faulty(ann, monkeypatch)
    made.fail("put", lambda: ServerFault("internal error"), key="a.csv", times=2)
    with pytest.raises(PartlyMoved, match=r"1 of 3 files were not pushed; a\.csv: internal error"):
        ann.push()
    assert keys(store) == ["d/b.csv", "d/c.txt"]
    with pytest.raises(ServerFault):  # nothing else shows that the store is there
        ann.push()
    ann.push()
    made.fail("get", lambda: ServerFault("internal error"), key="a.csv", times=2)
    with pytest.raises(PartlyMoved, match=r"1 of 3 files were not pulled; a\.csv"):
        bob.pull()
    with pytest.raises(ServerFault):
        bob.pull()
    assert bob.pull().files == ["a.csv"]
    # A store that has nothing but errors is not asked for each of many files.
    for n in range(100):
        ann.write(f"many/{n}", "x")
    made.fail("put", lambda: ServerFault("internal error"), key="many/*", times=1000)
    with pytest.raises(StoreUnavailable):
        ann.push()


def test_a_store_that_is_full_ends_a_push(
    ann: User, monkeypatch: pytest.MonkeyPatch, store: LocalStore
) -> None:
    made = faulty(ann, monkeypatch)
    made.fail("put", lambda: NoSpace("no space left"), key="d/c.txt")
    with pytest.raises(NoSpace):
        ann.push()
    assert keys(store) == ["a.csv", "d/b.csv"]
    assert ann.push().files == ["d/c.txt"]


def test_files_that_landed_before_a_push_was_killed_are_not_sent_again(
    ann: User, bob: User, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob.pull()
    dying = Dies(ann.replica.store)
    ann.pull()
    monkeypatch.setattr(type(ann.replica), "store", property(lambda _self: dying))
    with pytest.raises(SystemExit):
        ann.push()
    monkeypatch.undo()
    versions = {key: store.head(key).version_id for key in ALL}
    monkeypatch.setattr(sending, "bodies", None)  # nothing is even read
    assert ann.push(cached=True).files == []
    assert {key: store.head(key).version_id for key in ALL} == versions
    monkeypatch.undo()
    assert bob.pull(cached=True).files == list(ALL)


def test_one_push_of_a_folder_at_a_time(ann: User) -> None:
    with (
        Record(ann.replica.home, ann.folder.path, ann.replica.pipe.pipe_id),
        pytest.raises(Busy, match="another pull or push"),
    ):
        ann.push()
    ann.push()


def test_both_changed_to_one_size_and_time_is_a_conflict_all_the_same(ann: User, bob: User) -> None:
    ann.push()
    bob.pull()
    ann.write("a.csv", "A", mtime=1)
    ann.push()
    bob.write("a.csv", "B", mtime=1)
    with pytest.raises(Conflict, match=r"a\.csv"):
        bob.pull()
    with pytest.raises(Conflict, match=r"a\.csv"):
        bob.push()
    bob.write("a.csv", "A", mtime=1)
    assert bob.pull().files == []


def test_only_names_of_our_downloads_are_passed_over(
    ann: User, bob: User, store: LocalStore
) -> None:
    mine, part = ".pipefs-part-notes.txt", "d/.pipefs-part-0123456789abcdef"
    ann.write(mine, "1", mtime=1)
    ann.push()
    ann.replica.store.put(part, b"of another tool")
    bob.pull()
    assert bob.pull().left_out == {part: "named like an unfinished download"}
    assert (bob.path / mine).read_text() == "1"
    assert not (bob.path / part).exists()
    assert bob.push(delete=True).deleted == []
    assert part in keys(store)


def test_a_commit_that_names_what_is_pipefs_own_moves_nothing(
    ann: User, bob: User, store: LocalStore
) -> None:
    ann.push()
    key = ".pipefs/commits/00000000000000000001.json"
    commit = json.loads(store.get(key, None, 0, 1 << 20))
    commit["changes"].append({**commit["changes"][0], "path": ".pipefs/x", "key": "a.csv"})
    store.put(key, json.dumps(commit).encode())
    assert bob.pull().files == list(ALL)
    assert bob.pull().left_out == {".pipefs/x": "a name of pipefs itself"}
    assert bob.push(delete=True).deleted == []


def test_times_of_any_year_travel_as_far_as_they_can(
    ann: User, bob: User, store: LocalStore, ram_path: Path
) -> None:
    store.put("theirs", b"x", metadata={"mtime": "99999999999", "mode": "99999999999999999999"})
    ann.pull()
    ann.folder, ann.path = Folder.at(ram_path), ram_path  # its file system has all years
    ann.write("future", "1", mtime=40_000_000_000)
    ann.write("past", "1", mtime=-40_000_000_000)
    ann.write("y2445", "1", mtime=15_000_000_000)
    ann.pull()
    assert ann.push().files == ["future", "past", "y2445"]
    assert sorted(bob.pull().files) == ["future", "past", "theirs", "y2445"]
    assert (bob.path / "y2445").stat().st_mtime == 15_000_000_000
    assert bob.pull().files == [] and ann.push().files == []


def test_a_file_that_cannot_be_read_is_told_and_the_others_move(ann: User, bob: User) -> None:
    ann.write("empty", "", mtime=1)
    ann.push()
    (ann.path / "empty").unlink()
    (ann.path / "empty").symlink_to("/proc/self/mem")  # an I/O error, for root too
    ann.write("new", "1")
    assert ann.pull().files == []
    with pytest.raises(PartlyMoved, match="1 of 2 files were not pushed; empty: it cannot be read"):
        ann.push()
    assert "new" in bob.pull().files


def test_what_a_broken_link_led_to_is_not_deleted(ann: User, store: LocalStore) -> None:
    (ann.path / "d").rename(ann.path.parent / "disk")
    (ann.path / "d").symlink_to(ann.path.parent / "disk")
    assert ann.push().files == list(ALL)
    (ann.path.parent / "disk").rename(ann.path.parent / "away")
    assert ann.push(include="*.csv", delete=True).deleted == []
    found = orphans(ann.replica, ann.folder, "remote", Options(include="*.csv"))
    assert found.remote == [] and keys(store) == list(ALL)
    (ann.path / "self").symlink_to("self")
    assert ann.push().left_out == dict.fromkeys(["d", "self"], "link that leads nowhere")


def test_orphans_of_a_folder_that_is_not_there_are_not_deleted(
    ann: User, store: LocalStore
) -> None:
    ann.push()
    ann.path.rename(ann.path.parent / "away")
    with pytest.raises(NotFound, match="nothing was deleted"):
        orphans(ann.replica, ann.folder, "remote", Options(empty_ok=True))
    ann.path.mkdir()
    with pytest.raises(Refused, match="has no files"):
        orphans(ann.replica, ann.folder, "both", Options())
    assert keys(store) == list(ALL)


def test_a_store_is_not_put_into_itself(ann: User, tmp_path: Path) -> None:
    ann.push()
    ann.folder = Folder.at(tmp_path / "store/d")
    for move in (ann.pull, ann.push):
        with pytest.raises(Refused, match="is in the store of p itself"):
            move()
    ann.folder = Folder.at(tmp_path)
    with pytest.raises(Refused, match="the store of p is in the folder"):
        ann.pull()
    ann.pull(exclude="store/*|home-*")


def test_names_that_no_key_can_have_travel(ann: User, bob: User) -> None:
    deep, odd = "/".join(["é" * 100] * 8), os.fsdecode(b"\xff\n:*?")
    ann.write(deep, "x")
    ann.write(odd, "y")
    ann.push()
    bob.pull()
    assert bob.has() == {**ALL, deep: "x", odd: "y"}


def test_a_pipe_that_is_read_only_here_takes_nothing(ann: User) -> None:
    ann.push()
    _set(ann, read_only=True)
    assert ann.push().files == []
    ann.write("a.csv", "new")
    with pytest.raises(ReadOnly):
        ann.push()


def test_links_are_followed_and_special_files_left_out(
    ann: User, tmp_path: Path, store: LocalStore
) -> None:
    (tmp_path / "big").mkdir()
    (tmp_path / "big/z").write_text("z")
    (ann.path / "linked").symlink_to(tmp_path / "big")
    os.mkfifo(ann.path / "fifo")
    report = ann.push()
    assert report.files == [*ALL, "linked/z"]
    assert report.left_out == {"fifo": "special file"}
    assert ann.push(follow_links=False, delete=True).deleted == []
    assert "linked/z" in keys(store)
