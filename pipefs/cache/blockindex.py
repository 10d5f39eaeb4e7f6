"""Index of the block cache: which blocks a version has, and in which segment each block lies.

Tables (integers are big-endian in keys, little-endian in values):

    versions  version id (16) + chunk number (4) → block count of the version (4), then 16-byte
              block ids of up to 64 blocks in order; zeros: not cached
    blocks    block id (16) → segment (4), place (4), length (4), pins (4), recently used (1)
    segments  serial (4) → capacity in bytes (8), size of its file in bytes (8)
    pins      version id → who pinned it (16), or empty
    meta      name → 8-byte numbers, and the state of a drain; "pinned" is the bytes that blocks
              with pins take

A listed id whose block record is gone is not cached: lists are tidied later, in small pieces.
Every function takes a transaction and does no I/O beyond it. Never touches a segment.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pipefs.cache.segments import footprint
from pipefs.errors import Corrupt, Refused
from pipefs.lmdbenv import LmdbError, Transaction, open_env, translate
from pipefs.types import BlockId

TABLES = ("versions", "blocks", "segments", "pins", "meta")
INDEX_MAP_BYTES = 1 << 36
"""64 GiB sparse: 500 million blocks. Fixed for good, so that no process meets another size."""

IDS_PER_CHUNK = 64
"""1 KiB chunks: an insert into a huge file rewrites one, and they stay inside LMDB's leaves."""

ID_BYTES = 16
NO_BLOCK = bytes(ID_BYTES)

_BLOCK = struct.Struct("<IIIIB")
_SEGMENT = struct.Struct("<QQ")
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_CHUNK_NO = struct.Struct(">I")


class BlockRecord(NamedTuple):
    serial: int
    """Segment that holds the bytes."""
    place: int
    """Its number in the segment, in the order of writing."""
    length: int
    pins: int
    """How many pinned versions list it."""
    hot: int
    """1: read since it was written to its segment."""


class SegmentRecord(NamedTuple):
    serial: int
    capacity: int
    used: int


