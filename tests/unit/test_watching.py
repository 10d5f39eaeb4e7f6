"""`pipefs watch`: a plain folder in step with a pipe while it runs."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipefs.cli.main import cli
from pipefs.errors import Busy, NotFound, PartlyDone, StoreUnavailable
from pipefs.folder import rounds, scan, watching
from pipefs.folder.rounds import Empty, Event, Wishes
from pipefs.folder.watching import Watch
from pipefs.replica import Replica
from pipefs.stores.local import LocalStore
from pipefs.stores.wrap import FaultStore
from tests.folders import User
from tests.mounted import PROGRAM, SOURCE, eventually, small_disk
from tests.replicas import requests


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path / "store")
    store.put("a.csv", b"1")
    store.put("d/b.csv", b"22")
    return store


@pytest.fixture
def users(tmp_path: Path, store: LocalStore) -> Iterator[tuple[User, User]]:
    both = User(tmp_path, tmp_path / "store", "ann"), User(tmp_path, tmp_path / "store", "bob")
    yield both
    for user in both:
        user.close()


@pytest.fixture
def ann(users: tuple[User, User]) -> User:
    return users[0]


@pytest.fixture
def bob(users: tuple[User, User]) -> User:
    users[1].pull()
    return users[1]


class Watched:
    """A watch of a user's folder and what it told."""

    def __init__(self, user: User, **wishes: Any) -> None:
        self.events: list[Event] = []
        wishes.setdefault("follow_s", 0.1)
        self.watch = Watch(user.replica, user.folder, Wishes(**wishes), self.events.append)

    def told(self) -> list[tuple[str, str]]:
        return [(e.what, e.path) for e in self.events]

    def once(self) -> list[tuple[str, str]]:
        """What one round does."""
        self.events.clear()
        self.watch.once()
        return self.told()

    def preview(self) -> list[tuple[str, str]]:
        self.events.clear()
        self.watch.preview()
        return self.told()


@contextlib.contextmanager
def running(user: User, **wishes: Any) -> Iterator[Watched]:
    watched, ready = Watched(user, **wishes), threading.Event()
    ended: list[BaseException] = []

    def run() -> None:
        try:
            watched.watch.run(ready.set)
        except BaseException as e:
            ended.append(e)
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(30)
    try:
        yield watched
    finally:
        watched.watch.stop()
        thread.join(30)
        assert not thread.is_alive()
    if ended:
        raise ended[0]


def setting(user: User, **settings: Any) -> None:
    pipe = user.replica.pipe
    user.replica.pipe = replace(pipe, settings=replace(pipe.settings, **settings))


# --- one round ----------------------------------------------------------------------------------


def test_a_round_brings_both_sides_into_step(ann: User, bob: User) -> None:
    ann.write("mine.csv", "mine")
    preview = Watched(ann).preview()
    assert preview == [("pulled", "a.csv"), ("pulled", "d/b.csv"), ("pushed", "mine.csv")]
    assert ann.has() == {"mine.csv": "mine"}
    assert Watched(ann).once() == preview
    assert Watched(ann).once() == []
    bob.pull()
    assert ann.has() == bob.has() == {"a.csv": "1", "d/b.csv": "22", "mine.csv": "mine"}


def test_what_changed_on_both_sides_is_kept_twice(ann: User, bob: User) -> None:
    watched = Watched(ann)
    watched.once()
    bob.write("a.csv", "bob's")
    bob.push()
    ann.write("a.csv", "ann's")
    assert watched.preview()[:1] == [("conflict", "a.csv")]
    (conflict, *rest) = watched.once() and watched.events
    assert (conflict.what, conflict.path) == ("conflict", "a.csv")
    assert [(e.what, e.path) for e in rest] == [("pulled", "a.csv"), ("pushed", conflict.text)]
    bob.pull()
    assert ann.has() == bob.has() == {"a.csv": "bob's", "d/b.csv": "22", conflict.text: "ann's"}
    assert watched.once() == []


def test_filters_and_what_stays_local_are_respected(ann: User, bob: User) -> None:
    setting(ann, exclude=("d/*",), local_only=("*.tmp",))
    for name in ("x.tmp", "d/new.csv", "y.csv"):
        ann.write(name, name)
    assert Watched(ann).once() == [("pulled", "a.csv"), ("pushed", "y.csv")]
    assert Watched(ann, exclude="").once() == [("pulled", "d/b.csv"), ("pushed", "d/new.csv")]
    ann.write("z.csv", "z")
    assert Watched(ann, include="*.txt").once() == []


