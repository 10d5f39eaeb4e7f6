"""put, get, rm and meta: files between a folder and a pipe, without a mount."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipefs.cli.main import cli
from pipefs.stores.local import LocalStore
from tests.machines import Machine, UnversionedStore
from tests.pasts import open_past, put_files, take

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def go(*words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(cli, words, env={"PIPEFS_HOME": str(tmp_path / "home")})
        assert done.exit_code == code, (words, done.stdout, done.stderr)
        assert "Traceback (most recent" not in done.stderr
        return done

    go("create", "sales", (tmp_path / "sales").as_uri())
    return go


@pytest.fixture
def store(run: Run, tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "sales")


@pytest.fixture
def machine(store: LocalStore, tmp_path: Path) -> Iterator[Machine]:
    found = Machine(tmp_path / "machine", store, name="m")
    yield found
    found.close()


def test_t4_06_files_and_folders_are_put_and_keep_their_names(run: Run, machine: Machine) -> None:
    Path("q3.csv").write_bytes(b"a\n1\n")
    Path("runs/one").mkdir(parents=True)
    Path("runs/one/log").write_bytes(b"log")
    Path("runs/all").write_bytes(b"all")
    assert run("put", "q3.csv", "sales/2026/").stdout == "sales  2026/q3.csv, 4 B\n"
    run("put", "q3.csv", "sales/2026")  # a folder by now
    run("put", "q3.csv", "sales/copy.csv")
    assert "2 files" in run("put", "runs", "sales/runs").stdout
    run("put", "q3.csv", "runs/all", "sales")
    machine.sync()
    assert {p: c for p, c in machine.tree().items() if c is not None} == {
        "2026/q3.csv": b"a\n1\n",
        "copy.csv": b"a\n1\n",
        "runs/one/log": b"log",
        "runs/all": b"all",
        "q3.csv": b"a\n1\n",
        "all": b"all",
    }
    assert "the same bytes" in run("put", "q3.csv", "sales/copy.csv").stdout
    run("put", "none", "sales/x", code=2)
    assert "the past" in run("put", "q3.csv", "sales@latest/x", code=2).stderr


def test_t4_06_metadata_go_with_the_files(run: Run, store: LocalStore, machine: Machine) -> None:
    Path("q3.csv").write_bytes(b"a\n")
    run("put", "q3.csv", "sales/q3.csv", "--meta", "source=NOAA", "--meta", "rows=12")
    assert store.head("q3.csv").metadata["source"] == "NOAA"
    machine.sync()
    xattrs = machine.inode("q3.csv").xattrs or {}
    assert xattrs[b"user.source"] == b"NOAA"
    assert json.loads(xattrs[b"user.pipefs-meta"]) == {"rows": 12}


def test_t4_05_metadata_are_shown_and_changed(run: Run, store: LocalStore) -> None:
    store.put("theirs.bin", b"1", metadata={"campaign": "may", "mtime": "5"})
    assert run("meta", "sales/theirs.bin").stdout == "campaign  may\n"
    run("meta", "sales/theirs.bin", "rows=12", "author=maria")
    found = json.loads(run("meta", "--json", "sales/theirs.bin").stdout)["metadata"]
    assert found == {"campaign": "may", "rows": 12, "author": "maria"}
    run("meta", "sales/theirs.bin", "rows=", "author=", "campaign=")
    assert run("meta", "sales/theirs.bin").stdout == ""
    assert "cannot name metadata" in run("meta", "sales/theirs.bin", "pipefs-x=1", code=2).stderr
    assert "is not there" in run("meta", "sales/none", code=3).stderr


def test_t4_07_files_come_back_now_then_and_by_version(run: Run, store: LocalStore) -> None:
    files = {"q3.csv": b"first", "d/a": b"1", "d/e/b": b"2"}
    take(open_past(store), put_files(store, files), tag="v1")
    first = store.head("q3.csv").version_id or ""
    store.put("q3.csv", b"second", metadata={"mode": "33216", "mtime": "1700000000"})
    assert run("get", "sales/q3.csv").stdout == "q3.csv, 6 B\n"
    status = os.stat("q3.csv")
    assert (status.st_mode & 0o777, status.st_mtime) == (0o700, 1_700_000_000)
    run("get", "sales@v1/q3.csv", "then.csv")
    run("get", "sales/q3.csv", "first.csv", "--version", first[:-1])
    run("get", "sales@v1/d/", "old")
    assert Path("q3.csv").read_bytes() == b"second"
    assert Path("then.csv").read_bytes() == Path("first.csv").read_bytes() == b"first"
    assert Path("old/a").read_bytes() == b"1" and Path("old/e/b").read_bytes() == b"2"
    assert sorted(os.listdir()) == ["first.csv", "old", "q3.csv", "then.csv"]
    assert "no version" in run("get", "sales/q3.csv", "--version", "zz", code=3).stderr
    assert "not both" in run("get", "sales@v1/q3.csv", "--version", first, code=2).stderr
    assert "leads out" in run("get", "sales/../q3.csv", code=2).stderr
    assert "is not there" in run("get", "sales/none", code=3).stderr


def test_t4_09_deleted_files_have_their_versions(run: Run, store: LocalStore) -> None:
    put_files(store, {"a": b"1", "d/a": b"1", "d/b": b"2", "keep": b"3"})
    assert "ls --versions sales/a" in run("rm", "sales/a").stdout
    assert "with something in it" in run("rm", "sales/d", code=2).stderr
    assert run("rm", "-r", "sales/d").stdout.startswith("deleted sales/d, 2 files")
    assert run("ls", "-R", "sales").stdout == "keep\n"
    assert [v.is_delete_marker for v in store.list_versions("a")] == [True, False]
    assert "whole pipe" in run("rm", "-r", "sales", code=2).stderr
    assert "is not there" in run("rm", "sales/a", code=3).stderr


def test_what_would_be_gone_for_good_is_asked_for(
    run: Run, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipefs import registry

    opened = registry.Pipe.open_store
    monkeypatch.setattr(
        registry.Pipe, "open_store", lambda *a, **k: UnversionedStore(opened(*a, **k))
    )
    store.put("a", b"1")
    assert "keeps no versions" in run("rm", "sales/a", code=4).stderr
    run("-y", "rm", "sales/a")
    assert run("ls", "sales").stdout == ""
