"""Index of the embedded store: which versions a key has, newest first, and which is current.

One LMDB environment a directory, opened once a process however many stores use it, and opened
anew after a fork. A synced transaction is the moment at which a write exists; LMDB's write lock
orders the writers of all processes. No read transaction outlives a page of `PAGE` entries.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Generator, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from pipefs.lmdbenv import Transaction, open_env
from pipefs.stores.local_commit import GroupCommit
from pipefs.types import ObjectVersion

PAGE = 1000
# Sparse: about 400 bytes a version, so this holds a hundred million of them.
MAP_SIZE_BYTES = 64 << 30
# LMDB keys hold 511 bytes, ours 1,024: a long key is cut here and its hash follows. Cut keys are
# longer than all others (CUT + 32), so the two kinds cannot meet.
_CUT = 440


class Record(msgspec.Struct, frozen=True, array_like=True):
    """One version or delete marker. New fields go at the end, with defaults."""

    key: str
    version_id: str
    etag: str
    size: int
    modified_ns: int
    """Unique and growing in a store: the order of its versions."""
    deleted: bool = False
    metadata: dict[str, str] = {}
    content_type: str = ""
    placed: bool = False
    """The key has a plain file while this version is current."""
    plain_mtime_ns: int = 0
    """The plain file's mtime: ours, or the one of the outside edit that made this version."""

    def version(self, *, is_latest: bool) -> ObjectVersion:
        return ObjectVersion(
            key=self.key,
            version_id=self.version_id,
            etag=self.etag,
            size=self.size,
            last_modified_ns=self.modified_ns,
            is_latest=is_latest,
            is_delete_marker=self.deleted,
            metadata=self.metadata,
        )


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Record).decode


def index_key(key: str) -> bytes:
    """Keeps byte order, except among keys that share their first 440 bytes and are longer."""
    raw = key.encode()
    return raw if len(raw) <= _CUT else raw[:_CUT] + hashlib.sha256(raw).digest()


def _version_key(key: str, modified_ns: int) -> bytes:
    return index_key(key) + b"\0" + (0xFFFFFFFFFFFFFFFF - modified_ns).to_bytes(8, "big")


