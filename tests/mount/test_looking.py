"""ls and cat of a mounted pipe: the present from the mount, the past from the bucket."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from pipefs.cli.completion import VARIABLE, Bash
from pipefs.cli.main import cli
from pipefs.moments import show_moment
from tests.mounted import Home


def said(home: Home, *words: str) -> str:
    return home.run(*words).stdout


def test_a_mounted_pipe_shows_what_is_not_in_the_store_yet(home: Home) -> None:
    home.create("sales", "", "quiet_period=60")
    mnt = home.mount("sales")
    (mnt / "d").mkdir()
    (mnt / "d" / "new.csv").write_bytes(b"not up yet")
    os.symlink("d/new.csv", mnt / "link")
    assert said(home, "ls", "sales") == "d/\nlink -> d/new.csv\n"
    assert said(home, "ls", "-R", "sales") == "d/\nlink -> d/new.csv\nd/new.csv\n"
    assert said(home, "ls", str(mnt / "d")) == "new.csv\n"
    assert said(home, "cat", "sales/d/new.csv") == said(home, "cat", "sales/link") == "not up yet"
    shown = json.loads(said(home, "ls", "sales/d/new.csv", "--json"))["entries"]
    assert [(e["path"], e["size"], e["version"]) for e in shown] == [("d/new.csv", 10, None)]
    assert said(home, "ls", "sales@@now") == ""


def test_what_was_just_written_is_what_is_copied_and_moved(home: Home, tmp_path: Path) -> None:
    home.create("sales", "", "quiet_period=60")
    mnt = home.mount("sales")
    for text in ("one", "two"):
        (mnt / "a").write_text(text)
        home.run("get", "sales/a", str(tmp_path / "got"))
        assert (tmp_path / "got").read_text() == text
    (mnt / "a").write_text("three")
    home.run("cp", "sales/a", "sales/b")
    assert (mnt / "b").read_text() == "three"
    (mnt / "a").write_text("four")
    home.run("mv", "sales/a", "sales/c")
    # The file that was put is the one that would be deleted.
    done = home.run("import", "sales", f"{mnt}/b", "--move", code=4)
    assert "would delete in that pipe" in done.stderr
    assert {p.name: p.read_text() for p in mnt.iterdir()} == {"b": "three", "c": "four"}


def test_the_past_of_a_mounted_pipe_is_read_beside_it(home: Home) -> None:
    home.create("sales")
    mnt = home.mount("sales")
    (mnt / "f").write_bytes(b"first")
    home.flush("sales")
    then = show_moment(time.time_ns())
    (mnt / "f").write_bytes(b"second")
    home.flush("sales")
    assert said(home, "cat", "sales/f") == "second"
    assert said(home, "cat", f"sales@{then}/f") == "first"
    assert said(home, "ls", f"sales@{then}") == "f\n"
    listed = json.loads(said(home, "ls", "--versions", "sales/f", "--json"))
    assert [v["size"] for v in listed["versions"]] == [6, 5]


def test_a_shell_suggests_paths_and_snapshots_of_a_mounted_pipe(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPEFS_HOME", str(home.home))
    home.create("sales")
    mnt = home.mount("sales")
    (mnt / "2026").mkdir()
    (mnt / "2026" / "q3.csv").write_bytes(b"1")
    home.flush("sales")
    (mnt / ".snapshots" / "by-hand").mkdir()  # no command of ours saw this one

    def suggested(last: str) -> list[str]:
        found = Bash(cli, {}, "pipefs", VARIABLE).get_completions(["cat"], last)
        return [item.value for item in found]

    assert suggested("sales/") == ["sales/2026/"]
    assert suggested("sales/2026/q") == ["sales/2026/q3.csv"]
    assert suggested("sales@by-hand/2026/") == ["sales@by-hand/2026/q3.csv"]
    assert suggested("sales@b") == ["sales@by-hand"]
    assert suggested("sales/nowhere/") == []


def test_d6_54_readme_and_license_are_shown_at_the_first_mount_and_when_they_change(
    home: Home,
) -> None:
    home.create("sales")
    mnt = home.mount("sales")
    (mnt / "README.md").write_text("# Sales\n\nAsk \x1b[31mAnn.\n" + "line\n" * 50)
    os.mkfifo(mnt / "LICENSE.md")  # nobody waits for a writer
    home.flush("sales")
    home.run("umount", "sales")
    told = said(home, "mount", "sales")
    assert "──── README.md ────\n# Sales\n" in told
    assert "\x1b" not in told
    assert "LICENSE" not in told
    assert told.rstrip().endswith(f"… {mnt / 'README.md'}")
    home.run("umount", "sales")
    assert "README" not in said(home, "mount", "sales")
    (mnt / "README.md").write_text("# Sales of 2026\n")
    (mnt / "LICENSE.md").unlink()
    (mnt / "LICENSE.md").write_text("Free.\n")
    home.run("umount", "sales")
    told = said(home, "mount", "sales")
    assert "──── README.md ────\n# Sales of 2026\n" in told
    assert "──── LICENSE.md ────\nFree.\n" in told


def test_d6_39_and_d6_40_nothing_is_moved_or_wiped_below_a_mount(home: Home) -> None:
    home.create("sales")
    mnt = home.mount("sales")
    (mnt / "a.csv").write_text("1\n")
    for words in (["config", "move", "cache", str(home.base / "big")], ["-y", "config", "wipe"]):
        done = home.run(*words, code=4)
        assert '"sales" is mounted' in done.stderr
        assert "umount --all" in done.stderr
    home.run("umount", "sales")
    home.run("config", "move", "cache", str(home.base / "big"))
    assert (home.mount("sales") / "a.csv").read_text() == "1\n"  # with the cache elsewhere
    assert any((home.base / "big").iterdir())
    home.run("umount", "sales")
    home.run("-y", "config", "wipe")
    assert not (home.base / "big").exists()
