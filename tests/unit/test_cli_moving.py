"""pull, push, is-synced and orphans on the command line."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipefs.cli.main import cli
from pipefs.stores.local import LocalStore

Run = Callable[..., Result]


@pytest.fixture
def store(ram_path: Path) -> LocalStore:
    store = LocalStore(ram_path / "sales")
    store.put("a.csv", b"1\n", metadata={"mtime": "1700000000"})
    store.put("d/b.csv", b"22\n", metadata={"mtime": "1700000100"})
    return store


@pytest.fixture
def run(ram_path: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> Run:
    (ram_path / "work").mkdir()
    monkeypatch.chdir(ram_path / "work")

    def go(*words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(cli, words, env={"PIPEFS_HOME": str(ram_path / "home")})
        assert done.exit_code == code, (words, done.stdout, done.stderr)
        assert "Traceback (most recent" not in done.stderr
        return done

    go("create", "sales", (ram_path / "sales").as_uri())
    return go


@pytest.fixture
def folder(ram_path: Path) -> Iterator[Path]:
    """The pipe's own folder."""
    yield ram_path / "home/pipes/sales"


def test_d6_05_and_06_a_pull_and_its_preview(run: Run, folder: Path) -> None:
    said = run("pull", "sales", "--preview").stdout
    assert said == (
        f"A  a.csv    2 B\nA  d/b.csv  3 B\nsales  would be pulled: 2 files, 5 B, to {folder}\n"
    )
    assert not folder.exists()
    assert run("pull", "sales").stdout == f"sales  pulled 2 files, 5 B to {folder}\n"
    assert (folder / "d/b.csv").read_text() == "22\n"
    assert run("pull", "sales").stdout == f"sales  nothing to pull · {folder}\n"
    told = json.loads(run("pull", "sales", "a.csv", "--dest", "here", "--json").stdout)
    assert told["files"][0]["path"] == "a.csv" and told["files"][0]["new"]
    assert told["files"][0]["time"] == "2023-11-14T22:13:20Z"
    assert (told["bytes"], told["direction"], told["failed"]) == (2, "pull", {})
    assert os.listdir("here") == ["a.csv"]


def test_d6_07_to_09_a_push_its_preview_and_its_refusal(
    run: Run, folder: Path, store: LocalStore
) -> None:
    assert "Make it, and put files there" in run("push", "sales", code=3).stderr
    run("pull", "sales")
    (folder / "a.csv").write_text("changed")
    (folder / "new.csv").write_text("n")
    said = run("push", "sales", "-n").stdout
    assert said.startswith("M  a.csv    7 B\nA  new.csv  1 B\nsales  would be pushed: 2 files, 8 B")
    assert run("push", "sales").stdout == f"sales  pushed 2 files, 8 B from {folder}\n"
    assert store.get("new.csv", None, 0, 1) == b"n"
    store.put("d/b.csv", b"theirs")
    (folder / "new.csv").write_text("m")
    err = run("push", "sales", "--no-cache", code=4).stderr
    assert "not pulled: d/b.csv" in err and "First: pipefs pull sales\n" in err
    assert "pushed 1 file" in run("push", "sales", "new.csv").stdout
    assert "pushed 3 files" in run("push", "sales", "--mode", "all").stdout


def test_d6_10_to_14_modes_filters_and_the_newest(run: Run) -> None:
    def files(*words: str) -> list[str]:
        told = json.loads(run("pull", "sales", "--json", "--dest", "x", *words).stdout)
        return [f["path"] for f in told["files"]]

    assert files("-n", "--include", "*.csv", "--exclude", "d/*") == ["a.csv"]
    assert files("-n", "--nrecent", "1") == ["d/b.csv"]
    assert files("-n", "--nrecent", "-1") == ["a.csv"]
    assert files("-n", "--mode", "mod") == []
    assert files("--mode", "new") == ["a.csv", "d/b.csv"]
    assert files("-n", "--mode", "all") == ["a.csv", "d/b.csv"]
    run("pull", "sales", "--mode", "newest", code=2)


def test_d6_15_conflicts_name_the_ways_out(run: Run, folder: Path, store: LocalStore) -> None:
    run("pull", "sales")
    (folder / "a.csv").write_text("mine")
    store.put("a.csv", b"theirs")
    err = run("pull", "sales", "--no-cache", code=4).stderr
    assert "--merge-mode keep" in err and "pipefs resolve sales/a.csv" in err
    assert "yours kept" in run("pull", "sales", "--merge-mode", "keep").stdout
    err = run("pull", "sales", "a.csv", code=4).stderr
    assert "overwrites your changes in a.csv" in err and "pipefs -y pull sales a.csv" in err
    assert "your changes overwritten: a.csv" in run("-y", "pull", "sales", "a.csv").stdout
    assert (folder / "a.csv").read_text() == "theirs"


def test_d6_23_is_synced_ends_with_a_code(run: Run, folder: Path) -> None:
    err = run("is-synced", "sales", code=4).stderr
    assert "lacks 2 changes of sales: a.csv, d/b.csv" in err and "pipefs pull sales" in err
    run("pull", "sales")
    assert run("is-synced", "sales").stdout == f"sales  all of it is in {folder}\n"
    told = json.loads(run("is-synced", "sales", "--dest", "x", "--json", code=4).stdout)
    assert (told["synced"], told["files"]) == (False, ["a.csv", "d/b.csv"])


