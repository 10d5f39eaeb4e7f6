"""`pipefs.lock`: its text, where it is, and what a pin means."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest

from pipefs import lockfile
from pipefs.errors import NewerFormat, NotFound, Refused, UsageError
from pipefs.lockfile import Pin


def pin(digit: str = "a", **changes: object) -> Pin:
    fields = {
        "url": "s3://team/sales",
        "pipe_id": "id-1",
        "snapshot": digit * 64,
        "tag": "v1",
        "commit": 17,
        "root": "b" * 64,
        "time": "2026-11-28T12:00:00.000000Z",
        **changes,
    }
    return Pin(**fields)  # type: ignore[arg-type]  # the keys are the fields' names


def git(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    return folder


# --- the text -----------------------------------------------------------------------------------


def test_the_text_is_the_one_of_the_page() -> None:
    """As docs/FORMAT.md has it."""
    page = (Path(__file__).parents[2] / "docs" / "FORMAT.md").read_text("utf-8")
    _, _, rest = page.partition("## In a project\n")
    lines = rest.partition("\n## ")[0].splitlines()
    text = "\n".join(x.removeprefix("    ") for x in lines if x.startswith("    ") or not x)
    pins = {
        "prices": pin("2", url="file:///srv/prices", pipe_id="id-2", tag="", path="2026"),
        "sales": pin("4"),
    }
    assert lockfile.encode(pins).decode() in text


def test_the_order_of_pins_does_not_change_a_byte() -> None:
    one, two = pin("1"), pin("2")
    assert lockfile.encode({"b": two, "a": one}) == lockfile.encode({"a": one, "b": two})


def test_moving_one_pin_changes_only_lines_of_its_section(tmp_path: Path) -> None:
    file = tmp_path / "pipefs.lock"
    lockfile.merge(file, {name: pin("1") for name in ("a", "b", "c.d")})
    before = file.read_text().splitlines()
    lockfile.merge(file, {"b": pin("2", commit=18)})
    after = file.read_text().splitlines()
    changed = [y for x, y in zip(before, after, strict=True) if x != y]
    assert changed == [f'snapshot = "{"2" * 64}"', "commit = 18"]


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    pins = {"a.b": pin("1"), "sales": pin("2", tag="", path='d "x"/ü')}
    file = tmp_path / "pipefs.lock"
    lockfile.merge(file, pins)
    assert lockfile.read(file) == pins
    assert [p.name for p in tmp_path.iterdir()] == ["pipefs.lock"]


def test_a_project_without_pins_has_no_file_or_an_empty_one(tmp_path: Path) -> None:
    file = tmp_path / "pipefs.lock"
    assert lockfile.read(file) == {}
    file.touch()
    assert lockfile.read(file) == {}


def test_the_file_is_as_readable_as_the_umask_lets_it(tmp_path: Path) -> None:
    file = tmp_path / "pipefs.lock"
    before = os.umask(0o022)
    try:
        lockfile.merge(file, {"sales": pin()})
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o644


def test_a_link_to_the_file_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "pipefs.lock"
    link.symlink_to("real/pipefs.lock")
    lockfile.merge(link, {"sales": pin()})
    assert link.is_symlink()
    assert list(lockfile.read(tmp_path / "real" / "pipefs.lock")) == ["sales"]


def test_two_that_pin_at_once_both_get_theirs_in(tmp_path: Path) -> None:
    file = tmp_path / "pipefs.lock"
    start = threading.Barrier(8)

    def go(number: int) -> None:
        start.wait()
        lockfile.merge(file, {f"pipe{number}": pin()})

    threads = [threading.Thread(target=go, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(lockfile.read(file)) == [f"pipe{n}" for n in range(8)]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("format = 1", "<<<<<<< HEAD\nformat = 1", "not valid TOML"),
        ("format = 1", "", "no lock file"),
        ("format = 1", 'format = "1"', "no lock file"),
        ("commit = 17", "", "the pin of sales cannot be read.*commit"),
        ("commit = 17", 'commit = "x"', "the pin of sales cannot be read.*int"),
        ("a" * 64, "a" * 63, "64 hex digits"),
        ("a" * 64, "latest", "64 hex digits"),
        ("pipes.sales", 'pipes."../x"', "cannot name a pipe"),
        ("[pipes.sales]", "[pipes]", "cannot be read"),
    ],
)
def test_a_damaged_file_is_refused_with_the_reason(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    file = tmp_path / "pipefs.lock"
    text = lockfile.encode({"sales": pin()}).decode()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(UsageError, match=says) as e:
        lockfile.read(file)
    assert e.value.hint
    before = file.read_bytes()
    with pytest.raises(UsageError):
        lockfile.merge(file, {"other": pin()})
    assert file.read_bytes() == before


def test_a_file_of_a_newer_pipefs_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "pipefs.lock"
    file.write_text("format = 2\nanything = 1\n")
    with pytest.raises(NewerFormat):
        lockfile.merge(file, {"sales": pin()})
    assert file.read_text() == "format = 2\nanything = 1\n"


# --- where it is --------------------------------------------------------------------------------


def test_the_nearest_file_counts_up_to_the_root_of_the_work_tree(tmp_path: Path) -> None:
    (tmp_path / "pipefs.lock").touch()
    root = git(tmp_path / "repo")
    deep = root / "a" / "b"
    deep.mkdir(parents=True)
    assert lockfile.find(deep) is None  # the one above belongs to somebody else
    assert lockfile.place(deep) == root / "pipefs.lock"
    (root / "pipefs.lock").touch()
    assert lockfile.find(deep) == lockfile.place(deep) == root / "pipefs.lock"
    (root / "a" / "pipefs.lock").touch()
    assert lockfile.find(deep) == root / "a" / "pipefs.lock"


def test_without_git_it_is_made_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert lockfile.place() == deep / "pipefs.lock"
    (tmp_path / "pipefs.lock").touch()
    assert lockfile.place() == tmp_path / "pipefs.lock"


def test_a_work_tree_of_its_own_ends_at_itself(tmp_path: Path) -> None:
    root = git(tmp_path / "repo")
    (root / "pipefs.lock").touch()
    other = root / "module"
    other.mkdir()
    (other / ".git").write_text("gitdir: ../.git/modules/module\n")
    assert lockfile.find(other) is None


# --- what a pin means ---------------------------------------------------------------------------


def test_t4_24_python_reads_the_pinned_snapshot_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row T4-24: reproducibility idiom."""
    root = git(tmp_path / "repo")
    lockfile.merge(root / "pipefs.lock", {"sales": pin("4")})
    (root / "notebooks").mkdir()
    assert lockfile.pinned("sales", root / "notebooks") == "sales@" + "4" * 64
    monkeypatch.chdir(root / "notebooks")
    assert lockfile.pinned("sales") == "sales@" + "4" * 64


