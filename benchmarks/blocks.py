"""Block cache under turnover: insert rate over time and size on disk, with a reader held.

    python benchmarks/blocks.py --limit-gib 20 --turnovers 2 --folder /var/tmp
    python benchmarks/blocks.py --design one --limit-gib 4     the design that was not taken

`--design one` is a single LMDB environment from which random values are deleted for each insert,
for comparison. Prints a line for each twentieth of the limit. Files go into a new folder below
`--folder` and are deleted.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path

from pipefs.blocks import BlockCache, block_id
from pipefs.content import ContentReader
from pipefs.lmdbenv import MapFull, open_env
from pipefs.stores.local import LocalStore
from pipefs.types import ContentRef

MIB = 1 << 20
VERSION = b"benchmark-versio"


class Design(ABC):
    @abstractmethod
    def insert(self, number: int, data: bytes) -> None: ...

    @abstractmethod
    def touch(self, number: int) -> bool: ...

    @abstractmethod
    def hold(self, number: int) -> None: ...

    @abstractmethod
    def close(self) -> None: ...


class Segmented(Design):
    def __init__(self, folder: Path, limit: int) -> None:
        self.cache = BlockCache(folder, limit_bytes=limit)
        self.held = []

    def insert(self, number: int, data: bytes) -> None:
        self.cache.insert(VERSION, number, data, block_count=number + 1)

    def touch(self, number: int) -> bool:
        lease = self.cache.read(VERSION, number)
        if lease is None:
            return False
        lease.release()
        return True

    def hold(self, number: int) -> None:
        lease = self.cache.read(VERSION, number)
        assert lease is not None
        self.held.append(lease)

    def close(self) -> None:
        print(self.cache.stats())
        for lease in self.held:
            lease.release()
        self.cache.close()


class OneEnvironment(Design):
    """Values in one environment; to insert one, random others are deleted."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.env, _ = open_env(folder, (), map_size_bytes=4 * limit, sync=False)
        self.limit = limit
        self.used = 0
        self.known: list[tuple[bytes, int]] = []
        self.held = []

    def insert(self, number: int, data: bytes) -> None:
        with self.env.begin(write=True) as txn:
            while self.used + len(data) > self.limit:
                at = random.randrange(len(self.known))
                self.known[at], self.known[-1] = self.known[-1], self.known[at]
                key, size = self.known.pop()
                txn.delete(key)
                self.used -= size
            key = block_id(data)
            txn.put(key, data)
        self.known.append((key, len(data)))
        self.used += len(data)

    def touch(self, number: int) -> bool:
        return True

    def hold(self, number: int) -> None:
        txn = self.env.begin(buffers=True)
        txn.get(self.known[0][0])
        self.held.append(txn)

    def close(self) -> None:
        for txn in self.held:
            txn.abort()
        self.env.close()


def disk_bytes(folder: Path) -> tuple[int, int]:
    """Bytes on disk below the folder, and in deleted files that this process holds."""
    total = 0
    for path in folder.rglob("*"):
        if path.is_file():
            total += path.stat().st_blocks * 512
    held = {}
    for line in Path("/proc/self/maps").read_text().splitlines():
        if str(folder) in line and line.endswith("(deleted)"):
            begin, end = line.split()[0].split("-")
            held[line.split()[4]] = f"/proc/self/map_files/{begin}-{end}"
    return total, sum(os.stat(p).st_blocks * 512 for p in held.values())


def sizes(mix: str) -> int:
    if mix == "large" or random.random() > 0.95:
        return MIB
    return random.randrange(200, 64 << 10)


def turnover(design: Design, folder: Path, args: argparse.Namespace) -> None:
    limit = int(args.limit_gib * (1 << 30))
    base = bytearray(os.urandom(MIB))
    number = written = mark = touches = found = 0
    spent = slowest = 0.0
    step = limit // args.lines
    # Half of the reads go to a working set of a tenth of the limit, wherever it lies by now.
    working: list[int] = []
    while written < limit * args.turnovers:
        base[:8] = number.to_bytes(8, "little")
        data = bytes(memoryview(base)[: sizes(args.mix)])
        begin = time.perf_counter()
        try:
            design.insert(number, data)
        except MapFull:
            print(f"written {written / (1 << 30):.1f} GiB: the map is full")
            return
        took = time.perf_counter() - begin
        spent += took
        slowest = max(slowest, took)
        written += len(data)
        if number % 10 == 0 and len(working) * MIB * 10 < limit:
            working.append(number)
        number += 1
        if random.random() < 0.5:
            touches += 1
            found += design.touch(random.choice(working))
        if args.hold_reader and number == 100:
            design.hold(number - 50)
        if written - mark >= step:
            total, deleted = disk_bytes(folder)
            rate = (written - mark) / 1e6 / spent
            print(
                f"written {written / (1 << 30):6.2f} GiB  insert {rate:7.0f}"
                f" MB/s  slowest {slowest * 1e3:6.1f} ms  on disk {total / (1 << 30):6.2f} GiB"
                f" + held {deleted / (1 << 30):5.2f} GiB  working set hit {found / touches:5.1%}",
                flush=True,
            )
            mark, spent, slowest, touches, found = written, 0.0, 0.0, 0, 0
            touches = 1
            found = 1


def cached_file(folder: Path, size: int) -> None:
    """Insert rate of one file, and how fast it is read through `ContentReader.cached`."""
    store = LocalStore(folder / "store")
    cache = BlockCache(folder / "one-file", limit_bytes=4 * size)
    reader = ContentReader(store, cache, "benchmark")
    ref = ContentRef("file", "1", "etag", size)
    base = bytearray(os.urandom(MIB))
    blocks = []
    for number in range(size // MIB):
        base[:8] = number.to_bytes(8, "little")
        blocks.append((number, bytes(base)))
    begin = time.perf_counter()
    cache.insert_many(reader.identity(ref), blocks, len(blocks))
    print(f"insert_many {size / 1e6 / (time.perf_counter() - begin):.0f} MB/s")
    for _ in range(3):
        begin = time.perf_counter()
        for offset in range(0, size, MIB):
            leases = reader.cached(ref, offset, MIB)
            assert leases is not None
            for lease in leases:
                lease.release()
        print(f"cached read {size / 1e9 / (time.perf_counter() - begin):.1f} GB/s, verified")
    reader.close()
    cache.close()
    store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--design", choices=["segments", "one"], default="segments")
    parser.add_argument("--limit-gib", type=float, default=1.0)
    parser.add_argument("--turnovers", type=float, default=2.0)
    parser.add_argument("--mix", choices=["large", "mixed"], default="large")
    parser.add_argument("--lines", type=int, default=20)
    parser.add_argument("--no-reader", dest="hold_reader", action="store_false")
    parser.add_argument("--one-file-gib", type=float, default=0.0)
    parser.add_argument("--folder", default=tempfile.gettempdir())
    args = parser.parse_args()
    random.seed(1)
    folder = Path(tempfile.mkdtemp(prefix="blocks-", dir=args.folder))
    try:
        if args.one_file_gib:
            cached_file(folder, int(args.one_file_gib * (1 << 30)))
            return
        make = Segmented if args.design == "segments" else OneEnvironment
        design = make(folder / "cache", int(args.limit_gib * (1 << 30)))
        turnover(design, folder, args)
        design.close()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
