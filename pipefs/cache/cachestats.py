"""Counters of one process's use of the block cache. Never read to decide anything."""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Counters of this process since it opened the cache, and sizes shared by all."""

    hits: int
    misses: int
    inserted: int
    shared: int
    """Inserts of bytes that were there already."""
    evicted: int
    dropped_bad: int
    """Blocks whose bytes did not match their id."""
    collisions: int
    used_bytes: int
    limit_bytes: int
    segments: int


_NAMES = ("hits", "misses", "inserted", "shared", "evicted", "dropped_bad", "collisions")


class Counters:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(_NAMES, 0)

    def add(self, name: str, change: int = 1) -> None:
        with self._lock:
            self._counts[name] += change

    def stats(self, used_bytes: int, limit_bytes: int, segments: int) -> CacheStats:
        with self._lock:
            counts = dict(self._counts)
        return CacheStats(
            **counts, used_bytes=used_bytes, limit_bytes=limit_bytes, segments=segments
        )