class Index:
    """The index environment of this process."""

    def __init__(self, directory: Path) -> None:
        # Opened without tables first: those read pages, and past the end of a file that was cut
        # short this would be SIGBUS.
        if (directory / "data.mdb").exists():
            env, _ = open_env(directory, (), map_size_bytes=INDEX_MAP_BYTES, sync=False)
            last = int(env.info()["last_pgno"])
            env.close()
            if (directory / "data.mdb").stat().st_size < (last - 15) * 4096:
                raise Corrupt(f"the index of the block cache in {directory} is cut short")
        self.directory = directory
        self.env, tables = open_env(
            directory, TABLES, map_size_bytes=INDEX_MAP_BYTES, sync=False, spare_readers=64
        )
        # Handles of named databases have no type in LMDB's binding.
        self._versions: Any = tables["versions"]
        self._blocks: Any = tables["blocks"]
        self._segments: Any = tables["segments"]
        self._pins: Any = tables["pins"]
        self._meta: Any = tables["meta"]

        # Guards the two below. `close` waits until no transaction is left: unmapping under one
        # would be SIGSEGV.
        self._idle = threading.Condition()
        self._users = 0
        self._closed = False

    def close(self) -> None:
        """Wait for transactions to end, then close. Later ones are `Refused`."""
        with self._idle:
            self._closed = True
            self._idle.wait_for(lambda: self._users == 0)
        self.env.close()

    def _enter(self) -> None:
        with self._idle:
            if self._closed:
                raise Refused(f"the block cache in {self.directory} is closed")
            self._users += 1

    def _exit(self) -> None:
        with self._idle:
            self._users -= 1
            if self._closed and self._users == 0:
                self._idle.notify_all()

    def size_bytes(self) -> int:
        return (int(self.env.info()["last_pgno"]) + 1) * 4096

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """A pooled read transaction. For microseconds: it holds back the reuse of pages."""
        self._enter()
        try:
            txn = self.env.begin(buffers=True)
            try:
                yield txn
            finally:
                txn.abort()
        except LmdbError as e:
            raise translate(e, self.directory) from e
        finally:
            self._exit()

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        """The write transaction: also the one lock for all writing to the cache."""
        self._enter()
        try:
            with self.env.begin(write=True) as txn:
                yield txn
        except LmdbError as e:
            raise translate(e, self.directory) from e
        finally:
            self._exit()

    # Blocks

    def block(self, txn: Transaction, key: bytes) -> BlockRecord | None:
        raw = txn.get(key, db=self._blocks)
        return None if raw is None else BlockRecord(*_BLOCK.unpack(raw))

    def put_block(self, txn: Transaction, key: bytes, record: BlockRecord) -> None:
        txn.put(key, _BLOCK.pack(*record), db=self._blocks)

    def drop_block(self, txn: Transaction, key: bytes, record: BlockRecord) -> None:
        """Forget where a block is; lists that name it now read as not cached."""
        if record.pins:
            self.add_number(txn, b"pinned", -footprint(record.length))
        txn.delete(key, db=self._blocks)

    def mark_hot(self, txn: Transaction, keys: Iterable[bytes]) -> None:
        for key in keys:
            record = self.block(txn, key)
            if record is not None and not record.hot:
                self.put_block(txn, key, record._replace(hot=1))

    def drop_blocks_of(self, txn: Transaction, serial: int) -> int:
        """Forget every block of a lost segment: a scan of the whole table, for that rare case."""
        lost = []
        for key, raw in txn.cursor(db=self._blocks):
            record = BlockRecord(*_BLOCK.unpack(raw))
            if record.serial == serial:
                lost.append((bytes(key), record))
        for key, record in lost:
            self.drop_block(txn, key, record)
        return len(lost)

    # Versions

    def listed(self, txn: Transaction, version: bytes, block_no: int) -> BlockId | None:
        """The id that the version's list has at `block_no`; whether it is cached is not said."""
        chunk, place = divmod(block_no, IDS_PER_CHUNK)
        raw = txn.get(_chunk_key(version, chunk), db=self._versions)
        if raw is None:
            return None
        start = 4 + place * ID_BYTES
        found = bytes(raw[start : start + ID_BYTES])
        return None if len(found) < ID_BYTES or found == NO_BLOCK else BlockId(found)

    def chunks(self, txn: Transaction, version: bytes) -> Iterator[tuple[int, bytes]]:
        """(chunk number, raw chunk) of one version, ascending."""
        cursor = txn.cursor(db=self._versions)
        if not cursor.set_range(version):
            return
        for key, raw in cursor:
            if bytes(key[:ID_BYTES]) != version:
                return
            yield _CHUNK_NO.unpack(key[ID_BYTES:])[0], bytes(raw)

    def ids(self, txn: Transaction, version: bytes) -> Iterator[tuple[int, BlockId]]:
        """(block number, id) of every block the version lists."""
        for chunk, raw in self.chunks(txn, version):
            for place, block in enumerate(_ids_in(raw)):
                if block != NO_BLOCK:
                    yield chunk * IDS_PER_CHUNK + place, BlockId(block)

    def block_count(self, txn: Transaction, version: bytes) -> int:
        """Blocks the whole version has; 0 when none of it was ever cached."""
        for _chunk, raw in self.chunks(txn, version):
            return int(_U32.unpack_from(raw)[0])
        return 0

    def link(
        self,
        txn: Transaction,
        version: bytes,
        entries: Iterable[tuple[int, BlockId]],
        block_count: int,
    ) -> None:
        """Set ids in the version's list; blocks of a pinned version become pinned."""
        by_chunk: dict[int, list[tuple[int, BlockId]]] = {}
        for block_no, block in entries:
            chunk, place = divmod(block_no, IDS_PER_CHUNK)
            by_chunk.setdefault(chunk, []).append((place, block))
        pinned = self.is_pinned(txn, version)
        for chunk, places in by_chunk.items():
            key = _chunk_key(version, chunk)
            raw = bytearray(txn.get(key, db=self._versions) or bytes(4))
            _U32.pack_into(raw, 0, block_count)
            for place, block in places:
                start = 4 + place * ID_BYTES
                raw.extend(bytes(max(0, start + ID_BYTES - len(raw))))
                before = bytes(raw[start : start + ID_BYTES])
                raw[start : start + ID_BYTES] = block
                if pinned:
                    self._repin(txn, before, block)
            txn.put(key, bytes(raw), db=self._versions)

    def forget(self, txn: Transaction, version: bytes) -> None:
        self.unpin(txn, version)
        for chunk, _raw in list(self.chunks(txn, version)):
            txn.delete(_chunk_key(version, chunk), db=self._versions)

    def tidy(self, txn: Transaction, count: int) -> None:
        """Look at the next `count` list chunks, and delete those with no cached block left."""
        cursor = txn.cursor(db=self._versions)
        start = self.get_raw(txn, b"tidy") or bytes(1)
        more = cursor.set_range(start)
        stale = []
        for _ in range(count):
            if not more:
                break
            key, raw = bytes(cursor.key()), bytes(cursor.value())
            if not any(b != NO_BLOCK and self.block(txn, b) for b in _ids_in(raw)):
                stale.append(key)
            more = cursor.next()
        after = bytes(cursor.key()) if more else bytes(1)
        for key in stale:
            txn.delete(key, db=self._versions)
        self.put_raw(txn, b"tidy", after)

    # Pins

    def is_pinned(self, txn: Transaction, version: bytes) -> bool:
        return txn.get(version, db=self._pins) is not None

    def pins_of(self, txn: Transaction, owner: bytes) -> set[bytes]:
        """Versions that `owner` pinned."""
        return {bytes(k) for k, who in txn.cursor(db=self._pins) if bytes(who) == owner}

    def pin(self, txn: Transaction, version: bytes, owner: bytes) -> None:
        if not self.is_pinned(txn, version):
            txn.put(version, owner, db=self._pins)
            for _no, block in list(self.ids(txn, version)):
                self._add_pin(txn, block, 1)

    def unpin(self, txn: Transaction, version: bytes) -> None:
        if txn.delete(version, db=self._pins):
            for _no, block in list(self.ids(txn, version)):
                self._add_pin(txn, block, -1)

    def _repin(self, txn: Transaction, before: bytes, block: BlockId) -> None:
        record = self.block(txn, block)
        # The same id without a pin: it was found bad, dropped, and is now cached again.
        if before != block or (record is not None and not record.pins):
            self._add_pin(txn, block, 1)
        if before not in (block, NO_BLOCK):
            self._add_pin(txn, before, -1)

    def _add_pin(self, txn: Transaction, key: bytes, change: int) -> None:
        record = self.block(txn, key)
        if record is None:
            return
        pins = max(0, record.pins + change)
        self.put_block(txn, key, record._replace(pins=pins))
        if bool(pins) != bool(record.pins):
            room = footprint(record.length)
            self.add_number(txn, b"pinned", room if pins else -room)

    # Segments and numbers

    def segments(self, txn: Transaction) -> list[SegmentRecord]:
        """All segments, oldest first; the last one is being filled."""
        return [
            SegmentRecord(_CHUNK_NO.unpack(key)[0], *_SEGMENT.unpack(raw))
            for key, raw in txn.cursor(db=self._segments)
        ]

    def segment_capacity(self, txn: Transaction, serial: int) -> int | None:
        raw = txn.get(_CHUNK_NO.pack(serial), db=self._segments)
        return None if raw is None else int(_SEGMENT.unpack(raw)[0])

    def put_segment(self, txn: Transaction, record: SegmentRecord) -> None:
        value = _SEGMENT.pack(record.capacity, record.used)
        txn.put(_CHUNK_NO.pack(record.serial), value, db=self._segments)

    def drop_segment(self, txn: Transaction, serial: int) -> None:
        txn.delete(_CHUNK_NO.pack(serial), db=self._segments)

    def number(self, txn: Transaction, name: bytes) -> int:
        raw = txn.get(name, db=self._meta)
        return 0 if raw is None else int(_U64.unpack(raw)[0])

    def add_number(self, txn: Transaction, name: bytes, change: int) -> int:
        value = max(0, self.number(txn, name) + change)
        txn.put(name, _U64.pack(value), db=self._meta)
        return value

    def get_raw(self, txn: Transaction, name: bytes) -> bytes | None:
        raw = txn.get(name, db=self._meta)
        return None if raw is None else bytes(raw)

    def put_raw(self, txn: Transaction, name: bytes, value: bytes) -> None:
        txn.put(name, value, db=self._meta)


def _chunk_key(version: bytes, chunk: int) -> bytes:
    return version + _CHUNK_NO.pack(chunk)


def _ids_in(raw: bytes) -> Iterator[bytes]:
    for start in range(4, len(raw), ID_BYTES):
        yield raw[start : start + ID_BYTES]
