"""A long listing, fetched ahead: while one page is worked on, the next one is on its way."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


def one_ahead(items: Iterator[T]) -> Generator[T, None, None]:
    """The same items in the same order, each asked for in another thread as soon as the one before
    it is handed out.

    Only from the second on: who looks at the beginning alone pays for nothing more. What `items`
    raises is raised where it would have been. Who leaves early does not wait for what is on its
    way, nor does the end of the process.
    """
    for _ in range(2):
        try:
            yield next(items)
        except StopIteration:
            return
    coming = _Coming(items)
    while (found := coming.get()) is not None:
        coming = _Coming(items)
        yield from found


class _Coming(Generic[T]):
    """The next item, on its way."""

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items
        self._found: tuple[T, ...] | BaseException | None = None
        self._thread = threading.Thread(target=self._ask, name="listing", daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        try:
            for item in self._items:
                self._found = (item,)
                return
        except BaseException as e:
            self._found = e

    def get(self) -> tuple[T, ...] | None:
        """It alone, when it is there; None at the end. Raises what asking for it raised."""
        self._thread.join()
        if isinstance(self._found, BaseException):
            raise self._found
        return self._found
