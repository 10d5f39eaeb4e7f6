"""`include` and `exclude` of a pipe, on its mount: what is seen, and what goes up."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipefs.config import check_options
from pipefs.errors import UsageError
from pipefs.stores.local import LocalStore
from tests.mounted import Home, eventually


@pytest.fixture
def store(home: Home) -> Iterator[LocalStore]:
    opened = LocalStore(home.base / "store")
    for key in ("a.csv", "b.xlsx", "c.txt", "sub/d.csv", "sub/tmp-e.csv", "only/f.txt"):
        opened.put(key, key.encode())
    yield opened
    opened.close()


@pytest.fixture
def path(home: Home, store: LocalStore) -> Path:
    home.create("p", store.url, "include=*.csv|*.xls*", "exclude=*/tmp-*")
    return home.mount("p")


def _files(path: Path) -> list[str]:
    return sorted(str(p.relative_to(path)) for p in path.rglob("*"))


def test_d6_13_what_is_filtered_out_is_hidden_on_the_mount(path: Path) -> None:
    assert _files(path) == ["a.csv", "b.xlsx", "only", "sub", "sub/d.csv"]
    assert not (path / "c.txt").exists()
    assert (path / "sub" / "d.csv").read_bytes() == b"sub/d.csv"
    listed = subprocess.run(["ls", "-lR", path], capture_output=True, text=True, check=True)
    assert "tmp-e" not in listed.stdout


def test_d6_13_new_files_that_are_filtered_out_are_seen_here_and_never_go_up(
    home: Home, store: LocalStore, path: Path
) -> None:
    (path / "note.md").write_text("mine")
    (path / "g.csv.part").write_text("whole")
    os.rename(path / "g.csv.part", path / "g.csv")
    (path / "new").mkdir()
    (path / "new" / "h.csv").write_text("h")
    home.flush("p")
    keys = {o.key for o in store.list() if not o.key.startswith(".pipefs/")}
    assert keys >= {"g.csv", "new/h.csv"}
    assert not keys & {"note.md", "g.csv.part"}
    assert (path / "note.md").read_text() == "mine"
    assert "note.md" in os.listdir(path)
    assert home.status("p")["dirty_files"] == 0


def test_hidden_files_are_not_replaced_unseen(store: LocalStore, path: Path) -> None:
    (path / "a2").write_text("x")
    with pytest.raises(OSError) as caught:
        os.rename(path / "a2", path / "c.txt")
    assert caught.value.errno == errno.EEXIST
    with pytest.raises(FileExistsError):
        os.open(path / "c.txt", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    with pytest.raises(OSError) as caught:
        os.rmdir(path / "only")
    assert caught.value.errno == errno.ENOTEMPTY
    assert store.get("c.txt", None, 0, 9) == b"c.txt"


def test_other_machines_files_come_and_go_by_the_same_filter(
    home: Home, make_home: Callable[..., Home], path: Path, store: LocalStore
) -> None:
    other = make_home()
    other.create("p", store.url, "include=", "exclude=")
    theirs = other.mount("p")
    assert "c.txt" in os.listdir(theirs)
    (theirs / "late.csv").write_text("1")
    (theirs / "late.txt").write_text("2")
    other.flush("p")
    eventually(lambda: (path / "late.csv").exists(), "the other machine's file is seen")
    assert not (path / "late.txt").exists()
    os.rename(theirs / "late.csv", theirs / "late.bin")
    other.flush("p")
    eventually(lambda: not (path / "late.csv").exists(), "its old name goes")
    assert "late.bin" not in os.listdir(path)


@pytest.mark.parametrize(
    "text", ["*.csv|*.xls*", "*.csv, *.xls*", ["*.csv", "*.xls*"], ["*.csv|*.xls*"]]
)
def test_d6_12_patterns_are_separated_as_in_d6tpipe_or_by_commas(text: object) -> None:
    assert check_options({"include": text}) == {"include": ["*.csv", "*.xls*"]}


def test_what_is_no_pattern_is_refused() -> None:
    with pytest.raises(UsageError, match="include"):
        check_options({"include": 3})
