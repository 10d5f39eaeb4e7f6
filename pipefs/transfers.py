"""From the overlay to the store: uploads and deletions.

Each function does one thing whole, on the caller's thread, and leaves durable state from which it
can be done again: a crash between the store's answer and the local record repeats a request whose
condition then fails on our own write id, which is recognised. Nothing is announced here; that is
`pipefs.follow`.

Every request is conditional on the version that this machine knows, so another writer's content
is never overwritten: the caller of `upload` gets `PreconditionFailed`, looks at the
key, and the rebase keeps both.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping

import msgspec

from pipefs import links, namespace, tree
from pipefs.attributes import content_type_of, metadata_of
from pipefs.blocks import BlockCache
from pipefs.conditional import ConditionalStore
from pipefs.content import ContentReader
from pipefs.db import StateDB, View
from pipefs.errors import NotFound, PipefsError, PreconditionFailed
from pipefs.files import LocalFiles
from pipefs.keys import names_of
from pipefs.policy import Policy
from pipefs.records import (
    Content,
    Dirty,
    Inode,
    Staging,
    decode_content,
    ino_key,
    key_id,
)
from pipefs.relocation import expected_at, follow_name, is_moving, occupant, remember_path
from pipefs.sent import Sent, landed, left_over, row, settle, will_send
from pipefs.stores.base import WRITE_ID_KEY, FileBody
from pipefs.types import BLOCK_SIZE_BYTES

log = logging.getLogger(__name__)

_CACHE_BATCH = 8
"""Blocks in one cache transaction: 8 MiB of memory, and no other writer waits for long."""


class Transfers:
    """One pipe's changes on their way to its store. Thread-safe."""

    def __init__(
        self,
        db: StateDB,
        files: LocalFiles,
        store: ConditionalStore,
        reader: ContentReader,
        cache: BlockCache,
        policy: Policy,
        *,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._db = db
        self._files = files
        self._store = store
        self._reader = reader
        self._cache = cache
        self.policy = policy
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
        source = self._source_of(ino)
        if source is None:
            self._files.complete(ino)
        with self._db.view() as v:
            key = self._key_of(v, ino)
        if not key:
            return False
        with self._store.alone(key) as free:
            return free and self._send(ino, mark, key, source, progress)

    def _key_of(self, v: View, ino: int) -> str:
        """Where this file's object belongs; "" where it has no business in the store."""
        node = tree.overlay_inode(v, ino)
        names = tree.names_to(v, ino) if node is not None else None
        if node is None or not names or links.all_local(v, node, names, self.policy.stays_local):
            return ""
        return tree.key_for(v, names)

    def _send(
        self,
        ino: int,
        mark: Staging,
        key: str,
        source: Content | None,
        progress: Callable[[int], None],
    ) -> bool:
        with self._db.view() as v:
            node = tree.overlay_inode(v, ino)
            if node is None or self._key_of(v, ino) != key:
                return False  # renamed just now
            other = occupant(v, key, ino)
            versioned = self._store.capabilities().versioning
            if other is not None and (not versioned or is_moving(v, other)):
                return False  # a renamed file's bytes are still there: its copy comes first
            expected = expected_at(v, key, node, ino)
        fd = self._files.staging.open(ino, write=False)
        try:
            st = os.fstat(fd)
            metadata = metadata_of(node, st.st_mtime_ns) | {WRITE_ID_KEY: self._write_id(mark)}
            expected = self._learn_of_lost(key, expected)
            will_send(self._db, Sent(key, ino, metadata[WRITE_ID_KEY], size=st.st_size))
            content = self._copy_in_store(ino, source, key, metadata, expected)
            if content is None:
                body = FileBody(fd, st.st_size, lambda: self._files.cancelled(ino), progress)
                kind = content_type_of(node.name)
                done = self._store.put(key, body, metadata, kind, expected)
                content = Content(key, done.version_id, done.etag, st.st_size)
                content = self._cache_file(content, fd)
        finally:
            os.close(fd)
        self._record_upload(mark, content, expected)
        return True

    def _source_of(self, ino: int) -> Content | None:
        """The version that this file is an untouched copy of, if the store keeps versions."""
        local = self._files.get(ino)
        if local is None or not self._store.capabilities().versioning:
            return None
        with local.lock:
            return local.copied_from()

    def _copy_in_store(
        self,
        ino: int,
        source: Content | None,
        key: str,
        metadata: Mapping[str, str],
        expected: Content | None,
    ) -> Content | None:
        """The object by a copy inside the store; None: its bytes are to be sent."""
        if source is None:
            return None
        try:
            done = self._store.put_copy(source, key, metadata, expected)
        except NotFound as e:
            log.warning("%s: the version it was copied from is gone: %s", key, e)
            self._files.complete(ino)  # from the cache, if that has it
            return None
        content = Content(key, done.version_id, done.etag, source.size, source.checksum)
        self._reader.share_blocks(source.ref(), content.ref())
        return content

    def _learn_of_lost(self, key: str, expected: Content | None) -> Content | None:
        """An earlier request to this key, of another file or generation, may have landed."""
        with self._db.view() as v:
            earlier = row(v, key)
        if earlier is None:
            return expected
        found = self._store.current(key)
        if found is None or not earlier.is_it(found):
            return expected
        return Content(key, found.version_id, found.etag, found.size)

    def left_over(self, limit: int = 1000) -> list[Sent]:
        """Requests whose outcome nobody knows and nobody will ask for."""
        with self._db.view() as v:
            return left_over(v, limit)

    def settle(self, sent: Sent) -> bool:
        """Find out what became of a request; True: settled."""
        with self._store.alone(sent.key) as free:
            if free:
                found = self._store.current(sent.key)
                with self._db.update() as t:
                    settle(t, sent, found)
        return free

    def _cache_file(self, content: Content, fd: int) -> Content:
        """Keep the blocks of what just went up, so that it is not fetched back; the same content
        with its checksum, for which the bytes are read here anyway."""
        version = self._reader.identity(content.ref())
        count = -(-content.size // BLOCK_SIZE_BYTES)
        checksum, caching = hashlib.sha256(), True
        for first in range(0, count, _CACHE_BATCH):
            batch = [
                (n, os.pread(fd, BLOCK_SIZE_BYTES, n * BLOCK_SIZE_BYTES))
                for n in range(first, min(count, first + _CACHE_BATCH))
            ]
            for _, data in batch:
                checksum.update(data)
            try:
                if caching:
                    self._cache.insert_many(version, batch, count)
            except PipefsError as e:
                caching = False
                log.warning("%s went up but is not cached: %s", content.key, e)
        return msgspec.structs.replace(content, checksum=f"sha256:{checksum.hexdigest()}")

    @staticmethod
    def _write_id(mark: Staging) -> str:
        """One id for each sealed generation, the same on every try of it."""
        return f"{mark.write_id}-{mark.closed_ns:x}"

    def _record_upload(self, mark: Staging, content: Content, expected: Content | None) -> None:
        with self._db.update() as t:
            before = tree.overlay_inode(t, mark.ino)
            newest = self._files.uploaded(t, mark, content)
            landed(t, content, expected)
            if before is None or not before.parent:
                namespace.want_gone(t, content)  # removed while it went up
            else:
                if before.content is not None and before.content.key != content.key:
                    namespace.want_gone(t, before.content)
                follow_name(t, mark.ino, content)
                remember_path(t, mark.ino, content.key)
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

    # --- deletions ----------------------------------------------------------------------------

    def deletions(self, limit: int = 1000) -> list[Content]:
        """Objects that should go."""
        with self._db.view() as v:
            return [decode_content(raw) for _, raw in v.scan("gone", limit=limit)]

    def deletes(self, key: str) -> bool:
        """Whether an object is still to go."""
        with self._db.view() as v:
            return v.has("gone", key_id(key))

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
            # In the same view: its object may land at another key in the next moment.
            waits = owner is not None and self._will_replace(v, owner)
        if owner is not None:
            return not waits and self._settled(content)
        if not content.key.endswith("/") and self._held_back():
            return False
        try:
            self._store.delete(content)
        except PreconditionFailed:
            log.info("%s: changed by somebody else, not deleted", content.key)
        return self._settled(content)

    def _settled(self, content: Content) -> bool:
        with self._db.update() as t:
            raw = t.get("gone", key_id(content.key))
            if raw is not None and decode_content(raw) == content:
                t.delete("gone", key_id(content.key))
        return True

    @staticmethod
    def _owner(v: View, content: Content) -> Inode | None:
        """The live file or directory to which this key belongs, by its path or because another
        program's object could not have its own (it lies beside a directory), if any."""
        node = tree.walk(v, names_of(content.key))
        if node is not None and (node.is_dir if content.key.endswith("/") else node.is_file):
            return node
        raw = v.get("bykey", key_id(content.key))
        other = tree.inode(v, int.from_bytes(raw, "big")) if raw is not None else None
        if other is None or not other.parent or other.content is None:
            return None
        return other if other.content.same_version(content) else None

    @staticmethod
    def _will_replace(v: View, owner: Inode) -> bool:
        return bool(owner.dirty & Dirty.CONTENT) or v.has("relocate", ino_key(owner.ino))

    def _held_back(self) -> bool:
        """Without versions an object that a copy still needs must not go before the copy."""
        if self._store.capabilities().versioning:
            return False
        with self._db.view() as v:
            return next(v.scan("relocate", limit=1), None) is not None
