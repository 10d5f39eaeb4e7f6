"""Which processes have lately opened files whose bytes are in the store.

One of them that makes or empties a file is probably about to copy. A copy needs no bytes here
(`pipefs.ranges`), but what the kernel serves itself must have all of them: so such a new file is
not passed through. A wrong guess costs some speed or some disk space, never anything else.
"""

from __future__ import annotations

import time

_LATELY_S = 10.0
_MANY = 1024


class Readers:
    """Thread-safe: every step is one operation on the table."""

    def __init__(self) -> None:
        self._opened: dict[int, float] = {}

    def opened(self, pid: int) -> None:
        """This process opened a file of the store for reading."""
        if len(self._opened) >= _MANY:
            self._opened = {}
        self._opened[pid] = time.monotonic()

    def may_copy(self, pid: int) -> bool:
        at = self._opened.get(pid)
        return at is not None and time.monotonic() - at < _LATELY_S
