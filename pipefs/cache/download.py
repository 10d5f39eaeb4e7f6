"""Downloads of blocks: each missing block is fetched once, however many readers wait for it.

A *flight* is one ranged request for adjacent blocks of one version. Whoever needs a block that is
in a flight waits for it; a flight that waits in the executor's queue is taken over by the first
reader who needs it, so a queue full of readahead never delays a reader, and a reader that itself
runs in the executor cannot wait for itself.

Promises: exactly the asked-for version, of the right length; a failure is told to all who waited
and is never cached; a cache that cannot take the bytes (disk full) does not fail the read.
Owns no thread; never holds its lock during a request.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass

from pipefs.blocks import BlockCache
from pipefs.errors import Conflict, Corrupt, NoSpace, NotFound, PipefsError, TimedOut
from pipefs.stores.base import Store
from pipefs.types import BLOCK_SIZE_BYTES, ContentRef

log = logging.getLogger(__name__)

MAX_REQUEST_BLOCKS = 8
"""8 MiB a request: long enough that its latency does not count, short enough to share the line."""

TAKE_OVER_S = 0.01
"""How long a reader leaves a queued flight to the executor before it runs it itself."""

POLL_S = 0.02
"""How often a waiting reader looks whether it was interrupted."""

KEPT_BYTES = 16 << 20
NO_CACHE_PAUSE_S = 5.0


class Flight:
    """One request. All fields but `done` are guarded by the `Downloads` lock until done is set."""

    __slots__ = ("blocks", "done", "error", "ref", "started", "version", "views", "waiters")

    def __init__(self, ref: ContentRef, version: bytes, blocks: range) -> None:
        self.ref = ref
        self.version = version
        self.blocks = blocks
        self.started = False
        self.waiters = 0
        self.done = threading.Event()
        self.error: BaseException | None = None
        self.views: dict[int, memoryview] = {}

    def size_bytes(self) -> int:
        return len(self.blocks) * BLOCK_SIZE_BYTES


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a reader waits: until a moment of the monotonic clock, or until interrupted."""

    until: float
    deadline_s: float
    interrupted: Callable[[], bool] | None = None


