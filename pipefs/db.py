"""Durable local state of one pipe: tables of bytes, changed all together or not at all.

An LMDB environment with one long-lived write transaction, protected by a journal of physical redo
records (`pipefs.journal`). What it promises: an update that returned survives the death of this
process; after `sync` it survives power loss; an update that raised left nothing behind; a reader
sees whole updates only; every value is checked against its checksum when it is read. It must
never start a thread, never be used across a fork, and never guess: damage is `Corrupt`, and the
caller decides to `quarantine` and rebuild. See docs/design/001-durable-state.md.

Order of an update: apply to the open transaction as the caller goes (it reads its own writes),
then write the one journal record, then answer. If the record cannot be written, the transaction
is undone. A checkpoint commits the transaction, synced, with the number of the last record in it,
and starts a new journal segment; opening replays the records behind that number.
"""

from __future__ import annotations

import contextlib
import logging
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

from pipefs import statedir
from pipefs.errors import Corrupt, NewerFormat, NoSpace, PipefsError, Refused
from pipefs.journal import Journal, read_segment, segment_paths
from pipefs.lmdbenv import LmdbError, open_env, translate
from pipefs.statedir import quarantine
from xxhash import xxh3_64_digest, xxh3_64_intdigest

__all__ = ["FORMAT", "MAX_KEY_BYTES", "StateDB", "Txn", "View", "quarantine"]

log = logging.getLogger(__name__)

FORMAT = 1
"""Version of what the tables and the journal look like on disk."""

MAX_KEY_BYTES = 511
"""LMDB's bound for keys; a name (255) behind its parent's number (8) is far below."""

META = "meta"
_FORMAT_KEY = b"format"
_APPLIED_KEY = b"applied"
_DELETED = 0xFFFFFFFF
_OP = struct.Struct("<BHI")  # table, key length, stored length or _DELETED
_U64 = struct.Struct("<Q")
# xxh3-64 whole, not cut to 32 bits: 8 bytes beside values of about 200 are 4 %, cutting costs one
# more slice at each read, and 2^-32 a damaged value is too often for a disk that goes bad slowly.
_SUM_BYTES = 8


class _Table:
    __slots__ = ("handle", "name", "number", "seed")

    def __init__(self, name: str, number: int, handle: Any) -> None:
        self.name = name
        self.number = number
        self.handle = handle
        # A value that turns up under another table's name fails its checksum, too.
        self.seed = xxh3_64_intdigest(name.encode())


class _Dead:
    """Stands where a transaction was: every use says why there is none."""

    def __init__(self, kind: type[PipefsError], message: str) -> None:
        self._error = (kind, message)

    def __getattr__(self, name: str) -> Any:
        kind, message = self._error
        raise kind(message)


class _State:
    """What views share: the open LMDB transaction, which checkpoints replace, and the tables."""

    __slots__ = ("changes", "directory", "lmdb", "tables")

    def __init__(self, directory: Path, lmdb: Any, tables: dict[str, _Table]) -> None:
        self.directory = directory
        self.lmdb = lmdb
        self.tables = tables
        self.changes = 0  # counts everything that may move a cursor


_LEFT = _State(Path(), _Dead(Refused, "this view of the state was used after its block"), {})


# An operation of an update: table, key, stored value or None (deleted), what was stored before.
_Op = tuple[_Table, bytes, bytes | None, bytes | None]


class View:
    """Reads, inside `with db.view()` or `with db.update()`. Keys are 1 to 511 bytes.

    Every method raises Corrupt if a checksum or the structure does not fit, ValueError for a key
    out of bounds, KeyError for a table that the database was not opened with.
    """

    __slots__ = ("_state",)

    def __init__(self, state: _State) -> None:
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

    def __init__(self, state: _State) -> None:
        super().__init__(state)
        self._ops: list[_Op] = []

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


