"""The index of one pipe: a SQLite database of what can be found, and what of it is still to read.

    docs   one row a file or directory, of the present or gone, and a snapshot
    texts  FTS5, the same row numbers: name, metadata, columns, message, text
    facts  the place in the commit log, when it was reached

Several processes may have it open; each change is a transaction of its own. Whatever is wrong with
the file, it is made anew.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipefs.commits import Position
from pipefs.replicated import Item
from pipefs.times import int64_ns

FORMAT = "2"
TEXT_LIMIT_BYTES = 512 << 20
"""Text kept for a pipe; what comes later is found by name only."""
_WAIT_S = 60.0

FIELDS = ("name", "metadata", "columns", "message", "text")
CONTENT, METADATA = 1, 2
"""What of a file is still to be read: its bytes, its object's metadata."""

_TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE docs (
    id INTEGER PRIMARY KEY, path TEXT NOT NULL, kind TEXT NOT NULL, live INTEGER NOT NULL,
    key TEXT, version TEXT, version_id TEXT, etag TEXT, size INTEGER, mtime_ns INTEGER,
    attributes TEXT, metadata TEXT, todo INTEGER NOT NULL, text_bytes INTEGER NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX docs_path ON docs (path) WHERE kind != 'snapshot';
CREATE INDEX docs_todo ON docs (mtime_ns) WHERE todo != 0;
CREATE VIRTUAL TABLE texts USING fts5 (
    name, metadata, columns, message, text, tokenize = "unicode61 remove_diacritics 2");
"""


@dataclass(frozen=True, slots=True)
class Todo:
    """A file that is still to be read."""

    id: int
    item: Item
    what: int


class Index:
    """One open index. Not thread-safe."""

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            self._db = self._opened()
        except sqlite3.DatabaseError:
            for end in ("", "-wal", "-shm"):
                file.with_name(file.name + end).unlink(missing_ok=True)
            self._db = self._opened()

    def _opened(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._file, timeout=_WAIT_S, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            # A cache: what a power cut takes is read again.
            db.execute("PRAGMA synchronous = OFF")
            self._make(db)
        except BaseException:
            db.close()
            raise
        return db

    @staticmethod
    def _make(db: sqlite3.Connection) -> None:
        if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'facts'").fetchone():
            found = db.execute("SELECT value FROM facts WHERE name = 'format'").fetchone()
            if found == (FORMAT,):
                return
            raise sqlite3.DatabaseError("another format")
        db.executescript(f"BEGIN IMMEDIATE; {_TABLES} COMMIT;")
        db.execute("INSERT INTO facts VALUES ('format', ?)", (FORMAT,))

    def close(self) -> None:
        self._db.close()

    @contextlib.contextmanager
    def change(self) -> Iterator[None]:
        """All that is done in the block, or nothing."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # --- facts --------------------------------------------------------------------------------

    def fact(self, name: str) -> str:
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else ""

    def set_fact(self, name: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def position(self) -> Position | None:
        """The place in the log that the index is at; None: it is new."""
        said = self.fact("position")
        return Position(*json.loads(said)) if said else None

    def reached(self, position: Position) -> None:
        """The index has all that the tree had there, names at least."""
        self.set_fact("position", json.dumps([position.epoch, position.number, position.digest]))
        self.set_fact("at", str(time.time_ns()))

    # --- paths --------------------------------------------------------------------------------

    def paths(self, prefix: str = "") -> dict[str, tuple[str, str, str]]:
        """What the index has at and below a path as present: path → (kind, version, attributes)."""
        where = "live AND kind != 'snapshot'"
        columns = "SELECT path, kind, version, attributes FROM docs WHERE"
        if not prefix:
            rows = self._db.execute(f"{columns} {where}")
        else:
            below = (prefix, prefix + "/", prefix + "0")  # "0" is the character after "/"
            rows = self._db.execute(
                f"{columns} {where} AND (path = ? OR path >= ? AND path < ?)", below
            )
        return {path: (kind, version, attributes) for path, kind, version, attributes in rows}

    def put(self, item: Item, todo: int) -> None:
        """An item of the present, in the place of what the index had at its path."""
        self._drop(item.path)
        self._add_item(item, todo, live=1)

    def gone(self, path: str) -> None:
        """It is there no more; a file can still be found, and where it was."""
        self._db.execute(
            "UPDATE docs SET live = 0, todo = 0 WHERE kind != 'snapshot' AND path = ?", (path,)
        )
        for (doc,) in self._db.execute(
            "SELECT id FROM docs WHERE kind = 'dir' AND path = ?", (path,)
        ).fetchall():
            self._delete(doc)

    def put_past(self, item: Item) -> None:
        """A file that was there once, of which the index knows nothing better."""
        known = self._db.execute(
            "SELECT 1 FROM docs WHERE kind != 'snapshot' AND path = ?", (item.path,)
        )
        if known.fetchone() is None:
            self._add_item(item, 0, live=0)

    def _add_item(self, item: Item, todo: int, *, live: int) -> None:
        said = json.dumps(item.metadata)
        doc = {
            "path": item.path,
            "kind": item.kind,
            "live": live,
            "key": item.key,
            "version": item.version,
            "version_id": item.version_id,
            "etag": item.etag,
            "size": item.size,
            "mtime_ns": int64_ns(item.mtime_ns),
            "attributes": said,
            "metadata": said,
            "todo": todo,
        }
        self._add(doc, {"name": item.path, "metadata": as_text(item.metadata)})

    def put_snapshots(self, found: Iterable[tuple[str, str, str, int, Mapping[str, str]]]) -> None:
        """All snapshots there are: (id, tags, message, time, what else is said of it)."""
        for (doc,) in self._db.execute("SELECT id FROM docs WHERE kind = 'snapshot'").fetchall():
            self._delete(doc)
        for snapshot, tags, message, time_ns, said in found:
            told = {"tags": tags, "message": message, **said}
            doc = {
                "path": snapshot,
                "kind": "snapshot",
                "live": 1,
                "version": snapshot,
                "mtime_ns": int64_ns(time_ns),
                "metadata": json.dumps(told),
                "todo": 0,
            }
            name = f"{tags} {snapshot[:7]}"
            self._add(doc, {"name": name, "metadata": as_text(said), "message": message})

    def _drop(self, path: str) -> None:
        for (doc,) in self._db.execute(
            "SELECT id FROM docs WHERE kind != 'snapshot' AND path = ?", (path,)
        ).fetchall():
            self._delete(doc)

    def _delete(self, doc: int) -> None:
        self._db.execute("DELETE FROM docs WHERE id = ?", (doc,))
        self._db.execute("DELETE FROM texts WHERE rowid = ?", (doc,))

    def _add(self, doc: Mapping[str, object], texts: Mapping[str, str]) -> None:
        holes = ", ".join("?" * len(doc))
        done = self._db.execute(
            f"INSERT INTO docs ({', '.join(doc)}) VALUES ({holes})",
            [_storable(v) if isinstance(v, str) else v for v in doc.values()],
        )
        self._db.execute(
            "INSERT INTO texts (rowid, name, metadata, columns, message, text) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (done.lastrowid, *(_storable(texts.get(field, "")) for field in FIELDS)),
        )

    # --- contents -----------------------------------------------------------------------------

    def todo(self, limit: int) -> list[Todo]:
        """Files that are still to be read, the newest first."""
        rows = self._db.execute(
            "SELECT id, path, key, version_id, etag, size, mtime_ns, todo FROM docs "
            "WHERE todo != 0 ORDER BY mtime_ns DESC LIMIT ?",
            (limit,),
        )
        return [
            Todo(
                doc,
                Item(
                    path=path,
                    kind="file",
                    size=size,
                    mtime_ns=mtime_ns,
                    key=key,
                    version_id=version_id,
                    etag=etag,
                ),
                what,
            )
            for doc, path, key, version_id, etag, size, mtime_ns, what in rows
        ]

    def waiting(self) -> int:
        """How many files are still to be read."""
        return int(self._db.execute("SELECT count(*) FROM docs WHERE todo != 0").fetchone()[0])

    def text_bytes(self) -> int:
        return int(self._db.execute("SELECT total(text_bytes) FROM docs").fetchone()[0])

    def learn(
        self, doc: int, columns: Iterable[str], text: str, metadata: Mapping[str, object] | None
    ) -> None:
        """What is in a file. Of a row that is gone meanwhile nothing is kept."""
        found = self._db.execute("UPDATE docs SET todo = 0, text_bytes = ? WHERE id = ?",
                                 (len(text), doc))  # fmt: skip
        if not found.rowcount:
            return
        self._db.execute(
            "UPDATE texts SET columns = ?, text = ? WHERE rowid = ?",
            (_storable("\n".join(columns)), _storable(text), doc),
        )
        if metadata:
            said = (json.dumps(metadata), doc)
            self._db.execute("UPDATE docs SET metadata = ? WHERE id = ?", said)
            self._db.execute(
                "UPDATE texts SET metadata = ? WHERE rowid = ?", (as_text(metadata), doc)
            )

    # --- finding ------------------------------------------------------------------------------

    def find(self, query: str, limit: int, marks: tuple[str, str]) -> list[sqlite3.Row]:
        """Rows of docs that an FTS5 query matches, the best first, what is present before what is
        gone; each with a piece of every field, what matched between the marks.

        Raises:
            sqlite3.OperationalError: it is no query.
        """
        pieces = ", ".join(
            f"snippet(texts, {n}, ?, ?, '…', 12) AS {name}_piece" for n, name in enumerate(FIELDS)
        )
        self._db.row_factory = sqlite3.Row
        return self._db.execute(
            f"SELECT docs.*, {pieces} FROM texts JOIN docs ON docs.id = texts.rowid "
            "WHERE texts MATCH ? ORDER BY docs.live DESC, bm25(texts, 10, 6, 6, 8, 1), "
            "docs.mtime_ns DESC LIMIT ?",
            (*(marks * len(FIELDS)), query, limit),
        ).fetchall()


def as_text(metadata: Mapping[str, object]) -> str:
    """Metadata as a text in which `key:"value"` is a phrase."""
    lines = []
    for key, value in metadata.items():
        told = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        lines.append(f"{key} {told}")
    return _storable("\n".join(lines))


def _storable(text: str) -> str:
    """SQLite takes only what UTF-8 can hold."""
    return text.encode("utf-8", "replace").decode()
