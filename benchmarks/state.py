"""What the durable local state costs: one update, one read, a sync, a checkpoint, an opening.

    python benchmarks/state.py [DIRECTORY] [--updates N]

DIRECTORY is on the disk to be measured (default: a folder in the current one). The alternatives of
docs/design/001-durable-state.md run on the same disk with the same keys and values.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import lmdb

from pipefs.db import StateDB

VALUE_BYTES = 200


def timed(name: str, count: int, work: Callable[[], object]) -> None:
    start = time.perf_counter()
    work()
    took = time.perf_counter() - start
    print(f"{name:<44} {took / count * 1e6:>10.2f} us {count / took:>12,.0f}/s", flush=True)


def keys_of(count: int) -> list[bytes]:
    """Names in a few directories, as the tree has them: parent's number, then a name."""
    chance = random.Random(1)
    return [chance.randrange(50).to_bytes(8, "big") + b"file-%08d.csv" % n for n in range(count)]


def ours(place: Path, keys: list[bytes], value: bytes) -> None:
    count = len(keys)
    db = StateDB(place / "state", ["names"])

    def put_each(keys: list[bytes]) -> None:
        for key in keys:
            with db.update() as txn:
                txn.put("names", key, value)

    def get_each() -> None:
        with db.view() as view:
            for key in keys:
                view.get("names", key)

    def view_each() -> None:
        for key in keys:
            with db.view() as view:
                view.get("names", key)

    def scan() -> None:
        with db.view() as view:
            for _ in view.scan("names"):
                pass

    def put_and_sync() -> None:
        for key in keys[:200]:
            put_each([key])
            db.sync()

    def put_and_sync_together() -> None:
        def one(part: list[bytes]) -> None:
            for key in part:
                put_each([key])
                db.sync()

        threads = [threading.Thread(target=one, args=(keys[n : n + 50],)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    timed("update of one value: new key", count, lambda: put_each(keys))
    timed("  the same key again", count, lambda: put_each(keys))
    timed("get, inside one view", count, get_each)
    timed("get, a view each", count, view_each)
    timed("scan, an entry", count, scan)
    timed(f"checkpoint of {2 * count} updates", 1, db.checkpoint)
    timed("update and sync", 200, put_and_sync)
    timed("update and sync, 16 threads", 800, put_and_sync_together)
    db.close()


def replay(place: Path, keys: list[bytes], value: bytes) -> None:
    """A process dies with a full journal; the next one opens."""
    pid = os.fork()
    if pid == 0:
        db = StateDB(place / "dead", ["names"], checkpoint_bytes=1 << 30)
        for key in keys:
            with db.update() as txn:
                txn.put("names", key, value)
        os._exit(0)
    os.waitpid(pid, 0)
    dead: list[StateDB] = []
    timed(
        f"open, replay {len(keys)} updates",
        1,
        lambda: dead.append(StateDB(place / "dead", ["names"])),
    )
    dead[0].close()
    timed("open, nothing to replay", 1, lambda: dead.append(StateDB(place / "dead", ["names"])))
    dead[1].close()


def alternative(place: Path, name: str, keys: list[bytes], value: bytes, **options: bool) -> None:
    """LMDB alone, a transaction an update."""
    path = place / name.replace(" ", "-")
    path.mkdir()
    env = lmdb.open(str(path), map_size=1 << 34, lock=False, meminit=False, **options)

    def put_each() -> None:
        for key in keys:
            with env.begin(write=True) as txn:
                txn.put(key, value)

    timed(f"LMDB alone, {name}: update", len(keys), put_each)
    env.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("directory", nargs="?", type=Path, default=Path())
    parser.add_argument("--updates", type=int, default=50_000)
    options = parser.parse_args()
    value = os.urandom(VALUE_BYTES)
    keys = keys_of(options.updates)
    with tempfile.TemporaryDirectory(dir=options.directory) as folder:
        place = Path(folder)
        ours(place, keys, value)
        replay(place, keys, value)
        few = keys[: options.updates // 25]
        alternative(place, "synced", few, value, sync=True)
        alternative(place, "metasync off", few, value, metasync=False)
        alternative(place, "sync off", keys, value, sync=False)


if __name__ == "__main__":
    main()
