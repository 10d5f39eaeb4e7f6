"""Are the files of a snapshot there? Every version that it names, its size, ETag, and bytes.

Looks at each version by one HEAD, or at all of them by one listing where they are many. The bytes
are read only on demand, and compared with the SHA-256 that the manifest has, or with the ETag where
that is an MD5: of a whole object, or of the parts of a multipart upload if their size can be found.
"""

from __future__ import annotations

import hashlib
import itertools
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipefs.catalog import Snapshot
from pipefs.errors import Corrupt, NotFound, PipefsError, Unsupported
from pipefs.manifest import Entry
from pipefs.past.checking import Fault
from pipefs.past.marks import Marks, version_hash
from pipefs.past.opened import Past, view_of
from pipefs.stores.base import Store
from pipefs.sums import Sums

LISTED_FROM = 2000
"""Files from which on one listing of all versions is less work than a HEAD for each."""
_AT_ONCE = 16
_READS_AT_ONCE = 4
_WINDOW = 256
PIECE_BYTES = 8 << 20


@dataclass(slots=True)
class Progress:
    """What was looked at so far."""

    files: int = 0
    bytes: int = 0
    read: int = 0
    """Bytes that were read."""
    unverified: int = 0
    """Files that were read, and nothing says what they should be."""


def verify(
    past: Past,
    snapshot: Snapshot,
    *,
    read_data: bool = False,
    progress: Progress | None = None,
) -> Iterator[Fault]:
    """Look at every file of a snapshot; yields what is not as the manifest says.

    Args:
        progress: counts as it goes.
    Raises:
        Corrupt: a part of its manifest cannot be read. Store errors.
    """
    progress = progress if progress is not None else Progress()
    view = view_of(past.manifests, snapshot)
    many = snapshot.body.files > LISTED_FROM
    seen = _seen(past.store, view.entries()) if many else None
    checker = _Bytes(past.store) if read_data else None
    count = 0
    files = (e for e in view.entries() if e.kind == "file")
    with ThreadPoolExecutor(_AT_ONCE) as pool, ThreadPoolExecutor(_READS_AT_ONCE) as readers:
        while batch := list(itertools.islice(files, _WINDOW)):
            count += len(batch)
            progress.files += len(batch)
            progress.bytes += sum(e.size for e in batch)
            missing = [e for e in batch if seen is None or seen.holder_of(_hash(e)) is None]
            bad = set()
            for entry, fault in pool.map(lambda e: (e, _look(past.store, e)), missing):
                if fault is not None:
                    bad.add(entry.path)
                    yield fault
            yield from (_unpinned(e) for e in batch if e.version in (None, "null"))
            if checker is not None:
                whole = [e for e in batch if e.path not in bad]
                for entry, found in readers.map(lambda e: (e, checker.check(e)), whole):
                    progress.read += entry.size
                    progress.unverified += found == ""
                    if found:
                        yield Fault("content", entry.path, found)
    if count != snapshot.body.files:
        text = f"it has {count:,} files, and says that it has {snapshot.body.files:,}"
        yield Fault("count", snapshot.label, text)


def _hash(entry: Entry) -> int:
    return version_hash(f"{entry.object_key}\0{entry.size}\0{entry.etag}", entry.version or "")


def _seen(store: Store, entries: Iterable[Entry]) -> Marks:
    """Of these entries' versions, those that one listing shows as they should be."""
    wanted, found = Marks(), Marks()
    for entry in entries:
        if entry.kind == "file":
            wanted.add_hash(_hash(entry), 0)
    try:
        for v in store.list_versions(""):
            at = version_hash(f"{v.key}\0{v.size}\0{v.etag}", v.version_id or "")
            if not v.is_delete_marker and wanted.holder_of(at) is not None:
                found.add_hash(at, 0)
    except Unsupported:
        pass  # by single looks, then
    return found


def _look(store: Store, entry: Entry) -> Fault | None:
    version = entry.version
    if version is None and not entry.etag:
        return Fault("version", entry.path, "it was not in the store when the snapshot was taken")
    try:
        found = store.head(entry.object_key, version)
    except NotFound:
        return Fault("version", entry.path, f"version {version} of {entry.object_key} is gone")
    if found.size != entry.size:
        return Fault("size", entry.path, f"it has {found.size:,} bytes, not {entry.size:,}")
    if found.etag != entry.etag:
        return Fault("content", entry.path, f"its ETag is {found.etag}, not {entry.etag}")
    return None


def _unpinned(entry: Entry) -> Fault:
    text = "it has no VersionId of its own: the next write to its key replaces it"
    return Fault("unpinned", entry.path, text, note=True)


# --- bytes --------------------------------------------------------------------------------------


class _Bytes:
    """Reads files whole and compares them. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._md5 = etags_are_md5(store)

    def check(self, entry: Entry) -> str | None:
        """What is wrong with the bytes of a file; None: nothing; "": nobody can say."""
        sums = Sums(entry.size, entry.etag, entry.checksum)
        try:
            for start in range(0, entry.size, PIECE_BYTES):
                piece = self._store.get(entry.object_key, entry.version, start, PIECE_BYTES)
                if len(piece) != min(PIECE_BYTES, entry.size - start):
                    return f"it ends after {start + len(piece):,} of {entry.size:,} bytes"
                sums.add(piece)
        except (Corrupt, NotFound) as e:
            return e.message
        if sums.sha256_differs():
            return "its bytes do not have the SHA-256 that the snapshot has"
        verdict = sums.md5_differs() if self._md5 else None
        if verdict:
            return f"its bytes do not have the MD5 {entry.etag}"
        return None if verdict is False or entry.checksum.startswith("sha256:") else ""


def etags_are_md5(store: Store) -> bool:
    """Whether the ETag of a plain object is the MD5 of its bytes; not so where the store encrypts
    with keys of its own. Found by a probe; False where nobody may write."""
    if store.url.startswith("file:"):
        return True
    body, key = b"pipefs etag", f".pipefs/probe/etag-{uuid.uuid4().hex}"
    try:
        made = store.put(key, body)
        if made.version_id is not None:
            store.delete_version(key, made.version_id)
        else:
            store.delete(key)
    except PipefsError:
        return False
    return made.etag == hashlib.md5(body, usedforsecurity=False).hexdigest()
