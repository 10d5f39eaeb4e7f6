"""Filling tables by the million, past the journal.

Rows go into LMDB's transaction only and are committed, synced, every few thousand: so memory stays
small, and a crash leaves a part of them. Whoever fills has to be able to tell, and to begin again
(`pipefs.past.checkpoint` keeps a fact for it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from xxhash import xxh3_64_digest

from pipefs.statedb.tables import State

COMMIT_BYTES = 16 << 20
"""Of rows between commits: about twice as much memory is dirty then."""


class Bulk:
    """Made by `StateDB.bulk`, which holds the lock meanwhile."""

    def __init__(self, state: State, commit: Callable[[], None]) -> None:
        self._state = state
        self._commit = commit
        self._bytes = 0

    def clear(self, table: str) -> None:
        """Remove every row of a table."""
        self._state.changes += 1
        self._state.lmdb.drop(self._state.tables[table].handle, delete=False)

    def put(self, table: str, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Put rows, in any order; those with a key that is there are replaced."""
        state = self._state
        t = state.tables[table]
        seed = t.seed
        stored = [(key, xxh3_64_digest(key + value, seed) + value) for key, value in rows]
        state.changes += 1
        cursor: Any = state.lmdb.cursor(t.handle)
        cursor.putmulti(stored)
        cursor.close()
        self._bytes += sum(len(key) + len(value) for key, value in stored)
        if self._bytes >= COMMIT_BYTES:
            self.commit()

    def commit(self) -> None:
        """What was put so far is on disk afterwards."""
        self._commit()
        self._bytes = 0
