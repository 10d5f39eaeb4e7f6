"""The embedded store: `file:///dir`, the versioned-store contract in a directory.

Layout, below the directory:

    a/b/c.csv                          the current object of key `a/b/c.csv`: a plain file
    .pipefs-store/versions/3f/3f…      the content of a version; named by the last 16 characters
                                       of its version id; written once and never changed
    .pipefs-store/index/data.mdb       LMDB: keys, versions, ETags (MD5), metadata, delete markers
    .pipefs-store/tmp/                 files of writes in flight

The plain file and the version's file never share an inode (a reflink where the disk can, else a
copy): whatever another tool does to a plain file, no version changes. A plain file that another
tool wrote, replaced or removed is noticed by its size and mtime at the next `get`, `head`, `list`
or write of that key, and becomes a new version or delete marker. Keys that are no file name (a
part that is empty, `.`, `..` or over 255 bytes; `a` beside `a/b`, whichever came second; anything
in `.pipefs-store/`) have no plain file, and are in every other way the same.

A write exists from the index transaction on, which is synced after the version's content and its
folder; a small content (16 KiB) travels in that transaction instead, and leaves the index once its
file has been synced with others (`local_recovery.settle`). Writers that wait at the same time
share a transaction (`local_commit`).

The plain file is put in place inside that transaction and is not synced: after a power loss, plain
files of the last minute are compared with the index and written again, so an outside edit of that
minute may be undone. Processes may share a directory on a local disk (LMDB's lock orders them); a
network file system is not supported.
"""

from __future__ import annotations

import builtins
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import quote

from pipefs.errors import Corrupt, NotFound
from pipefs.lmdbenv import Transaction
from pipefs.stores import local_files as files
from pipefs.stores.base import Capabilities, FileBody, Store, Undeleted
from pipefs.stores.local_draft import Draft, check_conditions
from pipefs.stores.local_errors import disk_errors
from pipefs.stores.local_index import Index, Record, close_index, open_index
from pipefs.stores.local_outside import Outside, mark_deleted
from pipefs.stores.local_recovery import FRESH_MAX_BYTES, SETTLE_AT, place, project, recover, settle
from pipefs.types import ObjectVersion

_AT_ONCE = 500
"""Versions removed in one transaction: writers wait for some milliseconds."""


