"""ls and cat of a mounted pipe: the present from the mount, the past from the bucket."""

from __future__ import annotations

import json
import os
import time

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
