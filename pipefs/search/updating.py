"""The index brought forward: names first, from the commit log; then what is in new files.

Names are found as soon as they are known; files are read newest first, many at once, and what was
read stays when the work is interrupted.
"""

from __future__ import annotations

import itertools
import json
import logging
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from pipefs.catalog import OPS, Catalog
from pipefs.commits import CommitLog, LogReplaced, Position
from pipefs.descriptor import who
from pipefs.errors import AccessDenied, Corrupt, NotFound, Unsupported
from pipefs.keys import names_of
from pipefs.objects.metadata import meta_of
from pipefs.past.levels import is_hidden
from pipefs.replica import Replica
from pipefs.replicated import Item, Now, to_path
from pipefs.search.index import CONTENT, METADATA, TEXT_LIMIT_BYTES, Index, Todo
from pipefs.search.reading import is_worth_reading, words_of
from pipefs.stores.base import Store

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with files read so far and files to read in all."""

MAX_COMMITS = 200
"""Behind by more, the index is compared with the whole tree: cheaper than so many requests."""
MAX_VERSIONS = 100_000
"""Of the store's versions, looked at once for files that are gone: a hundred requests."""
_AT_ONCE = 16
_BATCH = 64
_NAMES = 2000


class Updater:
    """Brings one index forward. Needs the store; see `Replica.opened` for errors."""

    def __init__(self, replica: Replica, index: Index) -> None:
        self._replica = replica
        self._index = index

    def names(self, *, cached: bool = True) -> None:
        """All names, attributes and snapshots of now; which files are to be read."""
        with self._replica.opened(cached) as now:
            here, untold = now.position(), not now.capabilities.writable
        known = self._index.position()
        touched = None if known is None or untold else self._touched(known, here)
        if touched is None:
            self._compare_all()
        elif touched or known != here:
            self._compare(touched)
        if known is None:
            self._look_back()

    def contents(self, progress: Progress = lambda _done, _all: None) -> None:
        """What is in the files that are still to be read."""
        total, done = self._index.waiting(), 0
        room = TEXT_LIMIT_BYTES - self._index.text_bytes()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            while batch := self._index.todo(_BATCH):
                found = list(pool.map(self._read, batch))
                with self._index.change():
                    for todo, (columns, text, metadata) in zip(batch, found, strict=True):
                        room -= len(text)
                        self._index.learn(todo.id, columns, text if room > 0 else "", metadata)
                done += len(batch)
                progress(done, max(total, done))

    # --- names --------------------------------------------------------------------------------

    def _touched(self, known: Position, here: Position) -> set[tuple[str, bool]] | None:
        """Paths that the commits since name, and whether all that is below may have changed;
        None: look at everything."""
        if known.epoch != here.epoch or not 0 <= here.number - known.number <= MAX_COMMITS:
            return None
        log_ = CommitLog(self._replica.store, author=who(), writer=uuid.uuid4().hex)
        touched: set[tuple[str, bool]] = set()
        try:
            while known.number < here.number:
                found = log_.after(known)
                if found is None:
                    return None
                for change in found.commit.changes:
                    if change.op in OPS:
                        continue
                    whole = change.op in ("move", "delete", "link")
                    touched |= {(_path(p), whole) for p in (change.path, change.source) if p}
                known = Position(found.commit.epoch, found.commit.number, found.digest)
        except (LogReplaced, Corrupt):
            return None
        return touched

    def _compare(self, touched: set[tuple[str, bool]]) -> None:
        with self._replica.opened(offline=True) as now:
            fresh: list[Item] = []
            gone: set[str] = set()
            for path, whole in touched:
                known = self._index.paths(path)
                if not whole:
                    known = {p: k for p, k in known.items() if p == path}
                there = list(_at(now, path, whole))
                gone |= known.keys() - {i.path for i in there}
                fresh += [i for i in there if known.get(i.path) != _row(i)]
            snapshots = list(_told(now.catalog()))
            at = now.position()
        with self._index.change():
            self._change(fresh, gone)
            self._index.put_snapshots(snapshots)
            self._index.reached(at)

    def _compare_all(self) -> None:
        known = self._index.paths()
        seen: set[str] = set()
        with self._replica.opened(offline=True) as now, self._index.change():
            items = now.walk()
            while batch := list(itertools.islice(items, _NAMES)):
                seen |= {i.path for i in batch}
                self._change([i for i in batch if known.get(i.path) != _row(i)], ())
            self._change((), known.keys() - seen)
            self._index.put_snapshots(_told(now.catalog()))
            self._index.reached(now.position())

    def _change(self, fresh: Iterable[Item], gone: Iterable[str]) -> None:
        for path in gone:
            self._index.gone(path)
        for item in fresh:
            self._index.put(item, _todo(item))

    def _look_back(self) -> None:
        """Files that were there before the index was made: from the store's own versions."""
        found: dict[str, Item] = {}
        try:
            store = self._replica.store
            for version in itertools.islice(store.list_versions(""), MAX_VERSIONS):
                path = to_path(names_of(version.key))
                if version.is_delete_marker or version.key.endswith("/") or path in found:
                    continue
                if not is_hidden(store, version.key):
                    found[path] = Item(
                        path=path,
                        kind="file",
                        size=version.size,
                        mtime_ns=version.last_modified_ns,
                        key=version.key,
                        version_id=version.version_id,
                        etag=version.etag,
                    )
        except Unsupported:
            return
        with self._index.change():
            for item in found.values():
                self._index.put_past(item)

    # --- contents -----------------------------------------------------------------------------

    def _read(self, todo: Todo) -> tuple[list[str], str, dict[str, object] | None]:
        store, item = self._replica.store, todo.item
        columns: list[str] = []
        text = ""
        metadata: dict[str, object] | None = None
        try:
            if todo.what & METADATA:
                metadata = _said(store, item)
            if todo.what & CONTENT:
                names, text = words_of(item.path, item.size, _reader(store, item))
                columns = list(names)
        except (NotFound, AccessDenied, Corrupt, Unsupported) as e:
            # Of this file alone: it is gone, or not to be read by us. It is found by its name.
            log.info("%s is not searched: %s", item.path, e)
        return columns, text, metadata


