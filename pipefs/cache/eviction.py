"""Space of the block cache: filling segments, and choosing what goes when the limit is near.

Least recently used, approximately: the oldest segment is *drained*: blocks read since they were
written move to the newest segment (once: they start cold there), pinned ones always move, the
rest is forgotten; then the whole file goes. An insert drains a few times what it adds, so no call
pauses for a whole segment, and at most half of a segment is moved, so draining always frees space.

The limit is for what is not pinned: what somebody asked to keep comes on top of it, and only the
disk bounds that.

Everything runs inside the caller's index transaction, which is also the one lock for writing to
segments: a segment is only written by who holds it. Order: index transaction, then the segment's.
Never removes a file before the index transaction that forgot it has been committed (except when
the disk is full, where a lost file reads as not cached).
"""

from __future__ import annotations

import logging
import struct
from dataclasses import dataclass

from pipefs.cache.blockfill import SegmentWriter
from pipefs.cache.blockindex import BlockRecord, Index, SegmentRecord
from pipefs.cache.segments import (
    MIN_SEGMENT_BYTES,
    SEGMENTS_PER_LIMIT,
    Segment,
    Segments,
    footprint,
    segment_key,
)
from pipefs.errors import NoSpace
from pipefs.lmdbenv import Transaction
from pipefs.types import BlockId

DRAIN_RATIO = 4
"""Bytes looked at in the draining segment for each byte inserted. Above 1 + the share that moves
(at most a half), so that a segment is gone before the next is full."""

MIN_DRAIN_BYTES = 1 << 20
TIDY_CHUNKS = 32

log = logging.getLogger(__name__)

_DRAIN = struct.Struct("<IQI")


def capacity_for(limit_bytes: int) -> int:
    """Capacity of new segments under this limit."""
    return max(MIN_SEGMENT_BYTES, limit_bytes // SEGMENTS_PER_LIMIT)


@dataclass(slots=True)
class Drain:
    """How far the oldest segment is drained; kept in the index between calls."""

    serial: int
    moved_bytes: int
    next_place: int


class Evictor:
    """Keeps what is not pinned within `limit_bytes`, one index transaction at a time."""

    def __init__(
        self,
        index: Index,
        segments: Segments,
        txn: Transaction,
        writer: SegmentWriter,
        limit_bytes: int,
    ) -> None:
        self._index = index
        self._segments = segments
        self._txn = txn
        self._writer = writer
        self._limit = limit_bytes
        self.evicted = 0
        self.removed: list[int] = []
        """Segments to remove from disk once the index transaction is committed."""

    def make_room(self, need: int) -> None:
        """Bring the cache to where `need` more bytes fit.

        Raises:
            NoSpace: not even without all that is not pinned.
        """
        capacity = capacity_for(self._limit)
        limit = self._limit + self._index.number(self._txn, b"pinned")
        if self.used_bytes() + need > limit - capacity:
            self.drain(max(MIN_DRAIN_BYTES, DRAIN_RATIO * need), keep_hot=True)
            self._index.tidy(self._txn, TIDY_CHUNKS)
        # A round through all of them leaves only what is pinned, in segments of its own.
        rounds = 1 + len(self._index.segments(self._txn))
        while self.used_bytes() + need > limit:
            rounds -= 1
            if not rounds or not self.drain(None, keep_hot=False):
                raise NoSpace(f"the block cache's limit of {self._limit} bytes is too small")

    def used_bytes(self) -> int:
        known = {s.serial: s.used for s in self._index.segments(self._txn)}
        known[self._writer.record.serial] = self._writer.record.used
        return sum(known.values()) + self._index.size_bytes()

    def drain(self, budget: int | None, *, keep_hot: bool) -> bool:
        """Look at `budget` more bytes of the oldest segment (None: all). False: none is left."""
        known = self._index.segments(self._txn)
        if len(known) < 2:
            return False
        oldest = known[0]
        drain = self._load(oldest.serial)
        segment = self._segments.acquire(oldest.serial, oldest.capacity)
        if segment is None:
            self.evicted += self._index.drop_blocks_of(self._txn, oldest.serial)
            done = True
        else:
            try:
                done = self._step(segment, drain, budget, oldest.capacity // 2 * keep_hot)
            finally:
                self._segments.release(segment)
        if done:
            self._index.drop_segment(self._txn, oldest.serial)
            self.removed.append(oldest.serial)
        else:
            value = _DRAIN.pack(drain.serial, drain.moved_bytes, drain.next_place)
            self._index.put_raw(self._txn, b"drain", value)
        return True

    def _step(self, segment: Segment, drain: Drain, budget: int | None, may_move: int) -> bool:
        seen = 0
        with segment.env.begin(buffers=True) as data:
            cursor = data.cursor()
            more = cursor.set_range(segment_key(drain.next_place, b""))
            while more:
                place, block = _split(cursor.key())
                if budget is not None and seen >= budget:
                    drain.next_place = place
                    return False
                record = self._index.block(self._txn, block)
                # Elsewhere: moved or written anew since; what lies here is left over.
                if record is not None and record[:2] == (segment.serial, place):
                    self._keep_or_drop(block, record, cursor.value(), drain, may_move)
                seen += footprint(record.length) if record is not None else 256
                more = cursor.next()
        return True

    def _keep_or_drop(
        self, key: BlockId, record: BlockRecord, data: memoryview, drain: Drain, may_move: int
    ) -> None:
        if record.pins or (record.hot and drain.moved_bytes + record.length <= may_move):
            serial, place = self._writer.put(key, data)
            moved = record._replace(serial=serial, place=place, hot=0)
            self._index.put_block(self._txn, key, moved)
            drain.moved_bytes += 0 if record.pins else record.length
        else:
            self._index.drop_block(self._txn, key, record)
            self.evicted += 1

    def _load(self, serial: int) -> Drain:
        raw = self._index.get_raw(self._txn, b"drain")
        if raw is not None:
            drain = Drain(*_DRAIN.unpack(raw))
            if drain.serial == serial:
                return drain
        return Drain(serial, 0, 0)


def yield_segment(index: Index, segments: Segments, txn: Transaction) -> bool:
    """Give the oldest segment without pinned blocks back to a full disk. False: there is none."""
    for known in index.segments(txn):
        blocks = _blocks_of(index, segments, txn, known)
        if any(record.pins for _key, record in blocks):
            continue
        # The file goes before the index forgets it: a full disk may refuse that commit, and a
        # block whose file is gone reads as missing.
        segments.remove(known.serial)
        for key, record in blocks:
            index.drop_block(txn, key, record)
        index.drop_segment(txn, known.serial)
        index.add_number(txn, b"generation", 1)
        log.info("block cache: disk full, gave back %d bytes", known.used)
        return True
    return False


def _blocks_of(
    index: Index, segments: Segments, txn: Transaction, known: SegmentRecord
) -> list[tuple[BlockId, BlockRecord]]:
    segment = segments.acquire(known.serial, known.capacity)
    if segment is None:
        return []
    found = []
    try:
        with segment.env.begin() as data:
            for key in data.cursor().iternext(values=False):
                place, block = _split(key)
                record = index.block(txn, block)
                if record is not None and record[:2] == (known.serial, place):
                    found.append((block, record))
    finally:
        segments.release(segment)
    return found


def _split(key: bytes | memoryview) -> tuple[int, BlockId]:
    """Place and id from a key in a segment."""
    return int.from_bytes(key[:4], "big"), BlockId(bytes(key[4:]))
