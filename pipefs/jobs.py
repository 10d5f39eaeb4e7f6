"""Work that several threads share."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")


def taken(jobs: deque[T], stop: threading.Event) -> Iterator[T]:
    """For each of the threads: the next job, until there is none or `stop` is set."""
    while not stop.is_set():
        try:
            job = jobs.popleft()
        except IndexError:
            return
        yield job
