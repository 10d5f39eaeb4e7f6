"""`pipefs demo` is the product's main path; it must work here, and fail when a step fails."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipefs.mountinfo import read_mounts
from tests.mounted import PROGRAM, SOURCE


@pytest.fixture
def room() -> Iterator[Path]:
    """A folder for temporary files, which the demo must leave empty."""
    with tempfile.TemporaryDirectory(prefix="demo-") as name:
        yield Path(name)


def run_demo(room: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    places = os.pathsep.join((str(SOURCE), str(SOURCE / "daemon")))
    return subprocess.run(
        [*PROGRAM, "demo", *words],
        env={**os.environ, "PYTHONPATH": places, "TMPDIR": str(room), **env},
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
    )


def assert_nothing_stays(room: Path) -> None:
    assert [e.path for e in read_mounts() if e.path.startswith(f"{room}/")] == []
    assert list(room.iterdir()) == []


def test_demo_shows_the_main_path_and_leaves_nothing(room: Path) -> None:
    done = run_demo(room)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.count("flights/flights.parquet: OK") == 2
    assert "328521 flights left; the newest airline: Pipe Airways" in done.stdout
    assert "safe to unplug: yes" in done.stdout
    assert "\nflights 328521\nflights/.snapshots/raw 336776\n" in done.stdout
    assert "M flights.parquet" in done.stdout
    assert_nothing_stays(room)


def test_demo_stops_with_an_error_when_a_command_fails(room: Path) -> None:
    # No `cp` is found here; `mount` and `umount` are, for the first steps and the end.
    programs = room.parent / f"{room.name}-bin"
    programs.mkdir()
    try:
        for name in ("fusermount3", "umount"):
            (programs / name).symlink_to(f"/bin/{name}")
        done = run_demo(room, PATH=str(programs))
    finally:
        for link in programs.iterdir():
            link.unlink()
        programs.rmdir()
    assert done.returncode == 1, done.stdout
    assert "the demo stopped: exit code 127 of: cp " in done.stderr
    assert "Traceback" not in done.stderr
    assert_nothing_stays(room)


def test_demo_says_what_to_install(room: Path) -> None:
    code = (
        "import sys, importlib.util as u; from pipefs.cli.main import cli; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'pandas' else find(name, *a)\n"
        "cli.main(['demo'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(SOURCE), "TMPDIR": str(room)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 4
    assert "the demo needs pandas" in done.stderr
    assert "pip install 'pipefs[demo]'" in done.stderr
    assert_nothing_stays(room)
