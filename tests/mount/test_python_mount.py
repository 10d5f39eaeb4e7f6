"""The Python API beside a running mount: what is written there counts, what is put shows there."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

import pipefs
from pipefs import Pipe
from pipefs.cli.main import cli
from pipefs.errors import Conflict, Refused
from tests.mounted import Home


@pytest.fixture
def mount(home: Home, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PIPEFS_HOME", str(home.home))
    home.create("sales")
    return home.mount("sales")


def test_what_is_written_into_the_mount_is_there_at_once(mount: Path) -> None:
    pipe = Pipe("sales")
    assert pipe.is_mounted and pipe.dirpath == mount
    (mount / "a.csv").write_text("x\n1\n")
    assert pipe.scan_remote() == ["a.csv"] and pipe.files() == ["a.csv"]
    assert pipe.read("a.csv")["x"].tolist() == [1]
    assert [e.what for e in pipe.log("a.csv")] == ["added"]
    (mount / "a.csv").write_text("x\n22\n")
    assert pipe.open("a.csv").read() == "x\n22\n"
    assert pipe.open("a.csv", version=pipe.versions("a.csv")[1].version).read() == "x\n1\n"
    (mount / "d").mkdir()
    os.rename(mount / "a.csv", mount / "d" / "b.csv")
    assert pipe.scan_remote() == ["d/b.csv"]
    os.setxattr(mount / "d" / "b.csv", "user.who", b"Ann")
    assert pipe.meta("d/b.csv") == {"who": "Ann"}


def test_what_is_put_shows_in_the_mount_when_it_returns(mount: Path) -> None:
    pipe = Pipe("sales")
    pipe.put({"n": 1}, "d/a.json", meta={"who": "Ann"})
    assert (mount / "d" / "a.json").read_text() == '{"n": 1}'
    assert os.getxattr(mount / "d" / "a.json", "user.who") == b"Ann"
    pipe.put({"n": 2}, "d/a.json")
    assert (mount / "d" / "a.json").read_text() == '{"n": 2}'
    with (mount / "d" / "a.json").open() as before:
        pipe.put({"n": 3}, "d/a.json")
        assert before.read() == '{"n": 2}'  # an open file is one version
    pipe.delete("d/a.json")
    assert not (mount / "d" / "a.json").exists()
    with pipe.open("w.txt", "w") as file:
        file.write("written")
    assert (mount / "w.txt").read_text() == "written"


def test_a_version_that_a_program_just_replaced_is_a_conflict(mount: Path) -> None:
    pipe = Pipe("sales")
    seen = pipe.put("1", "a.txt")
    (mount / "a.txt").write_text("from the mount")
    with pytest.raises(Conflict):
        pipe.put("2", "a.txt", expected=seen)
    assert pipe.get("a.txt")[0] == "from the mount"
    pipe.put("2", "a.txt")
    assert (mount / "a.txt").read_text() == "2"


def test_a_transaction_beside_a_mount_that_is_read(mount: Path) -> None:
    pipe = Pipe("sales")
    names = [f"f{n}" for n in range(6)]
    with pipe.transaction():
        for name in names:
            pipe.put_bytes(b"0", name)
    seen: set[frozenset[bytes]] = set()
    stop = threading.Event()

    def poll() -> None:
        while not stop.is_set():
            # One look at a time could see two turns; files of one name at most the next one.
            seen.add(frozenset((mount / name).read_bytes() for name in names[:1]))

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        for turn in (b"1", b"2"):
            with pipe.transaction():
                for name in names:
                    pipe.put_bytes(turn, name)
            assert {(mount / name).read_bytes() for name in names} == {turn}
    finally:
        stop.set()
        thread.join()
    assert seen <= {frozenset({t}) for t in (b"0", b"1", b"2")}


def test_snapshots_go_through_the_daemon(mount: Path) -> None:
    pipe = Pipe("sales")
    (mount / "a.txt").write_text("one")
    made = pipe.snapshot("raw", "from python", metrics={"rows": 1})
    assert (made.files, made.tag) == (1, "raw")
    assert (mount / ".snapshots" / "raw" / "a.txt").read_text() == "one"
    (mount / "a.txt").write_text("two")
    (mount / "b.txt").write_text("new")
    assert [(d.status, d.path) for d in pipe.diff()] == [("modified", "a.txt"), ("added", "b.txt")]
    done = pipe.restore("raw")
    assert (done.files, done.removed) == (["a.txt"], ["b.txt"])
    assert (mount / "a.txt").read_text() == "one" and not (mount / "b.txt").exists()
    assert pipe.get("a.txt", snapshot=done.before)[0] == "two"


def test_a_mount_is_always_in_step(mount: Path, home: Home, tmp_path: Path) -> None:
    pipe = Pipe("sales")
    (mount / "a.txt").write_text("one")
    assert list(pipe.pull()) == [] and pipe.is_synced()
    assert list(pipe.pull(dest=tmp_path / "copy")) == ["a.txt"]
    assert (tmp_path / "copy" / "a.txt").read_text() == "one"
    (mount / "b.txt").write_text("two")
    assert list(pipe.push()) == [] and pipe.scan_remote() == ["a.txt", "b.txt"]
    assert pipe.remove_orphans(direction="both", dryrun=False) == {"local": [], "remote": []}
    (tmp_path / "copy" / "a.txt").write_text("from elsewhere")
    assert list(pipe.push(["a.txt"], dest=tmp_path / "copy")) == ["a.txt"]
    assert (mount / "a.txt").read_text() == "from elsewhere"
    (mount / "b.txt").unlink()
    for words, said in (
        ("pull sales", "up to date by itself"),
        ("push sales", "all is in the store"),
        ("is-synced sales", "all of it is in"),
        ("orphans sales -y", "no orphans"),
    ):
        done = CliRunner().invoke(cli, words.split())
        assert done.exit_code == 0 and said in done.stdout, done.stdout
    with pytest.raises(Refused, match="for everybody"):
        pipe.delete_files_local(confirm=False)
    with pytest.raises(Refused, match="is mounted"):
        pipe.reset()
    (tmp_path / "in.txt").write_text("in")
    assert pipe.import_file(tmp_path / "in.txt", "new") == "new/in.txt"
    assert pipe.scan_remote() == ["a.txt", "new/in.txt"]
    assert pipe.delete_files("a.txt", confirm=False) == ["a.txt"]
    assert sorted(os.listdir(mount)) == ["new"]
    assert pipefs.list_local_pipes() == ["sales"]
    home.umount("sales")
    assert not pipe.is_mounted and pipe.dirpath == home.home / "pipes" / "sales"
    assert pipe.get("new/in.txt")[0] == "in"
