"""File work on mounted buckets, side by side in one run: pipefs, rclone, s3fs, and a local disk.

    python benchmarks/mounts.py [--rounds 3] [--size-mib 128] [--files 500]

Starts its own SeaweedFS on loopback; a peer that is not installed (`apt-get install rclone s3fs`)
is left out. The mounts take turns within each workload, and the page cache is dropped for each
of them before a workload marked cold. Prints the medians and the ratio of pipefs to each peer.
Run it on a machine that does nothing else; as root (drop_caches).
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "daemon")]

from tests.seaweed import ACCESS_KEY, SECRET_KEY, SeaweedServer  # noqa: E402  # after sys.path

Work = Callable[[Path], float]
"""Does the work in a folder and returns its rate."""


def rate(amount: float, work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return amount / (time.perf_counter() - started)


def workloads(size_mib: int, files: int) -> Iterator[tuple[str, bool, Work]]:
    """(name with unit, cold, work)"""
    block = os.urandom(1 << 20)

    def write(folder: Path) -> float:
        def work() -> None:
            with open(folder / "big", "wb") as f:
                for n in range(size_mib):
                    f.write(n.to_bytes(8, "little") + block[8:])
                f.flush()
                os.fsync(f.fileno())

        return rate(size_mib, work)

    def read(folder: Path) -> float:
        def work() -> None:
            buffer, total = bytearray(1 << 20), 0
            with open(folder / "big", "rb", buffering=0) as f:
                while count := f.readinto(buffer):
                    total += count
            assert total == size_mib << 20

        return rate(size_mib, work)

    def read_again(folder: Path) -> float:
        read(folder)  # the turn of another mount dropped the page cache of all
        return read(folder)

    def read_random(folder: Path) -> float:
        pick = random.Random(7)

        def work() -> None:
            with open(folder / "big", "rb", buffering=0) as f:
                for _ in range(300):
                    assert len(os.pread(f.fileno(), 4096, pick.randrange(size_mib << 8) << 12))

        return rate(300, work)

    def each(folder: Path, do: Callable[[Path], object]) -> float:
        return rate(files, lambda: [None for n in range(files) if do(folder / f"f{n}")] and None)

    yield "write + fsync, MiB/s", False, write
    yield "read cold, MiB/s", True, read
    yield "read again, MiB/s", False, read_again
    yield "4 KiB reads cold, /s", True, read_random
    yield "create 4 KiB files, /s", False, lambda d: each(d, lambda p: p.write_bytes(block[:4096]))
    yield "stat, /s", False, lambda d: each(d, lambda p: p.stat())
    yield (
        "list and stat cold, files/s",
        True,
        lambda d: rate(files, lambda: [e.stat() for e in os.scandir(d)] and None),
    )
    yield "read 4 KiB files cold, /s", True, lambda d: each(d, lambda p: p.read_bytes())
    yield "rename, /s", False, lambda d: each(d, lambda p: p.rename(p.with_suffix(".x")))
    yield "remove, /s", False, lambda d: each(d, lambda p: p.with_suffix(".x").unlink())


def drop_caches() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


@contextmanager
def pipefs(server: SeaweedServer, home: Path) -> Iterator[Path]:
    environment = {
        **os.environ,
        **server.environment(),
        "PIPEFS_HOME": str(home / "pipefs"),
        "PYTHONPATH": os.pathsep.join(sys.path[:2]),
    }

    def run(*words: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "pipefs.cli.main", *words], env=environment, check=True
        )

    run("create", "bench", f"s3://{server.make_bucket()}/bench")
    run("mount", "bench")
    try:
        yield home / "pipefs" / "mnt" / "bench"
    finally:
        run("umount", "bench", "--no-wait")


@contextmanager
def rclone(server: SeaweedServer, home: Path) -> Iterator[Path]:
    config = home / "rclone.conf"
    config.write_text(
        f"[w]\ntype = s3\nprovider = Other\naccess_key_id = {ACCESS_KEY}\n"
        f"secret_access_key = {SECRET_KEY}\nendpoint = {server.endpoint_url}\n"
    )
    words = f"rclone mount w:{server.make_bucket(versioning=False)} {home}/rclone --daemon"
    words += f" --config {config} --vfs-cache-mode full --cache-dir {home}/rclone-cache"
    clean = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    yield from _mounted(home / "rclone", words, clean)


@contextmanager
def s3fs(server: SeaweedServer, home: Path) -> Iterator[Path]:
    secret = home / "s3fs.passwd"
    secret.write_text(f"{ACCESS_KEY}:{SECRET_KEY}\n")
    secret.chmod(0o600)
    words = f"s3fs {server.make_bucket(versioning=False)} {home}/s3fs -o passwd_file={secret}"
    words += f" -o url={server.endpoint_url} -o use_path_request_style"
    words += f" -o use_cache={home}/s3fs-cache"
    yield from _mounted(home / "s3fs", words, dict(os.environ))


def _mounted(place: Path, words: str, environment: dict[str, str]) -> Iterator[Path]:
    place.mkdir()
    subprocess.run(words.split(), check=True, env=environment, timeout=60)
    deadline = time.monotonic() + 20
    while not os.path.ismount(place):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{words.split()[0]} did not mount")
        time.sleep(0.1)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size-mib", type=int, default=128)
    parser.add_argument("--files", type=int, default=500)
    asked = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="pipefs-bench-"))
    server = SeaweedServer.start()
    with ExitStack() as stack:
        stack.callback(server.stop)
        places = {"pipefs": stack.enter_context(pipefs(server, home))}
        for name, peer in (("rclone", rclone), ("s3fs", s3fs)):
            if shutil.which(name):
                places[name] = stack.enter_context(peer(server, home))
        places["disk"] = home / "disk"
        found: dict[str, dict[str, list[float]]] = {}
        for turn in range(asked.rounds):
            for place in places.values():
                (place / f"r{turn}").mkdir(parents=True)
            for work_name, cold, work in workloads(asked.size_mib, asked.files):
                for name, place in places.items():
                    if cold:
                        drop_caches()
                    rates = found.setdefault(work_name, {}).setdefault(name, [])
                    rates.append(work(place / f"r{turn}"))
        report(found, list(places))


def report(found: dict[str, dict[str, list[float]]], names: list[str]) -> None:
    print("| workload |" + "".join(f" {n} |" for n in names) + " pipefs to each |")
    print("|---|" + "---|" * (len(names) + 1))
    for work_name, by_name in found.items():
        middle = {n: statistics.median(by_name[n]) for n in names}
        ratios = ", ".join(f"{n} {middle['pipefs'] / middle[n]:.2f}" for n in names[1:])
        print(f"| {work_name} |" + "".join(f" {middle[n]:,.0f} |" for n in names) + f" {ratios} |")


if __name__ == "__main__":
    main()
