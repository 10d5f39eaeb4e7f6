"""From the overlay to the store: uploads, deletions, copies after renames, directory markers.

Each function does one thing whole, on the caller's thread, and leaves durable state from which it
can be done again: a crash between the store's answer and the local record repeats a request whose
condition then fails on our own write id, which is recognised. Nothing is announced here; that is
`pipefs.follow`.

Every request is conditional on the version that this machine knows, so another writer's content
is never overwritten: the caller of `upload` and `relocate` gets `PreconditionFailed`, looks at the
key, and the rebase keeps both.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipefs import namespace, tree
from pipefs.attributes import content_type_of, metadata_of
from pipefs.blocks import BlockCache
from pipefs.content import ContentReader
from pipefs.db import StateDB, Txn, View
from pipefs.errors import NotFound, PipefsError, PreconditionFailed
from pipefs.files import LocalFiles
from pipefs.keys import is_natural, key_of, names_of
from pipefs.records import (
    Content,
    Dirty,
    Inode,
    Staging,
    decode_content,
    encode,
    ino_key,
    key_id,
)
from pipefs.stores.base import WRITE_ID_KEY, Capabilities, FileBody, Store
from pipefs.types import BLOCK_SIZE_BYTES, ObjectVersion

log = logging.getLogger(__name__)

_CACHE_BATCH = 8
"""Blocks in one cache transaction: 8 MiB of memory, and no other writer waits for long."""


@dataclass(frozen=True, slots=True)
class Policy:
    """When a sealed file goes up. Times in seconds."""

    quiet_period_s: float = 0.5
    min_version_interval_s: float = 30.0
    local_only: Sequence[str] = ()

    def stays_local(self, names: Sequence[bytes]) -> bool:
        """Whether `local_only` matches the file's name, a directory above it, or its path."""
        if not self.local_only:
            return False
        texts = [os.fsdecode(n) for n in names]
        candidates = [*texts, "/".join(texts)]
        return any(fnmatch.fnmatch(c, p) for p in self.local_only for c in candidates)


