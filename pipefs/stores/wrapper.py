"""The base of all stores around stores.

`WrapperStore` sends every request through one method, `_around`; listings go through it once a
page. A wrapper keeps the whole contract, has no thread of its own, and never changes what is
written: no metadata is added behind the caller's back.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from pipefs.stores.base import Capabilities, FileBody, Store, Undeleted
from pipefs.types import ObjectVersion

T = TypeVar("T")
Item = TypeVar("Item")
PAGE = 1000


class WrapperStore(Store):
    """Passes everything on to `inner`."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.url = inner.url

    def _around(self, operation: str, key: str, call: Callable[[], T]) -> T:
        """Every request of every operation; `operation` is the method's name."""
        return call()

    def _pages(
        self, operation: str, prefix: str, items: Iterator[Item], first: int = PAGE
    ) -> Iterator[Item]:
        size = first

        def one() -> builtins.list[Item]:
            return builtins.list(islice(items, size))

        while page := self._around(operation, prefix, one):
            yield from page
            if len(page) < size:
                return
            size = PAGE

    def probe(self) -> Capabilities:
        return self._around("probe", "", self.inner.probe)

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
        def call() -> ObjectVersion:
            return self.inner.put(
                key,
                body,
                metadata=metadata,
                content_type=content_type,
                if_match=if_match,
                if_none_match=if_none_match,
            )

        return self._around("put", key, call)

    def get(self, key: str, version_id: str | None, start: int, length: int) -> bytes:
        return self._around("get", key, lambda: self.inner.get(key, version_id, start, length))

    def head(self, key: str, version_id: str | None = None) -> ObjectVersion:
        return self._around("head", key, lambda: self.inner.head(key, version_id))

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectVersion]:
        return self._pages("list", prefix, self.inner.list(prefix, start_after=start_after))

    def list_dirs(self, prefix: str = "") -> builtins.list[str]:
        return self._around("list_dirs", prefix, lambda: self.inner.list_dirs(prefix))

    def list_versions(self, prefix: str = "", *, page: int = PAGE) -> Iterator[ObjectVersion]:
        items = self.inner.list_versions(prefix, page=page)
        return self._pages("list_versions", prefix, items, page)

    def list_level_versions(self, prefix: str = "") -> Iterator[ObjectVersion | str]:
        items = self.inner.list_level_versions(prefix)
        return self._pages("list_level_versions", prefix, items)

    def delete(self, key: str, *, if_match: str = "") -> None:
        self._around("delete", key, lambda: self.inner.delete(key, if_match=if_match))

    def delete_version(self, key: str, version_id: str) -> None:
        call = lambda: self.inner.delete_version(key, version_id)  # noqa: E731
        self._around("delete_version", key, call)

    def delete_versions(self, items: Sequence[tuple[str, str]]) -> builtins.list[Undeleted]:
        first = items[0][0] if items else ""
        return self._around("delete_versions", first, lambda: self.inner.delete_versions(items))

    def has_object_lock(self) -> bool:
        return self._around("has_object_lock", "", self.inner.has_object_lock)

    def hold_version(self, key: str, version_id: str, *, hold: bool) -> None:
        call = lambda: self.inner.hold_version(key, version_id, hold=hold)  # noqa: E731
        self._around("hold_version", key, call)

    @property
    def prefix_in_bucket(self) -> str:
        return self.inner.prefix_in_bucket

    def lifecycle_rules(self) -> builtins.list[Mapping[str, Any]]:
        return self._around("lifecycle_rules", "", self.inner.lifecycle_rules)

    def copy(
        self,
        source: ObjectVersion,
        key: str,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str = "",
        if_none_match: bool = False,
    ) -> ObjectVersion:
        def call() -> ObjectVersion:
            return self.inner.copy(
                source, key, metadata=metadata, if_match=if_match, if_none_match=if_none_match
            )

        return self._around("copy", key, call)

    def close(self) -> None:
        self.inner.close()


def innermost(store: Store) -> Store:
    """The store inside all wrappers, for what only one kind of store can do."""
    while isinstance(store, WrapperStore):
        store = store.inner
    return store
