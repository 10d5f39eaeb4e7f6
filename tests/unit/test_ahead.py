"""A listing that is fetched one page ahead."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from pipefs.stores.ahead import one_ahead


class _Pages:
    """Numbers; knows how many were asked for, and in which threads."""

    def __init__(self, count: int, error: Exception | None = None) -> None:
        self.asked = 0
        self.threads: set[str] = set()
        self._count = count
        self._error = error

    def __iter__(self) -> Iterator[int]:
        for number in range(self._count):
            self.asked += 1
            self.threads.add(threading.current_thread().name)
            yield number
        if self._error is not None:
            raise self._error


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 50])
def test_the_same_items_in_the_same_order(count: int) -> None:
    assert list(one_ahead(iter(_Pages(count)))) == list(range(count))


def test_the_next_one_is_asked_for_while_one_is_worked_on() -> None:
    begun = threading.Event()

    def pages() -> Iterator[int]:
        yield from (0, 1, 2)
        begun.set()
        yield 3

    items = one_ahead(pages())
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    assert begun.wait(10)
    assert list(items) == [3]


def test_who_looks_at_the_beginning_alone_asks_for_nothing_more() -> None:
    pages = _Pages(50)
    items = one_ahead(iter(pages))
    assert (next(items), next(items)) == (0, 1)
    assert pages.asked == 2 and pages.threads == {threading.current_thread().name}


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10])
def test_an_error_comes_where_it_would_have_come(count: int) -> None:
    items = one_ahead(iter(_Pages(count, ConnectionError("gone"))))
    assert [next(items) for _ in range(count)] == list(range(count))
    with pytest.raises(ConnectionError, match="gone"):
        next(items)


@pytest.mark.parametrize("taken", [3, 50])
def test_the_thread_ends_with_the_iteration(taken: int) -> None:
    items = one_ahead(iter(_Pages(50)))
    assert [next(items) for _ in range(taken)] == list(range(taken))
    items.close()
    for thread in _asking():
        thread.join(10)
    assert not _asking()


def test_nobody_waits_for_a_page_that_never_comes() -> None:
    script = """
import sys, threading
from pipefs.stores.ahead import one_ahead

def pages():
    yield from (0, 1, 2)
    threading.Event().wait()  # a store that never answers

items = one_ahead(pages())
print([next(items) for _ in range(3)])
sys.exit(3)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"[0, 1, 2]\n", b"")


def _asking() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "listing"]
