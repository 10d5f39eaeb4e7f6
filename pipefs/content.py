"""Contents of versions, read through the block cache.

`cached` answers from the cache or not at all, for threads that must not wait for the network;
`read` fetches what is missing. Promises the bytes of exactly the version asked for: blocks are
verified by their id when they come from the cache, and by their length when they come from the
store. Owns no thread: concurrency and readahead run in the executor the caller passes.
Never holds a lease while it waits for the store.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor

import xxhash

from pipefs.blocks import BlockCache, Lease
from pipefs.cache.download import Downloads, Patience
from pipefs.cache.readahead import Readahead
from pipefs.errors import PipefsError
from pipefs.stores.base import Store
from pipefs.types import BLOCK_SIZE_BYTES, ContentRef

__all__ = ["ContentReader", "release_all"]

log = logging.getLogger(__name__)


def release_all(leases: list[Lease]) -> None:
    """Release every lease of an answer."""
    for lease in leases:
        lease.release()


class ContentReader:
    """Reads versions of one pipe. Thread-safe.

    Args:
        pipe_id: keeps apart equal keys of different buckets in the machine's one cache.
        executor: runs concurrent requests and readahead; None: one request at a time, in the
            calling thread, and no readahead. It outlives the reader.
        deadline_s: how long one `read` waits for requests that other threads make.
        memory_limit_bytes: of readahead under way.
    """

    def __init__(
        self,
        store: Store,
        cache: BlockCache,
        pipe_id: str,
        *,
        executor: Executor | None = None,
        deadline_s: float = 60.0,
        memory_limit_bytes: int = 128 << 20,
    ) -> None:
        self._cache = cache
        self._pipe_id = pipe_id
        self._deadline_s = deadline_s
        self._downloads = Downloads(store, cache, executor)
        self._readahead = Readahead(cache, self._downloads, memory_limit_bytes)
        # Streams of our own count down from -1; handles of callers are not negative.
        self._own_streams = itertools.count(-1, -1)

    def identity(self, ref: ContentRef) -> bytes:
        """The 16 bytes under which the cache knows this version."""
        fields = (self._pipe_id, ref.key, ref.version_id or "", ref.etag, str(ref.size))
        return xxhash.xxh3_128_digest("\0".join(fields).encode("utf-8", "surrogateescape"))

    def cached(self, ref: ContentRef, offset: int, size: int) -> list[Lease] | None:
        """The bytes [offset, offset+size), cut at the end of the file, if all are cached; else
        None. No request to the store. Release the leases within a tenth of a second."""
        blocks = _blocks_of(ref, offset, size)
        if not blocks:
            return []
        version = self.identity(ref)
        leases = self._cache.read_many(version, blocks)
        if leases is None:
            return None
        if not _lengths_fit(ref, blocks, leases):
            release_all(leases)
            return None
        return _cut(leases, ref, offset, size)

    def read(
        self,
        ref: ContentRef,
        offset: int,
        size: int,
        *,
        interrupted: Callable[[], bool] | None = None,
    ) -> list[Lease]:
        """The bytes [offset, offset+size), cut at the end of the file. Release the leases soon.

        Missing blocks are fetched whole and cached; with a full disk they are only answered.

        Args:
            interrupted: asked about every 20 ms while waiting; effective with an executor, or
                while another thread makes the request.

        Raises:
            NotFound: the version is gone. AccessDenied, StoreUnavailable, Corrupt: as the store
            says. Conflict: replaced on a store without versions. TimedOut: `deadline_s` ran out.
            InterruptedError: `interrupted` answered True.
        """
        blocks = _blocks_of(ref, offset, size)
        version = self.identity(ref)
        patience = Patience(time.monotonic() + self._deadline_s, self._deadline_s, interrupted)
        got: dict[int, memoryview] = {}
        while True:
            missing = [b for b in blocks if not self._has(version, b, got)]
            unreadable = not missing
            if unreadable:
                leases, missing = self._collect(ref, version, blocks, got)
                if not missing:
                    return _cut(leases, ref, offset, size)
                release_all(leases)
            # Ends: a round adds to `got`, which nobody takes away, or finds the blocks cached; if
            # those are then not readable, the next round downloads them.
            got.update(
                self._downloads.fetch(ref, version, missing, patience, unreadable=unreadable)
            )

    def advise(self, stream: int, ref: ContentRef, offset: int, size: int) -> None:
        """Tell of a read, so that what follows is fetched ahead. Cheap; never waits, never raises
        for the store.

        Args:
            stream: the open handle, not negative; `close_stream` ends it.
        """
        self._readahead.advise(stream, ref, self.identity(ref), offset, size)

    def close_stream(self, stream: int) -> None:
        """The handle was closed: drop the readahead it has queued."""
        self._readahead.close_stream(stream)

    def read_all(self, ref: ContentRef) -> Iterator[memoryview]:
        """The whole version in order, for filling a staging file; each view is valid until the
        next is asked for. Errors as `read`."""
        stream = next(self._own_streams)
        try:
            for offset in range(0, ref.size, BLOCK_SIZE_BYTES):
                self._readahead.advise(stream, ref, self.identity(ref), offset, BLOCK_SIZE_BYTES)
                leases = self.read(ref, offset, BLOCK_SIZE_BYTES)
                try:
                    for lease in leases:
                        yield lease.data
                finally:
                    release_all(leases)
        finally:
            self.close_stream(stream)

    def fill(self, ref: ContentRef, block_no: int) -> bytes:
        """One block's bytes, fetched if need be. Errors as `read`."""
        leases = self.read(ref, block_no * BLOCK_SIZE_BYTES, BLOCK_SIZE_BYTES)
        try:
            return b"".join(lease.data for lease in leases)
        finally:
            release_all(leases)

    def share_blocks(self, old: ContentRef, new: ContentRef) -> None:
        """Another version has the same bytes: what is cached of the old one serves it too. Where
        the cache cannot record that, the bytes are fetched again."""
        count = -(-old.size // BLOCK_SIZE_BYTES)
        try:
            self._cache.alias(self.identity(old), self.identity(new), count)
        except PipefsError as e:
            log.warning(
                "%s has the bytes of %s, but not its cached blocks: %s", new.key, old.key, e
            )

    def percent(self, ref: ContentRef) -> float:
        """How much of a version is in the cache."""
        return self._cache.percent(self.identity(ref)) if ref.size else 100.0

    def requests(self) -> tuple[int, int]:
        """(requests made, bytes asked for) since the reader was made."""
        return self._downloads.requests, self._downloads.fetched_bytes

    def close(self) -> None:
        """Drop queued readahead. Requests under way end by themselves, into the cache."""
        self._readahead.close()

    def _has(self, version: bytes, block_no: int, got: dict[int, memoryview]) -> bool:
        if block_no in got or self._downloads.kept(version, block_no) is not None:
            return True
        return self._cache.lookup(version, block_no) is not None

    def _collect(
        self, ref: ContentRef, version: bytes, blocks: range, got: dict[int, memoryview]
    ) -> tuple[list[Lease], list[int]]:
        """Leases of the blocks that are there, and the numbers of those that are not after all."""
        leases = []
        missing = []
        for b in blocks:
            view = got.get(b) or self._downloads.kept(version, b)
            lease = Lease(view) if view is not None else self._cache.read(version, b)
            if lease is not None and len(lease.data) == _block_length(ref, b):
                leases.append(lease)
                continue
            if lease is not None:
                lease.release()
            missing.append(b)
        return leases, missing


def _blocks_of(ref: ContentRef, offset: int, size: int) -> range:
    stop = min(offset + size, ref.size)
    if offset < 0 or stop <= offset:
        return range(0)
    return range(offset // BLOCK_SIZE_BYTES, (stop - 1) // BLOCK_SIZE_BYTES + 1)


def _block_length(ref: ContentRef, block_no: int) -> int:
    return min(BLOCK_SIZE_BYTES, ref.size - block_no * BLOCK_SIZE_BYTES)


def _lengths_fit(ref: ContentRef, blocks: range, leases: list[Lease]) -> bool:
    return all(
        len(lease.data) == _block_length(ref, b) for b, lease in zip(blocks, leases, strict=True)
    )


def _cut(leases: list[Lease], ref: ContentRef, offset: int, size: int) -> list[Lease]:
    """Narrow the first and the last lease to what was asked for."""
    if not leases:
        return leases
    stop = min(offset + size, ref.size)
    leases[-1].slice(0, (stop - 1) % BLOCK_SIZE_BYTES + 1)
    leases[0].slice(offset % BLOCK_SIZE_BYTES, BLOCK_SIZE_BYTES)
    return leases