def test_without_delete_a_deleted_file_comes_back(ann: User, bob: User) -> None:
    watched = Watched(ann)
    watched.once()
    (ann.path / "a.csv").unlink()
    (bob.path / "d/b.csv").unlink()
    bob.push(delete=True)
    assert watched.once() == [("pulled", "a.csv")]
    assert ann.has() == {"a.csv": "1", "d/b.csv": "22"}


def test_with_delete_deletions_travel_both_ways_but_never_over_a_change(
    ann: User, bob: User
) -> None:
    for name in ("here", "there", "here-changed", "there-changed", "stays"):
        bob.write(name, name)
    bob.push()
    watched = Watched(ann, delete=True)
    watched.once()
    (ann.path / "here").unlink()
    (ann.path / "there-changed").unlink()
    ann.write("here-changed", "changed by ann")
    for name in ("there", "here-changed"):
        (bob.path / name).unlink()
    bob.write("there-changed", "changed by bob")
    bob.push(delete=True)
    expected = [("deleted here", "there"), ("deleted there", "here")]
    assert watched.preview()[:2] == expected
    assert watched.once() == [*expected, ("pulled", "there-changed"), ("pushed", "here-changed")]
    bob.pull(delete=True)
    assert ann.has() == bob.has()
    assert set(ann.has()) == {"a.csv", "d/b.csv", "here-changed", "there-changed", "stays"}


def test_an_empty_folder_deletes_nothing(ann: User, store: LocalStore) -> None:
    watched = Watched(ann, delete=True)
    watched.once()
    for path in ("a.csv", "d/b.csv"):
        (ann.path / path).unlink()
    with pytest.raises(Empty, match="no files any more: the 2 of the other side"):
        watched.once()
    assert {o.key for o in store.list() if not o.key.startswith(".pipefs")} == {"a.csv", "d/b.csv"}


@pytest.mark.parametrize("behind", ["nothing", "an empty folder"])
def test_a_linked_folder_whose_disk_is_not_there_deletes_nothing(
    ann: User, store: LocalStore, tmp_path: Path, behind: str
) -> None:
    disk, away = tmp_path / "disk", tmp_path / "away"
    (disk / "2026").mkdir(parents=True)
    (disk / "2026/q1.csv").write_text("1")
    (disk / "q2.csv").write_text("2")
    ann.path.mkdir()
    (ann.path / "big").symlink_to(disk)
    watched = Watched(ann, delete=True, include="*.csv")
    watched.once()
    disk.rename(away)
    if behind == "an empty folder":
        disk.mkdir()
    with contextlib.suppress(PartlyDone):  # they cannot come back through the link
        watched.once()
    assert not [event for event in watched.told() if event[0].startswith("deleted")]
    there = ["a.csv", "big/2026/q1.csv", "big/q2.csv", "d/b.csv"]
    assert sorted(o.key for o in store.list() if not o.key.startswith(".pipefs")) == there