class Index:
    """The tables of one store directory. `open_index` hands them out."""

    def __init__(self, directory: Path) -> None:
        self.env, tables = open_env(
            directory,
            ("current", "versions", "meta", "fresh"),
            map_size_bytes=MAP_SIZE_BYTES,
            sync=True,
        )
        self._current = tables["current"]
        self._versions = tables["versions"]
        self._meta = tables["meta"]
        self._fresh = tables["fresh"]
        self.change = GroupCommit(self.env).run
        self.settling = threading.Lock()
        """Held by the one thread that syncs small contents."""

    def begin(self) -> Transaction:
        """A read transaction as a context manager; all writes go through `change`."""
        return self.env.begin(buffers=False)

    def get_meta(self, txn: Transaction, name: str) -> str:
        value = txn.get(name.encode(), db=self._meta)
        return bytes(value).decode() if value is not None else ""

    def put_meta(self, txn: Transaction, name: str, value: str) -> None:
        txn.put(name.encode(), value.encode(), db=self._meta)

    def current(self, txn: Transaction, key: str) -> Record | None:
        """The newest record of the key, unless there is none or it is a delete marker."""
        value = txn.get(index_key(key), db=self._current)
        return None if value is None else _decode(value)

    def find(self, txn: Transaction, key: str, version_id: str) -> Record | None:
        """Exactly that version or delete marker."""
        try:
            modified_ns = int(version_id[:16], 16)
            value = txn.get(_version_key(key, modified_ns), db=self._versions)
        except (ValueError, OverflowError):
            return None
        record = _decode(value) if value is not None else None
        return record if record and (record.key, record.version_id) == (key, version_id) else None

    def newest(self, txn: Transaction, key: str) -> Record | None:
        """The newest version or delete marker of the key."""
        start = index_key(key) + b"\0"
        with txn.cursor(db=self._versions) as cursor:
            found = cursor.set_range(start)
            while found and bytes(cursor.key()).startswith(start):
                record: Record = _decode(cursor.value())
                if record.key == key:
                    return record
                found = cursor.next()
        return None

    def next_stamp(self, txn: Transaction, now_ns: int) -> int:
        """A `modified_ns` above every earlier one of the store, whatever the clock did."""
        last = self.get_meta(txn, "last")
        stamp = max(now_ns, int(last) + 1 if last else 0)
        self.put_meta(txn, "last", str(stamp))
        return stamp

    def add(self, txn: Transaction, record: Record) -> None:
        """Make it the newest of its key, or change what is noted about the newest."""
        txn.put(_version_key(record.key, record.modified_ns), _encode(record), db=self._versions)
        self._set_current(txn, record)

    def remove(self, txn: Transaction, record: Record) -> Record | None:
        """Forget a version; the record that is now the newest of the key."""
        txn.delete(_version_key(record.key, record.modified_ns), db=self._versions)
        newest = self.newest(txn, record.key)
        if newest is None:
            txn.delete(index_key(record.key), db=self._current)
        else:
            self._set_current(txn, newest)
        return newest

    def add_fresh(self, txn: Transaction, nonce: str, content: bytes) -> int:
        """Keep a content whose file is not synced yet; how many there are now."""
        txn.put(nonce.encode(), content, db=self._fresh)
        return int(txn.stat(self._fresh)["entries"])

    def fresh(self) -> list[tuple[str, bytes]]:
        """Up to a page of what `add_fresh` kept."""
        with self.begin() as txn, txn.cursor(db=self._fresh) as cursor:
            return [(bytes(k).decode(), bytes(v)) for k, v in islice(cursor, PAGE)]

    def drop_fresh(self, txn: Transaction, nonces: list[str]) -> None:
        for nonce in nonces:
            txn.delete(nonce.encode(), db=self._fresh)

    def _set_current(self, txn: Transaction, record: Record) -> None:
        if record.deleted:
            txn.delete(index_key(record.key), db=self._current)
        else:
            txn.put(index_key(record.key), _encode(record), db=self._current)

    def list_current(self, prefix: str, start_after: str) -> Iterator[list[Record]]:
        """Pages of current records under a prefix after a key, in index order."""
        yield from self._pages(self._current, prefix, start_after)

    def list_versions(self, prefix: str) -> Iterator[list[Record]]:
        """Pages of all records under a prefix, newest first for each key; those of the prefix
        itself before all others."""
        own = yield from self._of_long_key(self._versions, prefix)
        for page in self._pages(self._versions, prefix, ""):
            yield [record for record in page if record.key != own]

    def _of_long_key(self, table: Any, key: str) -> Generator[list[Any], None, str]:
        """Pages of one key's records, where the order of the index does not put them before those
        of keys that only begin so. Returns the key whose records they were."""
        if len(key.encode()) <= _CUT:
            return ""
        for page in self._pages(table, key, ""):
            yield [record for record in page if record.key == key]
        return key

    def _pages(self, table: Any, prefix: str, start_after: str) -> Iterator[list[Record]]:
        bound = prefix.encode()[:_CUT]
        skip = index_key(start_after) if start_after else b""
        position = max(bound, skip)
        while True:
            page: list[Record] = []
            with self.begin() as txn, txn.cursor(db=table) as cursor:
                more = cursor.set_range(position)
                if more and position == skip and skip and bytes(cursor.key()) == skip:
                    more = cursor.next()
                while more and len(page) < PAGE:
                    raw = bytes(cursor.key())
                    if not raw.startswith(bound):
                        more = False
                        break
                    record = _decode(cursor.value())
                    if record.key.startswith(prefix):
                        page.append(record)
                    position = skip = raw
                    more = cursor.next()
            if page:
                yield page
            if not more:
                return

    def level(self, prefix: str, *, versions: bool = False) -> Iterator[list[Record | str]]:
        """Pages of one level, current records or all versions: records of the keys that have no
        "/" behind a prefix, and what the others have there before it, each once and passed over by
        one seek."""
        table = self._versions if versions else self._current
        bound = prefix.encode()[:_CUT]
        position: bytes | None = bound
        named: set[str] = set()
        own = yield from self._of_long_key(table, prefix)
        while position is not None:
            page: list[Record | str] = []
            with self.begin() as txn, txn.cursor(db=table) as cursor:
                more = cursor.set_range(position)
                for _ in range(PAGE):
                    if not more or not bytes(cursor.key()).startswith(bound):
                        more = False
                        break
                    record: Record = _decode(cursor.value())
                    name, slash, _rest = record.key[len(prefix) :].partition("/")
                    past = f"{prefix}{name}0".encode()  # "0" is the byte after "/"
                    if record.key.startswith(prefix) and not slash:
                        if record.key != own:
                            page.append(record)
                    elif record.key.startswith(prefix) and name not in named:
                        named.add(name)
                        page.append(name)
                    seek = slash and len(past) <= _CUT and bytes(cursor.key()) < past
                    more = cursor.set_range(past) if seek else cursor.next()
                position = bytes(cursor.key()) if more else None
            yield page


_lock = threading.Lock()
"""Protects `_open`; taken alone."""
_open: dict[tuple[int, str], tuple[Index, int]] = {}


def open_index(directory: Path) -> Index:
    """The process's one index of that directory; `close_index` once for each call."""
    name = (os.getpid(), os.path.realpath(directory))
    with _lock:
        index, users = _open.get(name) or (None, 0)
        if index is None:
            for stale in [key for key in _open if key[1] == name[1]]:
                # A fork's parent has it open; LMDB wants our copy closed first, which leaves the
                # parent's as it is.
                _open.pop(stale)[0].env.close()
            index = Index(directory)
        _open[name] = (index, users + 1)
        return index


def close_index(directory: Path) -> bool:
    """Give it back; True when that closed it."""
    name = (os.getpid(), os.path.realpath(directory))
    with _lock:
        if name not in _open:
            return False  # opened before a fork: the parent's to close
        index, users = _open.pop(name)
        if users > 1:
            _open[name] = (index, users - 1)
            return False
        index.env.close()
        return True
