"""Durable local state of one pipe: tables of bytes, changed all together or not at all.

An LMDB environment with one long-lived write transaction, protected by a journal of physical redo
records (`pipefs.statedb.journal`). What it promises: an update that returned survives the death of
this process; after `sync` it survives power loss; an update that raised left nothing behind; a
reader sees whole updates only; every value is checked against its checksum when it is read. It must
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
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

from pipefs.errors import Corrupt, NewerFormat, NoSpace, PipefsError, Refused
from pipefs.lmdbenv import LmdbError, open_env, translate
from pipefs.statedb import statedir
from pipefs.statedb.bulk import Bulk
from pipefs.statedb.format import FORMAT_KEY, written_format
from pipefs.statedb.journal import Journal, read_segment, release_reserves, segment_paths
from pipefs.statedb.statedir import quarantine
from pipefs.statedb.tables import (
    LEFT,
    MAX_KEY_BYTES,
    META,
    Dead,
    Op,
    State,
    Table,
    Txn,
    View,
    decode,
    encode,
    read_meta,
    write_meta,
)

__all__ = ["FORMAT", "MAX_KEY_BYTES", "StateDB", "Txn", "View", "quarantine"]

log = logging.getLogger(__name__)

FORMAT = 1
"""Version of what the tables and the journal look like on disk."""

_APPLIED_KEY = b"applied"


class StateDB:
    """One directory with one database, held by one process until `close`.

    Safe for threads: views and updates exclude each other. Updates nest: an inner one joins the
    outer, and if only the inner one raises, only its own changes are undone.
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
        # One checkpoint at a time, without keeping readers out while it prepares.
        self._checkpointing = threading.Lock()
        # The LMDB transaction, the appending end of the journal, and all fields below.
        self._lock = threading.RLock()
        self._views: list[View] = []
        self._txn: Txn | None = None
        self._marks: list[int] = []
        self._viewing = _Viewing(self)
        self._updating = _Updating(self)
        self._lock_fd = statedir.lock(directory)
        try:
            self._open(map_size_bytes)
        except BaseException:
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

    @contextlib.contextmanager
    def bulk(self) -> Iterator[Bulk]:
        """Fill tables past the journal; a crash leaves a part of the rows. Excludes everybody."""
        self.checkpoint()
        with self._checkpointing, self._lock:
            bulk = Bulk(self._state, lambda: self._commit_lmdb(self._journal.sequence))
            try:
                yield bulk
                bulk.commit()
            except LmdbError as e:
                self._reload(())
                raise translate(e, self.directory) from e

    @property
    def checkpoint_due(self) -> bool:
        """Whether the journal is long enough for a checkpoint to be worth its while."""
        return self._journal.size_bytes >= self.checkpoint_bytes

    def checkpoint(self) -> None:
        """Move all updates from the journal into the database, synced, and start a new segment.

        Raises NoSpace if the disk is full; the database is as before and stays usable.
        """
        with self._lock:
            # The transaction of a block must not be replaced; and the order of locks is another.
            if self._views or self._marks:
                raise RuntimeError("checkpoint inside a view or an update")
        with self._checkpointing:
            if self._closed:
                raise Refused(f"the state in {self.directory} is closed")
            if self._journal.sequence == self._applied:
                return
            try:
                self._move_to_lmdb()
            except NoSpace:
                with self._lock:
                    self._journal.release()
                self._move_to_lmdb()

    def _move_to_lmdb(self) -> None:
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
            self.checkpoint()
        except NoSpace as e:
            log.warning("no checkpoint at closing, the journal is kept: %s", e)
            self._journal.sync()
        finally:
            self._let_go()

    def _let_go(self) -> None:
        with self._checkpointing, self._lock:
            if self._closed:
                return
            self._closed = True
            lmdb = self._state.lmdb
            self._state.lmdb = Dead(Refused, f"the state in {self.directory} is closed")
            if not isinstance(lmdb, Dead):
                lmdb.abort()
            self._journal.close()
            self._env.close()
            statedir.unlock(self._lock_fd)

    # -- opening and recovery ------------------------------------------------------------------

    def _open(self, map_size_bytes: int) -> None:
        directory = self.directory
        written = written_format(directory, map_size_bytes)
        if written is not None and written > FORMAT:
            newer = f"(format {written}; this one knows up to {FORMAT})"
            raise NewerFormat(
                f"state in {directory} was written by a newer pipefs {newer}",
                hint="upgrade pipefs on this machine",
            )
        self._env, handles = open_env(
            directory, [*self._names, META], map_size_bytes=map_size_bytes, sync=True, lock=False
        )
        try:
            self._recover(handles, fresh=written is None)
        except BaseException as e:
            self._env.close()
            if isinstance(e, LmdbError):
                raise translate(e, directory) from e
            raise

    def _recover(self, handles: dict[str, Any], *, fresh: bool) -> None:
        """Replay the journal into the database and start a new segment."""
        directory = self.directory
        self._meta_handle = handles[META]
        tables = {n: Table(n, i, handles[n]) for i, n in enumerate(self._names)}
        self._state = State(directory, None, tables)
        self._state.lmdb = self._env.begin(write=True)
        self._applied = read_meta(self._state.lmdb, handles[META], _APPLIED_KEY, directory) or 0
        last = self._replay()
        release_reserves(directory)
        if last != self._applied or fresh:
            self._commit_lmdb(last)
        # A new segment each time: behind a torn tail nothing may be appended.
        self._journal = Journal(
            directory, self._names, self._applied, reserve_bytes=self.checkpoint_bytes
        )
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
                self._redo(decode(payload, tables, path))
                last = sequence
        return last

    def _redo(self, ops: Iterator[tuple[Table, bytes, bytes | None]]) -> None:
        lmdb = self._state.lmdb
        for t, key, stored in ops:
            if stored is not None:
                lmdb.put(key, stored, db=t.handle)
            else:
                lmdb.delete(key, b"", t.handle)

    def _commit_lmdb(self, sequence: int) -> None:
        """Commit the transaction, synced, with `sequence` as its last record; begin the next."""
        state = self._state
        try:
            write_meta(state.lmdb, self._meta_handle, FORMAT_KEY, FORMAT)
            write_meta(state.lmdb, self._meta_handle, _APPLIED_KEY, sequence)
            state.lmdb.commit()
            state.changes += 1
            self._applied = sequence
            state.lmdb = self._env.begin(write=True)
        except LmdbError as e:
            if "Input/output error" in str(e) and statedir.is_full(self.directory):
                # LMDB reports a write that the full disk cut short as EIO.
                raise NoSpace(f"no space left for the database in {self.directory}") from e
            raise translate(e, self.directory) from e

    def _reload(self, ops: Sequence[Op]) -> None:
        """Throw the LMDB transaction away, make it again from the journal, then `ops` on top: it
        has failed (map or disk full), or may hold a change that the undo list does not know."""
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
            state.lmdb = Dead(Corrupt, message)
            raise Corrupt(message, hint="restart: opening replays the journal") from e

    # -- leaving an update ---------------------------------------------------------------------

    def _undo(self, ops: list[Op], mark: int, cause: BaseException) -> None:
        """Take back the operations behind `mark`."""
        doomed = ops[mark:]
        del ops[mark:]
        lmdb: Any = self._state.lmdb
        if isinstance(lmdb, Dead):
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
        except BaseException as e:
            self._reload(ops)
            if not isinstance(e, LmdbError):
                raise

    def _write_record(self, ops: list[Op]) -> None:
        before = self._journal.sequence
        try:
            self._journal.append(encode(ops))
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
        db._views.append(View(db._state))
        return db._views[-1]

    def __exit__(self, *_: object) -> None:
        db = self._db
        db._views.pop()._state = LEFT
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
                txn._state = LEFT
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
