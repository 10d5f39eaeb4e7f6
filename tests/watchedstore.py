"""A real store behind a gate, for tests that must know what was asked of it and when."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from pipefs.content import ContentReader, release_all
from pipefs.stores.local import LocalStore
from pipefs.stores.wrap import CountingStore, FaultStore, WrapperStore
from pipefs.types import ContentRef

MIB = 1 << 20


class WatchedStore(WrapperStore):
    """Notes range requests, and holds or shortens them; `faults` fails them."""

    def __init__(self, directory: Path) -> None:
        self.faults = FaultStore(LocalStore(directory))
        self.counting = CountingStore(self.faults)
        super().__init__(self.counting)
        self.gets: list[tuple[int, int]] = []
        """(first MiB, MiB) of each request."""
        self.gate = threading.Event()
        """While clear, requests wait."""
        self.gate.set()
        self.asked = threading.Semaphore(0)
        """Released by each request when it begins."""
        self.shorten = 0
        """How many of the next requests lose their last byte."""

    def get(self, key: str, version_id: str | None, start: int, length: int) -> bytes:
        self.gets.append((start // MIB, -(-length // MIB)))
        self.asked.release()
        assert self.gate.wait(30)
        body = self.inner.get(key, version_id, start, length)
        if self.shorten:
            self.shorten -= 1
            return body[:-1]
        return body

    def add(self, key: str, data: bytes) -> ContentRef:
        made = self.put(key, data)
        return ContentRef(made.key, made.version_id, made.etag, made.size)

    def wait_for(self, requests: int) -> None:
        """Return once that many more requests have begun."""
        for _ in range(requests):
            assert self.asked.acquire(timeout=30)


def text_of(reader: ContentReader, ref: ContentRef, offset: int, size: int) -> bytes:
    leases = reader.read(ref, offset, size)
    try:
        return b"".join(lease.data for lease in leases)
    finally:
        release_all(leases)


def flights_end(reader: ContentReader) -> None:
    while reader._downloads._flights:
        time.sleep(0.002)
