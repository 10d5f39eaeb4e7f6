"""What was answered lately to requests that must not happen twice.

When a worker dies between a change and its answer, the kernel sends the request again to the next
one. The number of the request is recorded in the same transaction as the change, in a ring of
slots, so a request that comes again is answered as it was. Numbers are the kernel's, unique for
one mount; a fresh mount clears the ring.
"""

from __future__ import annotations

import msgspec

from pipefs.db import StateDB, Txn
from pipefs.records import encode

SLOTS = 4096
"""More than a kernel has in flight (its limit for background requests is in the hundreds)."""


class Reply(msgspec.Struct, array_like=True, frozen=True):
    unique: int
    ino: int
    """What was made, removed or moved."""
    handle: int = 0


_decode = msgspec.msgpack.Decoder(Reply).decode


class Replies:
    """The ring of one mount. Used inside updates of the state database, under its lock."""

    def __init__(self, db: StateDB) -> None:
        self._db = db
        self._next = 0
        self._earlier: dict[int, Reply] = {}

    def recover(self, *, same_mount: bool) -> None:
        """Learn what an earlier worker answered, or forget it on a fresh mount."""
        with self._db.update() as t:
            rows = list(t.scan("replies"))
            if not same_mount:
                for k, _ in rows:
                    t.delete("replies", k)
                return
        found = [_decode(raw) for _, raw in rows]
        self._earlier = {reply.unique: reply for reply in found}
        newest = max(found, key=lambda reply: reply.unique, default=None)
        for k, raw in rows:
            if _decode(raw) == newest:
                self._next = int.from_bytes(k, "big") + 1

    def earlier(self, unique: int) -> Reply | None:
        """The answer an earlier worker gave (or was about to give) to this request."""
        return self._earlier.get(unique)

    def record(self, t: Txn, unique: int, ino: int, handle: int = 0) -> None:
        """Remember an answer together with its change. `unique` 0: nobody could ask again."""
        if unique:
            slot = self._next % SLOTS
            self._next += 1
            t.put("replies", slot.to_bytes(2, "big"), encode(Reply(unique, ino, handle)))
