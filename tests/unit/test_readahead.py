"""Readahead: how far it looks, what it drops, and that it never delays a reader."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipefs.blocks import BlockCache
from pipefs.content import ContentReader, release_all
from tests.blocktools import LIMIT, MIB
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


def test_readahead_grows_with_sequential_reads_and_requests_grow_with_it(
    store: WatchedStore, cache: BlockCache, pool: ThreadPoolExecutor
) -> None:
    reader = ContentReader(store, cache, "pipe", executor=pool)
    data = os.urandom(48 * MIB)
    ref = store.add("file", data)
    ahead = []
    for block_no in range(48):
        reader.advise(1, ref, block_no * MIB, MIB)
        assert text_of(reader, ref, block_no * MIB, MIB) == data[block_no * MIB :][:MIB]
        flights_end(reader)
        ahead.append(max(first + count for first, count in store.gets) - block_no - 1)
    assert ahead[0] == 1
    assert max(ahead) == 32 - 1 or max(ahead) == 32
    assert sum(count for _first, count in store.gets) == 48, "no block twice"
    assert len(store.gets) < 20
    assert max(count for _first, count in store.gets) == 8


def test_random_reads_cause_no_readahead(
    store: WatchedStore, cache: BlockCache, pool: ThreadPoolExecutor
) -> None:
    reader = ContentReader(store, cache, "pipe", executor=pool)
    ref = store.add("file", os.urandom(40 * MIB))
    for block_no in (20, 3, 33, 11, 27, 7):
        reader.advise(1, ref, block_no * MIB, MIB)
        release_all(reader.read(ref, block_no * MIB, MIB))
    flights_end(reader)
    assert len(store.gets) == 6


@pytest.mark.parametrize("how", ["seek", "close"])
def test_queued_readahead_is_dropped_at_a_seek_and_at_close(
    store: WatchedStore, cache: BlockCache, how: str
) -> None:
    with ThreadPoolExecutor(1) as one:
        reader = ContentReader(store, cache, "pipe", executor=one)
        ref = store.add("file", os.urandom(40 * MIB))
        store.gate.clear()
        for block_no in range(12):
            reader.advise(1, ref, block_no * MIB, MIB)
        store.wait_for(1)
        assert len(reader._downloads._flights) > 3
        if how == "seek":
            reader.advise(1, ref, 39 * MIB, 1000)
        else:
            reader.close_stream(1)
        store.gate.set()
        flights_end(reader)
        assert len(store.gets) == 1


def test_readahead_stays_below_its_memory_limit(
    store: WatchedStore, cache: BlockCache, pool: ThreadPoolExecutor
) -> None:
    reader = ContentReader(store, cache, "pipe", executor=pool, memory_limit_bytes=5 * MIB)
    refs = [store.add(f"file{n}", os.urandom(20 * MIB)) for n in range(3)]
    store.gate.clear()
    for block_no in range(10):
        for stream, ref in enumerate(refs):
            reader.advise(stream, ref, block_no * MIB, MIB)
    assert len(reader._downloads._flights) <= 5
    reader.close()
    store.gate.set()
    flights_end(reader)


def test_a_reader_overtakes_queued_readahead(store: WatchedStore, cache: BlockCache) -> None:
    with ThreadPoolExecutor(1) as one:
        reader = ContentReader(store, cache, "pipe", executor=one)
        data = os.urandom(40 * MIB)
        ref = store.add("file", data)
        busy = threading.Event()
        one.submit(busy.wait, 30)
        for block_no in range(8):
            reader.advise(1, ref, block_no * MIB, MIB)
        # The executor's only thread is taken, so nothing but the reader itself can fetch this.
        assert text_of(reader, ref, 8 * MIB, 10) == data[8 * MIB : 8 * MIB + 10]
        assert not busy.is_set()
        reader.close()
        busy.set()
