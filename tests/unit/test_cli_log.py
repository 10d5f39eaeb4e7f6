"""`pipefs log` and `pipefs snapshots`, on commits that a real volume made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipefs.cli.app import App
from pipefs.cli.main import cli
from pipefs.past.opened import Past
from pipefs.stores.local import LocalStore
from tests import pasts
from tests.machines import Machine
from tests.promises.promised import promise

Run = Callable[..., Result]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    store = LocalStore(tmp_path / "store")
    yield store
    store.close()


@pytest.fixture
def machine(tmp_path: Path, store: LocalStore) -> Iterator[Machine]:
    made = Machine(tmp_path / "machine", store)
    yield made
    made.close()


@pytest.fixture
def past(store: LocalStore) -> Past:
    return pasts.open_past(store)


@pytest.fixture
def run(store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("PIPEFS_HOME", str(tmp_path / "home"))
    app = App()
    app.home().make()
    app.registry().add("sales", (tmp_path / "store").as_uri(), "id", {})

    def go(*words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == code, (words, done.stdout, done.stderr)
        return done

    return go


def events(run: Run, *words: str) -> list[dict[str, Any]]:
    found = json.loads(run("log", *words, "--json").stdout)["events"]
    assert isinstance(found, list)
    return found


def kinds(run: Run, *words: str) -> list[str]:
    return [e["event"] for e in events(run, *words)]


# --- log of a file ------------------------------------------------------------------------------


def test_t4_17_each_version_of_a_file_with_who_when_and_size(run: Run, machine: Machine) -> None:
    for content in (b"1", b"22", b"333"):
        machine.write("q3.csv", content)
        machine.sync()
    found = events(run, "sales/q3.csv")
    assert [(e["event"], e["size"]) for e in found] == [
        ("changed", 3),
        ("changed", 2),
        ("added", 1),
    ]
    stored = [v.version_id for v in machine.store.list_versions("q3.csv")]
    assert [e["version"] for e in found] == stored
    assert {(e["author"], e["external"]) for e in found} == {("user@a", False)}
    lines = run("log", "sales/q3.csv").stdout.splitlines()
    assert lines[0].split()[2:5] == ["user@a", "changed", "3"]
    assert lines[0].endswith(stored[0] or "-")
    assert len(run("log", "sales/q3.csv", "-n", "2").stdout.splitlines()) == 2


def test_a_file_is_followed_through_renames(run: Run, machine: Machine) -> None:
    machine.mkdir("d")
    machine.write("d/a", b"1")
    machine.sync()
    machine.mv("d/a", "d/b")
    machine.sync()
    machine.mv("d", "e")
    machine.sync()
    machine.write("e/b", b"22")
    machine.sync()
    found = events(run, "sales/e/b")
    assert [(e["event"], e["source"], e["path"]) for e in found] == [
        ("changed", None, "e/b"),
        ("renamed", "d/b", "e/b"),
        ("renamed", "d/a", "d/b"),
        ("added", None, "d/a"),
    ]


def test_what_has_the_old_name_now_is_another_file(run: Run, machine: Machine) -> None:
    machine.write("a", b"1")
    machine.sync()
    machine.mv("a", "b")
    machine.sync()
    machine.write("a", b"other")
    machine.sync()
    assert [(e["event"], e["size"]) for e in events(run, "sales/b")][-1] == ("added", 1)
    assert 5 not in [e["size"] for e in events(run, "sales/b")]
    assert kinds(run, "sales/a") == ["added", "renamed", "added"]


def test_what_a_renamed_file_took_the_place_of_is_told_with_its_author(
    run: Run, machine: Machine
) -> None:
    machine.write("q3.csv", b"theirs")
    machine.sync()
    machine.write("draft.csv", b"ours")
    machine.sync()
    machine.mv("draft.csv", "q3.csv")
    machine.sync()
    found = events(run, "sales/q3.csv")
    assert [(e["event"], e["path"], e["size"]) for e in found if e["event"] == "added"] == [
        ("added", "draft.csv", 4),
        ("added", "q3.csv", 6),
    ]
    assert all("@" in e["author"] for e in found)


def test_a_deleted_file_has_its_history(run: Run, machine: Machine) -> None:
    machine.write("a", b"1")
    machine.sync()
    machine.rm("a")
    machine.sync()
    assert kinds(run, "sales/a") == ["deleted", "added"]
    machine.write("a", b"22")
    machine.sync()
    assert kinds(run, "sales/a") == ["added", "deleted", "added"]


def test_attributes_are_told_too(run: Run, machine: Machine) -> None:
    machine.write("a", b"1")
    machine.sync()
    machine.chmod("a", 0o600)
    machine.sync()
    assert kinds(run, "sales/a") == ["attributes", "added"]


def test_versions_of_other_tools_are_told_without_a_log(run: Run, store: LocalStore) -> None:
    for content in (b"1", b"22"):
        store.put("plain.csv", content)
    store.delete("plain.csv")
    found = events(run, "sales/plain.csv")
    assert [(e["event"], e["author"], e["external"]) for e in found] == [
        ("deleted", None, True),
        ("changed", None, True),
        ("added", None, True),
    ]
    assert "another tool  added" in run("log", "sales/plain.csv").stdout


@promise(
    "log-file",
    "`log` of a file tells each version that the store has of it, also those that other "
    "tools wrote, through renames.",
)
def test_versions_of_other_tools_stand_among_ours(run: Run, machine: Machine) -> None:
    machine.write("a", b"1")
    machine.sync()
    machine.store.put("a", b"four")
    machine.reconcile()
    machine.sync()
    machine.write("a", b"55555")
    machine.sync()
    found = events(run, "sales/a")
    assert [(e["size"], e["external"]) for e in found] == [(5, False), (4, True), (1, False)]


def test_a_log_may_begin_at_a_snapshot(run: Run, machine: Machine, past: Past) -> None:
    machine.write("a", b"1")
    machine.sync()
    pasts.take(past, pasts.put_files(past.store, {"b": b"b"}), tag="v1")
    machine.sync()
    machine.write("a", b"22")
    machine.sync()
    assert [e["size"] for e in events(run, "sales/a")] == [2, 1]
    assert [e["size"] for e in events(run, "sales@v1/a")] == [1]
    assert len(run("log", "sales@v1").stdout.splitlines()) == 1


# --- log of a pipe, of a folder -----------------------------------------------------------------


def test_commits_newest_first_with_what_they_did(run: Run, machine: Machine, past: Past) -> None:
    machine.mkdir("d")
    machine.write("d/notes.md", b"x" * 2000)
    machine.sync()
    for name in "abc":
        machine.write(f"d/{name}", b"1")
    machine.rm("d/notes.md")
    machine.sync()
    pasts.take(past, [], tag="raw", message="as downloaded")
    lines = run("log", "sales").stdout.splitlines()
    assert "snapshot raw " in lines[0]
    assert lines[0].endswith('"as downloaded"')
    text = "\n".join(lines)
    assert "3 added" in text
    assert "1 deleted" in text or "d/notes.md deleted" in text
    numbers = [int(line.split()[2].lstrip("#")) for line in lines]
    assert numbers == sorted(numbers, reverse=True)
    assert len(run("log", "sales", "-n", "1").stdout.splitlines()) == 1
    found = json.loads(run("log", "sales", "-n", "0", "--json").stdout)["commits"]
    assert [c["commit"] for c in found] == list(range(past.position.number, 0, -1))
    assert found[-1]["author"] == "user@a"


def test_a_folder_has_the_commits_below_it(run: Run, machine: Machine) -> None:
    machine.mkdir("d")
    machine.write("d/a", b"1")
    machine.write("other", b"1")
    machine.sync()
    machine.write("other", b"22")
    machine.sync()
    machine.mv("d", "e")
    machine.sync()
    found = json.loads(run("log", "sales/e", "--json").stdout)["commits"]
    paths = [sorted(c["path"] for c in commit["changes"]) for commit in found]
    assert ["d", "d/a"] in paths
    assert not any("other" in some for some in paths)
    lines = run("log", "sales/e").stdout.splitlines()
    assert any(line.endswith("d renamed to e") for line in lines)
    assert lines[-1].endswith("1 added, 1 folder made")


def test_what_never_was_is_not_found(run: Run, machine: Machine) -> None:
    machine.write("a", b"1")
    machine.sync()
    assert "nothing is known of b" in run("log", "sales/b", code=3).stderr
    assert 'no pipe "nopipe"' in run("log", "nopipe", code=3).stderr


def test_a_pipe_without_commits(run: Run) -> None:
    assert run("log", "sales").stdout == "nothing happened yet\n"


# --- snapshots ----------------------------------------------------------------------------------


def test_snapshots_newest_first_in_a_table(run: Run, past: Past) -> None:
    entries = pasts.put_files(past.store, {"a": b"1" * 3000, "d/b": b"2"})
    first = pasts.take(past, entries, tag="raw", message="as downloaded")
    second = pasts.take(past, entries, tag="clean", metrics={"rows": "48990"})
    assert run("snapshots", "sales").stdout.splitlines() == [
        f"clean  {second.short}  2026-11-28 13:00Z  2 files  3 KB  rows=48990",
        f"raw    {first.short}  2026-11-28 12:00Z  2 files  3 KB  as downloaded",
    ]


def test_snapshots_for_programs_have_the_keys_of_the_contract(run: Run, past: Past) -> None:
    entries = pasts.put_files(past.store, {"d/b": b"2"})
    made = pasts.take(past, entries, path="d", metrics={"auc": "0.5"}, message="m")
    (found,) = json.loads(run("snapshots", "sales", "--json").stdout)["snapshots"]
    wanted = {"id", "tag", "tags", "time", "message", "path", "metrics"}
    assert {k: found[k] for k in wanted} == {
        "id": made.id,
        "tag": None,
        "tags": [],
        "time": "2026-11-28T12:00:00.000000Z",
        "message": "m",
        "path": "d",
        "metrics": {"auc": "0.5"},
    }


def test_t4_12_snapshots_that_contain_a_path(run: Run, past: Past) -> None:
    entries = pasts.put_files(past.store, {"d/b": b"2", "dd/c": b"3"})
    pasts.take(past, entries, tag="all")
    pasts.take(past, entries[:2], tag="part", path="d")
    for words, tags in [
        (("sales",), ["part", "all"]),
        (("sales", "--contains", "d/b"), ["part", "all"]),
        (("sales", "--contains", "dd/c"), ["all"]),
        (("sales/dd",), ["all"]),
        (("sales/d", "--contains", "b"), ["part", "all"]),
    ]:
        found = json.loads(run("snapshots", *words, "--json").stdout)["snapshots"]
        assert [s["tag"] for s in found] == tags


def test_dws_25_tags_and_ids_are_names_of_a_snapshot(run: Run, past: Past) -> None:
    entries = pasts.put_files(past.store, {"a": b"1"})
    made = pasts.take(past, entries, tag="v1")
    for name in ("v1", made.id[:7], made.id[:6].upper(), made.id):
        assert past.catalog.find(name).id == made.id
        assert "are the same" in run("diff", "sales", name, "v1").stdout


def test_no_snapshot_says_how_to_make_one(run: Run) -> None:
    assert run("snapshots", "sales").stdout == (
        "sales  no snapshot yet · pipefs snapshot sales TAG\n"
    )
    assert 'no pipe "nopipe"' in run("snapshots", "nopipe", code=3).stderr
