"""What makes the embedded store whole again: plain files and small contents that were not synced.

Functions over the index and the places of one store; each may be repeated at any time, and two
processes may run them at once.
"""

from __future__ import annotations

import os
from functools import partial

import msgspec

from pipefs.lmdbenv import Transaction
from pipefs.stores import local_files as files
from pipefs.stores.local_files import Places
from pipefs.stores.local_index import Index, Record

FRESH_MAX_BYTES = 16 << 10
"""Up to here a content travels in the index transaction: one sync for a put instead of three."""
SETTLE_AT = 512
"""So many small contents wait in the index until their files are synced together."""
# Dirty pages reach the disk within 35 s by the kernel's defaults.
_UNSYNCED_WINDOW_NS = 60 * 10**9


def place(places: Places, temporary: str, key: str, stamp_ns: int) -> bool:
    """Put a plain file at its key with our mtime; False where the key has none."""
    path = places.plain(key)
    if path is None:
        return False
    os.utime(temporary, ns=(stamp_ns, stamp_ns))
    return places.place(temporary, path)


def project(places: Places, record: Record) -> Record:
    """Write the plain file of the current record anew from its version; the record as it is now."""
    temporary = places.temporary()
    try:
        placed = False
        if places.plain(record.key) is not None:
            files.clone(places.version(record.version_id), temporary, sync=False)
            placed = place(places, temporary, record.key, record.modified_ns)
    finally:
        files.remove_quietly(temporary)
    return msgspec.structs.replace(record, placed=placed, plain_mtime_ns=record.modified_ns)


def settle(index: Index, places: Places, *, rewrite: bool = False) -> None:
    """Sync the files of small contents, then let the index forget those contents.

    Args:
        rewrite: the machine may have lost unsynced bytes: write each file from the index.
    """
    if not index.settling.acquire(blocking=False):
        return  # another thread does it
    try:
        _settle_all(index, places, rewrite)
    finally:
        index.settling.release()


def _settle_all(index: Index, places: Places, rewrite: bool) -> None:
    while fresh := index.fresh():
        for nonce, _content in () if rewrite else fresh:
            _start_writing(places.version(nonce))
        synced = []
        for nonce, content in fresh:
            path = places.new_version(nonce)
            if rewrite:
                _replace(places, path, content)
            elif not _sync(path):
                continue  # its version was removed meanwhile
            synced.append(path)
        places.sync_folders(synced)
        settled = [nonce for nonce, _ in fresh]
        index.change(partial(index.drop_fresh, nonces=settled))


def _replace(places: Places, path: str, content: bytes) -> None:
    temporary = places.temporary()
    files.write_bytes(temporary, content, sync=True)
    os.rename(temporary, path)


def _start_writing(path: str) -> None:
    """Have the kernel begin to write the file, so that one journal commit serves all of them."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def _sync(path: str) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    return True


def recover(index: Index, places: Places) -> None:
    """After a restart of the machine: write again whatever may not have reached the disk."""
    boot = files.boot_id()
    with index.begin() as txn:
        known = index.get_meta(txn, "boot")
        last = int(index.get_meta(txn, "last") or 0)
    if known == boot:
        return
    if known:
        settle(index, places, rewrite=True)
        for page in index.list_current("", ""):
            for record in page:
                _recover_plain(index, places, record, last - _UNSYNCED_WINDOW_NS)
    index.change(lambda txn: index.put_meta(txn, "boot", boot))


def _recover_plain(index: Index, places: Places, record: Record, since_ns: int) -> None:
    path = places.plain(record.key)
    if path is None or not record.placed:
        return
    try:
        status = os.lstat(path)
        changed_ns = status.st_ctime_ns
        same = (status.st_size, status.st_mtime_ns) == (record.size, record.plain_mtime_ns)
    except (FileNotFoundError, NotADirectoryError):
        changed_ns, same = record.modified_ns, False
    if same or max(changed_ns, record.modified_ns) < since_ns:
        return

    def repair(txn: Transaction) -> None:
        if index.current(txn, record.key) == record:
            index.add(txn, project(places, record))

    index.change(repair)