def test_a_disk_that_is_not_mounted_deletes_nothing(
    ann: User, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, real = ann.path / "disk", scan._Walk._entries

    def there() -> list[str]:
        return sorted(o.key for o in store.list() if o.key.startswith("disk/"))

    def entries(self: scan._Walk, directory: str, above: str) -> list[os.DirEntry[str]]:
        if above == "disk/" and os.path.ismount(disk):
            subprocess.run(["umount", disk], check=True)
        return real(self, directory, above)

    watched = Watched(ann, delete=True)
    disk.mkdir(parents=True)
    for goes in ("before it is looked at", "meanwhile"):
        with small_disk(disk, "1m"):
            ann.write("disk/2026/q1.csv", "1")
            ann.write("disk/q2.csv", "2")
            watched.once()
            if goes == "meanwhile":
                monkeypatch.setattr(scan._Walk, "_entries", entries)
                assert watched.once() == []
                monkeypatch.undo()
        # Nothing is put where the disk would hide it.
        assert watched.preview() == watched.once() == []
        report = ann.push(delete=True)
        assert (list(report), report.deleted) == ([], [])
        assert report.left_out == {"disk": "its disk is not mounted"}
        assert there() == ["disk/2026/q1.csv", "disk/q2.csv"]
        assert os.listdir(disk) == []
    with small_disk(disk, "1m"):  # an empty one: there they were deleted
        watched.once()
    assert there() == []


def test_a_folder_in_the_place_of_a_disk_is_a_folder(ann: User, store: LocalStore) -> None:
    disk = ann.path / "disk"
    disk.mkdir(parents=True)
    watched = Watched(ann, delete=True)
    with small_disk(disk, "1m"):
        ann.write("disk/a", "1")
        ann.write("disk/b", "2")
        watched.once()
    ann.write("disk/a", "1")
    assert watched.once() == []  # perhaps what the disk hid
    ann.write("disk/b", "2")
    watched.once()
    (disk / "b").unlink()
    assert watched.once() == [("deleted there", "disk/b")]
    assert [o.key for o in store.list() if o.key.startswith("disk/")] == ["disk/a"]


def test_a_folder_that_goes_while_it_is_looked_at_deletes_nothing(
    ann: User, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(ann, delete=True)
    watched.once()
    aside, real = ann.path.parent / "aside", scan._Walk._entries

    def entries(self: scan._Walk, directory: str, above: str) -> list[os.DirEntry[str]]:
        if above != "d/" or aside.exists():
            return real(self, directory, above)
        (ann.path / "d").rename(aside)
        try:
            return real(self, directory, above)
        finally:
            shutil.copytree(aside, ann.path / "d")

    monkeypatch.setattr(scan._Walk, "_entries", entries)
    assert watched.once() == [] and aside.exists()
    assert ann.has() == {"a.csv": "1", "d/b.csv": "22"}
    assert "d/b.csv" in {o.key for o in store.list()}


def test_the_deletion_of_a_file_that_was_pushed_as_it_was_written_travels(
    ann: User, bob: User, store: LocalStore
) -> None:
    watched = Watched(bob, delete=True)
    for number in range(5):  # so young that its times say nothing of later writes
        bob.write("young.csv", str(number))
        watched.once()
        store.delete("young.csv")
        assert watched.once() == [("deleted here", "young.csv")]


def test_a_pipe_that_was_made_anew_deletes_nothing_here(
    ann: User, bob: User, store: LocalStore, tmp_path: Path
) -> None:
    watched = Watched(bob, delete=True)
    bob.write("mine.csv", "3")
    watched.once()
    # Nothing but the log is gone: that says nothing of the files.
    for item in list(store.list(".pipefs/")):
        store.delete(item.key)
    assert watched.once() == []
    store.close()
    shutil.rmtree(tmp_path / "store")
    anew = LocalStore(tmp_path / "store")
    anew.put("new.csv", b"4")
    with pytest.raises(Empty, match=r"made anew, and lacks 3 files of .*/bob, such as a\.csv"):
        watched.once()
    with pytest.raises(Empty, match="nothing moves"):
        watched.once()
    assert bob.has() == {"a.csv": "1", "d/b.csv": "22", "mine.csv": "3"}
    bob.pull()
    bob.push(mode="all")
    assert watched.once() == []  # said and done: from now on deletions travel
    anew.delete("new.csv")
    assert watched.once() == [("deleted here", "new.csv")]
    assert bob.has() == {"a.csv": "1", "d/b.csv": "22", "mine.csv": "3"}
    anew.close()


# --- running ------------------------------------------------------------------------------------


def test_an_error_of_the_file_system_ends_a_round_and_no_more(
    ann: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = rounds.push, [OSError(errno.EIO, "Input/output error")]

    def push(*given: Any) -> object:
        if left and (ann.path / "new.csv").exists():
            raise left.pop()
        return real(*given)

    monkeypatch.setattr(rounds, "push", push)
    with running(ann) as watched:
        ann.write("new.csv", "3")
        eventually(lambda: ("pushed", "new.csv") in watched.told(), "it goes on")
    assert not left and any("Input/output error" in e.text for e in watched.events)


def test_a_folder_that_cannot_be_read_is_told_and_waited_for(ann: User, bob: User) -> None:
    # Not even root can read a folder whose path is longer than the system takes.
    deep = ann.path.parent / "deep"
    deep.mkdir()
    above = os.open(deep, os.O_RDONLY)
    for name in ["n" * 250] * 17:
        os.mkdir(name, dir_fd=above)
        below = os.open(name, os.O_RDONLY, dir_fd=above)
        os.close(above)
        above = below
    os.close(above)
    with running(ann, delete=True) as watched:
        deep.rename(ann.path / "d" / "deep")
        ann.write("new.csv", "3")
        eventually(lambda: [e for e in watched.events if "cannot be read" in e.text], "it is told")
        (ann.path / "d" / "deep").rename(deep)
        eventually(lambda: ("pushed", "new.csv") in watched.told(), "it goes on")
    assert not [event for event in watched.told() if event[0].startswith("deleted")]
    shutil.rmtree(deep)


def test_changes_travel_both_ways_while_it_runs(ann: User, bob: User) -> None:
    with running(ann) as watched:
        assert ann.has() == {"a.csv": "1", "d/b.csv": "22"}
        bob.write("from-bob", "b")
        bob.push()
        eventually(lambda: ann.has().get("from-bob") == "b", "bob's file came", 20)
        ann.write("deep/er/from-ann", "a")
        eventually(lambda: ("pushed", "deep/er/from-ann") in watched.told(), "ann's went", 20)
        os.rename(ann.path / "deep", ann.path / "moved")
        eventually(lambda: ("pushed", "moved/er/from-ann") in watched.told(), "renamed", 20)
        ann.write("last", "written just before it ends")
    assert ("pushed", "last") in watched.told()
    bob.pull()
    assert bob.has()["last"] == "written just before it ends"


def test_looking_costs_two_requests_where_nothing_changed(ann: User) -> None:
    with running(ann, follow_s=0.05) as watched:
        watch = watched.watch
        # What was pulled is looked at once more, when it has rested.
        eventually(lambda: watch.looks > 25, "it is calm", 30)
        seen, looks = requests(ann.replica), watch.looks
        listed = requests(ann.replica, "list")
        eventually(lambda: watch.looks > looks + 5, "it looks", 20)
        assert requests(ann.replica) - seen <= 2 * (watch.looks - looks + 1)
        assert requests(ann.replica, "list") == listed


def test_a_file_goes_up_when_it_rests_and_others_do_not_wait_for_it(ann: User) -> None:
    setting(ann, quiet_period_s=1.0, min_version_interval_s=3600.0)
    writing = threading.Event()

    def write() -> None:
        with open(ann.path / "log [1]|.txt", "w") as log:
            while not writing.wait(0.05):
                log.write("line\n")
                log.flush()

    with running(ann) as watched:
        thread = threading.Thread(target=write)
        thread.start()
        time.sleep(0.2)
        ann.write("done.csv", "x")
        try:
            eventually(lambda: ("pushed", "done.csv") in watched.told(), "it went up", 20)
            assert ("pushed", "log [1]|.txt") not in watched.told()
        finally:
            writing.set()
            thread.join()
        eventually(lambda: ("pushed", "log [1]|.txt") in watched.told(), "it rests", 20)
    assert [e.path for e in watched.events if e.what == "pushed"] == ["done.csv", "log [1]|.txt"]


def test_a_store_that_goes_away_is_waited_for(
    ann: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_LONGEST_PAUSE_S", 0.1)
    faulty = FaultStore(ann.replica.store)
    faulty.fail("*", times=3)  # from the first request on
    real = Replica.store.fget  # type: ignore[attr-defined]  # a property's own function
    monkeypatch.setattr(
        Replica, "store", property(lambda self: faulty if self is ann.replica else real(self))
    )
    ann.write("mine.csv", "mine")
    with running(ann) as watched:
        eventually(lambda: ("pushed", "mine.csv") in watched.told(), "it goes on", 20)
        faulty.fail("*", times=3)
        eventually(lambda: watched.told().count(("online", "")) == 2, "again", 20)
    whats = [what for what, _ in watched.told()]
    assert whats[0] == "offline" and whats.count("offline") == 2
    assert "injected fault" in watched.events[0].text


def test_who_ends_it_waits_for_what_goes_up_and_not_for_what_comes(ann: User, bob: User) -> None:
    ann.write("mine.csv", "mine")
    ann.write("a.csv", "changed on both sides")
    events: list[Event] = []

    def tell(event: Event) -> None:
        events.append(event)
        if event.what == "pulled":
            watch.stop()
            raise KeyboardInterrupt  # as the handler of a signal does

    watch = Watch(ann.replica, ann.folder, tell=tell)
    watch.run()
    assert [(e.what, e.path) for e in events if e.what != "pulled"] == [
        ("conflict", "a.csv"),
        ("pushed", events[0].text),
        ("pushed", "mine.csv"),
    ]
    assert set(bob.pull().files) == {events[0].text, "mine.csv"}


def test_what_cannot_be_pulled_keeps_nothing_from_going_up(
    ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty = FaultStore(ann.replica.store)
    faulty.fail("get", lambda: NotFound("it is lost"), key="a.csv", times=10_000)
    monkeypatch.setattr(Replica, "store", property(lambda _self: faulty))
    ann.write("mine.csv", "mine")
    watched = Watched(ann)
    with pytest.raises(PartlyDone):
        watched.once()
    assert ("failed", "a.csv") in watched.told()
    assert ("pushed", "mine.csv") in watched.told()


def test_what_cannot_go_up_at_the_end_is_said(ann: User, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PartlyDone, match="went up: injected") as raised, running(ann):
        faulty = FaultStore(ann.replica.store)
        faulty.fail("*", times=10_000)
        monkeypatch.setattr(Replica, "store", property(lambda _self: faulty))
        ann.write("mine.csv", "mine")
    assert isinstance(raised.value.__cause__, StoreUnavailable)
    assert ann.has()["mine.csv"] == "mine"


def test_one_watch_a_folder_and_one_that_is_gone_deletes_nothing(
    ann: User, store: LocalStore
) -> None:
    with pytest.raises(NotFound, match="is not there any more"), running(ann, delete=True):
        with pytest.raises(Busy, match="is in use by process"):
            Watched(ann).once()
        ann.path.rename(ann.path.with_name("elsewhere"))
        ann.path.mkdir()
    assert store.get("a.csv", None, 0, 9) == b"1"


# --- the command line ---------------------------------------------------------------------------


def _pipefs(tmp_path: Path, *words: str, code: int = 0) -> Result:
    done = CliRunner().invoke(cli, words, env={"PIPEFS_HOME": str(tmp_path / "home")})
    assert done.exit_code == code, (words, done.stdout, done.stderr)
    assert "Traceback (most recent" not in done.stderr
    return done


def test_one_round_from_the_command_line(tmp_path: Path, store: LocalStore) -> None:
    _pipefs(tmp_path, "create", "sales", store.url)
    work = str(tmp_path / "work")
    said = _pipefs(tmp_path, "watch", work, "sales", "--once", "-n").stdout
    assert said.splitlines()[0].split() == ["would", "be", "pulled", "a.csv", "1", "B"]
    assert not Path(work).exists()
    lines = _pipefs(tmp_path, "watch", work, "sales", "--once", "--json").stdout.splitlines()
    told = [json.loads(line) for line in lines]
    assert [(t["event"], t["path"], t["size"]) for t in told] == [
        ("pulled", "a.csv", 1),
        ("pulled", "d/b.csv", 2),
    ]
    assert all(t["time"].endswith("Z") for t in told)
    again = _pipefs(tmp_path, "watch", work, "sales", "--once").stdout
    assert again.endswith("/work  in step with sales\n")
    assert "is a snapshot" in _pipefs(tmp_path, "watch", work, "sales@v1", code=2).stderr
    _pipefs(tmp_path, "watch", work, "nosuch", code=3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_pushes_what_waits_and_ends_it(
    tmp_path: Path, store: LocalStore, number: int
) -> None:
    _pipefs(tmp_path, "create", "sales", store.url, "-o", "quiet_period=1h")
    env = {**os.environ, "PIPEFS_HOME": str(tmp_path / "home"), "PYTHONPATH": str(SOURCE)}
    work = tmp_path / "work"
    process = subprocess.Popen(
        [*PROGRAM, "watch", str(work), "sales", "--json"],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        seen = []
        while not seen or seen[-1]["event"] != "ready":
            seen.append(json.loads(process.stdout.readline()))
        (work / "mine.csv").write_text("mine")
        process.send_signal(number)
        rest, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    events = [json.loads(line) for line in rest.splitlines()]
    assert [e["event"] for e in events] == ["pushed", "ended"]
    assert events[0]["path"] == "mine.csv"
    assert store.get("mine.csv", None, 0, 9) == b"mine"
