"""A folder of many small files into a bucket and back, side by side in one run: pipefs and rclone.

    python benchmarks/folders.py [--files 10000] [--rounds 1]

Starts its own SeaweedFS on loopback. Each program is a process of its own, as a user runs it, with
its defaults; they take turns, into fresh buckets with versioning. "again" is the same command when
nothing has changed. Prints seconds, and how many times as fast pipefs was.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

from tests.seaweed import ACCESS_KEY, SECRET_KEY, SeaweedServer  # noqa: E402  # after sys.path

Program = Callable[[str, Path], None]
"""Brings a folder to the bucket (`push`) or the bucket to a folder (`pull`)."""


def fill(folder: Path, files: int) -> None:
    """Files of 0.1 to 4 KB in a hundred folders."""
    for n in range(files):
        place = folder / f"{n % 100:02}" / f"{n}.csv"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(os.urandom(100) + b"x" * (n % 4000))


def pipefs(server: SeaweedServer, home: Path) -> Program:
    bucket = server.make_bucket()

    def run(machine: str, *words: str) -> None:
        environment = {
            **os.environ,
            **server.environment(),
            "PIPEFS_HOME": str(home / f"pipefs-{machine}"),
            "PYTHONPATH": sys.path[0],
        }
        command = [sys.executable, "-m", "pipefs.cli.main", "-q", *words]
        subprocess.run(command, env=environment, check=True)

    for machine in ("here", "there"):
        run(machine, "create", "bench", f"s3://{bucket}/bench")
    return lambda verb, folder: run(folder.name, verb, "bench", "--dest", str(folder))


def rclone(server: SeaweedServer, home: Path) -> Program:
    remote = f"w:{server.make_bucket()}/bench"
    environment = {
        **{k: v for k, v in os.environ.items() if k != "AWS_CA_BUNDLE"},  # rclone cannot take it
        "RCLONE_CONFIG_W_TYPE": "s3",
        "RCLONE_CONFIG_W_PROVIDER": "Other",
        "RCLONE_CONFIG_W_ACCESS_KEY_ID": ACCESS_KEY,
        "RCLONE_CONFIG_W_SECRET_ACCESS_KEY": SECRET_KEY,
        "RCLONE_CONFIG_W_ENDPOINT": server.endpoint_url,
    }

    def run(verb: str, folder: Path) -> None:
        ends = [str(folder), remote] if verb == "push" else [remote, str(folder)]
        subprocess.run(["rclone", "copy", "-q", *ends], env=environment, check=True)

    return run


def steps(home: Path, program: Program) -> Iterator[tuple[str, float]]:
    """(what, seconds)"""
    for name, verb, folder in (
        ("push", "push", "here"),
        ("push again", "push", "here"),
        ("pull", "pull", "there"),
        ("pull again", "pull", "there"),
    ):
        started = time.perf_counter()
        program(verb, home / folder)
        yield name, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    programs = {"pipefs": pipefs}
    if shutil.which("rclone"):
        programs["rclone"] = rclone
    seconds: dict[tuple[str, str], list[float]] = {}
    server = SeaweedServer.start()
    try:
        for turn in range(options.rounds):
            for name in sorted(programs, reverse=bool(turn % 2)):
                with tempfile.TemporaryDirectory() as place:
                    home = Path(place)
                    fill(home / "here", options.files)
                    for step, took in steps(home, programs[name](server, home)):
                        seconds.setdefault((step, name), []).append(took)
    finally:
        server.stop()
    for step in dict.fromkeys(step for step, _ in seconds):
        took = {name: statistics.median(seconds[step, name]) for name in programs}
        line = "  ".join(f"{name} {value:7.2f} s" for name, value in took.items())
        ratio = f" x {took['rclone'] / took['pipefs']:.2f}" if "rclone" in took else ""
        print(f"{options.files:,} files, {step:<11} {line}{ratio}", flush=True)


if __name__ == "__main__":
    main()
