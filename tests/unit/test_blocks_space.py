"""The block cache near its limit, on a full disk, and under many users."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipefs.blocks import BlockCache
from pipefs.cache import blockfill
from pipefs.cache.segments import MIN_SEGMENT_BYTES
from pipefs.errors import NoSpace, Refused
from tests.blocktools import LIMIT, MIB, V1, V2, V3, block, bytes_of, disk_bytes, run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "blocks"


@pytest.fixture
def cache(folder: Path) -> Iterator[BlockCache]:
    opened = BlockCache(folder, limit_bytes=LIMIT)
    yield opened
    opened.close()


def test_the_limit_holds_and_what_is_read_stays(folder: Path, cache: BlockCache) -> None:
    for n in range(200):
        cache.insert(V1, n, block(n), block_count=200)
        for hot in (0, 15, 25):
            assert n < hot or bytes_of(cache, V1, hot) == block(hot)
        assert disk_bytes(folder) <= LIMIT
        assert cache.used_bytes() <= LIMIT
    cached = {n for n in range(200) if cache.lookup(V1, n) is not None}
    assert set(range(160, 200)) <= cached, "the newest are kept"
    assert not cached & (set(range(100)) - {0, 15, 25}), "those never read again are gone"
    assert cache.stats().evicted == 200 - len(cached)


def test_small_blocks_keep_to_the_limit(folder: Path) -> None:
    cache = BlockCache(folder, limit_bytes=32 * MIB)
    for start in range(0, 30_000, 1000):
        items = [(n, os.urandom(1500)) for n in range(start, start + 1000)]
        cache.insert_many(V1, items, block_count=30_000)
        assert disk_bytes(folder) <= 32 * MIB
    assert bytes_of(cache, V1, 29_999) == items[-1][1]
    assert 8_000 < cache.cached_blocks(V1) < 22_000
    cache.close()


def test_lists_of_evicted_versions_are_tidied(folder: Path) -> None:
    cache = BlockCache(folder, limit_bytes=32 * MIB)
    for n in range(300):
        cache.insert(n.to_bytes(16, "big"), 0, block(n), block_count=1)
    with cache._index.reading() as txn:
        lists = sum(1 for _ in txn.cursor(db=cache._index._versions))
    assert lists < 100
    cache.close()


def test_a_smaller_limit_is_met_at_opening(folder: Path) -> None:
    cache = BlockCache(folder, limit_bytes=128 * MIB)
    cache.insert_many(V1, ((n, block(n)) for n in range(100)), block_count=100)
    cache.close()
    assert disk_bytes(folder) > 90 * MIB
    cache = BlockCache(folder, limit_bytes=48 * MIB)
    assert disk_bytes(folder) <= 48 * MIB
    assert bytes_of(cache, V1, 99) == block(99)
    cache.close()


def test_pinned_blocks_survive_turnover_and_unpinned_ones_go(cache: BlockCache) -> None:
    cache.insert_many(V1, ((n, block(n)) for n in range(10)), block_count=12)
    cache.pin(V1)
    cache.pin(V1)
    cache.insert_many(V1, ((n, block(n)) for n in range(10, 12)), block_count=12)
    for n in range(1000, 1200):
        cache.insert(V2, n, block(n), block_count=2000)
    assert cache.cached_blocks(V1) == 12
    assert all(bytes_of(cache, V1, n) == block(n) for n in range(12))
    cache.unpin(V1)
    cache.flush_touches()
    for n in range(1200, 1500):
        cache.insert(V2, n, block(n), block_count=2000)
    assert cache.cached_blocks(V1) == 0


def test_what_is_pinned_comes_on_top_of_the_limit(folder: Path, cache: BlockCache) -> None:
    cache.pin(V1, owner=b"o" * 16)
    for n in range(100):
        cache.insert(V1, n, block(n), block_count=100)
    for n in range(1000, 1100):
        cache.insert(V2, n, block(n), block_count=2000)
    assert cache.cached_blocks(V1) == 100
    assert all(bytes_of(cache, V1, n) == block(n) for n in range(100))
    assert 8 < cache.cached_blocks(V2) < 60
    assert 100 * MIB < cache.pinned_bytes() < 101 * MIB
    assert disk_bytes(folder) <= LIMIT + cache.pinned_bytes()
    assert cache.pinned_by(b"o" * 16) == {V1}
    cache.unpin(V1)
    assert cache.pinned_bytes() == 0
    cache.insert(V2, 0, block(5000), block_count=2000)
    assert disk_bytes(folder) <= LIMIT
    assert cache.cached_blocks(V1) < 40


def test_small_pinned_files_are_counted_with_their_pages(folder: Path) -> None:
    cache = BlockCache(folder, limit_bytes=32 * MIB)
    cache.pin(*(n.to_bytes(16, "big") for n in range(8000)), owner=b"o" * 16)
    for n in range(8000):
        cache.insert(n.to_bytes(16, "big"), 0, os.urandom(2100), block_count=1)
    for n in range(1000, 1100):
        cache.insert(V2, n, block(n), block_count=2000)
    assert all(cache.cached_blocks(n.to_bytes(16, "big")) for n in range(8000))
    assert len(cache.pinned_by(b"o" * 16)) == 8000
    cache.close()


def test_a_lease_outlives_eviction_and_close(folder: Path) -> None:
    cache = BlockCache(folder, limit_bytes=32 * MIB)
    cache.insert(V1, 0, block(7), block_count=1)
    lease = cache.read(V1, 0)
    assert lease is not None
    for n in range(1000, 1100):
        cache.insert(V2, n, block(n), block_count=2000)
    assert cache.lookup(V1, 0) is None
    cache.close()
    assert bytes(lease.data) == block(7)
    lease.release()
    lease.release()


CHURN = """
import random, sys
from pathlib import Path
from pipefs.blocks import BlockCache
folder, version, seed = Path(sys.argv[1]), sys.argv[2].encode(), int(sys.argv[3])
random.seed(seed)
cache = BlockCache(folder, limit_bytes=32 << 20)
good = 0
for n in range(150):
    number = n * 2 + seed
    data = number.to_bytes(8, "little") * (1 << 17)
    cache.insert(version, n, data, block_count=150)
    for _ in range(3):
        for other in (b"version-number-1", b"version-number-2"):
            no = random.randrange(n + 1)
            lease = cache.read(other, no)
            if lease is not None:
                with lease:
                    expected = no * 2 + (other[-1] - ord("1"))
                    assert bytes(lease.data) == expected.to_bytes(8, "little") * (1 << 17)
                good += 1
