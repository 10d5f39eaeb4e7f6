"""Snapshots as they are used: the command line beside a mount, and the mount beside itself.

Named after the capabilities of the systems that pipefs takes over from, where one is shown.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted import Home, eventually, tree_of


@pytest.fixture
def mount(home: Home) -> Iterator[Path]:
    """An empty mounted pipe `p`."""
    home.create("p")
    yield home.mount("p")


def _json(home: Home, *words: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(home.run("--json", *words).stdout)
    return found


def test_t4_09_a_deleted_file_is_a_delete_marker_and_its_past_stays(
    home: Home, mount: Path
) -> None:
    (mount / "a").write_bytes(b"kept")
    home.run("snapshot", "p", "v1")
    (mount / "a").unlink()
    home.flush("p")
    listed = home.run("ls", "p", "--versions").stdout
    assert "deleted" in listed or "marker" in listed
    assert (mount / ".snapshots" / "v1" / "a").read_bytes() == b"kept"
    assert [p.read_bytes() for p in (mount / ".versions" / "a").iterdir()] == [b"kept"]


def test_dws_23_a_snapshot_has_a_unique_tag_a_message_and_costs_nothing_if_nothing_changed(
    home: Home, mount: Path
) -> None:
    (mount / "a").write_bytes(b"1")
    first = _json(home, "snapshot", "p", "v1", "-m", "as delivered")
    again = _json(home, "snapshot", "p", "v1-too")
    assert again["unchanged"] and again["id"] == first["id"]
    (mount / "a").write_bytes(b"22")
    refused = home.run("snapshot", "p", "v1", code=4)
    assert "belongs to the snapshot" in refused.stderr
    moved = _json(home, "snapshot", "p", "v1", "--force")
    assert moved["id"] != first["id"]
    assert (mount / ".snapshots" / "v1" / "a").read_bytes() == b"22"
    (mount / ".snapshots" / "made-here").mkdir()
    assert "made-here" in home.run("snapshots", "p").stdout


def test_dws_28_a_snapshot_keeps_who_when_why_and_figures(home: Home, mount: Path) -> None:
    (mount / "a").write_bytes(b"1")
    home.run("snapshot", "p", "v1", "-m", "why", "--metric", "rows=49105", "--metric", "f1=0.9")
    (one,) = _snapshots(home)
    assert (one["tag"], one["tags"], one["message"]) == ("v1", ["v1"], "why")
    assert one["metrics"] == {"rows": "49105", "f1": "0.9"}
    assert str(one["time"]).endswith("Z") and one["path"] == ""
    assert len(str(one["id"])) == 64


def _snapshots(home: Home) -> list[dict[str, object]]:
    found = json.loads(home.run("--json", "snapshots", "p").stdout)
    items: list[dict[str, object]] = found["snapshots"] if isinstance(found, dict) else found
    return items


def test_dws_32_restore_brings_a_snapshot_back_and_can_be_undone(home: Home, mount: Path) -> None:
    (mount / "d").mkdir()
    (mount / "d" / "a").write_bytes(b"old")
    os.symlink("a", mount / "d" / "link")
    (mount / "keep").write_bytes(b"same")
    before = tree_of(mount)
    home.run("snapshot", "p", "v1")
    (mount / "d" / "a").write_bytes(b"new")
    (mount / "d" / "link").unlink()
    (mount / "extra").write_bytes(b"x")
    changed = tree_of(mount)
    said = home.run("restore", "p", "v1", "-n").stdout
    assert "would restore d/a" in said and "would remove extra" in said
    assert tree_of(mount) == changed
    said = home.run("restore", "p", "v1", "--keep-extra").stdout
    assert (mount / "extra").exists()
    said = home.run("restore", "p", "v1").stdout
    assert tree_of(mount) == before
    undo = said.strip().splitlines()[-1].partition("undo: pipefs ")[2]
    home.run(*undo.split())
    assert (mount / "extra").read_bytes() == b"x"
    home.run("restore", "p@v1/d/a")
    assert (mount / "d" / "a").read_bytes() == b"old"
    home.run("restore", "p", "v1", "nothing/there", code=3)


def test_dws_36_a_pipe_can_be_pinned_and_is_read_only_meanwhile(home: Home, mount: Path) -> None:
    (mount / "a").write_bytes(b"old")
    home.run("snapshot", "p", "v1")
    (mount / "a").write_bytes(b"new")
    (mount / "b").write_bytes(b"b")
    home.run("checkout", "p", "v1")
    assert {p.name: p.read_bytes() for p in mount.iterdir()} == {"a": b"old"}
    with pytest.raises(OSError, match="Read-only"):
        (mount / "c").touch()
    assert home.status("p")["snapshot"] == "v1"
    home.umount("p")
    mount = home.mount("p")
    assert (mount / "a").read_bytes() == b"old"
    home.run("checkout", "p", "live")
    assert {p.name: p.read_bytes() for p in mount.iterdir()} == {"a": b"new", "b": b"b"}
    (mount / "c").touch()


def test_a_snapshot_as_a_mount_of_its_own_stays_whatever_happens(home: Home, mount: Path) -> None:
    (mount / "a").write_bytes(b"old")
    home.run("snapshot", "p", "v1")
    pinned = home.mount("p@v1")
    (mount / "a").write_bytes(b"new")
    home.run("snapshot", "p", "v1", "--force")
    assert (pinned / "a").read_bytes() == b"old"
    with pytest.raises(OSError, match="Read-only"):
        (pinned / "a").write_bytes(b"x")
    home.umount("p")
    assert (pinned / "a").read_bytes() == b"old"
    home.run("mount", "p@nothing", code=3)


def test_an_open_file_is_in_it_as_it_was_last_closed(home: Home, mount: Path) -> None:
    (mount / "log").write_bytes(b"closed")
    home.flush("p")
    with open(mount / "log", "ab") as f:
        f.write(b" and open")
        f.flush()
        done = home.run("snapshot", "p", "v1")
        assert "log is open for writing" in done.stderr
        home.run("snapshot", "p", "v2", "--wait", "--timeout", "1", code=124)
    assert (mount / ".snapshots" / "v1" / "log").read_bytes() == b"closed"
    home.run("snapshot", "p", "v2", "--wait", "--timeout", "30")
    assert (mount / ".snapshots" / "v2" / "log").read_bytes() == b"closed and open"


def test_with_writers_running_a_snapshot_is_one_commit(home: Home, mount: Path) -> None:
    """Each round renames a folder with two equal files: no snapshot shows a half of one."""
    (mount / "now").mkdir()
    for name in ("x", "y"):
        (mount / "now" / name).write_bytes(b"0")
    home.flush("p")
    stop = threading.Event()

    def write() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            draft = mount / f"draft{n}"
            draft.mkdir()
            for name in ("x", "y"):
                (draft / name).write_bytes(b"%d" % n)
            home.flush("p")
            (mount / "now").rename(mount / f"old{n}")
            draft.rename(mount / "now")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for n in range(4):
            home.run("snapshot", "p", f"s{n}")
    finally:
        stop.set()
        writer.join()
    for n in range(4):
        past = mount / ".snapshots" / f"s{n}"
        for folder in past.iterdir():
            found = {p.name: p.read_bytes() for p in folder.iterdir()}
            assert len(set(found.values())) <= 1, (n, folder.name, found)


def test_reading_the_past_goes_on_when_the_worker_is_killed(home: Home, mount: Path) -> None:
    data = os.urandom(8 << 20)
    (mount / "big").write_bytes(data)
    home.run("snapshot", "p", "v1")
    with open(mount / ".snapshots" / "v1" / "big", "rb") as f:
        first = f.read(1 << 20)
        worker = home.status("p")["pid"]
        os.kill(worker, 9)
        assert first + f.read() == data
    eventually(lambda: home.status("p")["pid"] != worker, "another worker answers")
    assert (mount / ".snapshots" / "v1" / "big").stat().st_size == len(data)


def test_with_snapdir_visible_it_is_listed_and_nothing_forgets_it(home: Home) -> None:
    home.create("p", "", "snapdir=visible")
    mount = home.mount("p")
    (mount / "d").mkdir()
    (mount / "a").write_bytes(b"x")
    home.run("snapshot", "p", "v1")
    assert ".snapshots" in os.listdir(mount)
    assert ".snapshots" not in os.listdir(mount / "d")
    with pytest.raises(PermissionError):
        (mount / ".snapshots" / "v1").rmdir()
    subprocess.run(["rm", "-r", mount / "a", mount / "d"], check=True)
    assert (mount / ".snapshots" / "v1" / "a").read_bytes() == b"x"