class Downloads:
    """All flights of one pipe. Thread-safe."""

    def __init__(self, store: Store, cache: BlockCache, executor: Executor | None) -> None:
        self._store = store
        self._cache = cache
        self._executor = executor
        # Guards everything below. Held for a few instructions and look-ups in the cache's index,
        # never during a request or an insert.
        self._lock = threading.Lock()
        self._flights: dict[tuple[bytes, int], Flight] = {}
        self._kept: OrderedDict[tuple[bytes, int], memoryview] = OrderedDict()
        self._no_cache_until = 0.0
        self.requests = 0
        self.fetched_bytes = 0

    def kept(self, version: bytes, block_no: int) -> memoryview | None:
        """A block that the cache could not take, from a small memory of the latest."""
        if not self._kept:
            return None
        with self._lock:
            return self._kept.get((version, block_no))

    def caching(self) -> bool:
        """False for a few seconds after the cache could not take a block: do not read ahead."""
        return time.monotonic() >= self._no_cache_until

    def fetch(
        self,
        ref: ContentRef,
        version: bytes,
        blocks: Iterable[int],
        patience: Patience,
        *,
        unreadable: bool = False,
    ) -> dict[int, memoryview]:
        """Bytes of these blocks (ascending), each downloaded by this call or by one under way;
        without those that have come into the cache meanwhile.

        Args:
            unreadable: the cache lists them and cannot read them: download in any case.

        Raises:
            NotFound, AccessDenied, StoreUnavailable, Corrupt: names key, version and cause.
            TimedOut: `patience` ran out. InterruptedError: its `interrupted` answered True.
        """
        wanted = list(blocks)
        flights, own = self._join(ref, version, wanted, unreadable)
        # One is left for this thread, unless it must be able to leave when interrupted.
        for flight in own if patience.interrupted else own[1:]:
            self._submit(flight)
        found: dict[int, memoryview] = {}
        try:
            for flight in flights:
                self._await(flight, patience)
                found.update(flight.views)
        finally:
            for flight in flights:
                self._leave(flight)
        return {block_no: found[block_no] for block_no in wanted if block_no in found}

    def prefetch(self, ref: ContentRef, version: bytes, blocks: range) -> list[Flight]:
        """Queue downloads of those blocks that nobody fetches yet; at once, without waiting."""
        if self._executor is None:
            return []
        with self._lock:
            free = [
                b for b in blocks if (version, b) not in self._flights and self._lacks(version, b)
            ]
            flights = self._claim(ref, version, free)
        for flight in flights:
            self._submit(flight)
        return flights

    def cancel(self, flight: Flight) -> None:
        """Drop a queued flight that nobody waits for; one under way goes on into the cache."""
        with self._lock:
            if flight.started or flight.waiters:
                return
            self._finish(flight)

    def _join(
        self, ref: ContentRef, version: bytes, wanted: list[int], unreadable: bool
    ) -> tuple[list[Flight], list[Flight]]:
        with self._lock:
            joined = [self._flights.get((version, b)) for b in wanted]
            free = [
                b
                for b, flight in zip(wanted, joined, strict=True)
                if flight is None and (unreadable or self._lacks(version, b))
            ]
            own = self._claim(ref, version, free)
            flights = list(dict.fromkeys([*own, *(f for f in joined if f is not None)]))
            for flight in flights:
                flight.waiters += 1
        return flights, own

    def _lacks(self, version: bytes, block_no: int) -> bool:
        """Asked under the lock, after no flight was found: one may have landed since the caller
        looked into the cache, and a flight leaves the table only after its bytes are cached."""
        if (version, block_no) in self._kept:
            return False
        return self._cache.lookup(version, block_no) is None

    def _claim(self, ref: ContentRef, version: bytes, blocks: list[int]) -> list[Flight]:
        """New flights for blocks in ascending order, adjacent ones together. Under the lock."""
        flights = []
        start = 0
        for i in range(1, len(blocks) + 1):
            adjacent = i < len(blocks) and blocks[i] == blocks[i - 1] + 1
            if not adjacent or i - start == MAX_REQUEST_BLOCKS:
                flight = Flight(ref, version, range(blocks[start], blocks[i - 1] + 1))
                for b in flight.blocks:
                    self._flights[version, b] = flight
                flights.append(flight)
                start = i
        return flights

    def _submit(self, flight: Flight) -> None:
        if self._executor is not None:
            try:
                self._executor.submit(self._run, flight)
            except RuntimeError:
                # Shut down: the reader runs it itself, a readahead is dropped.
                self.cancel(flight)

    def _await(self, flight: Flight, patience: Patience) -> None:
        interruptible = self._executor is not None and patience.interrupted is not None
        if not interruptible or not flight.done.wait(TAKE_OVER_S):
            self._run(flight)
        while not flight.done.is_set():
            if patience.interrupted is not None and patience.interrupted():
                raise InterruptedError(errno.EINTR, "interrupted while waiting for the store")
            left = patience.until - time.monotonic()
            if left <= 0:
                raise TimedOut(
                    f"{_name(flight.ref)}: the store did not answer within"
                    f" {patience.deadline_s:g} s"
                )
            flight.done.wait(left if patience.interrupted is None else min(left, POLL_S))
        error = flight.error
        if isinstance(error, PipefsError):
            # A new one for each reader: a traceback belongs to one thread.
            raise type(error)(error.message, hint=error.hint) from error
        if error is not None:
            raise error

    def _leave(self, flight: Flight) -> None:
        with self._lock:
            flight.waiters -= 1
        self.cancel(flight)

    def _run(self, flight: Flight) -> None:
        """Do the request, unless another thread has begun it or it was cancelled."""
        with self._lock:
            if flight.started:
                return
            flight.started = True
        error: BaseException | None = None
        try:
            body = self._download(flight)
            view = memoryview(body)
            first = flight.blocks.start
            for b in flight.blocks:
                begin = (b - first) * BLOCK_SIZE_BYTES
                flight.views[b] = view[begin : begin + BLOCK_SIZE_BYTES]
            self._insert(flight)
        except BaseException as e:
            # Whoever waits must hear of it; the thread of an executor has nobody else to tell.
            error = e
        with self._lock:
            flight.error = error
            self._finish(flight)

    def _finish(self, flight: Flight) -> None:
        """Under the lock."""
        flight.started = True
        for b in flight.blocks:
            if self._flights.get((flight.version, b)) is flight:
                del self._flights[flight.version, b]
        flight.done.set()

    def _download(self, flight: Flight) -> bytes:
        ref = flight.ref
        start = flight.blocks.start * BLOCK_SIZE_BYTES
        length = min(flight.blocks.stop * BLOCK_SIZE_BYTES, ref.size) - start
        body = b""
        try:
            for attempt in (1, 2):
                body = self._get(ref, start, length)
                if len(body) == length:
                    return body
                log.warning(
                    "%s: attempt %d got %d of %d bytes", _name(ref), attempt, len(body), length
                )
        except NotFound as e:
            raise NotFound(
                f"{_name(ref)} is no longer in the store",
                hint="it was deleted or has expired there; `pipefs refresh` shows what is left",
            ) from e
        except PipefsError as e:
            raise type(e)(f"{_name(ref)} could not be read: {e}", hint=e.hint) from e
        raise Corrupt(
            f"{_name(ref)}: the store sent {len(body)} bytes where {length} were asked for",
            hint="the object is shorter than its listing said",
        )

    def _get(self, ref: ContentRef, start: int, length: int) -> bytes:
        with self._lock:
            self.requests += 1
            self.fetched_bytes += length
        body = self._store.get(ref.key, ref.version_id, start, length)
        if ref.version_id is None and self._store.head(ref.key).etag != ref.etag:
            # Without versions nothing else ties the bytes to what was opened; asked after the
            # bytes came, so that a change in between is seen.
            raise Conflict("it was replaced in the store, which keeps no versions")
        return body

    def _insert(self, flight: Flight) -> None:
        count = -(-flight.ref.size // BLOCK_SIZE_BYTES)
        try:
            self._cache.insert_many(flight.version, flight.views.items(), count)
        except PipefsError as e:
            level = logging.INFO if isinstance(e, NoSpace) else logging.WARNING
            if self.caching():
                log.log(level, "reading without the block cache for now: %s", e)
            with self._lock:
                self._no_cache_until = time.monotonic() + NO_CACHE_PAUSE_S
                for b, view in flight.views.items():
                    # Copied: a view of one block would keep the whole request's bytes alive.
                    self._kept[flight.version, b] = memoryview(bytes(view))
                while len(self._kept) * BLOCK_SIZE_BYTES > KEPT_BYTES:
                    self._kept.popitem(last=False)


def _name(ref: ContentRef) -> str:
    return f"{ref.key} (version {ref.version_id})" if ref.version_id else ref.key
