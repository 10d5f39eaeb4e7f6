"""A snapshot is read without pipefs, as docs/FORMAT.md says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.mounted import Home
from tests.seaweed import SeaweedServer

SCRIPT = Path(__file__).parents[2] / "docs" / "read_snapshot.py"


def _read(*words: str) -> bytes:
    """The script's output, where pipefs cannot be imported."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-P", str(SCRIPT), *words]
    return subprocess.run(command, check=True, capture_output=True, env=env, cwd="/").stdout


def test_a_script_of_thirty_lines_reads_what_a_mount_wrote(
    seaweed: SeaweedServer, bucket: str, make_home: Callable[..., Home]
) -> None:
    lines = [line for line in SCRIPT.read_text().splitlines() if line.strip()]
    assert len(lines) <= 30
    assert "import pipefs" not in SCRIPT.read_text()
    home = make_home(seaweed.environment())
    home.run("create", "p", f"s3://{bucket}/data")
    mount = home.mount("p")
    (mount / "d").mkdir()
    (mount / "d" / "a.csv").write_bytes(b"first\n" * 1000)
    (mount / "b").write_bytes(b"b")
    home.run("snapshot", "p", "v1")
    (mount / "d" / "a.csv").write_bytes(b"second")
    (mount / "b").unlink()
    home.run("flush", "p")
    listed = [line.split()[:2] for line in _read(bucket, "data", "v1").decode().splitlines()]
    assert listed == [["b", "file"], ["d", "dir"], ["d/a.csv", "file"]]
    assert _read(bucket, "data", "v1", "d/a.csv") == b"first\n" * 1000
    assert _read(bucket, "data", "v1", "b") == b"b"