assert good > 50, good
assert cache.stats().dropped_bad == 0
cache.close()
"""


def test_two_processes_insert_and_evict_at_once(folder: Path) -> None:
    children = [
        subprocess.Popen([sys.executable, "-c", CHURN, str(folder), version.decode(), str(seed)])
        for seed, version in enumerate((V1, V2))
    ]
    assert [child.wait(timeout=90) for child in children] == [0, 0]
    assert disk_bytes(folder) <= 32 * MIB
    cache = BlockCache(folder, limit_bytes=32 * MIB)
    last = [(bytes_of(cache, V1, 149), block(298)), (bytes_of(cache, V2, 149), block(299))]
    assert any(found == inserted for found, inserted in last)
    assert all(found in (inserted, None) for found, inserted in last)
    assert cache.cached_blocks(V1) + cache.cached_blocks(V2) >= 16
    cache.close()


def test_a_process_gives_up_files_that_another_dropped(folder: Path) -> None:
    cache = BlockCache(folder, limit_bytes=32 * MIB)
    cache.insert_many(V3, ((n, block(n)) for n in range(8)), block_count=8)
    assert bytes_of(cache, V3, 0) == block(0)
    run(CHURN.replace("assert good > 50, good", ""), str(folder), V2.decode(), "1")
    maps = Path("/proc/self/maps")
    assert str(folder) in maps.read_text()
    cache.flush_touches()
    deleted = [x for x in maps.read_text().splitlines() if str(folder) in x and "deleted" in x]
    assert deleted == []
    cache.close()


def test_many_threads_read_while_others_insert(cache: BlockCache) -> None:
    wrong: list[object] = []

    def work(seed: int) -> None:
        version = bytes([seed]) * 16
        for n in range(60):
            cache.insert(version, n, block(seed * 1000 + n), block_count=60)
            for other in range(8):
                data = bytes_of(cache, bytes([other]) * 16, n)
                if data is not None and data != block(other * 1000 + n):
                    wrong.append((other, n))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert cache.stats().dropped_bad == 0
    assert cache.stats().inserted == 480


@pytest.fixture(params=["tmpfs", "ext4"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    if request.param == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(mount)]
    else:
        image = tmp_path / "image"
        image.touch()
        os.truncate(image, 24 * MIB)
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", str(image)], check=True)
        command = ["mount", "-o", "loop", str(image), str(mount)]
    subprocess.run(command, check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=True)


def test_a_full_disk_evicts_and_then_says_no_space(small_disk: Path) -> None:
    cache = BlockCache(small_disk / "blocks", limit_bytes=LIMIT)
    for n in range(60):
        cache.insert(V1, n, block(n), block_count=60)
        assert bytes_of(cache, V1, n) == block(n)
    assert 0 < cache.cached_blocks(V1) < 24
    # What is pinned is not given back, so here eviction cannot help.
    cache.pin(V1)
    kept = [n for n in range(60) if cache.lookup(V1, n) is not None]
    fill(small_disk / "other")
    for n in range(100, 110):
        with pytest.raises(NoSpace):
            cache.insert(V2, n, block(n), block_count=200)
        assert cache.read(V2, n) is None
    assert [bytes_of(cache, V1, n) for n in kept] == [block(n) for n in kept]
    for path in small_disk.glob("other*"):
        path.unlink()
    cache.insert(V2, 0, block(5000), block_count=200)
    assert bytes_of(cache, V2, 0) == block(5000)
    cache.close()
    cache = BlockCache(small_disk / "blocks", limit_bytes=LIMIT)
    assert bytes_of(cache, V2, 0) == block(5000)
    assert cache.stats().dropped_bad == 0
    cache.close()


def fill(path: Path) -> None:
    """Take all space that is left."""
    with path.open("ab", buffering=0) as f:
        for size in (65536, 4096, 512):
            with contextlib.suppress(OSError):
                while True:
                    f.write(bytes(size))


def test_a_disk_full_at_opening_is_no_space(small_disk: Path) -> None:
    fill(small_disk / "other")
    with pytest.raises(NoSpace):
        BlockCache(small_disk / "blocks", limit_bytes=LIMIT)


def test_segments_are_committed_in_pieces_smaller_than_they_are() -> None:
    assert blockfill.PENDING_BYTES * 4 <= MIN_SEGMENT_BYTES


def test_close_waits_for_users_and_refuses_later_ones(folder: Path) -> None:
    """A fetcher that still inserts while the daemon stops must not touch an unmapped file."""
    cache = BlockCache(folder, limit_bytes=LIMIT)
    ends: list[type] = []

    def work(version: bytes) -> None:
        try:
            for n in range(10_000):
                cache.insert(version, n % 50, block(n), block_count=50)
                bytes_of(cache, version, n % 50)
        except Refused as e:
            ends.append(type(e))

    threads = [threading.Thread(target=work, args=(bytes([n]) * 16,)) for n in range(4)]
    for thread in threads:
        thread.start()
    while cache.stats().inserted < 50:
        pass
    cache.close()
    for thread in threads:
        thread.join()
    assert ends == [Refused] * 4
    cache = BlockCache(folder, limit_bytes=LIMIT)
    assert cache.stats().segments > 0
    cache.close()
