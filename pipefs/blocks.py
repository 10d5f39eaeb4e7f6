"""The block cache: contents of versions in 1 MiB blocks, shared by all pipes of the machine.

Disposable: losing it costs downloads, never data. Promises that what `read` gives has the bytes
its id says (verified at every read, a bad block is dropped and reads as missing), that no crash
leaves a half-written block that reads as good, and that the files stay below the limit, pinned
blocks not counted. Any
number of processes and threads may use one folder; a process opens it once and not across a fork.
Never fsyncs except when the last user closes it, and never holds a lock while a caller computes.

Layout and figures: docs/design/002-block-cache.md.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipefs.cache.blockfill import SegmentWriter, Sorting
from pipefs.cache.blockindex import BlockRecord, Index
from pipefs.cache.cachehome import INDEX_DIR, SEGMENT_PREFIX, CacheHome, read_boot_id, sync_file
from pipefs.cache.cachestats import CacheStats, Counters
from pipefs.cache.eviction import Evictor, capacity_for, yield_segment
from pipefs.cache.segments import (
    MIN_SEGMENT_BYTES,
    Lease,
    Segments,
    block_id,
    footprint,
    segment_key,
)
from pipefs.errors import NoSpace, PipefsError
from pipefs.lmdbenv import Transaction
from pipefs.types import BLOCK_SIZE_BYTES, BlockId

__all__ = ["BlockCache", "CacheStats", "Lease", "block_id"]

log = logging.getLogger(__name__)

MAX_BATCH_BYTES = 32 << 20
"""One transaction's worth of `insert_many`: its pages are in memory until the commit."""

MAX_TOUCHES = 1 << 16
MIN_LIMIT_BYTES = 4 * MIN_SEGMENT_BYTES


