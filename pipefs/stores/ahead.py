"""A long listing, fetched ahead: while one page is worked on, the next one is on its way."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def one_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items in the same order, each asked for in another thread as soon as the one before
    it is handed out.

    Only from the second on: who looks at the beginning alone pays for nothing more. What `items`
    raises is raised where it would have been. The thread ends with the iteration.
    """
    for _ in range(2):
        try:
            yield next(items)
        except StopIteration:
            return
    pool = ThreadPoolExecutor(1, thread_name_prefix="list")
    try:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item
    finally:
        # Who leaves early does not wait for a page that nobody wants.
        pool.shutdown(wait=False, cancel_futures=True)
