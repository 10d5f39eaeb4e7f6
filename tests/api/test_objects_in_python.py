"""`Pipe.put` and `get`, versions, snapshots, differences: T4's words."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipefs import Pipe
from pipefs.errors import (
    Conflict,
    NotFound,
    ReadOnly,
    UsageError,
)
from pipefs.stores.local import LocalStore
from tests.machines import Machine

# --- T4: objects --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("obj", "path"),
    [
        (b"\x00\xff", "raw.bin"),
        ("Zoë", "text"),
        ({"a": [1, {"b": None}]}, "d.json"),
        ([1, 2], "list"),
        (np.arange(3), "a.npy"),
        (pd.DataFrame({"a": [1.5, None], "b": ["x", "y"]}), "f.parquet"),
        (pd.DataFrame({"a": [1, 2]}), "f.csv"),
    ],
)
def test_t4_01_to_04_objects_come_back_as_they_were(pipe: Pipe, obj: Any, path: str) -> None:
    version = pipe.put(obj, path, meta={"who": "Ann", "n": 3})
    for found, meta in (pipe.get(path), pipe.get(path, version=version)):
        assert type(found) is type(obj) and meta == {"who": "Ann", "n": 3}
        if isinstance(obj, np.ndarray | pd.DataFrame):
            assert found.equals(obj) if isinstance(obj, pd.DataFrame) else (found == obj).all()
        else:
            assert found == obj


def test_t4_01_what_cannot_be_put(pipe: Pipe) -> None:
    with pytest.raises(UsageError, match="names no file"):
        pipe.put({}, "folder/")
    with pytest.raises(UsageError):
        pipe.put(object(), "x.json")
    with pytest.raises(UsageError):
        pipe.put({}, "../x.json")


def test_t4_04_versions_and_snapshots(pipe: Pipe) -> None:
    first = pipe.put({"n": 1}, "a.json")
    pipe.snapshot("raw")
    second = pipe.put({"n": 2}, "a.json")
    assert pipe.get("a.json")[0] == {"n": 2}
    assert pipe.get("a.json", version=first)[0] == {"n": 1}
    assert pipe.get("a.json", version=first[:20])[0] == {"n": 1}
    assert pipe.get("a.json", snapshot="raw")[0] == {"n": 1}
    assert pipe.get("a.json", snapshot="live")[0] == {"n": 2}
    assert second != first
    for how in ({"version": "nonesuch"}, {"snapshot": "none"}):
        with pytest.raises(NotFound):
            pipe.get("a.json", **how)
    with pytest.raises(UsageError, match="a version and a snapshot"):
        pipe.get("a.json", version=first, snapshot="raw")
    with pytest.raises(NotFound, match=r"no b\.json"):
        pipe.get("b.json")
    pipe.put("x", "d/x")
    with pytest.raises(UsageError, match="but a dir"):
        pipe.get("d")


def test_t4_05_metadata_is_of_the_file(pipe: Pipe, machine: Machine, store: LocalStore) -> None:
    pipe.put("1", "a.txt", meta={"who": "Zoë", "rows": 12})
    assert store.head("a.txt").metadata["who"] == "Zoë"
    machine.follow()
    assert (machine.inode("a.txt").xattrs or {})[b"user.who"] == "Zoë".encode()
    pipe.put("2", "a.txt")
    assert pipe.meta("a.txt") == {"who": "Zoë", "rows": 12}
    pipe.put("3", "a.txt", meta={})
    assert pipe.meta("a.txt") == {}


def test_t4_03_files_that_t4_put_are_read(pipe: Pipe, store: LocalStore) -> None:
    header = '{"target": "json", "user_meta": {"who": "Ann"}}'
    store.put("obj", b'{"a": 1}', metadata={"helium": header})
    assert pipe.get("obj") == ({"a": 1}, {"who": "Ann"})


def test_t4_06_and_07_files_and_folders(pipe: Pipe, ram_path: Path) -> None:
    source = ram_path / "in"
    (source / "deep").mkdir(parents=True)
    (source / "a.txt").write_bytes(b"a" * 9_000_000)
    (source / "deep" / "b.txt").write_text("b")
    (source / "a.txt").chmod(0o600)
    told: dict[str, int] = {}
    lock = threading.Lock()

    def progress(path: str, count: int) -> None:
        with lock:
            told[path] = told.get(path, 0) + count

    assert pipe.put_file(source, "up/", progress=progress) == ["up/a.txt", "up/deep/b.txt"]
    assert told == {"up/a.txt": 9_000_000, "up/deep/b.txt": 1}
    pipe.snapshot("raw")
    assert pipe.put_file(source / "deep/b.txt", "up/a.txt", meta={"k": "v"}) == ["up/a.txt"]
    out = ram_path / "out"
    assert pipe.get_file("up/", out, snapshot="raw") == [out / "a.txt", out / "deep/b.txt"]
    assert (out / "a.txt").read_bytes() == b"a" * 9_000_000
    assert (out / "a.txt").stat().st_mode & 0o777 == 0o600
    assert (out / "a.txt").stat().st_mtime_ns == (source / "a.txt").stat().st_mtime_ns
    assert pipe.get_file("up/a.txt", out / "one.txt") == [out / "one.txt"]
    assert pipe.get_file("up/a.txt", out) == [out / "a.txt"]
    assert (out / "a.txt").read_text() == "b"
    assert not list(out.glob(".*"))
    with pytest.raises(NotFound):
        pipe.get_file("none", out)
    with pytest.raises(NotFound):
        pipe.get_file("none/", out)
    with pytest.raises(UsageError, match="has no versions"):
        pipe.get_file("up/", out, version="x")
    with pytest.raises(NotFound):
        pipe.put_file(source / "none")


def test_t4_08_listing(pipe: Pipe, store: LocalStore) -> None:
    pipe.put("1", "2026/a.csv", meta={"unit": "EUR"})
    pipe.put("22", "2026/q/b.csv")
    pipe.put("2", "2026/a.csv")
    pipe.snapshot("raw")
    pipe.delete("2026/q/b.csv")
    assert [(e.path, e.kind) for e in pipe.ls()] == [("2026", "dir")]
    assert [e.path for e in pipe.ls("2026")] == ["2026/a.csv", "2026/q"]
    assert [e.path for e in pipe.ls(recursive=True, snapshot="raw")] == [
        "2026",
        "2026/a.csv",
        "2026/q",
        "2026/q/b.csv",
    ]
    assert [e.path for e in pipe.ls("2026/a.csv")] == ["2026/a.csv"]
    assert pipe.ls("2026")[0].metadata == {"unit": "EUR"}
    versions = pipe.ls("2026", versions=True, recursive=True)
    assert [(v.path, v.deleted, v.latest) for v in versions] == [
        ("2026/a.csv", False, True),
        ("2026/a.csv", False, False),
        ("2026/q/b.csv", True, True),
        ("2026/q/b.csv", False, False),
    ]
    with pytest.raises(NotFound):
        pipe.ls("none")


def test_t4_09_deleting(pipe: Pipe) -> None:
    version = pipe.put("1", "a.txt")
    with pytest.raises(Conflict):
        pipe.delete("a.txt", expected="another")
    assert pipe.delete("a.txt", expected=version)
    with pytest.raises(NotFound):
        pipe.get("a.txt")
    assert pipe.get("a.txt", version=version)[0] == "1"


def test_t4_10_to_12_and_14_snapshots(pipe: Pipe) -> None:
    pipe.put("1", "d/a.txt")
    pipe.put("2", "b.txt")
    whole = pipe.snapshot("raw", "as it came", metrics={"rows": 2})
    part = pipe.snapshot("part", path="d")
    one = pipe.snapshot(path="b.txt")
    assert len(whole.id) == 64 and (whole.files, part.files, one.files) == (2, 1, 1)
    assert [s.id for s in pipe.snapshots()] == [one.id, part.id, whole.id]
    assert [s.path for s in pipe.snapshots("d/a.txt")] == ["d", ""]
    row = pipe.snapshots()[-1]
    assert (row.tag, row.tags, row.message, row.metrics) == (
        "raw",
        ("raw",),
        "as it came",
        {"rows": "2"},
    )
    assert row.time.tzinfo is not None
    assert pipe.get("d/a.txt", snapshot=whole.id[:8])[0] == "1"
    frame = pipe.snapshots().to_df()
    assert frame["metric.rows"].tolist()[-1] == "2" and frame["files"].tolist() == [1, 1, 2]
    shown = pipe.snapshots()._repr_html_()
    assert "<table>" in shown and "as it came" in shown and whole.id[:12] in shown
    assert "raw" in repr(pipe.snapshots()) and repr(pipe.snapshots("none/x"))


def test_t4_13_and_15_differences(pipe: Pipe) -> None:
    pipe.put("1", "d/a.txt")
    pipe.put("keep", "k.txt")
    pipe.put("long enough to be told apart", "old.txt")
    pipe.snapshot("raw")
    pipe.snapshot("part", path="d")
    pipe.put("22", "d/a.txt")
    pipe.put("n", "n.txt")
    pipe.delete("old.txt")
    found = {(d.status, d.path) for d in pipe.diff("raw", "live")}
    assert found == {("modified", "d/a.txt"), ("added", "n.txt"), ("deleted", "old.txt")}
    (change,) = pipe.diff("raw", path="d")
    assert (change.old_size, change.new_size) == (1, 2)
    assert change.new_version == pipe.versions("d/a.txt")[0].version
    pipe.snapshot("clean")
    assert {d.path for d in pipe.diff("raw", "clean")} == {"d/a.txt", "n.txt", "old.txt"}
    assert pipe.diff() == []
    assert [d.path for d in pipe.diff("part", path="d")] == ["d/a.txt"]


def test_t4_17_history(pipe: Pipe, machine: Machine, store: LocalStore) -> None:
    pipe.put("1", "a.txt")
    machine.follow()
    machine.mv("a.txt", "b.txt")
    machine.sync()
    pipe.put("2", "b.txt")
    assert [e.what for e in pipe.log("b.txt")] == ["changed", "renamed", "added"]
    assert [e.what for e in pipe.log("b.txt", limit=1)] == ["changed"]
    commits = pipe.log()
    assert commits[0].changes == 1 and commits[0].path == "b.txt" and commits[0].author
    assert [e.commit for e in commits] == sorted((e.commit for e in commits), reverse=True)


def test_t4_16_search(pipe: Pipe) -> None:
    pipe.put(pd.DataFrame({"windspeed": [1]}), "storms.parquet", meta={"source": "NOAA"})
    for query in ("windspeed", "source:NOAA", "storms"):
        assert [hit.path for hit in pipe.search(query)] == ["storms.parquet"]
    assert pipe.search("storms").to_df()["path"].tolist() == ["storms.parquet"]


def test_restoring(pipe: Pipe) -> None:
    pipe.put("good", "a.txt")
    pipe.snapshot("good")
    pipe.put("bad", "a.txt")
    pipe.put("new", "b.txt")
    assert pipe.restore("good", dry_run=True).files == ["a.txt"]
    done = pipe.restore("good")
    assert (done.files, done.removed) == (["a.txt"], ["b.txt"])
    assert pipe.scan_remote() == ["a.txt"] and pipe.get("a.txt")[0] == "good"
    pipe.restore(done.before)
    assert pipe.get("a.txt")[0] == "bad" and pipe.get("b.txt")[0] == "new"


def test_t4_24_a_pipe_of_a_snapshot(pipe: Pipe, ram_path: Path, monkeypatch: Any) -> None:
    pipe.put({"n": 1}, "a.json")
    raw = pipe.snapshot("raw")
    pipe.put({"n": 2}, "a.json")
    pinned = Pipe(f"sales@{raw.id[:10]}")
    assert pinned.get("a.json")[0] == {"n": 1}
    assert pinned.files() == ["a.json"]
    with pytest.raises(ReadOnly, match="never changes"):
        pinned.put({}, "b.json")
    tagged = Pipe("sales", snapshot="raw")
    assert tagged.open("a.json").read() == '{"n": 1}'
    pipe.snapshot("raw2")
    assert (
        tagged.get("a.json")[0] == {"n": 1} and tagged.get("a.json", snapshot="live")[0]["n"] == 2
    )
    with pytest.raises(NotFound):
        Pipe("sales@none").get("a.json")
    from pipefs import lockfile

    monkeypatch.chdir(ram_path)
    with pytest.raises(NotFound, match=r"no pipefs\.lock"):
        Pipe("sales", locked=True)
    with pipe.replica.opened() as now:
        found = now.catalog().snapshots[raw.id]
    pin = lockfile.pin_for(pipe.url, pipe.replica.pipe.pipe_id, found)
    lockfile.merge(ram_path / lockfile.NAME, {"sales": pin})
    assert Pipe("sales", locked=True).get("a.json")[0] == {"n": 1}


def test_moments_between_snapshots(pipe: Pipe) -> None:
    pipe.put("1", "a.txt")
    time.sleep(1.1)
    moment = time.strftime("@%Y%m%dT%H%M%SZ", time.gmtime())
    time.sleep(1.1)
    pipe.put("2", "a.txt")
    assert pipe.get("a.txt", snapshot=moment)[0] == "1"
