"""What is in a state database: tables, checked values, the blocks that read and change them.

Used through `pipefs.db`, which owns the transaction, the lock and the journal; everything here
works inside them. Promises that a value is never returned unless its checksum fits table, key and
value; never writes to the journal, never begins or ends a transaction.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from xxhash import xxh3_64_digest, xxh3_64_intdigest

from pipefs.errors import Corrupt, NewerFormat, PipefsError, Refused
from pipefs.lmdbenv import LmdbError, translate

MAX_KEY_BYTES = 511
"""LMDB's bound for keys; a name (255) behind its parent's number (8) is far below."""

META = "meta"
_DELETED = 0xFFFFFFFF
_OP = struct.Struct("<BHI")  # table, key length, stored length or _DELETED
_U64 = struct.Struct("<Q")
# xxh3-64 whole, not cut to 32 bits: 8 bytes beside values of about 200 are 4 %, cutting costs one
# more slice at each read, and 2^-32 a damaged value is too often for a disk that goes bad slowly.
_SUM_BYTES = 8


class Table:
    """One named table of the open database."""

    __slots__ = ("handle", "name", "number", "seed")

    def __init__(self, name: str, number: int, handle: Any) -> None:
        self.name = name
        self.number = number
        self.handle = handle
        # A value that turns up under another table's name fails its checksum, too.
        self.seed = xxh3_64_intdigest(name.encode())


class Dead:
    """Stands where a transaction was: every use says why there is none."""

    def __init__(self, kind: type[PipefsError], message: str) -> None:
        self._error = (kind, message)

    def __getattr__(self, name: str) -> Any:
        kind, message = self._error
        raise kind(message)


class State:
    """What views share: the open LMDB transaction, which checkpoints replace, and the tables."""

    __slots__ = ("changes", "directory", "lmdb", "tables")

    def __init__(self, directory: Path, lmdb: Any, tables: dict[str, Table]) -> None:
        self.directory = directory
        self.lmdb = lmdb
        self.tables = tables
        self.changes = 0  # counts everything that may move a cursor


class _NoTables(dict[str, Table]):
    def __missing__(self, name: str) -> Table:
        raise Refused("this view of the state was used after its block")


LEFT = State(Path(), Dead(Refused, "this view of the state was used after its block"), _NoTables())
"""What a view has after its block was left."""


# An operation of an update: table, key, stored value or None (deleted), what was stored before.
Op = tuple[Table, bytes, bytes | None, bytes | None]


class View:
    """Reads, inside `with db.view()` or `with db.update()`. Keys are 1 to 511 bytes.

    Every method raises Corrupt if a checksum or the structure does not fit, ValueError for a key
    out of bounds, KeyError for a table that the database was not opened with.
    """

    __slots__ = ("_state",)

    def __init__(self, state: State) -> None:
        self._state = state

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value of `key`, None if there is none."""
        state = self._state
        lmdb = state.lmdb
        t = state.tables[table]
        try:
            stored = lmdb.get(key, None, t.handle)
        except LmdbError as e:
            raise _explain(e, state, key) from e
        return None if stored is None else _checked(state, t, key, stored)

    def has(self, table: str, key: bytes) -> bool:
        """Whether `key` has a value."""
        return self.get(table, key) is not None

    def count(self, table: str) -> int:
        """Number of keys in `table`; costs nothing."""
        lmdb = self._state.lmdb
        entries: int = lmdb.stat(self._state.tables[table].handle)["entries"]
        return entries

    def scan(
        self,
        table: str,
        start: bytes = b"",
        stop: bytes | None = None,
        *,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values with start <= key < stop, ascending or descending, `limit` at most.

        The table may be changed while this runs: the scan goes on behind the last key it gave,
        and sees what is there when it comes by.
        """
        left = -1 if limit is None else limit
        if left == 0:
            return
        last: bytes | None = None
        while True:
            state = self._state
            lmdb = state.lmdb
            t = state.tables[table]
            changes = state.changes
            try:
                for key, stored in _positioned(lmdb.cursor(t.handle), start, stop, last, reverse):
                    if (key < start) if reverse else (stop is not None and key >= stop):
                        return
                    yield key, _checked(state, t, key, stored)
                    left -= 1
                    if left == 0:
                        return
                    last = key
                    if state.changes != changes or self._state is not state:
                        break
                else:
                    return
            except LmdbError as e:
                raise _explain(e, state, last or b"?") from e


class Txn(View):
    """Reads and writes, inside `with db.update()`; reads see what this update wrote."""

    __slots__ = ("_ops",)

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self._ops: list[Op] = []

    def put(self, table: str, key: bytes, value: bytes) -> None:
        """Set the value of `key`. Raises NoSpace if the database's map is full."""
        state = self._state
        lmdb = state.lmdb
        t = state.tables[table]
        if len(key) > MAX_KEY_BYTES:
            raise _key_error(key)
        stored = xxh3_64_digest(key + value, t.seed) + value
        try:
            old = lmdb.replace(key, stored, t.handle)
        except LmdbError as e:
            raise _explain(e, state, key) from e
        self._ops.append((t, key, stored, old))
        state.changes += 1

    def delete(self, table: str, key: bytes) -> bool:
        """Remove `key`; False if it was not there."""
        state = self._state
        lmdb = state.lmdb
        t = state.tables[table]
        try:
            old = lmdb.pop(key, t.handle)
        except LmdbError as e:
            raise _explain(e, state, key) from e
        if old is None:
            return False
        self._ops.append((t, key, None, old))
        state.changes += 1
        return True


def _positioned(
    cursor: Any, start: bytes, stop: bytes | None, last: bytes | None, reverse: bool
) -> Iterator[tuple[bytes, bytes]]:
    """Entries from the first one that a scan wants, behind `last` if it has begun."""
    entries: Iterator[tuple[bytes, bytes]]
    if not reverse:
        found = cursor.set_range(start if last is None else last)
        if found and last is not None and cursor.key() == last:
            found = cursor.next()
        entries = cursor.iternext()
    else:
        end = stop if last is None else last
        found = cursor.prev() if end is not None and cursor.set_range(end) else cursor.last()
        entries = cursor.iterprev()
    return entries if found else iter(())


def encode(ops: Sequence[Op]) -> bytes:
    """The payload of the journal record of one update."""
    parts: list[bytes] = []
    for t, key, stored, _ in ops:
        if stored is None:
            parts += (_OP.pack(t.number, len(key), _DELETED), key)
        else:
            parts += (_OP.pack(t.number, len(key), len(stored)), key, stored)
    return b"".join(parts)


def decode(
    payload: bytes, tables: Sequence[Table | None], path: Path
) -> Iterator[tuple[Table, bytes, bytes | None]]:
    """Table, key and stored value (None: deleted) of each operation in a record's payload."""
    offset = 0
    while offset < len(payload):
        number, key_bytes, stored_bytes = _OP.unpack_from(payload, offset)
        t = tables[number]
        if t is None:
            raise NewerFormat(f"{path} changes a table that this pipefs does not know")
        offset += _OP.size
        key = payload[offset : offset + key_bytes]
        offset += key_bytes
        if stored_bytes == _DELETED:
            yield t, key, None
        else:
            yield t, key, payload[offset : offset + stored_bytes]
            offset += stored_bytes


def _checked(state: State, t: Table, key: bytes, stored: bytes) -> bytes:
    value = stored[_SUM_BYTES:]
    if stored[:_SUM_BYTES] != xxh3_64_digest(key + value, t.seed):
        raise Corrupt(f"the value of {key!r} in table {t.name} of {state.directory} is damaged")
    return value


def read_meta(lmdb: Any, handle: Any, key: bytes, directory: Path) -> int | None:
    """A number that the database keeps about itself; None if it is not there."""
    stored: bytes | None = lmdb.get(key, None, handle)
    if stored is None:
        return None
    if len(stored) != 16 or stored[:_SUM_BYTES] != xxh3_64_digest(key + stored[_SUM_BYTES:]):
        raise Corrupt(f"the value of {key!r} in table {META} of {directory} is damaged")
    number: int = _U64.unpack(stored[_SUM_BYTES:])[0]
    return number


def write_meta(lmdb: Any, handle: Any, key: bytes, number: int) -> None:
    """Keep a number about the database itself, in the transaction at hand."""
    value = _U64.pack(number)
    lmdb.put(key, xxh3_64_digest(key + value) + value, db=handle)


def _key_error(key: bytes) -> ValueError:
    return ValueError(f"a key must have 1 to {MAX_KEY_BYTES} bytes, this one has {len(key)}")


def _explain(e: LmdbError, state: State, key: bytes) -> Exception:
    if not 0 < len(key) <= MAX_KEY_BYTES:
        return _key_error(key)
    return translate(e, state.directory)
