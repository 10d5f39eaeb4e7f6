"""Filling the block cache: which blocks of a batch are new, and appending those to segments.

Promises that a block gets into the index only after its bytes are in a committed segment, and
that bytes that happen to have the id of other bytes are never linked to them.
Never makes room; that is `eviction.py`.
"""

from __future__ import annotations

import enum
import logging

from pipefs.cache.blockindex import Index, SegmentRecord
from pipefs.cache.segments import Segment, Segments, block_id, footprint, segment_key
from pipefs.lmdbenv import Transaction
from pipefs.types import BlockId

log = logging.getLogger(__name__)

PENDING_BYTES = 1 << 20
"""A segment is committed at least this often. LMDB copies what is not committed: with one block
at a time its memory is reused, with 8 or more each copy is paged in anew (a third of the rate)."""


class _Fate(enum.Enum):
    STORE = enum.auto()
    SHARE = enum.auto()
    REFUSE = enum.auto()


class Sorting:
    """What to do with each block of a batch, within one index transaction."""

    def __init__(
        self,
        index: Index,
        segments: Segments,
        txn: Transaction,
        batch: list[tuple[int, BlockId, bytes | memoryview]],
    ) -> None:
        self._index = index
        self._segments = segments
        self._txn = txn
        self.bad = 0
        self.collisions = 0
        fates: dict[BlockId, _Fate] = {}
        first: dict[BlockId, bytes | memoryview] = {}
        for _no, block, data in batch:
            if block not in fates:
                fates[block] = self._fate(block, data)
                first[block] = data
            elif first[block] != data:
                self._refuse(block)
                fates[block] = _Fate.REFUSE
        self.to_store = {b: first[b] for b, fate in fates.items() if fate is _Fate.STORE}
        self.links = [(no, b) for no, b, _data in batch if fates[b] is not _Fate.REFUSE]

    def _fate(self, block: BlockId, data: bytes | memoryview) -> _Fate:
        """Compares the bytes with those that are cached under the same id."""
        record = self._index.block(self._txn, block)
        if record is None:
            return _Fate.STORE
        capacity = self._index.segment_capacity(self._txn, record.serial)
        if capacity is None:
            return _Fate.STORE
        segment = self._segments.acquire(record.serial, capacity)
        lease = (
            None
            if segment is None
            else self._segments.lease(segment, segment_key(record.place, block))
        )
        if lease is None:
            return _Fate.STORE
        with lease:
            # bytes(): comparing memoryviews goes item by item, a copy and memcmp is faster.
            if bytes(lease.data) == data:
                self._index.mark_hot(self._txn, (block,))
                return _Fate.SHARE
            if block_id(lease.data) != block:
                self.bad += 1
                return _Fate.STORE
        self._refuse(block)
        return _Fate.REFUSE

    def _refuse(self, block: BlockId) -> None:
        log.error("block cache: two blocks have the id %s; not cached", block.hex())
        self.collisions += 1


class SegmentWriter:
    """Appends to the newest segment within one index transaction; full ones are followed by new.

    `commit` before the index transaction, `abort` after an error: a block is never in the index
    before its bytes are in a committed segment.
    """

    def __init__(self, index: Index, segments: Segments, txn: Transaction, capacity: int) -> None:
        self._index = index
        self._segments = segments
        self._txn = txn
        self._capacity = capacity
        known = index.segments(txn)
        self.record = known[-1] if known else SegmentRecord(0, 0, 0)
        self._segment: Segment | None = None
        self._data: Transaction | None = None
        self._place = 0
        self._pending = 0
        self._created: list[int] = []

    def put(self, block: bytes, data: bytes | memoryview) -> tuple[int, int]:
        """Append a block; its segment's serial and its place there."""
        need = footprint(len(data))
        if self.record.used + need > self.record.capacity:
            self._roll()
        if self._data is None:
            self._begin()
        assert self._data is not None
        self._data.put(segment_key(self._place, block), data, append=True)
        where = self.record.serial, self._place
        self._place += 1
        self.record = self.record._replace(used=self.record.used + need)
        self._pending += need
        if self._pending >= PENDING_BYTES:
            self.commit()
        return where

    def commit(self) -> None:
        """Commit the bytes and put the file's true size into the index."""
        data, self._data = self._data, None
        segment = self._segment
        self._pending = 0
        if data is None or segment is None:
            return
        data.commit()
        self.record = self.record._replace(used=segment.size_bytes())
        self._index.put_segment(self._txn, self.record)
        self._segment = None
        self._segments.release(segment)

    def abort(self) -> None:
        """Undo what is not committed. Segments made here were never in the index: they go."""
        data, self._data = self._data, None
        segment, self._segment = self._segment, None
        if data is not None:
            data.abort()
        if segment is not None:
            self._segments.release(segment)
        for serial in self._created:
            self._segments.remove(serial)

    def _begin(self) -> None:
        record = self.record
        segment = self._segments.acquire(record.serial, record.capacity)
        if segment is None:
            # The newest segment's file is lost. Its blocks read as missing until it is drained.
            self._roll()
            return
        self._segment = segment
        self._data = segment.env.begin(write=True)
        # From the file, not from the index: bytes of an aborted index transaction lie there too.
        cursor = self._data.cursor()
        self._place = int.from_bytes(cursor.key()[:4], "big") + 1 if cursor.last() else 0

    def _roll(self) -> None:
        self.commit()
        serial = self._index.add_number(self._txn, b"serial", 1)
        # Left by a process killed before its index transaction was committed.
        self._segments.remove(serial)
        self.record = SegmentRecord(serial, self._capacity, 0)
        self._created.append(serial)
        segment = self._segments.acquire(serial, self._capacity, create=True)
        assert segment is not None
        self._segment = segment
        self._data = segment.env.begin(write=True)
        self._place = 0
        self._index.put_segment(self._txn, self.record)