def _reader(store: Store, item: Item) -> Callable[[int, int], bytes]:
    return lambda start, length: store.get(item.key, item.version_id, start, length)


def _said(store: Store, item: Item) -> dict[str, object]:
    return dict(meta_of(store.head(item.key, item.version_id).metadata))


def _path(text: str) -> str:
    return to_path(names_of(text))


def _at(now: Now, path: str, whole: bool) -> Iterator[Item]:
    if whole:
        return now.walk(path)
    found = now.entry(path)
    return iter([found] if found is not None else [])


def _row(item: Item) -> tuple[str, str, str]:
    """What tells whether the index has an item as it is; as `Index.paths`."""
    return item.kind, item.version, json.dumps(item.metadata)


def _todo(item: Item) -> int:
    if not item.is_file or not item.version:
        return 0
    what = CONTENT if is_worth_reading(item.path, item.size) else 0
    # pipefs, rclone and s3fs keep modes and say nothing else: only who does not may have.
    return what | METADATA if item.mode is None and not item.metadata else what


def _told(catalog: Catalog) -> Iterator[tuple[str, str, str, int, dict[str, str]]]:
    for snapshot in catalog.kept():
        body = snapshot.body
        said = {"author": body.author, "path": body.path, **body.metrics}
        tags = " ".join(snapshot.tags)
        plain = {key: value for key, value in said.items() if value}
        yield snapshot.id, tags, body.message, _ns(body.time), plain


def _ns(utc: str) -> int:
    try:
        return int(datetime.fromisoformat(utc).timestamp()) * 10**9
    except ValueError:
        return 0
