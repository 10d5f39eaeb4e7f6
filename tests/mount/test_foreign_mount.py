"""Snapshots of other systems, exported from a mounted pipe and read below `.snapshots/`."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted import Home, tree_of
from tests.seaweed import SeaweedServer

FILES = {"2026/q1.csv": b"1,2\n" * 1000, "2026/deep/x": b"", "été.txt": b"summer"}


def _files(folder: Path) -> dict[str, bytes]:
    return {p: d for p, d in tree_of(folder).items() if d is not None}


def test_foreign_snapshots_are_read_only_folders_of_the_mount(
    make_home: Callable[..., Home], seaweed: SeaweedServer, bucket: str
) -> None:
    home = make_home(seaweed.environment())
    home.create("sales", f"s3://{bucket}")
    mnt = home.mount("sales")
    for path, data in FILES.items():
        (mnt / path).parent.mkdir(parents=True, exist_ok=True)
        (mnt / path).write_bytes(data)
    home.run("snapshot", "sales", "v1", "-m", "as it came")
    for path in FILES:
        (mnt / path).write_bytes(b"overwritten")
    (mnt / "été.txt").unlink()
    home.flush("sales")
    for words in (("dws",), ("t4",), ("quilt3", "--to", "team/sales")):
        home.run("export", "sales", "v1", "--format", *words)
    listed = json.loads(home.run("snapshots", "sales", "--foreign", "--json").stdout)
    labels = [s["label"] for s in listed["foreign"]]
    assert {s["format"]: s["message"] for s in listed["foreign"]} == {
        "quilt3": "as it came",
        "t4": "as it came",
        "dws": "",
    }
    for label in labels:
        assert _files(mnt / ".snapshots" / label) == FILES
        assert _files(mnt / "2026" / ".snapshots" / label) == {
            p.removeprefix("2026/"): d for p, d in FILES.items() if p.startswith("2026/")
        }
        with pytest.raises(OSError) as e:
            (mnt / ".snapshots" / label / "new").touch()
        assert e.value.errno == errno.EROFS
    # What these systems keep in the bucket is no file of the pipe.
    home.run("refresh", "sales", "--full")
    assert set(_files(mnt)) == {"2026/q1.csv", "2026/deep/x"}
