"""What each file was when folder and pipe were last in step: one SQLite file a folder and pipe.

It is a memory, not a truth: without it, files that are equal on both sides are found by comparing
them. One pull or push of a folder runs at a time; the others are told to wait. Used by one thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType

from pipefs.errors import Busy, Corrupt, NoSpace, PipefsError
from pipefs.folder.states import Known
from pipefs.home import Home, make_private

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    path BLOB PRIMARY KEY,      -- bytes of the name in the folder
    size INTEGER NOT NULL,      -- of the local file; -1: not in step, only the version is known
    mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL,
    version TEXT,               -- of the pipe's file
    etag TEXT NOT NULL,
    checksum TEXT NOT NULL,
    synced_ns INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_FORMAT = 1


def record_file(home: Home, folder: str, pipe_id: str) -> Path:
    """Where the record of a folder and pipe is."""
    place = os.fsencode(os.path.realpath(folder))
    digest = hashlib.sha256(pipe_id.encode() + b"\0" + place).hexdigest()[:24]
    return home.state / "folders" / f"{digest}.sqlite"


class Record:
    """The record of one folder and pipe; a context manager.

    Args:
        alone: for who changes anything: nobody else may meanwhile.
    Raises:
        Busy: another pull or push of this folder runs.
        Corrupt: the file is no record.
    """

    def __init__(self, home: Home, folder: str, pipe_id: str, *, alone: bool = True) -> None:
        self.file = record_file(home, folder, pipe_id)
        make_private(self.file.parent)
        self._lock = _lock(self.file, folder) if alone else -1
        try:
            self._db = sqlite3.connect(self.file, isolation_level=None)
            self._prepare(folder)
        except sqlite3.DatabaseError as e:
            self._unlock()
            raise _told(self.file, e) from e

    def _prepare(self, folder: str) -> None:
        # What a power loss takes is found again by comparing.
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(_SCHEMA)
        if int(self.fact("format") or _FORMAT) > _FORMAT:
            raise sqlite3.DatabaseError("it was written by a newer pipefs")
        if self._lock >= 0 and not self.fact("folder"):
            self.note({"format": str(_FORMAT), "folder": os.path.realpath(folder)})

    def __enter__(self) -> Record:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @property
    def is_alone(self) -> bool:
        """Whether it may be changed."""
        return self._lock >= 0

    # --- files --------------------------------------------------------------------------------

    def known(self) -> dict[str, Known]:
        """All of it, by path."""
        try:
            rows = self._db.execute(
                "SELECT path, size, mtime_ns, ctime_ns, version, etag, checksum, synced_ns "
                "FROM files"
            )
            return {os.fsdecode(path): Known(*rest) for path, *rest in rows}
        except sqlite3.DatabaseError as e:
            raise _told(self.file, e) from e

    def put(self, items: Mapping[str, Known]) -> None:
        """Files that are in step now; durable soon."""
        with self._transaction():
            self._db.executemany(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        os.fsencode(path),
                        k.size,
                        k.mtime_ns,
                        k.ctime_ns,
                        k.version,
                        k.etag,
                        k.checksum,
                        k.synced_ns,
                    )
                    for path, k in items.items()
                ],
            )

    def forget(self, paths: Iterable[str]) -> None:
        """Files that are on neither side any more."""
        with self._transaction():
            self._db.executemany(
                "DELETE FROM files WHERE path = ?", [(os.fsencode(p),) for p in paths]
            )

    # --- facts --------------------------------------------------------------------------------

    def fact(self, name: str) -> str:
        """A fact about the folder, "" if it was never noted."""
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row is not None else ""

    def note(self, facts: Mapping[str, str]) -> None:
        with self._transaction():
            self._db.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", list(facts.items()))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk has ended it already
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.DatabaseError as e:
            raise _told(self.file, e) from e


def _lock(file: Path, folder: str) -> int:
    fd = os.open(file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise Busy(
            f"another pull or push of {folder} is running",
            hint="Wait until it is done, then again",
        ) from None
    return fd


def _told(file: Path, error: sqlite3.DatabaseError) -> PipefsError:
    """A full disk and a record that is in use must not be taken for a damaged one."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return NoSpace(
            f"{file} cannot be written: {error}",
            hint="Make room there, then again: what was moved is found by comparing",
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Busy(f"{file} is in use: {error}", hint="Wait until it is done, then again")
    return Corrupt(
        f"{file} cannot be read: {error}",
        hint="Delete it: files that are equal on both sides are found by comparing them",
    )