class StateDB:
    """One directory with one database, held by one process until `close`.

    Safe for threads: views and updates exclude each other and are short. Updates nest: an inner
    one joins the outer, and if only the inner one raises, only its own changes are undone.
    """

    def __init__(
        self,
        directory: Path,
        tables: Sequence[str],
        *,
        map_size_bytes: int = 64 << 30,
        checkpoint_bytes: int = 16 << 20,
    ) -> None:
        """Open or make the database in `directory` and replay its journal.

        Raises:
            Busy: another process has it. NewerFormat: a newer pipefs wrote it; nothing was
            touched. Corrupt: it is damaged (see `quarantine`). NoSpace: the disk is full.
        """
        if META in tables or len(set(tables)) != len(tables) or len(tables) > 255:
            raise ValueError(f"bad table names: {tables!r}")
        self.directory = directory
        self.checkpoint_bytes = checkpoint_bytes
        self._names = tuple(tables)
        self._closed = False
        # Order of locks: _checkpointing, _lock, the journal's sync lock.
        # _checkpointing: one checkpoint at a time, without keeping readers out while it prepares.
        self._checkpointing = threading.Lock()
        # _lock: the LMDB transaction, the appending end of the journal, and all fields below.
        self._lock = threading.RLock()
        self._views: list[View] = []
        self._txn: Txn | None = None
        self._marks: list[int] = []
        self._viewing = _Viewing(self)
        self._updating = _Updating(self)
        self._lock_fd = statedir.lock(directory)
        self._env: Any = None
        try:
            self._open(map_size_bytes)
        except BaseException:
            if self._env is not None:
                self._env.close()
            statedir.unlock(self._lock_fd)
            raise

    def view(self) -> AbstractContextManager[View]:
        """Read under the lock; updates of other threads wait until the block is left."""
        return self._viewing

    def update(self) -> AbstractContextManager[Txn]:
        """Change under the lock; leaving the block writes one journal record.

        An exception in the block undoes everything. So does a failure to write the record:
        NoSpace (the database stays usable) or Corrupt.
        """
        return self._updating

    def sync(self) -> None:
        """All updates that returned before this call are on disk afterwards.

        Raises Corrupt if the disk refuses; then nothing since the last sync is promised.
        """
        self._journal.sync()

    @property
    def checkpoint_due(self) -> bool:
        """Whether the journal is long enough for a checkpoint to be worth its while."""
        return self._journal.size_bytes >= self.checkpoint_bytes

    def checkpoint(self) -> None:
        """Move all updates from the journal into the database, synced, and start a new segment.

        Raises NoSpace if the disk is full; the database is as before and stays usable.
        """
        with self._lock:
            # Inside a block of this thread the transaction must not be replaced; and waiting for
            # _checkpointing under _lock would be the wrong order.
            if self._views or self._marks:
                raise RuntimeError("checkpoint inside a view or an update")
        with self._checkpointing:
            if self._closed:
                raise Refused(f"the state in {self.directory} is closed")
            if self._journal.sequence == self._applied:
                return
            following = self._journal.prepare()
            with self._lock:
                try:
                    self._commit_lmdb(self._journal.sequence)
                except BaseException:
                    self._journal.discard(following)
                    self._reload(())
                    raise
                self._journal.switch(following)
                self._checkpoint_at = 4 * self.checkpoint_bytes

    def close(self) -> None:
        """Checkpoint and let go of the directory. A second call does nothing.

        On a full disk the checkpoint is left out: the journal has everything.
        """
        if self._closed:
            return
        try:
            try:
                self.checkpoint()
            except NoSpace as e:
                log.warning("no checkpoint at closing, the journal is kept: %s", e)
                self._journal.sync()
        finally:
            with self._checkpointing, self._lock:
                if not self._closed:
                    self._closed = True
                    self._let_go()

    def _let_go(self) -> None:
        lmdb = self._state.lmdb
        self._state.lmdb = _Dead(Refused, f"the state in {self.directory} is closed")
        if not isinstance(lmdb, _Dead):
            lmdb.abort()
        self._journal.close()
        self._env.close()
        statedir.unlock(self._lock_fd)

    # -- opening and recovery ------------------------------------------------------------------

    def _open(self, map_size_bytes: int) -> None:
        directory = self.directory
        # First with our own table alone: making the others would already write to a database
        # that a newer pipefs may own.
        env, handles = open_env(
            directory, [META], map_size_bytes=map_size_bytes, sync=True, lock=False
        )
        try:
            statedir.check_length(directory, env)
            with env.begin() as txn:
                written = _meta(txn, handles[META], _FORMAT_KEY, directory)
        except LmdbError as e:
            raise translate(e, directory) from e
        finally:
            env.close()
        if written is not None and written > FORMAT:
            raise NewerFormat(
                f"state in {directory} was written by a newer pipefs "
                f"(format {written}; this one knows up to {FORMAT})",
                hint="upgrade pipefs on this machine",
            )
        self._env, handles = open_env(
            directory, [*self._names, META], map_size_bytes=map_size_bytes, sync=True, lock=False
        )
        self._meta_handle = handles[META]
        tables = {n: _Table(n, i, handles[n]) for i, n in enumerate(self._names)}
        self._state = _State(directory, None, tables)
        try:
            self._state.lmdb = self._env.begin(write=True)
            self._applied = _meta(self._state.lmdb, self._meta_handle, _APPLIED_KEY, directory) or 0
            last = self._replay()
            if last != self._applied or written is None:
                self._commit_lmdb(last)
        except LmdbError as e:
            raise translate(e, directory) from e
        self._journal = Journal(directory, self._names, self._applied)
        self._journal.remove_older()
        self._checkpoint_at = 4 * self.checkpoint_bytes

    def _replay(self) -> int:
        """Apply all journal records behind `_applied` to the open transaction; the last one."""
        last = self._applied
        for path in segment_paths(self.directory):
            contents = read_segment(path, last)
            tables = [self._state.tables.get(name) for name in contents.tables]
            for sequence, payload in contents.records:
                if sequence <= last:
                    continue
                if sequence != last + 1:
                    raise Corrupt(f"{path} starts at record {sequence}, but {last + 1} is missing")
                self._redo(_decode(payload, tables, path))
                last = sequence
        return last

    def _redo(self, ops: Iterator[tuple[_Table, bytes, bytes | None]]) -> None:
        lmdb = self._state.lmdb
        for t, key, stored in ops:
            if stored is None:
                lmdb.delete(key, b"", t.handle)
            else:
                lmdb.put(key, stored, db=t.handle)

    def _commit_lmdb(self, sequence: int) -> None:
        """Commit the transaction, synced, with `sequence` as its last record; begin the next."""
        state = self._state
        try:
            for key, number in ((_FORMAT_KEY, FORMAT), (_APPLIED_KEY, sequence)):
                value = _U64.pack(number)
                state.lmdb.put(key, xxh3_64_digest(key + value) + value, db=self._meta_handle)
            state.lmdb.commit()
            state.changes += 1
            self._applied = sequence
            state.lmdb = self._env.begin(write=True)
        except LmdbError as e:
            raise translate(e, self.directory) from e

    def _reload(self, ops: Sequence[_Op]) -> None:
        """Throw the LMDB transaction away, make it again from the journal, then `ops` on top.

        For when the transaction itself has failed (map or disk full), or may hold a change that
        the undo list does not know (a signal came between the two).
        """
        state = self._state
        state.changes += 1
        try:
            with contextlib.suppress(LmdbError):  # a failed commit has ended it already
                state.lmdb.abort()
            state.lmdb = self._env.begin(write=True)
            last = self._replay()
            if last != self._journal.sequence:
                raise Corrupt(f"the journal in {self.directory} ends early, at record {last}")
            self._redo((t, key, stored) for t, key, stored, _ in ops)
        except (LmdbError, PipefsError, OSError) as e:
            message = f"the state in {self.directory} could not be recovered: {e}"
            state.lmdb = _Dead(Corrupt, message)
            raise Corrupt(message, hint="restart: opening replays the journal") from e

    # -- leaving an update ---------------------------------------------------------------------

    def _undo(self, ops: list[_Op], mark: int, cause: BaseException) -> None:
        """Take back the operations behind `mark`."""
        doomed = ops[mark:]
        del ops[mark:]
        lmdb: Any = self._state.lmdb
        if isinstance(lmdb, _Dead):
            return
        if not isinstance(cause, Exception):
            self._reload(ops)
            return
        self._state.changes += 1
        try:
            for t, key, _, old in reversed(doomed):
                if old is None:
                    lmdb.delete(key, b"", t.handle)
                else:
                    lmdb.put(key, old, db=t.handle)
            # An operation that failed halfway leaves no undo entry but poisons the transaction.
            lmdb.stat(self._meta_handle)
        except LmdbError:
            self._reload(ops)

    def _write_record(self, ops: list[_Op]) -> None:
        before = self._journal.sequence
        try:
            self._journal.append(_encode(ops))
        except BaseException as e:
            if self._journal.sequence == before:
                self._undo(ops, 0, e)
            raise