def test_d6_24_orphans_are_previewed_by_default(run: Run, folder: Path, store: LocalStore) -> None:
    run("pull", "sales", "a.csv")
    (folder / "mine.csv").write_text("mine")
    said = run("orphans", "sales", "--direction", "both").stdout
    assert said == (
        "here  mine.csv  4 B  nowhere else\npipe  d/b.csv   3 B\n"
        "sales  only on one side: 2 files, 7 B\nnothing was deleted · delete them: --remove\n"
    )
    err = run("orphans", "sales", "--remove", code=4).stderr
    assert "deletes 1 file (1 nowhere else)" in err and "pipefs -y orphans sales" in err
    assert (folder / "mine.csv").exists()
    run("-y", "orphans", "sales", "-n")
    assert "deleted: 1 file, 4 B" in run("orphans", "sales", "-y").stdout
    assert os.listdir(folder) == ["a.csv"]
    told = json.loads(run("orphans", "sales", "-y", "--direction", "remote", "--json").stdout)
    assert [f["path"] for f in told["remote"]] == ["d/b.csv"] and not told["dry_run"]
    assert [o.key for o in store.list("") if not o.key.startswith(".pipefs/")] == ["a.csv"]
    assert run("orphans", "sales").stdout == "sales  no orphans\n"


def test_d6_54_readme_and_license_are_shown_when_they_come_and_change(
    run: Run, folder: Path, store: LocalStore
) -> None:
    store.put("README.md", b"# Sales\n\x1b[31mof 2026\n")
    store.put("LICENSE.md", b"line\n" * 100)
    said = run("pull", "sales").stdout
    assert "\n──── README.md ────\n# Sales\n\\x1b[31mof 2026\n" in said
    assert "──── LICENSE.md ────" in said and said.count("line\n") == 40
    assert said.endswith(f"… {folder}/LICENSE.md\n")
    assert "README" not in run("pull", "sales").stdout
    store.put("README.md", b"# corrected")
    assert run("pull", "sales", "--no-cache").stdout.endswith("# corrected\n")
    assert run("-q", "pull", "sales", "README.md").stdout == ""


def test_dk_15_delete_asks_and_says_what_goes(run: Run, folder: Path, store: LocalStore) -> None:
    run("pull", "sales")
    (folder / "mine.csv").write_text("mine")
    err = run("pull", "sales", "--delete", code=4).stderr
    assert "deletes 1 file (1 nowhere else)" in err and "-y pull sales --delete" in err
    assert "D  mine.csv" in run("pull", "sales", "--delete", "-n").stdout
    assert "deleted here: mine.csv" in run("-y", "pull", "sales", "--delete").stdout
    (folder / "a.csv").unlink()
    assert "in sales, for everybody" in run("push", "sales", "--delete", code=4).stderr
    assert "deleted in the pipe: a.csv" in run("push", "sales", "--delete", "-y").stdout
    (folder / "d/b.csv").unlink()
    assert "has no files" in run("push", "sales", "--delete", code=4).stderr
    assert list(store.list("d/"))


def test_what_could_not_be_sent_is_named_and_the_code_is_6(run: Run, folder: Path) -> None:
    run("pull", "sales")
    for path in ("a.csv/x", "d/b.csv/y"):
        (folder / path).parent.unlink()
        (folder / path).parent.mkdir()
        (folder / path).write_text("x")
    (folder / "ok").write_text("x")
    done = run("push", "sales", code=6)
    assert "pushed 1 file" in done.stdout
    assert "pipefs: d/b.csv/y: d/b.csv is no folder" in done.stderr
    assert "2 of 3 files were not pushed" in done.stderr
    told = json.loads(run("push", "sales", "--json", code=6).stdout)
    assert sorted(told["failed"]) == ["a.csv/x", "d/b.csv/y"]


def test_names_that_are_no_utf8(run: Run, folder: Path) -> None:
    folder.mkdir(parents=True)
    name = os.fsdecode(b"\xff\n.csv")
    (folder / name).write_text("x")
    told = json.loads(run("push", "sales", name, "--json").stdout)
    assert [f["path"] for f in told["files"]] == [name]


def test_what_is_no_present_pipe(run: Run) -> None:
    for verb in ("pull", "push", "is-synced", "orphans"):
        err = run(verb, "sales@v1", "--dest", "old", code=2).stderr
        assert "sales@v1 is a snapshot" in err and "pipefs get sales@v1/ old" in err
        run(verb, "none", code=3)
    assert "pipefs pull sales a.csv" in run("pull", "sales/a.csv", code=2).stderr
    assert "--include 'd/*'" in run("pull", "sales", "d", code=3).stderr


def test_t4_06_a_bar_on_a_terminal_and_nowhere_else(run: Run, ram_path: Path) -> None:
    """Of pull, push, put and get: one for all files."""
    Path("one").write_bytes(b"x" * (10 << 20))
    Path("two").write_bytes(b"x")
    for words, verb in (
        ("put one two sales/in/", "putting"),
        ("get sales/in out", "getting"),
        ("push sales --dest out --mode all", "pushing"),
        ("pull sales --dest new", "pulling"),
    ):
        seen = _on_terminal(["pipefs", *words.split()], ram_path)
        assert verb in seen and " files" in seen and "MB" in seen, seen
    assert "pulling" not in run("pull", "sales", "--dest", "third").stderr


def _on_terminal(words: list[str], ram_path: Path) -> str:
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "pipefs.cli.main", *words[1:]],
        stderr=theirs,
        stdout=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PIPEFS_HOME": str(ram_path / "home"), "TERM": "xterm"},
    )
    os.close(theirs)
    seen = b""
    try:
        while piece := os.read(ours, 1 << 16):
            seen += piece
    except OSError:
        pass  # how Linux says that the other end is closed
    finally:
        os.close(ours)
    assert child.wait(60) == 0
    return seen.decode()
