"""When and how long to wait before a request is tried again. Pure policy and one loop.

Only `StoreUnavailable` (and its child `Throttled`) is ever tried again: all other errors would
come again. Never sleeps past the deadline.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pipefs.errors import StoreUnavailable, Throttled

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential back-off with full jitter, within a deadline for the whole operation."""

    deadline_s: float = 60.0
    first_wait_s: float = 0.1
    max_wait_s: float = 10.0
    throttled_wait_s: float = 0.5
    """First wait after `Throttled`: the store asked for less, so start higher."""
    max_attempts: int = 1000

    def wait_s(self, attempt: int, error: StoreUnavailable) -> float:
        """Seconds to wait after the failed attempt number `attempt` (from 0)."""
        first = self.throttled_wait_s if isinstance(error, Throttled) else self.first_wait_s
        bound = min(self.max_wait_s, first * 2.0 ** min(attempt, 32))
        # Never zero after a throttle: full jitter alone may ask again at once.
        floor = bound / 4 if isinstance(error, Throttled) else 0.0
        return random.uniform(floor, bound)


def call_with_retries(call: Callable[[], T], policy: RetryPolicy, doing: str) -> T:
    """The call's result; the last `StoreUnavailable` when the deadline or the attempts run out."""
    deadline = time.monotonic() + policy.deadline_s
    attempt = 0
    while True:
        try:
            return call()
        except StoreUnavailable as error:
            wait = policy.wait_s(attempt, error)
            attempt += 1
            if attempt >= policy.max_attempts or time.monotonic() + wait > deadline:
                raise
            log.info("%s: attempt %d failed, again in %.1f s: %s", doing, attempt, wait, error)
        time.sleep(wait)