class _Viewing(AbstractContextManager[View]):
    """What `with db.view()` enters; keeps its state in the database, so one serves all."""

    def __init__(self, db: StateDB) -> None:
        self._db = db

    def __enter__(self) -> View:
        db = self._db
        db._lock.acquire()
        view = View(db._state)
        db._views.append(view)
        return view

    def __exit__(self, *_: object) -> None:
        db = self._db
        db._views.pop()._state = _LEFT
        db._lock.release()


class _Updating(AbstractContextManager[Txn]):
    """What `with db.update()` enters; the marks in the database make it nest."""

    def __init__(self, db: StateDB) -> None:
        self._db = db

    def __enter__(self) -> Txn:
        db = self._db
        db._lock.acquire()
        txn = db._txn
        if txn is None:
            txn = db._txn = Txn(db._state)
        db._marks.append(len(txn._ops))
        return txn

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        db = self._db
        txn = db._txn
        assert txn is not None  # __enter__ put it there
        full = False
        try:
            mark = db._marks.pop()
            if error is not None:
                db._undo(txn._ops, mark, error)
            elif not db._marks and txn._ops:
                db._write_record(txn._ops)
                full = db._journal.size_bytes > db._checkpoint_at and not db._views
        finally:
            if not db._marks:
                db._txn = None
                txn._state = _LEFT
            db._lock.release()
        if full:
            _checkpoint_late(db)


