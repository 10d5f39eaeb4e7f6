"""Replicas for tests: a home in a fresh folder, a pipe in an embedded store, requests counted."""

from __future__ import annotations

from pathlib import Path

from pipefs.home import Home, resolve_home
from pipefs.registry import Pipe
from pipefs.replica import Replica
from pipefs.stores.base import Store
from pipefs.stores.local import LocalStore
from pipefs.stores.wrap import CountingStore
from pipefs.types import Credentials


class CountedPipe(Pipe):
    """A pipe whose store counts requests."""

    def open_store(
        self, *, patience_s: float | None = None, credentials: Credentials | None = None
    ) -> Store:
        return CountingStore(super().open_store(patience_s=patience_s, credentials=credentials))


def home_in(folder: Path) -> Home:
    return resolve_home(env={"PIPEFS_HOME": str(folder)})


def replica_of(folder: Path, store: Path, *, name: str = "p") -> Replica:
    """A replica of the embedded store at `store`, with its home in `folder`."""
    LocalStore(store).close()
    return Replica(home_in(folder), CountedPipe(name, store.as_uri(), "pipe-1"))


def requests(replica: Replica, *operations: str) -> int:
    """How many requests its store was sent so far, of these operations or of all."""
    store = replica.store
    assert isinstance(store, CountingStore)
    found = store.counts()
    return sum(c.requests for name, c in found.items() if not operations or name in operations)
