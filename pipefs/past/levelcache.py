"""Listings of past directories, kept in memory while there is room. All views share the room."""

from __future__ import annotations

import threading
from collections import OrderedDict

from pipefs.past.levels import Level

_NAMES = 50_000
"""Names kept in all: 0.7 KB each, so 35 MB. The listing that came last is kept, however large."""


class LevelCache:
    """Least recently used goes first. Thread-safe."""

    def __init__(self, names: int = _NAMES) -> None:
        self._limit = names
        self._lock = threading.Lock()  # protects the two below; a leaf
        self._levels: OrderedDict[tuple[object, str], Level] = OrderedDict()
        self._count = 0

    def get(self, view: object, prefix: str) -> Level | None:
        """
        Args:
            view: stands for the view; equal to no other's.
        """
        with self._lock:
            level = self._levels.get((view, prefix))
            if level is not None:
                self._levels.move_to_end((view, prefix))
            return level

    def put(self, view: object, prefix: str, level: Level) -> None:
        with self._lock:
            self._drop((view, prefix))
            self._levels[view, prefix] = level
            self._count += len(level.names)
            while self._count > self._limit and len(self._levels) > 1:
                self._drop(next(iter(self._levels)))

    def drop(self, view: object, prefix: str) -> None:
        with self._lock:
            self._drop((view, prefix))

    def _drop(self, key: tuple[object, str]) -> None:
        level = self._levels.pop(key, None)
        if level is not None:
            self._count -= len(level.names)


SHARED = LevelCache()