def _checkpoint_late(db: StateDB) -> None:
    """Checkpoint because nobody did; the update has been answered for, so this never raises."""
    db._checkpoint_at = db._journal.size_bytes + db.checkpoint_bytes  # not at each update
    try:
        db.checkpoint()
    except PipefsError as e:
        log.warning("late checkpoint of %s failed: %s", db.directory, e)


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


def _encode(ops: list[_Op]) -> bytes:
    parts: list[bytes] = []
    for t, key, stored, _ in ops:
        if stored is None:
            parts += (_OP.pack(t.number, len(key), _DELETED), key)
        else:
            parts += (_OP.pack(t.number, len(key), len(stored)), key, stored)
    return b"".join(parts)


def _decode(
    payload: bytes, tables: Sequence[_Table | None], path: Path
) -> Iterator[tuple[_Table, bytes, bytes | None]]:
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


def _checked(state: _State, t: _Table, key: bytes, stored: bytes) -> bytes:
    value = stored[_SUM_BYTES:]
    if stored[:_SUM_BYTES] != xxh3_64_digest(key + value, t.seed):
        raise Corrupt(f"the value of {key!r} in table {t.name} of {state.directory} is damaged")
    return value


def _meta(txn: Any, handle: Any, key: bytes, directory: Path) -> int | None:
    stored: bytes | None = txn.get(key, None, handle)
    if stored is None:
        return None
    if len(stored) != 16 or stored[:8] != xxh3_64_digest(key + stored[8:]):
        raise Corrupt(f"the value of {key!r} in table {META} of {directory} is damaged")
    number: int = _U64.unpack(stored[8:])[0]
    return number


def _key_error(key: bytes) -> ValueError:
    return ValueError(f"a key must have 1 to {MAX_KEY_BYTES} bytes, this one has {len(key)}")


def _explain(e: LmdbError, state: _State, key: bytes) -> Exception:
    if not 0 < len(key) <= MAX_KEY_BYTES:
        return _key_error(key)
    return translate(e, state.directory)
