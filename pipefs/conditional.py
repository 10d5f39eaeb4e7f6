"""Requests to the store that never overwrite or delete what this machine does not know.

Where the store has conditional requests they are used; where it has not, the key is looked at
first, which is all that can be done there (`status` says so). The caller says which version it
expects to be current; another one is `PreconditionFailed`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping

from pipefs.errors import NotFound, PreconditionFailed
from pipefs.records import Content
from pipefs.stores.base import WRITE_ID_KEY, Capabilities, FileBody, Store
from pipefs.types import BLOCK_SIZE_BYTES, ObjectVersion

TRIES = 4
"""Of a request whose condition fails although a look says that it holds. Some stores (SeaweedFS)
take a folder for an object of its name, also when everything in it is deleted, and refuse to put
anything in the place of nothing there for ever. So when that happened twice, the look is the
condition, as on stores that know none."""

# ETags of simple objects without KMS encryption; others say nothing about the bytes.
_MD5 = re.compile("[0-9a-f]{32}")


class ConditionalStore:
    """A store with expectations. Thread-safe."""

    def __init__(self, store: Store, capabilities: Callable[[], Capabilities]) -> None:
        self._store = store
        self.capabilities = capabilities
        self._lock = threading.Lock()  # protects the set below; a leaf
        self._busy: set[str] = set()

    @contextlib.contextmanager
    def alone(self, key: str) -> Iterator[bool]:
        """One request at a time puts something at a key: what is there is known only between them.

        Yields:
            Whether nobody else is at it; else the caller leaves the key alone and comes again.
        """
        with self._lock:
            free = key not in self._busy
            self._busy.add(key)
        try:
            yield free
        finally:
            if free:
                with self._lock:
                    self._busy.discard(key)

    def current(self, key: str) -> ObjectVersion | None:
        """What is at a key now, or None."""
        try:
            return self._store.head(key)
        except NotFound:
            return None

    def put(
        self,
        key: str,
        body: bytes | FileBody,
        metadata: Mapping[str, str],
        content_type: str,
        expected: Content | None,
    ) -> ObjectVersion:
        """Put in the place of `expected` (None: of nothing).

        An object that was deleted elsewhere is made anew: the change wins. What we put before a
        crash, and the very same bytes put by somebody else, are no conflict.

        Raises:
            PreconditionFailed: another content is there.
        """
        match = expected.etag if expected is not None else ""
        conditional = self.capabilities().conditional_put
        refused = False
        for _ in range(TRIES):
            if not conditional:
                found = self.current(key)
                if found is None or found.etag == match:
                    return self._store.put(key, body, metadata=metadata, content_type=content_type)
            else:
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
                    found = self.current(key)
                    conditional = bool(match) or found is not None or not refused
                    refused = not match and found is None
            if found is not None and _landed(found, body, metadata):
                return found
            if found is not None and not _is_older_of_ours(found, metadata):
                break
            match = found.etag if found is not None else ""
        raise PreconditionFailed(f"{key} was changed by somebody else")

    def put_copy(
        self, source: Content, key: str, metadata: Mapping[str, str], expected: Content | None
    ) -> ObjectVersion:
        """As `put`, with the bytes of a version that the store has: nothing is sent.

        Raises:
            PreconditionFailed: another content is there. NotFound: the source is gone.
        """
        match = expected.etag if expected is not None else ""
        conditional, refused = self.capabilities().conditional_put, False
        for _ in range(TRIES):
            try:
                return self._copy(source, key, match, metadata, conditional)
            except (PreconditionFailed, NotFound) as e:
                found = self.current(key)
                if isinstance(e, NotFound) and (found is not None or not match):
                    raise
                conditional = conditional and (bool(match) or found is not None or not refused)
                refused = not match and found is None
            if found is not None and _is_same_write(found, metadata):
                return found
            if found is not None and not _is_older_of_ours(found, metadata):
                break
            match = found.etag if found is not None else ""
        raise PreconditionFailed(f"{key} was changed by somebody else")

    def copy(self, source: Content, key: str, expected: Content | None) -> ObjectVersion:
        """Copy a version in the store to the place of `expected` (None: of nothing), with its
        metadata. As with `put`, what is gone from there is no conflict: nothing is lost.

        Raises:
            PreconditionFailed: another content is there. NotFound: the store keeps no versions,
            and has other bytes at the source's key now.
        """
        match = expected.etag if expected is not None else ""
        conditional, refused = self.capabilities().conditional_put, False
        for _ in range(TRIES):
            try:
                return self._copy(source, key, match, None, conditional)
            except (PreconditionFailed, NotFound) as e:
                if self.current(key) is not None or (isinstance(e, NotFound) and not match):
                    raise
                conditional = conditional and (bool(match) or not refused)
                refused, match = not match, ""
        raise PreconditionFailed(f"{key} was changed by somebody else")

    def _copy(
        self,
        source: Content,
        key: str,
        match: str,
        metadata: Mapping[str, str] | None,
        conditional: bool,
    ) -> ObjectVersion:
        if source.version_id is None:
            found = self.current(source.key)
            if found is None or found.etag != source.etag:
                raise NotFound(f"the bytes of {source.key} are no longer in the store")
        version = ObjectVersion(source.key, source.version_id, source.etag, source.size)
        if conditional:
            return self._store.copy(
                version, key, metadata=metadata, if_match=match, if_none_match=not match
            )
        self._check(key, match)
        return self._store.copy(version, key, metadata=metadata)

    def delete(self, content: Content) -> None:
        """Delete an object while it is this version (without ETag: whatever is there)."""
        if not content.etag:
            if self.current(content.key) is not None:
                self._store.delete(content.key)
            return
        if self.capabilities().conditional_delete:
            self._store.delete(content.key, if_match=content.etag)
            return
        found = self.current(content.key)
        if found is not None and found.etag == content.etag:
            self._store.delete(content.key)

    def remove(self, version: ObjectVersion) -> None:
        """Take back a version that was just put, as if it had never been: what it replaced is
        current again. `AccessDenied` where versions may not be deleted."""
        assert version.version_id is not None
        self._store.delete_version(version.key, version.version_id)

    def _check(self, key: str, match: str) -> None:
        found = self.current(key)
        if found is not None and found.etag != match:
            raise PreconditionFailed(f"{key} was changed by somebody else")


def _landed(found: ObjectVersion, body: bytes | FileBody, metadata: Mapping[str, str]) -> bool:
    """Whether what is there is what we want to put: the same write, or the same bytes."""
    if _is_same_write(found, metadata):
        return True
    size = len(body) if isinstance(body, bytes) else body.size
    if found.size != size or not _MD5.fullmatch(found.etag):
        return False
    digest = hashlib.md5(usedforsecurity=False)
    if isinstance(body, bytes):
        digest.update(body)
    else:
        for offset in range(0, size, BLOCK_SIZE_BYTES):
            digest.update(os.pread(body.fd, BLOCK_SIZE_BYTES, offset))
    return digest.hexdigest() == found.etag


def _is_same_write(found: ObjectVersion, metadata: Mapping[str, str]) -> bool:
    write_id = metadata.get(WRITE_ID_KEY)
    return bool(write_id) and found.metadata.get(WRITE_ID_KEY) == write_id


def _is_older_of_ours(found: ObjectVersion, metadata: Mapping[str, str]) -> bool:
    """An earlier generation of the same local file, put before a crash or a cancellation."""
    stem, dash, _ = metadata.get(WRITE_ID_KEY, "").partition("-")
    return bool(dash) and found.metadata.get(WRITE_ID_KEY, "").startswith(f"{stem}-")