def test_what_is_not_pinned_is_not_found_and_says_what_to_do(tmp_path: Path) -> None:
    root = git(tmp_path / "repo")
    with pytest.raises(NotFound, match=r"no pipefs\.lock") as e:
        lockfile.pinned("sales", root)
    assert "pipefs lock sales" in e.value.hint
    lockfile.merge(root / "pipefs.lock", {"sales": pin()})
    with pytest.raises(NotFound, match="sale is not in") as e:
        lockfile.pinned("sale", root)
    assert e.value.hint == "Did you mean sales? Pin it: pipefs lock sale"


def test_a_pin_is_of_one_pipe_at_one_place() -> None:
    lockfile.check_same_pipe("sales", pin(), "s3://team/sales", "id-1")
    for url, pipe_id in (("s3://other/sales", "id-1"), ("s3://team/sales", "id-2")):
        with pytest.raises(Refused, match=r"sales is .* here") as e:
            lockfile.check_same_pipe("sales", pin(), url, pipe_id)
        assert "pipefs create sales s3://team/sales" in e.value.hint


def test_a_tag_that_moves_is_no_other_snapshot() -> None:
    assert pin(tag="v1").same_snapshot(pin(tag="best"))
    assert not pin().same_snapshot(pin("c"))
    assert not pin().same_snapshot(pin(root="c" * 64))
