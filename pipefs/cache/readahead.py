"""Readahead: guesses from a stream's reads what it will want, and queues downloads of it.

A stream is one open handle. Its window doubles with each sequential read up to 32 MiB and
collapses at a jump, which also drops what is still queued. Promises that all streams together
never have more than the memory limit under way. Never waits for the store and never raises for
what it could not fetch: the reader will ask again and hear the cause.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from pipefs.blocks import BlockCache
from pipefs.cache.download import MAX_REQUEST_BLOCKS, Downloads, Flight
from pipefs.types import BLOCK_SIZE_BYTES, ContentRef

MAX_WINDOW_BLOCKS = 32
"""32 MiB: four requests of 8 MiB fill a line of 1 GB/s at 30 ms."""

SLACK_BYTES = 2 * BLOCK_SIZE_BYTES
"""The kernel's own readahead sends requests slightly out of order: still sequential."""


@dataclass(slots=True)
class _Stream:
    version: bytes
    expected: int = 0
    window: int = 0
    high: int = 0
    """First block not asked for yet."""
    flights: list[Flight] = field(default_factory=list)


class Readahead:
    """Streams of one pipe. Thread-safe."""

    def __init__(self, cache: BlockCache, downloads: Downloads, memory_limit_bytes: int) -> None:
        self._cache = cache
        self._downloads = downloads
        self._memory_limit = memory_limit_bytes
        # Guards the streams. Taken before the lock of `Downloads`.
        self._lock = threading.Lock()
        self._streams: dict[int, _Stream] = {}

    def advise(self, stream: int, ref: ContentRef, version: bytes, offset: int, size: int) -> None:
        """Note a read of [offset, offset+size) and queue what follows."""
        with self._lock:
            state = self._streams.get(stream)
            if state is None or state.version != version:
                if state is not None:
                    self._collapse(state)
                state = self._streams[stream] = _Stream(version)
            end = offset + size
            if abs(offset - state.expected) > SLACK_BYTES:
                self._collapse(state)
                state.expected = end
                return
            if end <= state.expected:
                return
            state.expected = end
            self._grow(state, ref)

    def close_stream(self, stream: int) -> None:
        """Forget a stream and drop what it has queued."""
        with self._lock:
            state = self._streams.pop(stream, None)
            if state is not None:
                self._collapse(state)

    def close(self) -> None:
        """Forget all streams."""
        with self._lock:
            for state in self._streams.values():
                self._collapse(state)
            self._streams.clear()

    def _collapse(self, state: _Stream) -> None:
        for flight in state.flights:
            self._downloads.cancel(flight)
        state.flights.clear()
        state.window = 0
        state.high = 0

    def _grow(self, state: _Stream, ref: ContentRef) -> None:
        here = -(-state.expected // BLOCK_SIZE_BYTES)
        count = -(-ref.size // BLOCK_SIZE_BYTES)
        state.high = max(state.high, here)
        # Only when half of the window is used up: requests stay few and large.
        if (state.high - here) * 2 > state.window or not self._downloads.caching():
            return
        state.window = min(MAX_WINDOW_BLOCKS, max(1, state.window * 2))
        stop = min(count, here + state.window)
        while state.high < stop:
            piece = range(state.high, min(stop, state.high + self._piece(state.window)))
            under_way = self._under_way(state)
            if under_way + len(piece) * BLOCK_SIZE_BYTES > self._memory_limit:
                return
            state.high = piece.stop
            wanted = [b for b in piece if self._cache.lookup(state.version, b) is None]
            if wanted:
                blocks = range(wanted[0], wanted[-1] + 1)
                state.flights += self._downloads.prefetch(ref, state.version, blocks)

    @staticmethod
    def _piece(window: int) -> int:
        """Blocks a request: four requests side by side once the window is large."""
        return max(1, min(MAX_REQUEST_BLOCKS, window // 4))

    def _under_way(self, state: _Stream) -> int:
        state.flights = [f for f in state.flights if not f.done.is_set()]
        return sum(
            f.size_bytes() for s in self._streams.values() for f in s.flights if not f.done.is_set()
        )
