"""Retries around a store; and the other wrappers by one name."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TypeVar

from pipefs.errors import NotFound, PreconditionFailed, StoreUnavailable, Throttled, Unsupported
from pipefs.stores.base import WRITE_ID_KEY, FileBody, Store
from pipefs.stores.instruments import (
    CountingStore,
    Counts,
    Fault,
    FaultStore,
    LatencyStore,
    LimitStore,
)
from pipefs.stores.retrying import RetryPolicy, call_with_retries
from pipefs.stores.wrapper import PAGE, Item, WrapperStore, innermost
from pipefs.types import ObjectVersion

__all__ = [
    "CountingStore",
    "Counts",
    "Fault",
    "FaultStore",
    "LatencyStore",
    "LimitStore",
    "RetryPolicy",
    "RetryStore",
    "WrapperStore",
    "innermost",
]

T = TypeVar("T")
_VERSIONS_SEARCHED = 50
"""How many of a key's newest versions are asked for a write id; more have not been written in
the time of one retry."""


class RetryStore(WrapperStore):
    """Tries again what failed with `StoreUnavailable`, within one deadline for each operation.

    A write whose answer was lost may have landed. Where its metadata carries `WRITE_ID_KEY`, the
    key and its versions are searched for that id before it is sent again and when a condition
    fails after it, so that it lands once and a lost answer is no conflict. Without the id, a
    write without a condition may make two equal versions, and one with a condition may raise
    `PreconditionFailed` because of itself.
    """

    def __init__(self, inner: Store, policy: RetryPolicy | None = None) -> None:
        super().__init__(inner)
        self.policy = policy or RetryPolicy()

    def _around(self, operation: str, key: str, call: Callable[[], T]) -> T:
        return call_with_retries(call, self.policy, f"{operation} {key}")

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
        again = _Rewound(body) if isinstance(body, FileBody) else None

        def send() -> ObjectVersion:
            return self.inner.put(
                key,
                again.next() if again else body,
                metadata=metadata,
                content_type=content_type,
                if_match=if_match,
                if_none_match=if_none_match,
            )

        return self._write("put", key, (metadata or {}).get(WRITE_ID_KEY, ""), send)

    def copy(
        self,
        source: ObjectVersion,
        key: str,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str = "",
        if_none_match: bool = False,
    ) -> ObjectVersion:
        def send() -> ObjectVersion:
            return self.inner.copy(
                source, key, metadata=metadata, if_match=if_match, if_none_match=if_none_match
            )

        return self._write("copy", key, (metadata or {}).get(WRITE_ID_KEY, ""), send)

    def _write(
        self, operation: str, key: str, write_id: str, send: Callable[[], ObjectVersion]
    ) -> ObjectVersion:
        may_have_landed = False

        def attempt() -> ObjectVersion:
            nonlocal may_have_landed
            if may_have_landed and write_id and (landed := self._landed(key, write_id)):
                return landed
            try:
                return send()
            except PreconditionFailed:
                # It may have landed between the look above and the request.
                if may_have_landed and write_id and (landed := self._landed(key, write_id)):
                    return landed
                raise
            except Throttled:
                raise
            except StoreUnavailable:
                may_have_landed = True
                raise

        return call_with_retries(attempt, self.policy, f"{operation} {key}")

    def _landed(self, key: str, write_id: str) -> ObjectVersion | None:
        """The version that carries the write id, be it current or overwritten since."""
        with suppress(NotFound):
            current = self.inner.head(key)
            if current.metadata.get(WRITE_ID_KEY) == write_id:
                return current
        with suppress(Unsupported):
            versions = (v for v in self.inner.list_versions(key) if v.key == key)
            for version in islice(versions, _VERSIONS_SEARCHED):
                if version.is_delete_marker:
                    continue
                with suppress(NotFound):
                    found = self.inner.head(key, version.version_id)
                    if found.metadata.get(WRITE_ID_KEY) == write_id:
                        return replace(found, is_latest=version.is_latest)
        return None

    def delete(self, key: str, *, if_match: str = "") -> None:
        may_have_landed = False

        def attempt() -> None:
            nonlocal may_have_landed
            try:
                self.inner.delete(key, if_match=if_match)
            except PreconditionFailed:
                if may_have_landed and self._is_gone(key):
                    return
                raise
            except StoreUnavailable as e:
                may_have_landed = may_have_landed or not isinstance(e, Throttled)
                raise

        call_with_retries(attempt, self.policy, f"delete {key}")

    def _is_gone(self, key: str) -> bool:
        try:
            self.inner.head(key)
        except NotFound:
            return True
        return False

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectVersion]:
        last = start_after

        def resume() -> Iterator[ObjectVersion]:
            return self.inner.list(prefix, start_after=last)

        for page in self._resumed("list", prefix, resume):
            for item in page:
                last = item.key
                yield item

    def list_versions(self, prefix: str = "", *, page: int = PAGE) -> Iterator[ObjectVersion]:
        listing = partial(self.inner.list_versions, page=page)
        return self._behind_the_last("list_versions", prefix, listing, page)

    def list_level_versions(self, prefix: str = "") -> Iterator[ObjectVersion | str]:
        return self._behind_the_last("list_level_versions", prefix, self.inner.list_level_versions)

    def _behind_the_last(
        self,
        operation: str,
        prefix: str,
        listing: Callable[[str], Iterator[Item]],
        first: int = PAGE,
    ) -> Iterator[Item]:
        """A listing that can only be begun anew: pass over what the caller has."""
        last: Item | None = None

        def resume() -> Iterator[Item]:
            items = listing(prefix)
            if last is not None:
                for item in items:
                    if _name(item) == _name(last):
                        return items
                raise StoreUnavailable(
                    f"the listing of {prefix} changed while it was tried again"
                ) from None
            return items

        for page in self._resumed(operation, prefix, resume, first):
            for item in page:
                last = item
                yield item

    def _resumed(
        self,
        operation: str,
        prefix: str,
        resume: Callable[[], Iterator[Item]],
        first: int = PAGE,
    ) -> Iterator[builtins.list[Item]]:
        """Pages; after a failure the listing goes on behind the last page that was handed out."""
        items: Iterator[Item] | None = None
        size = first

        def page() -> builtins.list[Item]:
            nonlocal items
            try:
                items = items or resume()
                return builtins.list(islice(items, size))
            except StoreUnavailable:
                items = None
                raise

        while batch := call_with_retries(page, self.policy, f"{operation} {prefix}"):
            yield batch
            if len(batch) < size:
                return
            size = PAGE


def _name(item: object) -> object:
    """What a listing is found again by: a version, or the name of a folder."""
    return (item.key, item.version_id) if isinstance(item, ObjectVersion) else item


class _Rewound:
    """One body for each attempt, so that `progress` never counts a byte twice."""

    def __init__(self, body: FileBody) -> None:
        self._body = body
        self._reported = 0

    def next(self) -> FileBody:
        sent = 0

        def progress(count: int) -> None:
            nonlocal sent
            sent += count
            if sent > self._reported:
                self._body.progress(sent - self._reported)
                self._reported = sent

        return replace(self._body, progress=progress)