class BlockCache:
    """The cache in `directory`, used by this process until `close`.

    Args:
        limit_bytes: of all files together, what is pinned not counted; at least 32 MiB. Processes
            should agree on it; each evicts by its own.
        boot_id: identity of the machine's boot; "" asks the kernel.

    Raises:
        NoSpace: the disk is full. Corrupt: broken, and other processes are using it.
    """

    def __init__(self, directory: Path, *, limit_bytes: int, boot_id: str = "") -> None:
        self.directory = directory
        self.limit_bytes = max(limit_bytes, MIN_LIMIT_BYTES)
        segments = self.limit_bytes // capacity_for(self.limit_bytes)
        self._young_segments = max(1, segments // 4)
        self._segments = Segments(directory)
        self._opened: Index | None = None
        # Guards the touches. Innermost, held for a few instructions.
        self._lock = threading.Lock()
        self._touched: set[BlockId] = set()
        self._counts = Counters()
        self._generation = 0
        try:
            self._home = CacheHome(directory, boot_id or read_boot_id())
            self._index = self._enter()
        except OSError as e:
            if e.errno == errno.ENOSPC:
                raise NoSpace(f"no space left for the block cache in {directory}") from e
            raise
        self._shrink()

    # Reading

    def lookup(self, version: bytes, block_no: int) -> BlockId | None:
        """The id of a cached block, without reading it."""
        found = self._locate(version, (block_no,))
        return None if found is None else found[0][0]

    def read(self, version: bytes, block_no: int) -> Lease | None:
        """A verified block, straight from the map; None when it is not cached."""
        leases = self.read_many(version, (block_no,))
        return None if leases is None else leases[0]

    def read_many(self, version: bytes, block_nos: Sequence[int]) -> list[Lease] | None:
        """All these blocks, verified, or None when any is missing."""
        for _attempt in range(2):
            found = self._locate(version, block_nos)
            if found is None:
                break
            leases: list[Lease] = []
            for block, record, capacity in found:
                lease = self._lease(block, record, capacity)
                if lease is None:
                    break
                leases.append(lease)
            if len(leases) == len(found):
                self._touch(found)
                return leases
            # Gone between the look and the read: moved to another segment, so look once more.
            for lease in leases:
                lease.release()
        self._counts.add("misses")
        return None

    def _locate(
        self, version: bytes, block_nos: Sequence[int]
    ) -> list[tuple[BlockId, BlockRecord, int]] | None:
        found = []
        with self._index.reading() as txn:
            young = self._index.number(txn, b"serial") - self._young_segments
            for block_no in block_nos:
                block = self._index.listed(txn, version, block_no)
                record = None if block is None else self._index.block(txn, block)
                if block is None or record is None:
                    return None
                capacity = self._index.segment_capacity(txn, record.serial)
                if capacity is None:
                    return None
                if record.serial > young:
                    # Read soon after it was written (readahead, then the reader): says nothing
                    # about a second use, so it does not count as a touch.
                    record = record._replace(hot=1)
                found.append((block, record, capacity))
        return found

    def _lease(self, block: BlockId, record: BlockRecord, capacity: int) -> Lease | None:
        segment = self._segments.acquire(record.serial, capacity)
        key = segment_key(record.place, block)
        lease = None if segment is None else self._segments.lease(segment, key)
        if lease is None or block_id(lease.data) == block:
            return lease
        lease.release()
        self._drop_bad(block, record)
        return None

    def _drop_bad(self, block: BlockId, bad: BlockRecord) -> None:
        log.warning("block cache: block %s does not match its id, dropped", block.hex())
        self._counts.add("dropped_bad")
        try:
            with self._index.writing() as txn:
                record = self._index.block(txn, block)
                if record is not None and record[:2] == bad[:2]:
                    self._index.drop_block(txn, block, record)
        except PipefsError as e:
            log.warning("block cache: could not record a dropped block: %s", e)

    # Inserting

    def insert(
        self, version: bytes, block_no: int, data: bytes | memoryview, *, block_count: int
    ) -> BlockId:
        """Cache one block; see `insert_many`."""
        return self.insert_many(version, [(block_no, data)], block_count)[0]

    def insert_many(
        self, version: bytes, items: Iterable[tuple[int, bytes | memoryview]], block_count: int
    ) -> list[BlockId]:
        """Cache blocks (1 byte to 1 MiB) of a version, one transaction for each 32 MiB.

        Bytes that are cached already are shared. Should other bytes have the same id, the block
        is not cached, and logged. Not durable.

        Args:
            block_count: of the whole version.

        Raises:
            NoSpace: the disk is full: go on without caching.
        """
        bound = min(MAX_BATCH_BYTES, capacity_for(self.limit_bytes))
        ids: list[BlockId] = []
        batch: list[tuple[int, BlockId, bytes | memoryview]] = []
        size = 0
        for block_no, data in items:
            if not 0 < len(data) <= BLOCK_SIZE_BYTES:
                raise ValueError(f"a block has 1 byte to 1 MiB, not {len(data)}")
            if size + len(data) > bound:
                self._insert_batch(version, batch, block_count)
                batch, size = [], 0
            batch.append((block_no, block_id(data), data))
            ids.append(batch[-1][1])
            size += len(data)
        if batch:
            self._insert_batch(version, batch, block_count)
        return ids

    def _insert_batch(
        self,
        version: bytes,
        batch: list[tuple[int, BlockId, bytes | memoryview]],
        block_count: int,
    ) -> None:
        try:
            self._write_batch(version, batch, block_count)
        except NoSpace:
            if not self._yield_segment():
                raise
            self._write_batch(version, batch, block_count)
        self._reap()

    def _write_batch(
        self,
        version: bytes,
        batch: list[tuple[int, BlockId, bytes | memoryview]],
        block_count: int,
    ) -> None:
        with self._filling() as (txn, writer, evictor):
            self._index.mark_hot(txn, self._take_touches())
            sorting = Sorting(self._index, self._segments, txn, batch)
            fresh = sorting.to_store
            if fresh:
                evictor.make_room(sum(footprint(len(d)) for d in fresh.values()))
            for block, data in fresh.items():
                before = self._index.block(txn, block)
                pins = before.pins if before is not None else 0
                serial, place = writer.put(block, data)
                self._index.put_block(txn, block, BlockRecord(serial, place, len(data), pins, 0))
            self._index.link(txn, version, sorting.links, block_count)
        self._counts.add("inserted", len(fresh))
        self._counts.add("shared", len(sorting.links) - len(fresh))
        self._counts.add("dropped_bad", sorting.bad)
        self._counts.add("collisions", sorting.collisions)

    # Versions

    def alias(self, old_version: bytes, new_version: bytes, block_count: int) -> int:
        """Let a version share all cached blocks of another (a server-side copy); how many."""
        with self._index.writing() as txn:
            entries = list(self._index.ids(txn, old_version))
            self._index.link(txn, new_version, entries, block_count)
        return len(entries)

    def cached_blocks(self, version: bytes) -> int:
        """How many blocks of the version are cached now."""
        with self._index.reading() as txn:
            blocks = self._index.ids(txn, version)
            return sum(1 for _no, b in blocks if self._index.block(txn, b) is not None)

    def percent(self, version: bytes) -> float:
        """Share of the version's blocks that are cached, 0 to 100."""
        with self._index.reading() as txn:
            total = self._index.block_count(txn, version)
        return 100.0 * self.cached_blocks(version) / total if total else 0.0

    def forget(self, version: bytes) -> None:
        """Drop the version's list and pin. Its blocks stay for others, and age."""
        with self._index.writing() as txn:
            self._index.forget(txn, version)

    def pin(self, *versions: bytes, owner: bytes = b"") -> None:
        """Keep the versions' blocks, also those inserted later, whatever the limit. Idempotent:
        the first `owner` (16 bytes, for `pinned_by`) stays."""
        with self._index.writing() as txn:
            for version in versions:
                self._index.pin(txn, version, owner)

    def unpin(self, *versions: bytes) -> None:
        """Undo `pin`. Idempotent."""
        with self._index.writing() as txn:
            for version in versions:
                self._index.unpin(txn, version)

    def pinned_by(self, owner: bytes) -> set[bytes]:
        """Versions that `pin` got from this owner."""
        with self._index.reading() as txn:
            return self._index.pins_of(txn, owner)

    def pinned_bytes(self) -> int:
        """What pinned blocks take, of all pipes."""
        with self._index.reading() as txn:
            return self._index.number(txn, b"pinned")

    # Upkeep

    def flush_touches(self) -> None:
        """Write down what was read since the last call, so that eviction in every process knows,
        and close files that others dropped. Call it every few seconds: until then a dropped file
        that is open here still takes its space."""
        touched = self._take_touches()
        if touched:
            with self._index.writing() as txn:
                self._index.mark_hot(txn, touched)
        self._reap()

    def used_bytes(self) -> int:
        """Bytes of all files of the cache."""
        with self._index.reading() as txn:
            return sum(s.used for s in self._index.segments(txn)) + self._index.size_bytes()

    def stats(self) -> CacheStats:
        with self._index.reading() as txn:
            segments = len(self._index.segments(txn))
        return self._counts.stats(self.used_bytes(), self.limit_bytes, segments)

    def close(self) -> None:
        """Let go of the files; the last process to close syncs them, so that they are kept over a
        restart of the machine. Leases that are still out stay readable until released."""
        try:
            self.flush_touches()
        except PipefsError as e:
            log.warning("block cache: recent reads are not recorded: %s", e)
        self._index.close()
        self._segments.close()
        self._home.leave(self._sync_files)

    # Inside

    def _enter(self) -> Index:
        try:
            self._home.enter(self._prepare)
            return self._opened or Index(self.directory / INDEX_DIR)
        except BaseException:
            self._home.abandon()
            raise

    def _prepare(self) -> None:
        """First user: open the index and remove what a crash left. Under the exclusive lock."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None
        index = self._opened = Index(self.directory / INDEX_DIR)
        with index.reading() as txn:
            known = {self._segments.path(s.serial).name for s in index.segments(txn)}
        for path in self.directory.glob(SEGMENT_PREFIX + "*"):
            if path.name not in known:
                self._segments.remove(int(path.name.removeprefix(SEGMENT_PREFIX)))
        self._home.remove_dead()

    def _shrink(self) -> None:
        """Meet a limit that is smaller than the last one."""
        try:
            if self.used_bytes() > self.limit_bytes + self.pinned_bytes():
                with self._filling() as (_txn, _writer, evictor):
                    evictor.make_room(0)
        except NoSpace as e:
            log.warning("block cache: stays above its limit: %s", e)

    def _yield_segment(self) -> bool:
        with self._index.writing() as txn:
            return yield_segment(self._index, self._segments, txn)

    def _reap(self) -> None:
        """Close segments that other processes dropped."""
        with self._index.reading() as txn:
            generation = self._index.number(txn, b"generation")
            if generation == self._generation:
                return
            known = {s.serial for s in self._index.segments(txn)}
            newest = self._index.number(txn, b"serial")
        # Above `newest`: being filled by a thread of ours, not committed yet.
        for serial in self._segments.opened():
            if serial not in known and serial <= newest:
                self._segments.forget(serial)
        self._generation = generation

    def _take_touches(self) -> set[BlockId]:
        with self._lock:
            touched, self._touched = self._touched, set()
        return touched

    def _touch(self, found: list[tuple[BlockId, BlockRecord, int]]) -> None:
        self._counts.add("hits", len(found))
        with self._lock:
            for block, record, _capacity in found:
                if not record.hot and len(self._touched) < MAX_TOUCHES:
                    self._touched.add(block)

    def _sync_files(self) -> None:
        for path in self.directory.glob(SEGMENT_PREFIX + "*/data.mdb"):
            sync_file(path)
        sync_file(self.directory / INDEX_DIR / "data.mdb")

    @contextmanager
    def _filling(self) -> Iterator[tuple[Transaction, SegmentWriter, Evictor]]:
        """A write transaction with room for bytes; removes evicted files after the commit."""
        capacity = capacity_for(self.limit_bytes)
        with self._index.writing() as txn:
            writer = SegmentWriter(self._index, self._segments, txn, capacity)
            evictor = Evictor(self._index, self._segments, txn, writer, self.limit_bytes)
            try:
                yield txn, writer, evictor
                if evictor.removed:
                    self._index.add_number(txn, b"generation", 1)
                writer.commit()
            except BaseException:
                writer.abort()
                raise
        self._counts.add("evicted", evictor.evicted)
        for serial in evictor.removed:
            self._segments.remove(serial)
