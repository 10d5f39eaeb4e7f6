"""The floor of what Python can do on /dev/fuse: files in memory, nothing behind them.

    PYTHONPATH=.:daemon python benchmarks/fuse_floor.py [--profile] [--xattrs] [--runs 3]

The server is a process of its own, as in production. Prints the median (lowest to highest) of the
runs. Needs root. What a real pipe adds to these figures is ours to keep small.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pipefsd.transports.kernel import mount as mounting
from pipefsd.transports.kernel.session import KernelSession
from tests.mount.memfs import MemFs

_READ_MIB = 256
_CREATES = 3000
_LISTED = 5000
_RANDOM = 10000


def _serve(fd: int, profile: bool, xattrs: bool) -> None:
    fs = MemFs()
    fs.discard = True
    fs.xattr_less = not xattrs
    for name, size in (("big", _READ_MIB << 20), ("small", 16 << 20)):
        fs.put(name, bytes(size))
    session = KernelSession(fd, fs)
    signal.signal(signal.SIGTERM, lambda *_: session.stop())
    if not profile:
        session.run()
        return
    profiler = cProfile.Profile()
    profiler.runcall(session.run)
    pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(18)


def _read(path: Path) -> float:
    size = path.stat().st_size
    buffer = bytearray(1 << 20)
    with open(path, "rb", buffering=0) as f:
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        begin = time.perf_counter()
        while f.readinto(buffer):
            pass
        return size / (time.perf_counter() - begin) / 1e9


def _write(path: Path) -> float:
    block = bytes(1 << 20)
    with open(path, "wb", buffering=0) as f:
        begin = time.perf_counter()
        for _ in range(256):
            f.write(block)
        rate = 256 * (1 << 20) / (time.perf_counter() - begin) / 1e9
    path.unlink()
    return rate


def _random(path: Path) -> float:
    """4 KiB reads without readahead, one after the other, from a file the kernel has not cached."""
    with open(path, "rb", buffering=0) as f:
        fd = f.fileno()
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        pages = path.stat().st_size >> 12
        count = min(pages, _RANDOM)
        begin = time.perf_counter()
        for i in range(count):
            os.pread(fd, 4096, (i * 1031 % pages) << 12)
        return count / (time.perf_counter() - begin)


def _create(folder: Path) -> float:
    folder.mkdir()
    begin = time.perf_counter()
    for i in range(_CREATES):
        os.close(os.open(folder / f"f{i}", os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644))
    rate = _CREATES / (time.perf_counter() - begin)
    for i in range(_CREATES):
        os.unlink(folder / f"f{i}")
    folder.rmdir()
    return rate


def _list(folder: Path, option: str) -> float:
    # A fresh mount's view: the kernel forgets what it has of that directory.
    Path("/proc/sys/vm/drop_caches").write_text("2\n")
    begin = time.perf_counter()
    subprocess.run(["ls", option, folder], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin


def _measure(directory: Path, runs: int) -> None:
    many = directory / "many"
    many.mkdir()
    for i in range(_LISTED):
        os.close(os.open(many / f"file-number-{i:05}", os.O_CREAT | os.O_WRONLY, 0o644))
    table: tuple[tuple[str, Callable[[], float]], ...] = (
        ("sequential read of 256 MiB, GB/s", lambda: _read(directory / "big")),
        ("sequential write of 256 MiB, GB/s", lambda: _write(directory / "new")),
        ("4 KiB random reads, 1/s", lambda: _random(directory / "small")),
        ("creates (create, flush, release), 1/s", lambda: _create(directory / "made")),
        (f"ls of {_LISTED}, s", lambda: _list(many, "-U")),
        (f"ls -l of {_LISTED}, s", lambda: _list(many, "-l")),
    )
    for title, once in table:
        found = sorted(once() for _ in range(runs))
        print(f"{title:42} {statistics.median(found):10.3f}  ({found[0]:.3f} to {found[-1]:.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--xattrs", action="store_true", help="`ls -l` asks two a file")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="fuse-floor-"))
    fd = mounting.mount(directory, fsname="floor", allow_other=False)
    connection = mounting.connection_id(directory)
    mounting.set_readahead(directory)
    server = os.fork()
    if server == 0:
        _serve(fd, options.profile, options.xattrs)
        os._exit(0)
    os.close(fd)
    try:
        _measure(directory, options.runs)
        os.kill(server, signal.SIGTERM)
        os.waitpid(server, 0)
    finally:
        mounting.abort(connection)
        mounting.unmount(directory, lazy=True)
        directory.rmdir()


if __name__ == "__main__":
    main()
