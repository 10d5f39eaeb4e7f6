"""`mount --locked`: a project reads the snapshot it pinned, whatever happens to the pipe."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from pipefs.lockfile import pinned
from tests.mounted import PROGRAM, Home, eventually


def in_project(home: Home, project: Path, *words: str, code: int = 0) -> str:
    """`pipefs WORDS…` with the project as the current folder; what it said."""
    done = subprocess.run(
        [*PROGRAM, *words],
        env=home.env,
        cwd=project,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def test_t4_24_a_project_reads_what_it_pinned(home: Home, tmp_path: Path) -> None:
    """Row T4-24: reproducibility idiom."""
    project = tmp_path / "project" / "notebooks"
    project.mkdir(parents=True)
    subprocess.run(["git", "init", "-q", str(project.parent)], check=True)
    home.create("sales")
    live = home.mount("sales")
    (live / "q3.csv").write_bytes(b"north,10\n")
    home.run("snapshot", "sales", "v1")
    hint = in_project(home, project, "mount", "sales", "--locked", code=3)
    assert "pipefs lock sales" in hint
    in_project(home, project, "lock", "sales")

    (live / "q3.csv").write_bytes(b"north,99\n")
    (live / "new.csv").write_bytes(b"1")
    home.run("snapshot", "sales", "v2")
    # The pin is behind now, and still what is read.
    assert "behind" in in_project(home, project, "lock", "--check", code=4)
    found = json.loads(in_project(home, project, "mount", "sales", "--locked", "--json"))
    (mounted,) = found["mounted"]
    target = pinned("sales", project)
    assert f"sales@{mounted['snapshot']}" == target
    folder = home.path(target)
    assert mounted["path"] == str(folder)
    assert os.listdir(folder) == ["q3.csv"]
    assert (folder / "q3.csv").read_bytes() == b"north,10\n"
    with pytest.raises(OSError, match="Read-only file system"):
        (folder / "q3.csv").write_bytes(b"")
    # The whole id is a name in `.snapshots` too.
    past = live / ".snapshots" / target.partition("@")[2] / "q3.csv"
    assert past.read_bytes() == b"north,10\n"
    home.run("umount", target)
    eventually(lambda: str(folder) not in home.mounts(), "the pinned mount is gone")

    in_project(home, project, "lock")
    data = home.base / "data"
    data.mkdir()
    in_project(home, project, "mount", "sales", f"{data}", "--locked")
    assert (data / "q3.csv").read_bytes() == b"north,99\n"
