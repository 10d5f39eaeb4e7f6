"""Reading versions through the cache: requests made, waiting, and errors."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipefs.blocks import BlockCache
from pipefs.content import ContentReader, release_all
from pipefs.errors import Conflict, Corrupt, NoSpace, NotFound, StoreUnavailable, TimedOut
from pipefs.types import ContentRef
from tests.blocktools import LIMIT, MIB
from tests.mounted import small_disk
from tests.watchedstore import WatchedStore, flights_end, text_of


@pytest.fixture
def store(tmp_path: Path) -> Iterator[WatchedStore]:
    opened = WatchedStore(tmp_path / "store")
    yield opened
    opened.gate.set()
    opened.close()


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[BlockCache]:
    opened = BlockCache(tmp_path / "blocks", limit_bytes=LIMIT)
    yield opened
    opened.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


@pytest.fixture
def reader(store: WatchedStore, cache: BlockCache) -> ContentReader:
    return ContentReader(store, cache, "pipe")


RANGES = [
    (0, 1),
    (0, 10 * MIB),
    (MIB - 1, 2),
    (MIB, MIB),
    (MIB + 5, 3 * MIB),
    (3 * MIB + 100, MIB),
    (3 * MIB + 122, 1),
    (3 * MIB + 123, 1),
    (9 * MIB, 1),
    (5, 0),
]


@pytest.mark.parametrize("with_pool", [False, True])
def test_every_range_reads_the_same_bytes_cold_and_cached(
    store: WatchedStore, cache: BlockCache, pool: ThreadPoolExecutor, with_pool: bool
) -> None:
    data = os.urandom(3 * MIB + 123)
    ref = store.add("file", data)
    for number, (offset, size) in enumerate(RANGES):
        fresh = ContentReader(store, cache, f"pipe-{number}", executor=pool if with_pool else None)
        wanted = data[offset : offset + size]
        assert (fresh.cached(ref, offset, size) is None) == bool(wanted)
        assert text_of(fresh, ref, offset, size) == wanted
        leases = fresh.cached(ref, offset, size)
        assert leases is not None
        assert b"".join(lease.data for lease in leases) == wanted
        release_all(leases)


def test_empty_files_and_reads_past_the_end_need_no_request(
    store: WatchedStore, reader: ContentReader
) -> None:
    empty, short = store.add("empty", b""), store.add("short", b"abc")
    assert reader.read(empty, 0, 4096) == []
    assert reader.cached(empty, 0, 4096) == []
    assert reader.read(short, 3, 10) == []
    assert reader.read(short, 0, 0) == []
    assert list(reader.read_all(empty)) == []
    assert reader.fill(empty, 0) == b""
    assert store.gets == []


def test_adjacent_missing_blocks_are_one_request_and_cached_ones_none(
    store: WatchedStore, reader: ContentReader
) -> None:
    ref = store.add("file", os.urandom(12 * MIB))
    reader.fill(ref, 3)
    assert store.gets == [(3, 1)]
    release_all(reader.read(ref, 0, 12 * MIB))
    assert store.gets[1:] == [(0, 3), (4, 8)]
    release_all(reader.read(ref, 0, 12 * MIB))
    assert len(store.gets) == 3
    assert reader.requests() == (3, 12 * MIB)


def test_versions_keys_and_pipes_are_told_apart(
    store: WatchedStore, cache: BlockCache, reader: ContentReader
) -> None:
    refs = [store.add("a", b"1" * 1000), store.add("a", b"2" * 1000), store.add("b", b"3" * 1000)]
    assert [reader.fill(ref, 0)[:1] for ref in refs * 2] == [b"1", b"2", b"3"] * 2
    assert len(store.gets) == 3
    assert ContentReader(store, cache, "other").cached(refs[0], 0, 10) is None
    assert len({reader.identity(ref) for ref in refs}) == 3


def test_ten_readers_of_one_block_make_one_request(
    store: WatchedStore, reader: ContentReader
) -> None:
    data = os.urandom(2 * MIB)
    ref = store.add("file", data)
    store.gate.clear()
    with ThreadPoolExecutor(10) as readers:
        answers = [readers.submit(text_of, reader, ref, n * 1000, 1000) for n in range(10)]
        store.wait_for(1)
        # All wait in `fetch` or are on the way there; those who come late find the block cached.
        store.gate.set()
        assert [a.result(30) for a in answers] == [
            data[n * 1000 : (n + 1) * 1000] for n in range(10)
        ]
    assert store.counting.counts()["get"].requests == 1


def test_many_readers_of_many_blocks_fetch_each_once(
    store: WatchedStore, cache: BlockCache, pool: ThreadPoolExecutor
) -> None:
    """Readers that look just before and ask just after a download has landed."""
    reader = ContentReader(store, cache, "pipe", executor=pool)
    data = os.urandom(200 * 1000)
    refs = [store.add(f"file{n}", data[n * 1000 :][:1000]) for n in range(200)]

    def read_all(_n: int) -> bytes:
        return b"".join(text_of(reader, ref, 0, 1000) for ref in refs)

    with ThreadPoolExecutor(8) as readers:
        assert all(answer == data for answer in readers.map(read_all, range(8)))
    assert len(store.gets) == 200


@pytest.mark.parametrize("damage", ["gone", "flipped", "wrong length"])
def test_blocks_that_the_cache_lists_and_cannot_read_are_fetched_again(
    store: WatchedStore, cache: BlockCache, reader: ContentReader, damage: str
) -> None:
    data = os.urandom(100_000)
    ref = store.add("file", data)
    if damage == "wrong length":
        cache.insert(reader.identity(ref), 0, data[:-1], block_count=1)
    else:
        reader.fill(ref, 0)
        (path,) = cache.directory.glob("seg-*/data.mdb")
        raw = path.read_bytes()
        at = raw.find(data[:64])
        with path.open("r+b") as f:
            f.seek(at + 5000)
            f.write(bytes([raw[at + 5000] ^ 1]))
        if damage == "gone":
            cache._segments.remove(1)
    assert reader.cached(ref, 0, 100_000) is None
    assert reader.fill(ref, 0) == data
    leases = reader.cached(ref, 0, 100_000)
    assert leases is not None
    release_all(leases)


def test_a_short_body_is_asked_for_once_more(store: WatchedStore, reader: ContentReader) -> None:
    data = os.urandom(MIB + 10)
    ref = store.add("file", data)
    store.shorten = 1
    assert text_of(reader, ref, 0, 2 * MIB) == data
    assert len(store.gets) == 2


def test_a_body_short_twice_is_corrupt_and_not_cached(
    store: WatchedStore, reader: ContentReader
) -> None:
    data = os.urandom(1000)
    ref = store.add("some/file", data)
    store.shorten = 2
    with pytest.raises(Corrupt, match=r"some/file .*999 bytes where 1000"):
        reader.read(ref, 0, 1000)
    assert reader.cached(ref, 0, 1000) is None
    assert text_of(reader, ref, 0, 1000) == data


def test_a_failure_is_told_to_all_who_wait_and_is_not_remembered(
    store: WatchedStore, reader: ContentReader
) -> None:
    data = os.urandom(1000)
    ref = store.add("some/file", data)
    store.gate.clear()
    error = StoreUnavailable("connection refused", hint="is it up?")
    store.faults.fail("get", lambda: error)
    with ThreadPoolExecutor(4) as readers:
        first = readers.submit(text_of, reader, ref, 0, 1000)
        store.wait_for(1)
        others = [readers.submit(text_of, reader, ref, 0, 1000) for _ in range(3)]
        flight = next(iter(reader._downloads._flights.values()))
        while flight.waiters < 4:
            time.sleep(0.001)
        store.gate.set()
        for answer in [first, *others]:
            with pytest.raises(StoreUnavailable, match=r"some/file \(version .*refused") as caught:
                answer.result(30)
            assert caught.value.hint == "is it up?"
    assert len(store.gets) == 1
    assert text_of(reader, ref, 0, 1000) == data


def test_a_version_that_is_gone_is_not_found(store: WatchedStore, reader: ContentReader) -> None:
    ref = store.add("file", b"data")
    assert ref.version_id is not None
    store.delete_version("file", ref.version_id)
    with pytest.raises(NotFound, match="no longer in the store"):
        reader.read(ref, 0, 4)


def test_without_versions_a_replaced_object_is_a_conflict_and_not_cached(
    store: WatchedStore, reader: ContentReader
) -> None:
    made = store.add("file", b"old!")
    ref = ContentRef("file", None, made.etag, made.size)
    store.add("file", b"new!")
    with pytest.raises(Conflict, match="replaced"):
        reader.read(ref, 0, 4)
    store.add("file", b"old!")
    assert text_of(reader, ref, 0, 4) == b"old!"


def test_a_waiting_reader_can_be_interrupted_and_the_download_goes_on(
    store: WatchedStore, cache: BlockCache, pool: ThreadPoolExecutor
) -> None:
    reader = ContentReader(store, cache, "pipe", executor=pool)
    data = os.urandom(1000)
    ref = store.add("file", data)
    store.gate.clear()
    with pytest.raises(InterruptedError):
        reader.read(ref, 0, 1000, interrupted=store.asked.acquire)
    store.gate.set()
    assert text_of(reader, ref, 0, 1000) == data
    assert len(store.gets) == 1


def test_a_reader_of_a_foreign_download_can_be_interrupted_without_executor(
    store: WatchedStore, reader: ContentReader
) -> None:
    ref = store.add("file", b"data")
    store.gate.clear()
    with ThreadPoolExecutor(1) as other:
        first = other.submit(text_of, reader, ref, 0, 4)
        store.wait_for(1)
        with pytest.raises(InterruptedError):
            reader.read(ref, 0, 4, interrupted=lambda: True)
        store.gate.set()
        assert first.result(30) == b"data"


def test_waiting_ends_at_the_deadline(store: WatchedStore, cache: BlockCache) -> None:
    reader = ContentReader(store, cache, "pipe", deadline_s=0.05)
    ref = store.add("file", b"data")
    store.gate.clear()
    with ThreadPoolExecutor(1) as other:
        first = other.submit(text_of, reader, ref, 0, 4)
        store.wait_for(1)
        with pytest.raises(TimedOut, match="file"):
            reader.read(ref, 0, 4)
        store.gate.set()
        assert first.result(30) == b"data"


def test_readers_inside_the_executor_never_wait_for_themselves(
    store: WatchedStore, cache: BlockCache, pool: ThreadPoolExecutor
) -> None:
    reader = ContentReader(store, cache, "pipe", executor=pool)
    data = os.urandom(20 * MIB)
    ref = store.add("file", data)

    def read(n: int) -> bytes:
        leases = reader.read(ref, 0, 20 * MIB - n, interrupted=lambda: False)
        try:
            return b"".join(lease.data for lease in leases)
        finally:
            release_all(leases)

    answers = [pool.submit(read, n) for n in range(8)]
    assert all(a.result(60) == data[: 20 * MIB - n] for n, a in enumerate(answers))
    assert sum(count for _first, count in store.gets) == 20


def test_a_cache_that_cannot_take_blocks_does_not_fail_reads(
    store: WatchedStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    filler = b"filler".ljust(16)
    data = os.urandom(3 * MIB)
    ref = store.add("file", data)
    before = len(store.gets)
    with (
        small_disk(tmp_path / "disk", "32m") as disk,
        contextlib.closing(BlockCache(disk / "blocks", limit_bytes=LIMIT)) as cache,
        caplog.at_level(logging.INFO),
    ):
        cache.pin(filler)  # and is not given back when the disk is full
        with pytest.raises(NoSpace):
            for n in range(64):
                cache.insert(filler, n, os.urandom(MIB), block_count=64)
        reader = ContentReader(store, cache, "pipe")
        for offset in range(0, 3 * MIB, 128 << 10):
            assert text_of(reader, ref, offset, 128 << 10) == data[offset : offset + (128 << 10)]
    assert len(store.gets) - before == 3, "small reads of one block share its download"
    assert "without the block cache" in caplog.text


@pytest.mark.parametrize("with_pool", [False, True])
def test_read_all_gives_the_whole_version(
    store: WatchedStore, cache: BlockCache, pool: ThreadPoolExecutor, with_pool: bool
) -> None:
    reader = ContentReader(store, cache, "pipe", executor=pool if with_pool else None)
    data = os.urandom(20 * MIB + 17)
    ref = store.add("file", data)
    assert b"".join(bytes(view) for view in reader.read_all(ref)) == data
    flights_end(reader)
    assert sum(count for _first, count in store.gets) == 21
