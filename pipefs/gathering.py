"""Steps that a library asks for one by one, gathered so that they can be done all at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Gatherer(threading.local):
    """What the thread is gathering."""

    def __init__(self) -> None:
        self._open: dict[str, list[Any]] = {}

    @contextmanager
    def gathering(self, what: str) -> Iterator[list[Any]]:
        """Inside the block the steps of this kind are gathered in the list it gives."""
        self._open[what] = []
        try:
            yield self._open[what]
        finally:
            del self._open[what]

    def took(self, what: str, step: Any) -> bool:
        """Whether a step was gathered, and is not to be done now."""
        if what in self._open:
            self._open[what].append(step)
        return what in self._open
