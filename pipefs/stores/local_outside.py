"""What other tools did to the plain files of an embedded store becomes versions.

A plain file whose size or mtime is not what the index says was written by another tool, and one
that is missing was removed by it. Each becomes a version or delete marker of its key at the next
look. Never changes a plain file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from pipefs.lmdbenv import Transaction
from pipefs.stores import local_files as files
from pipefs.stores.local_draft import new_nonce
from pipefs.stores.local_index import Index, Record


def mark_deleted(index: Index, txn: Transaction, key: str) -> None:
    """Add a delete marker."""
    stamp = index.next_stamp(txn, time.time_ns())
    version_id = f"{stamp:016x}{new_nonce()}"
    index.add(txn, Record(key, version_id, "", 0, stamp, deleted=True))


class Outside:
    """Other tools' edits below one store directory. Thread-safe.

    Args:
        index: the index as it is open in this process.
    """

    def __init__(self, index: Callable[[], Index], places: files.Places) -> None:
        self._open_index = index
        self._places = places

    @property
    def _index(self) -> Index:
        return self._open_index()

    def edited(self, txn: Transaction, key: str, current: Record | None) -> bool:
        """Whether the plain file is not what the index says."""
        path = self._places.plain(key)
        if path is None or (current is not None and not current.placed):
            return False
        expected = (current.size, current.plain_mtime_ns) if current else None
        return files.stamp_of(path) != expected

    def adopt(self, key: str) -> None:
        """Make a version (or delete marker) of what another tool did to the plain file."""
        path = self._places.plain(key)
        if path is None:
            return
        nonce = new_nonce()
        content = self._places.new_version(nonce)
        kept = False
        try:
            stamp = files.stamp_of(path)
            etag = ""
            if stamp is not None:
                files.clone(path, content, sync=True)
                self._places.sync_folders([content])
                etag, size = files.md5_of(content)
                if (size, stamp[1]) != files.stamp_of(path):
                    return  # still being written: the next look takes it
            kept = self._index.change(lambda txn: self._adopted(txn, key, nonce, etag, stamp))
        except FileNotFoundError:
            return  # removed meanwhile: the next look takes it
        finally:
            if not kept:
                files.remove_quietly(content)

    def _adopted(
        self, txn: Transaction, key: str, nonce: str, etag: str, stamp: tuple[int, int] | None
    ) -> bool:
        """Whether the content that was copied is a version now."""
        current = self._index.current(txn, key)
        path = self._places.plain(key)
        if path is None or not self.edited(txn, key, current) or files.stamp_of(path) != stamp:
            return False
        if stamp is None:
            mark_deleted(self._index, txn, key)
            return False
        now = self._index.next_stamp(txn, time.time_ns())
        record = Record(
            *(key, f"{now:016x}{nonce}", etag, stamp[0], now),
            placed=True,
            plain_mtime_ns=stamp[1],
        )
        self._index.add(txn, record)
        return True

    def adopt_below(self, prefix: str) -> None:
        """Look at every plain file under the prefix, and at every record that should have one."""
        for page in self._index.list_current(prefix, ""):
            self._adopt_records(page)
        self._adopt_files(self._places.walk(prefix))

    def adopt_level(self, prefix: str) -> None:
        """The same for one level, and below folders of which the index knows nothing."""
        known: set[str] = set()
        for page in self._index.level(prefix, versions=True):
            known.update(name for name in page if isinstance(name, str))
        for page in self._index.level(prefix):
            self._adopt_records(r for r in page if not isinstance(r, str))
        keys, folders = self._places.scan(prefix)
        self._adopt_files(keys)
        for name in folders - known:
            self.adopt_below(f"{prefix}{name}/")

    def _adopt_records(self, records: Iterable[Record]) -> None:
        with self._index.begin() as txn:
            edited = [r.key for r in records if self.edited(txn, r.key, r)]
        for key in edited:
            self.adopt(key)

    def _adopt_files(self, keys: Iterable[str]) -> None:
        with self._index.begin() as txn:
            unknown = [key for key in keys if self._index.current(txn, key) is None]
        for key in unknown:
            self.adopt(key)