class LocalStore(Store):
    """One directory with object versions. Thread-safe; usable after a fork."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        """Open the store, making its folders where they are missing.

        Raises:
            AccessDenied: the directory may not be written. NoSpace. Corrupt: the index is broken.
        """
        root = Path(os.path.abspath(directory))
        self.url = "file://" + quote(str(root))
        self._places = files.Places(root)
        self._outside = Outside(lambda: self._index, self._places)
        with self._errors("open"):
            root.mkdir(parents=True, exist_ok=True)
            self._places.create()
            self._opened = open_index(self._places.index)
            self._pid = os.getpid()
        with self._errors("open"):
            recover(self._index, self._places)

    def close(self) -> None:
        if self._pid != os.getpid():
            return
        with self._errors("close"):
            settle(self._index, self._places)
        close_index(self._places.index)

    @property
    def _index(self) -> Index:
        """The index, opened anew in a process that was forked since."""
        if self._pid != os.getpid():
            self._opened, self._pid = open_index(self._places.index), os.getpid()
        return self._opened

    def probe(self) -> Capabilities:
        writable = os.access(self._places.tmp, os.W_OK)
        return Capabilities(
            versioning=True,
            conditional_put=True,
            conditional_multipart=True,
            conditional_delete=True,
            checksums=True,
            writable=writable,
            versioning_state="Enabled",
            detail={} if writable else {"writable": f"{self._places.root} is read-only"},
        )

    # --- writing -----------------------------------------------------------------------------

    def put(
        self,
        key: str,
        body: bytes | FileBody,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str = "",
        if_match: str = "",
        if_none_match: bool = False,
    ) -> ObjectVersion:
        fresh = body if isinstance(body, bytes) and len(body) <= FRESH_MAX_BYTES else None

        def write(path: str) -> tuple[str, int]:
            if isinstance(body, FileBody):
                return files.write_body(path, body), body.size
            files.write_bytes(path, body, sync=fresh is None)
            return hashlib.md5(body, usedforsecurity=False).hexdigest(), len(body)

        draft = Draft(key, metadata or {}, content_type, if_match, if_none_match, fresh)
        with self._errors(f"put {key}"):
            if if_match or if_none_match:  # most losers learn it before the bytes are written
                draft.check(self._current(key))
            return self._add(draft, write)

    def copy(
        self,
        source: ObjectVersion,
        key: str,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str = "",
        if_none_match: bool = False,
    ) -> ObjectVersion:
        with self._errors(f"copy {source.key} to {key}"):
            record = self._find(source.key, source.version_id)

            def write(path: str) -> tuple[str, int]:
                files.clone(self._places.version(record.version_id), path, sync=True)
                return record.etag, record.size

            kept = record.metadata if metadata is None else metadata
            draft = Draft(key, kept, record.content_type, if_match, if_none_match)
            return self._add(draft, write)

    def _add(self, draft: Draft, write: Callable[[str], tuple[str, int]]) -> ObjectVersion:
        """Write the content by `write(path)`, then make it the current version."""
        content, plain = self._places.new_version(draft.nonce), self._places.temporary()
        try:
            draft.etag, draft.size = write(content)
            self._write_plain(draft, content, plain)
            while (record := self._index.change(lambda t: self._insert(t, draft, plain))) is None:
                self._outside.adopt(draft.key)
        except BaseException:
            # An interrupt may come after the commit.
            if not self._inserted(draft.key, draft.nonce):
                files.remove_quietly(content)
            raise
        finally:
            files.remove_quietly(plain)
        if draft.unsettled >= SETTLE_AT:
            settle(self._index, self._places)
        return record.version(is_latest=True)

    def _write_plain(self, draft: Draft, content: str, plain: str) -> None:
        """The plain file under a temporary name; a content that is not fresh gets durable."""
        if draft.fresh is None:
            self._places.sync_folders([content])
        if self._places.plain(draft.key) is None:
            return
        if draft.fresh is None:
            files.clone(content, plain, sync=False)
        else:
            files.write_bytes(plain, draft.fresh, sync=False)

    def _insert(self, txn: Transaction, draft: Draft, plain: str) -> Record | None:
        """Make the draft the current version; None where another tool's edit comes first."""
        current = self._index.current(txn, draft.key)
        if self._outside.edited(txn, draft.key, current):
            return None
        draft.check(current)
        stamp = self._index.next_stamp(txn, time.time_ns())
        record = draft.record(stamp, placed=place(self._places, plain, draft.key, stamp))
        self._index.add(txn, record)
        if draft.fresh is not None:
            draft.unsettled = self._index.add_fresh(txn, draft.nonce, draft.fresh)
        return record

    def _inserted(self, key: str, nonce: str) -> bool:
        with self._index.begin() as txn:
            newest = self._index.newest(txn, key)
        return newest is not None and newest.version_id.endswith(nonce)

    def delete(self, key: str, *, if_match: str = "") -> None:
        with self._errors(f"delete {key}"):
            while not self._index.change(lambda txn: self._delete(txn, key, if_match)):
                self._outside.adopt(key)

    def _delete(self, txn: Transaction, key: str, if_match: str) -> bool:
        """False where another tool's edit is to be taken in first."""
        current = self._index.current(txn, key)
        if self._outside.edited(txn, key, current):
            return False
        check_conditions(current, key, if_match)
        mark_deleted(self._index, txn, key)
        path = self._places.plain(key)
        if current is not None and current.placed and path is not None:
            self._places.remove(path)
        return True

    def delete_version(self, key: str, version_id: str) -> None:
        with self._errors(f"delete version {version_id} of {key}"):
            record = self._index.change(lambda txn: self._delete_version(txn, key, version_id))
            if record is not None and not record.deleted:
                files.remove_quietly(self._places.version(version_id))

    def delete_versions(self, items: Sequence[tuple[str, str]]) -> builtins.list[Undeleted]:
        """In one transaction for each `_AT_ONCE` of them."""
        for first in range(0, len(items), _AT_ONCE):
            some = items[first : first + _AT_ONCE]

            def remove(txn: Transaction, some: Sequence[tuple[str, str]] = some) -> list[Record]:
                found = [self._delete_version(txn, key, version_id) for key, version_id in some]
                return [record for record in found if record is not None]

            with self._errors(f"delete versions of {some[0][0]} and others"):
                for record in self._index.change(remove):
                    if not record.deleted:
                        files.remove_quietly(self._places.version(record.version_id))
        return []

    def _delete_version(self, txn: Transaction, key: str, version_id: str) -> Record | None:
        record = self._index.find(txn, key, version_id)
        if record is None:
            return None
        was_current = self._index.newest(txn, key) == record
        newest = self._index.remove(txn, record)
        if was_current:
            if record.placed and (path := self._places.plain(key)) is not None:
                self._places.remove(path)
            if newest is not None and not newest.deleted:
                self._index.add(txn, project(self._places, newest))
        return record

    # --- reading -----------------------------------------------------------------------------

    def _current(self, key: str) -> Record | None:
        """The current record, after a look at the plain file."""
        for _attempt in range(3):
            with self._index.begin() as txn:
                record = self._index.current(txn, key)
                if not self._outside.edited(txn, key, record):
                    return record
            # Outside the transaction, whose snapshot may be older than a put's rename.
            self._outside.adopt(key)
        with self._index.begin() as txn:
            return self._index.current(txn, key)

    def _find(self, key: str, version_id: str | None) -> Record:
        if version_id is None:
            record = self._current(key)
        else:
            with self._index.begin() as txn:
                record = self._index.find(txn, key, version_id)
        if record is None or record.deleted:
            which = f" version {version_id}" if version_id else ""
            raise NotFound(f"{self.url} has no object {key}{which}")
        return record

    def get(self, key: str, version_id: str | None, start: int, length: int) -> bytes:
        with self._errors(f"get {key}"):
            record = self._find(key, version_id)
            length = min(length, record.size - start)
            if length <= 0:
                return b""
            try:
                data = files.read_range(self._places.version(record.version_id), start, length)
            except FileNotFoundError:
                raise self._lost(record) from None
            if len(data) < length:
                raise self._lost(record)
            return data

    def _lost(self, record: Record) -> NotFound | Corrupt:
        with self._index.begin() as txn:
            if self._index.find(txn, record.key, record.version_id) is None:
                return NotFound(f"{self.url} has no object {record.key} any more")
        return Corrupt(
            f"the content of {record.key} version {record.version_id} is missing or cut short "
            f"in {self._places.side}"
        )

    def head(self, key: str, version_id: str | None = None) -> ObjectVersion:
        with self._errors(f"head {key}"):
            record = self._find(key, version_id)
            with self._index.begin() as txn:
                newest = self._index.newest(txn, key)
            return record.version(is_latest=newest is not None and newest == record)

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectVersion]:
        with self._errors(f"list {prefix}"):
            self._outside.adopt_below(prefix)
            for page in self._index.list_current(prefix, start_after):
                for record in page:
                    yield record.version(is_latest=True)

    def list_dirs(self, prefix: str = "") -> builtins.list[str]:
        with self._errors(f"list {prefix}"):
            self._outside.adopt_below(prefix)
            pages = self._index.level(prefix)
            return sorted(name for page in pages for name in page if isinstance(name, str))

    def list_versions(self, prefix: str = "", *, page: int = 1000) -> Iterator[ObjectVersion]:
        with self._errors(f"list versions {prefix}"):
            self._outside.adopt_below(prefix)
            previous = ""
            for records in self._index.list_versions(prefix):
                for record in records:
                    yield record.version(is_latest=record.key != previous)
                    previous = record.key

    def list_level_versions(self, prefix: str = "") -> Iterator[ObjectVersion | str]:
        with self._errors(f"list versions {prefix}"):
            self._outside.adopt_level(prefix)
            previous = ""
            for page in self._index.level(prefix, versions=True):
                for item in page:
                    if isinstance(item, str):
                        yield item
                    else:
                        yield item.version(is_latest=item.key != previous)
                        previous = item.key

    def _errors(self, doing: str) -> AbstractContextManager[None]:
        return disk_errors(self._places, doing)
