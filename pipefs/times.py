"""The clock that a file's times are taken from.

The kernel stamps staging files by a clock that moves in ticks, up to ten milliseconds behind the
one that `time.time_ns` reads. A new file's times and those of its first bytes must come from one
clock, or its mtime goes back when the bytes are recorded, and a file that was written later looks
older to `make`. Never for measuring durations.
"""

from __future__ import annotations

import sys
import time

_COARSE = 5
"""CLOCK_REALTIME_COARSE of Linux; the module `time` has no name for it."""


def stamp_ns() -> int:
    """Now, ns since the epoch, as the kernel would stamp a file."""
    return time.clock_gettime_ns(_COARSE) if sys.platform == "linux" else time.time_ns()


_END = 1 << 63


def bounded_ns(at_ns: int) -> int:
    """A time in ns as records hold it: from 1677 to 2554. Some file systems have any year."""
    return max(-_END, min(at_ns, 2 * _END - 1))


def int64_ns(at_ns: int) -> int:
    """A time in ns as a database of 64-bit integers holds it: to 2262."""
    return max(-_END, min(at_ns, _END - 1))
