"""The block cache: what reads back, and what it makes of damage, crashes and reboots."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipefs.blocks import BlockCache, block_id
from pipefs.errors import Busy, Corrupt
from tests.blocktools import LIMIT, MIB, V1, V2, block, bytes_of, disk_bytes, run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "blocks"


@pytest.fixture
def cache(folder: Path) -> Iterator[BlockCache]:
    opened = BlockCache(folder, limit_bytes=LIMIT)
    yield opened
    opened.close()


def test_a_block_reads_back_and_others_are_missing(cache: BlockCache) -> None:
    data = block(1, 100_001)
    assert cache.insert(V1, 3, data, block_count=4) == block_id(data)
    assert bytes_of(cache, V1, 3) == data
    assert cache.lookup(V1, 3) == block_id(data)
    for version, block_no in [(V1, 0), (V1, 2), (V1, 4), (V1, 1000), (V2, 3)]:
        assert cache.read(version, block_no) is None
        assert cache.lookup(version, block_no) is None
    assert cache.cached_blocks(V1) == 1
    assert cache.percent(V1) == 25.0
    assert cache.percent(V2) == 0.0
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.inserted) == (1, 5, 1)


def test_insert_many_keeps_blocks_of_all_sizes_apart(cache: BlockCache) -> None:
    sizes = [1, 2, 15, 16, 17, 1000, 2000, 2048, 4096, 5000, 65_536, MIB - 1, MIB]
    items = [(n * 50, os.urandom(size)) for n, size in enumerate(sizes)]
    cache.insert_many(V1, iter(items), block_count=1000)
    for block_no, data in items:
        assert bytes_of(cache, V1, block_no) == data


@pytest.mark.parametrize("size", [0, MIB + 1])
def test_a_block_of_impossible_size_is_refused(cache: BlockCache, size: int) -> None:
    with pytest.raises(ValueError, match="1 byte to 1 MiB"):
        cache.insert(V1, 0, bytes(size), block_count=1)


def test_equal_bytes_are_stored_once(cache: BlockCache) -> None:
    data = os.urandom(MIB)
    cache.insert_many(V1, [(n, data) for n in range(20)], block_count=20)
    cache.insert(V2, 0, data, block_count=1)
    assert cache.cached_blocks(V1) == 20
    assert cache.stats().inserted == 1
    assert cache.stats().shared == 20
    assert cache.used_bytes() < 2 * MIB


def test_other_bytes_with_the_same_id_are_not_inserted(
    cache: BlockCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Real collisions of xxh3-128 can be made, but not in a test's time: both sides that compute
    # ids get a weaker hash.
    weak = b"collision".ljust(16)
    monkeypatch.setattr("pipefs.blocks.block_id", lambda _data: weak)
    monkeypatch.setattr("pipefs.cache.blockfill.block_id", lambda _data: weak)
    cache.insert(V1, 0, b"first", block_count=1)
    with caplog.at_level(logging.ERROR):
        cache.insert(V2, 0, b"other", block_count=1)
        cache.insert_many(V2, [(1, b"one"), (2, b"two")], block_count=3)
    assert "two blocks have the id" in caplog.text
    assert bytes_of(cache, V1, 0) == b"first"
    assert cache.cached_blocks(V2) == 0
    assert cache.stats().collisions == 3


def flip_a_byte(folder: Path, data: bytes) -> None:
    for path in folder.glob("seg-*/data.mdb"):
        raw = path.read_bytes()
        at = raw.find(data[:64])
        if at >= 0:
            with path.open("r+b") as f:
                f.seek(at + 5000)
                f.write(bytes([raw[at + 5000] ^ 1]))
            return
    raise AssertionError("the block is in no segment")


def test_a_flipped_byte_is_noticed_and_the_block_dropped(folder: Path, cache: BlockCache) -> None:
    data = os.urandom(MIB)
    cache.insert(V1, 0, data, block_count=1)
    flip_a_byte(folder, data)
    assert cache.read(V1, 0) is None
    assert cache.stats().dropped_bad == 1
    assert cache.lookup(V1, 0) is None
    cache.insert(V1, 0, data, block_count=1)
    assert bytes_of(cache, V1, 0) == data


def test_inserting_over_a_flipped_block_replaces_it(folder: Path, cache: BlockCache) -> None:
    data = os.urandom(MIB)
    cache.insert(V1, 0, data, block_count=1)
    flip_a_byte(folder, data)
    cache.insert(V2, 0, data, block_count=1)
    assert bytes_of(cache, V1, 0) == data
    assert cache.stats().dropped_bad == 1


def test_an_alias_shares_blocks_and_outlives_the_original(cache: BlockCache) -> None:
    cache.insert_many(V1, ((n, block(n)) for n in range(70)), block_count=100)
    before = cache.used_bytes()
    cache.insert_many(V1, ((n, block(n)) for n in range(40, 50)), block_count=100)
    assert cache.alias(V1, V2, 100) >= 40
    cached = cache.cached_blocks(V1)
    assert cached > 30
    cache.forget(V1)
    assert cache.cached_blocks(V1) == 0
    assert cache.cached_blocks(V2) == cached
    assert cache.percent(V2) == cached
    assert bytes_of(cache, V2, 69) == block(69)
    assert cache.used_bytes() < before + MIB


def test_it_is_kept_over_a_clean_close_and_a_reboot(folder: Path) -> None:
    cache = BlockCache(folder, limit_bytes=LIMIT, boot_id="boot-1")
    cache.insert(V1, 0, block(1), block_count=1)
    cache.close()
    cache = BlockCache(folder, limit_bytes=LIMIT, boot_id="boot-2")
    assert bytes_of(cache, V1, 0) == block(1)
    cache.close()


DIE_WITHOUT_CLOSING = """
import os, sys
from pathlib import Path
from pipefs.blocks import BlockCache
cache = BlockCache(Path(sys.argv[1]), limit_bytes=64 << 20, boot_id=sys.argv[2])
cache.insert(b"version-number-1", 0, b"data", block_count=1)
os._exit(0)
"""


@pytest.mark.parametrize(("boot_id", "kept"), [("boot-1", True), ("boot-2", False)])
def test_without_a_clean_close_only_the_same_boot_keeps_it(
    folder: Path, boot_id: str, kept: bool
) -> None:
    run(DIE_WITHOUT_CLOSING, str(folder), "boot-1")
    cache = BlockCache(folder, limit_bytes=LIMIT, boot_id=boot_id)
    assert bytes_of(cache, V1, 0) == (b"data" if kept else None)
    cache.insert(V1, 0, b"data", block_count=1)
    assert bytes_of(cache, V1, 0) == b"data"
    cache.close()


def test_processes_of_another_boot_are_waited_for_and_then_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipefs.cache.cachehome.ENTER_DEADLINE_S", 0.1)
    cache = BlockCache(folder, limit_bytes=LIMIT, boot_id="boot-1")
    cache.insert(V1, 0, block(1), block_count=1)
    with pytest.raises(Busy, match="another boot"):
        BlockCache(folder, limit_bytes=LIMIT, boot_id="boot-2")
    assert bytes_of(cache, V1, 0) == block(1)
    cache.close()


@pytest.mark.parametrize("damage", ["garbage", "cut"])
def test_a_corrupt_index_is_made_anew_with_a_log_line(
    folder: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = BlockCache(folder, limit_bytes=LIMIT)
    items = [(n, block(n, 1000)) for n in range(3000)]
    cache.insert_many(V1, items, block_count=3000)
    cache.close()
    path = folder / "index" / "data.mdb"
    if damage == "garbage":
        path.write_bytes(os.urandom(path.stat().st_size))
    else:
        os.truncate(path, 8192)
    with caplog.at_level(logging.WARNING):
        cache = BlockCache(folder, limit_bytes=LIMIT)
    assert "made anew" in caplog.text
    assert cache.read(V1, 0) is None
    assert disk_bytes(folder) < MIB
    cache.insert(V1, 0, block(1), block_count=1)
    assert bytes_of(cache, V1, 0) == block(1)
    cache.close()


@pytest.mark.parametrize("damage", ["garbage", "cut", "gone"])
def test_a_broken_segment_reads_as_missing_and_is_replaced(folder: Path, damage: str) -> None:
    cache = BlockCache(folder, limit_bytes=LIMIT)
    cache.insert_many(V1, ((n, block(n)) for n in range(5)), block_count=5)
    cache.close()
    (path,) = folder.glob("seg-*/data.mdb")
    if damage == "garbage":
        path.write_bytes(os.urandom(path.stat().st_size))
    elif damage == "cut":
        os.truncate(path, 8192)
    else:
        path.unlink()
        (path.parent / "lock.mdb").unlink()
        path.parent.rmdir()
    cache = BlockCache(folder, limit_bytes=LIMIT)
    assert cache.read(V1, 0) is None
    cache.insert(V1, 0, block(0), block_count=5)
    assert bytes_of(cache, V1, 0) == block(0)
    for n in range(100, 250):
        cache.insert(V2, n, block(n), block_count=250)
    assert bytes_of(cache, V2, 249) == block(249)
    assert disk_bytes(folder) <= LIMIT
    cache.close()


def test_a_corrupt_index_in_use_is_not_thrown_away(folder: Path) -> None:
    run(DIE_WITHOUT_CLOSING, str(folder), "boot-1")
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_SH);"
            "print(flush=True); sys.stdin.read()",
            str(folder / "lock"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None and holder.stdin is not None
    holder.stdout.readline()
    (folder / "index" / "data.mdb").write_bytes(os.urandom(65536))
    with pytest.raises(Corrupt):
        BlockCache(folder, limit_bytes=LIMIT, boot_id="boot-1")
    holder.stdin.close()
    holder.wait()
    cache = BlockCache(folder, limit_bytes=LIMIT, boot_id="boot-1")
    assert cache.read(V1, 0) is None
    cache.close()
