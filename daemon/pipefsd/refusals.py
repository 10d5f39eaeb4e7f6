"""Changes that cannot go up although the store answers: which, since when, and why.

A store that is away is the pipe's matter: everything waits. A refusal is one change's: no right
for its key, or a server that fails at it each time. It is tried again like any other, but somebody
should hear of it, and nobody should wait for it. Thread-safe; nothing is durable.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Refusal:
    """The last try of one change."""

    at: float
    """When it was refused, by the monotonic clock."""
    what: str
    """The path or key, for people."""
    reason: str


class Refusals:
    """The changes of one pipe that were refused when they were last tried, by their names."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[object, Refusal] = {}

    def add(self, name: object, refusal: Refusal) -> None:
        with self._lock:
            self._found[name] = refusal

    def drop(self, name: object) -> None:
        """It went up, or its last try failed for another reason."""
        with self._lock:
            self._found.pop(name, None)

    def keep(self, waits: Callable[[object], bool]) -> None:
        """Drop what no longer waits to go up, such as files that were removed."""
        with self._lock:
            names = list(self._found)
        for name in names:
            if not waits(name):
                self.drop(name)

    def __contains__(self, name: object) -> bool:
        with self._lock:
            return name in self._found

    def since(self, start: float) -> dict[object, Refusal]:
        """Those refused at that time of the monotonic clock or later, by name."""
        with self._lock:
            return {name: r for name, r in self._found.items() if r.at >= start}
