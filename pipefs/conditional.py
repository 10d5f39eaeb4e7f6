"""Requests to the store that never overwrite or delete what this machine does not know.

Where the store has conditional requests they are used; where it has not, the key is looked at
first, which is all that can be done there (`status` says so). The caller says which version it
expects to be current; another one is `PreconditionFailed`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pipefs.errors import NotFound, PreconditionFailed
from pipefs.records import Content
from pipefs.stores.base import WRITE_ID_KEY, Capabilities, FileBody, Store
from pipefs.types import ObjectVersion


class ConditionalStore:
    """A store with expectations. Thread-safe."""

    def __init__(self, store: Store, capabilities: Callable[[], Capabilities]) -> None:
        self._store = store
        self.capabilities = capabilities

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

        An object that was deleted elsewhere is made anew: the change wins. A put of ours that
        landed before a crash is recognised by its write id.
        """
        match = expected.etag if expected is not None else ""
        if not self.capabilities().conditional_put:
            self._check(key, match)
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
            found = self.current(key)
            if found is not None:
                if found.metadata.get(WRITE_ID_KEY) == metadata.get(WRITE_ID_KEY, "-"):
                    return found
                raise
            if not match:
                raise
        return self._store.put(
            key, body, metadata=metadata, content_type=content_type, if_none_match=True
        )

    def copy(self, source: Content, key: str, expected: Content | None) -> ObjectVersion:
        """Copy a version in the store to the place of `expected` (None: of nothing)."""
        version = ObjectVersion(source.key, source.version_id, source.etag, source.size)
        match = expected.etag if expected is not None else ""
        if self.capabilities().conditional_put:
            return self._store.copy(version, key, if_match=match, if_none_match=not match)
        self._check(key, match)
        return self._store.copy(version, key)

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

    def _check(self, key: str, match: str) -> None:
        found = self.current(key)
        if found is not None and found.etag != match:
            raise PreconditionFailed(f"{key} was changed by somebody else")
