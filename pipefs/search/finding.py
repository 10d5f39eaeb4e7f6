"""Search in a pipe: names, metadata, columns, messages of snapshots, text; what is there and what
is gone.

    for hit in search(replica, home, "storms author:maria", 20):
        print(hit.path, hit.where, hit.piece)
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from pipefs.errors import StoreError, UsageError
from pipefs.home import Home, make_private
from pipefs.replica import Replica
from pipefs.search.index import FIELDS, Index
from pipefs.search.updating import Progress, Updater
from pipefs.search.words import fts_query
from pipefs.turns import turn

DEFAULT_LIMIT = 50
_WAIT_S = 600.0
_MARKS = ("\x02", "\x03")


@dataclass(frozen=True, slots=True)
class Hit:
    """Something that was found."""

    path: str
    """"" for a snapshot of the whole pipe."""
    kind: str
    """file, dir, symlink, special, or snapshot."""
    where: tuple[str, ...]
    """What matched: name, metadata, columns, message, text."""
    piece: str
    """A few words around what matched; of a name, the name."""
    deleted: bool = False
    """It is not there any more; its versions are, if the store keeps them."""
    version: str = ""
    """As `Item.version`; of a snapshot its id."""
    size: int = 0
    mtime_ns: int = 0
    metadata: Mapping[str, object] | None = None
    """Of a snapshot: tags, message, author and metrics."""


class Hits(list[Hit]):
    """What was found, the best first, and how current that is."""

    since_ns: int = 0
    """When the index had all names that the pipe had then."""
    offline: str = ""
    """Why it could not be brought forward; "" if it was."""
    waiting: int = 0
    """Files whose contents are still to be read."""


def search(
    replica: Replica,
    home: Home,
    query: str,
    limit: int = DEFAULT_LIMIT,
    *,
    offline: bool = False,
    cached: bool = True,
    progress: Progress = lambda _done, _all: None,
) -> Hits:
    """Find files, folders and snapshots; the index is brought forward first.

    Args:
        query: words, all of which must be there, each also as the beginning of one; `"…"`,
            `-without`, `name:` `text:` `column:` `message:`, and `KEY:VALUE` of metadata.
        offline: ask the store nothing. Without it, a store that is out of reach is no error
            either, once there is an index: `Hits.offline` says so.
        cached: what other tools wrote is known as of the last listing, at most five minutes ago;
            False lists the pipe now.
    Raises:
        UsageError: no query. StoreError: nothing is indexed yet, and the store is out of reach.
    """
    expression = fts_query(query)
    folder = make_private(replica.folder)
    del home  # the replica's own: where the index lies beside it
    index = Index(folder / "search.sqlite")
    try:
        problem = "asked not to" if offline else ""
        if not offline:
            try:
                with turn(folder / "search.turn", _WAIT_S, f"the index of {replica.pipe.name}"):
                    _bring_forward(replica, index, cached, progress)
            except StoreError as e:
                if index.position() is None:
                    raise
                problem = e.message
        hits = Hits(_hit(row) for row in _found(index, expression, limit))
        hits.since_ns, hits.offline = int(index.fact("at") or 0), problem
        hits.waiting = index.waiting()
        return hits
    finally:
        index.close()


def _bring_forward(replica: Replica, index: Index, cached: bool, progress: Progress) -> None:
    updater = Updater(replica, index)
    updater.names(cached=cached)
    updater.contents(progress)


def _found(index: Index, expression: str, limit: int) -> list[sqlite3.Row]:
    try:
        return index.find(expression, limit, _MARKS)
    except sqlite3.OperationalError as e:
        raise UsageError(f"that cannot be searched for: {e}") from e


def _hit(row: sqlite3.Row) -> Hit:
    where = tuple(name for name in FIELDS if _MARKS[0] in (row[f"{name}_piece"] or ""))
    metadata = json.loads(row["metadata"] or "{}")
    snapshot = row["kind"] == "snapshot"
    return Hit(
        path=metadata.get("path", "") if snapshot else row["path"],
        kind=row["kind"],
        where=where,
        piece=_piece(row, where),
        deleted=not row["live"],
        version=row["version"] or "",
        size=row["size"] or 0,
        mtime_ns=row["mtime_ns"] or 0,
        metadata=metadata or None,
    )


def _piece(row: sqlite3.Row, where: tuple[str, ...]) -> str:
    """Of the field that says most: a name is shown anyway."""
    for name in ("columns", "message", "metadata", "text"):
        if name in where:
            return " ".join(str(row[f"{name}_piece"]).translate(_NO_MARKS).split())
    return ""


_NO_MARKS = {ord(mark): None for mark in _MARKS}
