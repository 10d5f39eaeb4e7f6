"""`pipefs resolve` of an unmounted pipe and of a plain folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipefs.cli.main import cli
from pipefs.conflictwork import ConflictWork
from pipefs.db import StateDB
from pipefs.errors import Conflict, NotFound, Refused, StoreUnavailable
from pipefs.folder.resolving import conflicts, resolve
from pipefs.home import resolve_home
from pipefs.registry import Registry
from pipefs.session import Session
from pipefs.stores.local import LocalStore
from tests.folders import User
from tests.machines import Machine, sync_all

Run = Callable[..., Result]


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path / "store")
    store.put("a.csv", b"1")
    store.put("b.csv", b"2")
    return store


@pytest.fixture
def ann(tmp_path: Path, store: LocalStore) -> Iterator[User]:
    user = User(tmp_path, tmp_path / "store", "ann")
    user.pull()
    user.write("a.csv", "mine")
    store.put("a.csv", b"theirs")
    yield user
    user.close()


# --- a folder -----------------------------------------------------------------------------------


def test_d6_15_mine_counts_the_pipes_version_as_seen(ann: User) -> None:
    assert conflicts(ann.replica, ann.folder) == []  # a listing of before
    done = resolve(ann.replica, ann.folder, "./a.csv", "mine")
    assert (done.path, done.copy, done.replaced) == ("a.csv", "", "")
    assert ann.pull().files == []
    assert ann.has()["a.csv"] == "mine"
    with pytest.raises(Refused, match="in no conflict"):
        resolve(ann.replica, ann.folder, "a.csv", "theirs")


def test_d6_15_theirs_is_fetched_over_ours(ann: User) -> None:
    resolve(ann.replica, ann.folder, "a.csv", "theirs", dry_run=True)
    assert ann.has() == {"a.csv": "mine", "b.csv": "2"}
    assert resolve(ann.replica, ann.folder, "a.csv", "theirs").replaced == "a.csv"
    assert ann.has() == {"a.csv": "theirs", "b.csv": "2"}
    assert ann.pull().files == []


def test_d6_15_both_are_kept_ours_under_a_conflict_name(ann: User) -> None:
    planned = resolve(ann.replica, ann.folder, "a.csv", "both", dry_run=True)
    assert ann.has() == {"a.csv": "mine", "b.csv": "2"}
    copy = resolve(ann.replica, ann.folder, "a.csv", "both").copy
    assert copy.startswith("a.conflict-") and copy.endswith(".csv")
    assert planned.copy.split("Z")[0][:-5] == copy.split("Z")[0][:-5]
    assert ann.has() == {"a.csv": "theirs", copy: "mine", "b.csv": "2"}
    assert conflicts(ann.replica, ann.folder) == []


def test_where_the_pipes_version_cannot_be_had_ours_keeps_its_name(
    ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipefs.folder import fetching

    def lost(*_: object) -> None:
        raise StoreUnavailable("the store went away")

    monkeypatch.setattr(fetching.Fetcher, "fetch", lost)
    with pytest.raises(StoreUnavailable):
        resolve(ann.replica, ann.folder, "a.csv", "both")
    assert ann.has() == {"a.csv": "mine", "b.csv": "2"}


def test_what_is_in_no_conflict_is_refused(ann: User) -> None:
    with pytest.raises(NotFound, match=r"no none\.csv"):
        resolve(ann.replica, ann.folder, "none.csv", "mine")
    with pytest.raises(Refused, match="did not change on both sides"):
        resolve(ann.replica, ann.folder, "b.csv", "mine")
    with pytest.raises(Conflict):
        ann.pull()
    assert conflicts(ann.replica, ann.folder) == ["a.csv"]


# --- the command line ---------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: LocalStore) -> Run:
    monkeypatch.setenv("PIPEFS_HOME", str(tmp_path / "home"))

    def go(*words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == code, (words, done.stdout, done.stderr)
        assert "Traceback (most recent" not in done.stderr
        return done

    go("create", "sales", store.url)
    return go


@pytest.fixture
def folder(run: Run, tmp_path: Path, store: LocalStore) -> Path:
    from pipefs import Pipe

    place = tmp_path / "work"
    with Pipe("sales") as pipe:
        pipe.pull(dest=place)
        (place / "a.csv").write_text("mine")
        store.put("a.csv", b"theirs")
        assert pipe.is_synced(cached=False) is False  # looks now for what other tools wrote
    return place


def test_d6_15_a_folders_conflicts_are_listed_with_what_to_type(run: Run, folder: Path) -> None:
    at = ("--dest", str(folder))
    text = run("resolve", "sales", *at).stdout
    assert text.startswith("sales  1 conflict\n  a.csv  changed in the pipe, and in ")
    assert text.endswith(
        f"    pipefs resolve sales/a.csv --keep mine|theirs|both --dest {folder}\n"
    )
    told = json.loads(run("resolve", "sales", *at, "--json").stdout)
    assert (told["in_folder"], told["conflicts"]) == (["a.csv"], [])
    assert run("resolve", "sales").stdout == "sales  no conflicts\n"


def test_d6_15_a_folders_theirs_asks_first(run: Run, folder: Path) -> None:
    words = ("resolve", "sales/a.csv", "--keep", "theirs", "--dest", str(folder))
    refused = run(*words, code=4).stderr
    assert "yours is nowhere else" in refused
    assert f"pipefs -y resolve sales/a.csv --dest {folder} --keep theirs" in refused
    assert "would be fetched over yours" in run(*words, "-n").stdout
    assert (folder / "a.csv").read_text() == "mine"
    assert run(*words, "-y").stdout == "sales/a.csv  theirs fetched over yours\n"
    assert (folder / "a.csv").read_text() == "theirs"


def test_d6_15_a_folders_both_says_where_ours_is(run: Run, folder: Path) -> None:
    words = ("resolve", "sales/a.csv", "--dest", str(folder), "--keep")
    told = json.loads(run(*words, "both", "--json").stdout)
    assert (folder / told["copy"]).read_text() == "mine"
    assert run(*words, "mine", code=4).stderr.startswith("pipefs: a.csv is in no conflict")


def test_words_that_make_no_sense_say_what_would(run: Run) -> None:
    assert "--keep mine|theirs|both" in run("resolve", "sales/a.csv", code=2).stderr
    assert "which file?" in run("resolve", "sales", "--keep", "mine", code=2).stderr
    assert "is the past" in run("resolve", "sales@v1/a.csv", "--keep", "mine", code=2).stderr
    run("resolve", "nosuch", code=3)
    run("resolve", "sales/a.csv", "--keep", "ours", code=2)


# --- what a mount left --------------------------------------------------------------------------


@pytest.fixture
def left(run: Run, tmp_path: Path, store: LocalStore) -> Iterator[Machine]:
    """The other machine; the unmounted pipe here has `q3.csv` in conflict with it."""
    there = Machine(tmp_path / "there", store, name="there")
    home = resolve_home()
    with Session(home, Registry(home).get("sales")) as session:
        volume = session.keeper.volume
        node = volume.create(1, b"q3.csv", 0o644, 0, 0, handle=1)
        volume.write(node.ino, 0, memoryview(b"ours"), wait=True)
        volume.close_write(node.ino, 1)
        there.write("q3.csv", b"theirs")
        there.sync()
        session.bring_up()
    there.sync()
    yield there
    there.close()


def test_d6_15_an_unmounted_pipe_lists_and_ends_its_conflicts(run: Run, left: Machine) -> None:
    (item,) = json.loads(run("resolve", "sales", "--json").stdout)["conflicts"]
    copy = item["kept_as"]
    text = run("resolve", "sales").stdout
    assert f"q3.csv (theirs)   {copy} (yours)" in text
    assert "    pipefs resolve sales/q3.csv --keep mine|theirs|both\n" in text
    words = ("resolve", "sales/q3.csv", "--keep")
    would = run(*words, "theirs", "-n").stdout
    assert f"theirs would stay · {copy} would go; its history: pipefs log sales/{copy}" in would
    assert "yours would have the name" in run(*words, "mine", "-n").stdout
    said = run(*words, "mine").stdout
    assert said.startswith("sales/q3.csv  yours has the name now · theirs stays in its history: ")
    assert run("resolve", "sales").stdout == "sales  no conflicts\n"
    sync_all(left)
    assert left.tree()["q3.csv"] == b"ours"
    assert copy not in left.tree()
    assert left.store.get("q3.csv", None, 0, 9) == b"ours"


def test_d6_15_both_needs_no_store_and_no_mount(
    run: Run, left: Machine, tmp_path: Path, store: LocalStore
) -> None:
    (tmp_path / "store").rename(tmp_path / "away")
    assert "both stay" in run("resolve", "sales/q3.csv", "--keep", "both").stdout
    (tmp_path / "away").rename(tmp_path / "store")
    assert run("resolve", "sales").stdout == "sales  no conflicts\n"


def test_while_another_process_has_the_state_the_answer_is_busy(run: Run, left: Machine) -> None:
    from pipefs import tree

    home = resolve_home()
    held = StateDB(home.pipe_state("sales") / "tree", tree.TABLES)
    try:
        run("resolve", "sales/q3.csv", "--keep", "both", code=4)
    finally:
        held.close()
    assert ConflictWork(home, Registry(home).get("sales")).has("q3.csv")
