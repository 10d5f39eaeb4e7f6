"""One writer at a time, for stores without conditional puts.

There a commit number cannot be taken by put-if-absent, so one machine holds the right to commit:
an object `.pipefs/lease.json` that names it and says until when. It is taken by putting it,
waiting, and reading it back: of several that try at once the last put stays, and only its writer
goes on. Clocks may differ by less than `SPARE_S`. This is weaker than a conditional put; `status`
and `doctor` say that the store lacks those.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from pipefs.errors import NotFound
from pipefs.stores.base import Store

KEY = ".pipefs/lease.json"
LENGTH_S = 60.0
SPARE_S = 10.0
SETTLE_S = 2.0
"""Longer than another machine takes from reading the lease to putting its own."""


class Lease(msgspec.Struct, frozen=True):
    writer: str
    author: str
    """`user@host`."""
    until: int
    """ns since the epoch, by the holder's clock."""


class WriterLease:
    """This machine's side of the lease. One thread at a time."""

    def __init__(
        self,
        store: Store,
        *,
        author: str,
        writer: str,
        clock: Callable[[], int] = time.time_ns,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._author = author
        self._writer = writer
        self._clock = clock
        self._wait = wait
        self._until = 0
        self.holder = ""
        """Who holds it instead of us, after `hold` answered False."""

    def hold(self) -> bool:
        """Take or renew the lease, which waits `SETTLE_S` when it is taken anew. False: `holder`
        has it."""
        now = self._clock()
        if self._until - now > LENGTH_S / 2 * 1e9:
            return True
        found = self._read()
        if found is not None and found.writer != self._writer and found.until + SPARE_S * 1e9 > now:
            self.holder = found.author
            return False
        ours_already = found is not None and found.writer == self._writer and found.until > now
        until = now + int(LENGTH_S * 1e9)
        lease = Lease(self._writer, self._author, until)
        self._store.put(KEY, msgspec.json.encode(lease), content_type="application/json")
        if not ours_already:
            self._wait(SETTLE_S)
            found = self._read()
            if found is None or found.writer != self._writer:
                self.holder = found.author if found is not None else ""
                return False
        self._until = until
        return True

    def _read(self) -> Lease | None:
        try:
            return msgspec.json.decode(self._store.get(KEY, None, 0, 1 << 16), type=Lease)
        except (NotFound, msgspec.MsgspecError):
            return None