class Transfers:
    """One pipe's changes on their way to its store. Thread-safe."""

    def __init__(
        self,
        db: StateDB,
        files: LocalFiles,
        store: Store,
        reader: ContentReader,
        cache: BlockCache,
        policy: Policy,
        capabilities: Callable[[], Capabilities],
        *,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._db = db
        self._files = files
        self._store = store
        self._reader = reader
        self._cache = cache
        self.policy = policy
        self._capabilities = capabilities
        self._clock = clock
        self._last_version: dict[int, int] = {}
        self._waiting_since: dict[int, int] = {}

    # --- uploads ------------------------------------------------------------------------------

    def settle_time_ns(self, ino: int, now_ns: int) -> int:
        """How long a file must have been closed before it goes up.

        The quiet period; ten times that while the file's last version is younger than
        `min_version_interval` (a file that changes all the time makes one version in that time);
        nothing once it has waited for the whole interval.
        """
        quiet = int(self.policy.quiet_period_s * 1e9)
        interval = int(self.policy.min_version_interval_s * 1e9)
        waiting = self._waiting_since.setdefault(ino, now_ns)
        last = self._last_version.get(ino, 0)
        if now_ns - max(waiting, last) >= interval:
            return 0
        return quiet if now_ns - last >= interval else quiet * 10

    def upload(
        self, ino: int, *, force: bool = False, progress: Callable[[int], None] = lambda _n: None
    ) -> bool:
        """Put the sealed generation of a file; True if it went up.

        Args:
            force: do not wait for the quiet period (`flush`, `snapshot`).

        Raises:
            PreconditionFailed: the object is not the version we know. The caller looks at the
                key (`Follower.check_keys`) and tries again.
            StoreError, Cancelled: nothing changed; to be tried again.
        """
        now = self._clock()
        mark = self._files.seal(
            ino, now_ns=now, settled_ns=0 if force else self.settle_time_ns(ino, now)
        )
        if mark is None:
            return False
        try:
            return self._upload_sealed(ino, mark, progress)
        finally:
            self._files.unseal(ino)

    def _upload_sealed(self, ino: int, mark: Staging, progress: Callable[[int], None]) -> bool:
        self._files.complete(ino)
        with self._db.view() as v:
            node = tree.overlay_inode(v, ino)
            names = tree.names_to(v, ino) if node is not None else None
            if node is None or not names or self.policy.stays_local(names):
                return False
            key = key_of(names)
            expected = self.expected(v, key, node)
        fd = self._files.staging.open(ino, write=False)
        try:
            st = os.fstat(fd)
            metadata = metadata_of(node, st.st_mtime_ns) | {WRITE_ID_KEY: self._write_id(mark)}
            body = FileBody(fd, st.st_size, lambda: self._files.cancelled(ino), progress)
            done = self._put(key, body, metadata, content_type_of(names[-1]), expected)
            content = Content(key, done.version_id, done.etag, st.st_size)
            self._cache_file(content, fd)
        finally:
            os.close(fd)
        self._record_upload(mark, key, content)
        return True

    def _cache_file(self, content: Content, fd: int) -> None:
        """Keep the blocks of what just went up, so that it is not fetched back."""
        version = self._reader.identity(content.ref())
        count = -(-content.size // BLOCK_SIZE_BYTES)
        try:
            for first in range(0, count, _CACHE_BATCH):
                batch = [
                    (n, os.pread(fd, BLOCK_SIZE_BYTES, n * BLOCK_SIZE_BYTES))
                    for n in range(first, min(count, first + _CACHE_BATCH))
                ]
                self._cache.insert_many(version, batch, count)
        except PipefsError as e:
            log.warning("%s went up but is not cached: %s", content.key, e)

    @staticmethod
    def _write_id(mark: Staging) -> str:
        """One id for each sealed generation, the same on every try of it."""
        return f"{mark.write_id}-{mark.closed_ns:x}"

    def _record_upload(self, mark: Staging, key: str, content: Content) -> None:
        with self._db.update() as t:
            before = tree.overlay_inode(t, mark.ino)
            newest = self._files.uploaded(t, mark, content)
            t.delete("gone", key_id(key))
            if before is None or not before.parent:
                namespace.want_gone(t, content)  # removed while it went up
            else:
                if before.content is not None and before.content.key != key:
                    namespace.want_gone(t, before.content)
                self._follow_name(t, mark.ino, content)
        self._last_version[mark.ino] = self._clock()
        self._waiting_since.pop(mark.ino, None)
        if len(self._last_version) > 10_000:
            self._forget_old_times()
        if newest:
            self._files.release_bytes(mark.ino, mark)

    def _forget_old_times(self) -> None:
        horizon = self._clock() - int(self.policy.min_version_interval_s * 1e9)
        for table in (self._last_version, self._waiting_since):
            for ino in [i for i, at in list(table.items()) if at < horizon]:
                table.pop(ino, None)

    @staticmethod
    def _follow_name(t: Txn, ino: int, content: Content) -> None:
        """Renamed while it went up: its object is to follow."""
        names = tree.names_to(t, ino)
        if names and not is_natural(content.key, names):
            t.put("relocate", ino_key(ino), b"%d" % time.time_ns())

    def expected(self, v: View, key: str, node: Inode | None) -> Content | None:
        """The version this machine believes is current at a key; None: there should be none."""
        if node is not None and node.content is not None and node.content.key == key:
            return node.content
        raw = v.get("gone", key_id(key))
        return decode_content(raw) if raw is not None else None

    def _put(
        self,
        key: str,
        body: FileBody,
        metadata: dict[str, str],
        content_type: str,
        expected: Content | None,
    ) -> ObjectVersion:
        match = expected.etag if expected is not None else ""
        if not self._capabilities().conditional_put:
            self._check_current(key, match)
            return self._store.put(key, body, metadata=metadata, content_type=content_type)
        try:
            return self._store.put(
                key,
                body,
                metadata=metadata,
                content_type=content_type,
                if_match=match,
                if_none_match=not match,
            )
        except (PreconditionFailed, NotFound):
            found = self._current(key)
            if found is not None:
                if found.metadata.get(WRITE_ID_KEY) == metadata[WRITE_ID_KEY]:
                    return found  # this very generation, put before a crash
                raise
            if not match:
                raise
            # Deleted elsewhere, changed here: the change wins, as a new object.
            return self._store.put(
                key, body, metadata=metadata, content_type=content_type, if_none_match=True
            )

    def _check_current(self, key: str, match: str) -> None:
        """The next best thing on stores without conditional puts: look, then put."""
        found = self._current(key)
        if found is not None and found.etag != match:
            raise PreconditionFailed(f"{key} was changed by somebody else")

    def _current(self, key: str) -> ObjectVersion | None:
        try:
            return self._store.head(key)
        except NotFound:
            return None

    # --- deletions ----------------------------------------------------------------------------

    def deletions(self, limit: int = 1000) -> list[Content]:
        """Objects that should go."""
        with self._db.view() as v:
            return [decode_content(raw) for _, raw in v.scan("gone", limit=limit)]

    def delete(self, content: Content) -> bool:
        """Delete an object that no live file needs; True if the matter is settled.

        A live file that is about to overwrite the object settles it by its upload, so that other
        readers see no gap.
        """
        with self._db.view() as v:
            raw = v.get("gone", key_id(content.key))
            if raw is None:
                return True
            content = decode_content(raw)
            owner = self._owner(v, content)
        if owner is not None:
            if owner.dirty & Dirty.CONTENT or self._is_waiting(owner.ino):
                return False
            self._settled(content)
            return True
        if not content.key.endswith("/") and self._held_back():
            return False
        try:
            self._delete(content)
        except PreconditionFailed:
            log.info("%s: changed by somebody else, not deleted", content.key)
        self._settled(content)
        return True

    def _delete(self, content: Content) -> None:
        if not content.etag:  # a marker that may or may not be there
            if self._current(content.key) is not None:
                self._store.delete(content.key)
            return
        if self._capabilities().conditional_delete:
            self._store.delete(content.key, if_match=content.etag)
            return
        found = self._current(content.key)
        if found is not None and found.etag == content.etag:
            self._store.delete(content.key)

    def _settled(self, content: Content) -> None:
        with self._db.update() as t:
            raw = t.get("gone", key_id(content.key))
            if raw is not None and decode_content(raw) == content:
                t.delete("gone", key_id(content.key))

    @staticmethod
    def _owner(v: View, content: Content) -> Inode | None:
        """The live file or directory to which this key belongs by its path, if any."""
        node = tree.walk(v, names_of(content.key))
        if node is None or node.is_dir != content.key.endswith("/"):
            return None
        return node

    def _is_waiting(self, ino: int) -> bool:
        with self._db.view() as v:
            return v.has("relocate", ino_key(ino))

    def _held_back(self) -> bool:
        """Without versions an object that a copy still needs must not go before the copy."""
        if self._capabilities().versioning:
            return False
        with self._db.view() as v:
            return next(v.scan("relocate", limit=1), None) is not None

    # --- copies after renames -----------------------------------------------------------------

    def relocations(self, limit: int = 1000) -> list[int]:
        """Inodes whose objects, or those below them, do not have their path's key yet and that
        have been left alone for the quiet period."""
        horizon = self._clock() - int(self.policy.quiet_period_s * 1e9)
        with self._db.view() as v:
            rows = v.scan("relocate", limit=limit)
            return [int.from_bytes(k, "big") for k, raw in rows if int(raw or b"0") <= horizon]

    def relocate(self, ino: int) -> bool:
        """Copy one file's object to its path's key, or plan that for a directory's files."""
        with self._db.update() as t:
            node = tree.inode(t, ino)
            names = tree.names_to(t, ino) if node is not None else None
            if node is None or not names:
                t.delete("relocate", ino_key(ino))
                return True
            if node.is_dir:
                self._plan(t, node)
                return True
            if self._needs_no_copy(t, node, names):
                t.delete("relocate", ino_key(ino))
                return True
            key = key_of(names)
            expected = self.expected(t, key, None)
        assert node.content is not None
        self._copy(node, node.content, key, expected)
        return True

    @staticmethod
    def _plan(t: Txn, node: Inode) -> None:
        for _, entry in tree.children(t, node.ino):
            t.put("relocate", ino_key(entry.ino), b"0")
        t.delete("relocate", ino_key(node.ino))
        marker = t.get("markers", ino_key(node.ino))
        if marker:  # its marker object is named after the old path
            namespace.want_gone(t, decode_content(marker))
            t.delete("markers", ino_key(node.ino))
        if tree.is_empty(t, node.ino):
            namespace.want_marker(t, node.ino)

    @staticmethod
    def _needs_no_copy(v: View, node: Inode, names: list[bytes]) -> bool:
        if not node.is_file or node.content is None:
            return True
        # A file with new bytes goes up under its new key anyway.
        return bool(node.dirty & Dirty.CONTENT) or is_natural(node.content.key, names)

    def _copy(self, node: Inode, old: Content, key: str, expected: Content | None) -> None:
        source = ObjectVersion(old.key, old.version_id, old.etag, old.size)
        match = expected.etag if expected is not None else ""
        if self._capabilities().conditional_put:
            done = self._store.copy(source, key, if_match=match, if_none_match=not match)
        else:
            self._check_current(key, match)
            done = self._store.copy(source, key)
        new = Content(key, done.version_id, done.etag, old.size)
        self._cache.alias(
            self._reader.identity(old.ref()),
            self._reader.identity(new.ref()),
            -(-old.size // BLOCK_SIZE_BYTES),
        )
        with self._db.update() as t:
            live = tree.inode(t, node.ino)
            t.delete("gone", key_id(key))
            if live is None or not live.parent or not old.same_version(live.content):
                namespace.want_gone(t, new)
                return
            live.content = new
            live.dirty |= Dirty.ANNOUNCE
            tree.put_inode(t, live)
            t.delete("relocate", ino_key(node.ino))
            self._follow_name(t, node.ino, new)
            namespace.want_gone(t, old)

    # --- directory markers --------------------------------------------------------------------

    def markers(self, limit: int = 1000) -> list[int]:
        """Directories that may want a marker object now."""
        with self._db.view() as v:
            return [
                int.from_bytes(k, "big") for k, raw in v.scan("markers", limit=limit) if not raw
            ]

    def mark_directory(self, ino: int) -> bool:
        """Put `dir/` for a directory that stayed empty for the quiet period; True if settled."""
        quiet = int(self.policy.quiet_period_s * 1e9)
        with self._db.update() as t:
            node = tree.inode(t, ino)
            names = tree.names_to(t, ino) if node is not None else None
            if node is None or not names or not tree.is_empty(t, ino):
                t.delete("markers", ino_key(ino))
                return True
            if self._clock() - node.mtime_ns < quiet or self.policy.stays_local(names):
                return False
            key = key_of(names) + "/"
        done = self._store.put(key, b"", metadata=metadata_of(node, node.mtime_ns))
        content = Content(key, done.version_id, done.etag, 0)
        with self._db.update() as t:
            live = tree.inode(t, ino)
            if live is None or tree.names_to(t, ino) != names:
                namespace.want_gone(t, content)
            else:
                t.put("markers", ino_key(ino), encode(content))
                t.delete("gone", key_id(key))
        return True
