"""Pull and push of many files without a mount, beside `rclone copy`, in one run.

    python benchmarks/moving.py [--rounds 3] [--files 10000] [--size 4096] [--big-mib 256]

Starts its own SeaweedFS on loopback; both write into buckets with versions. rclone
(`apt-get install rclone`) runs with its defaults, and tuned (16 transfers, 32 checkers, one
listing). Each round has fresh buckets and folders, and who begins changes from round to round.
"again" is the same command once more, with nothing changed; its requests are counted by a proxy
between it and the server. Prints medians and the ratio of pipefs to each peer.
Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "daemon")]

from tests.seaweed import ACCESS_KEY, SECRET_KEY, SeaweedServer  # noqa: E402  # after sys.path

TUNED = ("--transfers", "16", "--checkers", "32", "--fast-list")


class RequestCounter:
    """A proxy that counts the HTTP requests which pass it."""

    def __init__(self, endpoint_url: str) -> None:
        parts = urlsplit(endpoint_url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.create_connection(self._target)
            for source, sink, counts in ((client, server, True), (server, client, False)):
                threading.Thread(
                    target=self._pump, args=(source, sink, counts), daemon=True
                ).start()

    def _pump(self, source: socket.socket, sink: socket.socket, counts: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if counts:  # a request line never comes in two pieces: clients send heads whole
                    self.requests += data.count(b" HTTP/1.1\r\n")
                sink.sendall(data)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


class Pipefs:
    """`pipefs push` and `pull`, each machine with a home of its own."""

    name = "pipefs"

    def __init__(self, server: SeaweedServer, base: Path) -> None:
        self._server = server
        self._base = base
        self._bucket = server.make_bucket()

    def _run(self, machine: str, endpoint_url: str, *words: str) -> None:
        environment = {
            **os.environ,
            **self._server.environment(),
            "AWS_ENDPOINT_URL_S3": endpoint_url,
            "PIPEFS_HOME": str(self._base / machine),
            "PYTHONPATH": os.pathsep.join(sys.path[:2]),
        }
        command = [sys.executable, "-m", "pipefs.cli.main", "-q", *words]
        subprocess.run(command, env=environment, check=True)

    def prepare(self) -> None:
        """What is done once, and not timed."""
        url = f"s3://{self._bucket}/bench"
        for machine in ("a", "b"):
            self._run(machine, self._server.endpoint_url, "create", "bench", url)

    def push(self, folder: Path, endpoint_url: str) -> None:
        self._run("a", endpoint_url, "push", "bench", "--dest", str(folder))

    def pull(self, folder: Path, endpoint_url: str) -> None:
        self._run("b", endpoint_url, "pull", "bench", "--dest", str(folder))


class Rclone:
    """`rclone copy`, to a bucket and back."""

    def __init__(self, server: SeaweedServer, base: Path, *flags: str) -> None:
        self.name = "rclone, tuned" if flags else "rclone"
        self._flags = flags
        self._bucket = server.make_bucket()

    def prepare(self) -> None:
        """Nothing."""

    def _copy(self, source: str, target: str, endpoint_url: str) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")} | {
            "RCLONE_CONFIG_W_TYPE": "s3",
            "RCLONE_CONFIG_W_PROVIDER": "Other",
            "RCLONE_CONFIG_W_ACCESS_KEY_ID": ACCESS_KEY,
            "RCLONE_CONFIG_W_SECRET_ACCESS_KEY": SECRET_KEY,
            "RCLONE_CONFIG_W_ENDPOINT": endpoint_url,
            "RCLONE_CONFIG": "/dev/null",
        }
        command = ["rclone", "copy", "-q", *self._flags, source, target]
        subprocess.run(command, env=environment, check=True)

    def push(self, folder: Path, endpoint_url: str) -> None:
        self._copy(str(folder), f"w:{self._bucket}/bench", endpoint_url)

    def pull(self, folder: Path, endpoint_url: str) -> None:
        self._copy(f"w:{self._bucket}/bench", str(folder), endpoint_url)


Figures = dict[str, dict[str, list[float]]]


def make_files(folder: Path, files: int, size: int, big_mib: int) -> None:
    folder.mkdir()
    pick = random.Random(7)
    for n in range(files):
        place = folder / f"d{n // 1000:02}"
        place.mkdir(exist_ok=True)
        (place / f"f{n:05}.bin").write_bytes(pick.randbytes(size))
    if big_mib:
        with (folder / "big.bin").open("wb") as big:
            for _ in range(big_mib):
                big.write(pick.randbytes(1 << 20))


def turn(
    tool: Pipefs | Rclone, server: SeaweedServer, source: Path, target: Path, figures: Figures
) -> None:
    """One tool, all its work once. Nothing is deleted: ext4 looks long for inode numbers where
    many files were deleted a moment ago."""
    counter = RequestCounter(server.endpoint_url)

    def timed(what: str, move: str, folder: Path, endpoint_url: str) -> None:
        began = time.perf_counter()
        getattr(tool, move)(folder, endpoint_url)
        taken = time.perf_counter() - began
        figures.setdefault(what, {}).setdefault(tool.name, []).append(taken)

    tool.prepare()
    for move, folder in (("push", source), ("pull", target)):
        os.sync()
        timed(f"{move}, s", move, folder, server.endpoint_url)
        timed(f"{move} again, s", move, folder, server.endpoint_url)
        before = counter.requests
        getattr(tool, move)(folder, counter.endpoint_url)
        asked = figures.setdefault(f"{move} again, requests", {}).setdefault(tool.name, [])
        asked.append(counter.requests - before)
    subprocess.run(["diff", "-r", str(source), str(target)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=4096, help="bytes of each file")
    parser.add_argument("--big-mib", type=int, default=0, help="one file of this size besides")
    asked = parser.parse_args()
    figures: Figures = {}
    with tempfile.TemporaryDirectory(prefix="pipefs-bench-") as base:
        source = Path(base) / "source"
        make_files(source, asked.files, asked.size, asked.big_mib)
        for number in range(asked.rounds):
            # A server of its own: else it would grow slower from tool to tool.
            makers = [
                lambda server, home: Pipefs(server, home),
                lambda server, home: Rclone(server, home),
                lambda server, home: Rclone(server, home, *TUNED),
            ]
            for make in makers[number % 3 :] + makers[: number % 3]:
                server = SeaweedServer.start()
                home = Path(tempfile.mkdtemp(dir=base))
                try:
                    turn(make(server, home), server, source, home / "pulled", figures)
                finally:
                    server.stop()
    report(figures)


def report(figures: Figures) -> None:
    names = ["pipefs", "rclone", "rclone, tuned"]
    print(f"| workload | {' | '.join(names)} | rclone / pipefs, tuned / pipefs |")
    print("|---|---|---|---|---|")
    for what, by_name in figures.items():
        middle = [statistics.median(by_name[name]) for name in names]
        ratios = ", ".join(f"{m / middle[0]:.2f}" for m in middle[1:])
        cells = " | ".join(f"{m:,.2f}" if what.endswith(" s") else f"{m:,.0f}" for m in middle)
        print(f"| {what} | {cells} | {ratios} |")


if __name__ == "__main__":
    main()
