"""kill -9 in the middle of inserts: what the block cache answers afterwards is always right."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipefs.blocks import BlockCache
from tests.blocktools import MIB, V1, V2, block, bytes_of, disk_bytes

LIMIT = 32 * MIB

INSERT_FOR_EVER = """
import sys
from pathlib import Path
from tests.blocktools import block
from pipefs.blocks import BlockCache
cache = BlockCache(Path(sys.argv[1]), limit_bytes=32 << 20)
number = int(sys.argv[2])
print(flush=True)
while True:
    items = [(n % 1000, block(n, 1 << (20 - n % 8))) for n in range(number, number + 5)]
    cache.insert_many(b"version-number-1", items, block_count=1000)
    for n in range(max(0, number - 20), number):
        lease = cache.read(b"version-number-1", n % 1000)
        if lease is not None:
            lease.release()
    number += 5
    print(flush=True)
"""


def kill_while_inserting(folder: Path, first: int, after_s: float, batches: int) -> None:
    """Kill it that long after it had opened the cache and inserted so many batches."""
    child = subprocess.Popen(
        [sys.executable, "-c", INSERT_FOR_EVER, str(folder), str(first)], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    for _ in range(1 + batches):
        assert child.stdout.readline()
    time.sleep(after_s)
    child.kill()
    child.wait()
    child.stdout.close()


def check_all(cache: BlockCache) -> int:
    """Every block that can be read has bytes that were inserted at its number; how many."""
    good = 0
    for n in range(1000):
        data = bytes_of(cache, V1, n)
        if data is not None:
            number = int.from_bytes(data[:8], "little")
            assert number % 1000 == n
            assert data == block(number, 1 << (20 - number % 8))
            good += 1
    assert cache.stats().dropped_bad == 0
    return good


@pytest.mark.parametrize("survivor", [False, True], ids=["alone", "beside another process"])
def test_every_readable_block_verifies_after_kill_while_inserting(
    tmp_path: Path, survivor: bool
) -> None:
    folder = tmp_path / "blocks"
    chance = random.Random(3)
    other = BlockCache(folder, limit_bytes=LIMIT) if survivor else None
    for round_no in range(12):
        batches = 0 if round_no else 1  # something is there from the first round on
        kill_while_inserting(folder, round_no * 1117, chance.uniform(0.0, 0.2), batches)
        cache = other or BlockCache(folder, limit_bytes=LIMIT)
        assert check_all(cache) > 0
        cache.insert(V2, round_no, block(round_no), block_count=100)
        assert bytes_of(cache, V2, round_no) == block(round_no)
        if other is None:
            # Opening alone removed what the killed process left outside the index.
            assert disk_bytes(folder) <= LIMIT
            assert len(list(folder.glob("seg-*"))) == cache.stats().segments
            cache.close()
    if other is not None:
        other.close()


def test_a_segment_left_by_a_killed_process_is_replaced(tmp_path: Path) -> None:
    """The number after the last is taken by a folder that is in no index."""
    folder = tmp_path / "blocks"
    cache = BlockCache(folder, limit_bytes=LIMIT)
    cache.insert(V1, 0, block(0), block_count=1000)
    (folder / "seg-00000002").mkdir()
    (folder / "seg-00000002" / "data.mdb").write_bytes(b"left over" * 1000)
    (folder / "dead-00000000-1").mkdir()
    for n in range(1000, 1020):
        cache.insert(V1, n % 1000, block(n, 1 << (20 - n % 8)), block_count=1000)
        cache.insert(V2, n % 1000, block(n), block_count=1000)
    assert check_all(cache) >= 8
    assert bytes_of(cache, V2, 19) == block(1019)
    cache.close()
    BlockCache(folder, limit_bytes=LIMIT).close()
    assert not list(folder.glob("dead-*"))
