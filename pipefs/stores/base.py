"""The versioned-store contract: what pipefs asks of S3, of the embedded store and of wrappers.

Every implementation passes `tests/contract/`. Instances are thread-safe and hold no thread of
their own beyond what their client library keeps. Keys are `str`, relative to the store's prefix,
never start with "/", and are at most 1,024 bytes of UTF-8 with the prefix. ETags have no quotes.

Errors (all others are bugs): `NotFound` (no such key or version, or it is a delete marker),
`PreconditionFailed` (a condition did not hold, or a concurrent request won), `AccessDenied`,
`Throttled`, `StoreUnavailable` (may have landed), `Unsupported`, `Corrupt` (checksum mismatch),
`NoSpace`. A write that returned is durable and is visible to the next read and listing.
"""

from __future__ import annotations

import abc
import builtins
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipefs.errors import AccessDenied, Unsupported
from pipefs.types import ObjectVersion

WRITE_ID_KEY = "pipefs-write-id"
"""Metadata key that carries the caller's write id: the same on every retry of one write, so that
a conditional put whose answer was lost can be recognised as our own."""

MULTIPART_THRESHOLD_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an endpoint and bucket can do, found by trying (`Store.probe`), never by vendor name."""

    versioning: bool
    """Bucket versioning is Enabled (Suspended counts as False)."""
    conditional_put: bool
    """`If-None-Match: *` and `If-Match: etag` on put are honoured (a stale one gives 412)."""
    conditional_multipart: bool
    conditional_delete: bool
    checksums: bool
    """A put with a wrong checksum is refused."""
    writable: bool
    """The credentials may put and delete."""
    versioning_state: str = ""
    """"Enabled", "Suspended", "" (never on), or "unknown" (not allowed to ask)."""
    detail: Mapping[str, str] | None = None
    """Per capability, a sentence for `pipefs doctor` where it is missing or unknown."""


@dataclass(frozen=True, slots=True)
class Undeleted:
    """A version that `Store.delete_versions` left, and why."""

    key: str
    version_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class FileBody:
    """Bytes [0, size) of an open descriptor, read with pread: the descriptor's offset is unused.

    `cancelled` is asked between parts and about every MiB; when it answers True the put stops,
    cleans up its multipart upload and raises `Cancelled`.
    """

    fd: int
    size: int
    cancelled: Callable[[], bool] = lambda: False
    progress: Callable[[int], None] = lambda _n: None
    """Called with the number of bytes sent since the last call."""


class Cancelled(Exception):  # not an error: the caller asked for it
    """The caller's `FileBody.cancelled` answered True; nothing became visible."""


class Store(abc.ABC):
    """One bucket and prefix (or directory) with object versions."""

    url: str
    """For messages and settings, e.g. `s3://bucket/prefix` or `file:///dir`; no credentials."""

    @abc.abstractmethod
    def probe(self) -> Capabilities:
        """Try every capability in `.pipefs/probe/<nonce>` and clean up; raises only
        `StoreUnavailable`, `AccessDenied` (cannot even list) or `NotFound` (no such bucket)."""

    @abc.abstractmethod
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
        """Write an object; a body above 16 MiB goes as a multipart upload of parallel parts.

        Args:
            if_match: put only while the current version has this ETag.
            if_none_match: put only while there is no current version.
        Metadata values may hold any Unicode; they come back equal from `head`.
        """

    @abc.abstractmethod
    def get(self, key: str, version_id: str | None, start: int, length: int) -> bytes:
        """Bytes [start, start+length) of exactly that version (None: the current one), shorter
        only where the object ends. `length` 0 or a start at or past the end gives b""."""

    @abc.abstractmethod
    def head(self, key: str, version_id: str | None = None) -> ObjectVersion:
        """Identity and metadata. `NotFound` for a delete marker."""

    @abc.abstractmethod
    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectVersion]:
        """Current objects under a prefix; `version_id` None and metadata empty where the listing
        does not tell. Order is the store's own; no key twice."""

    @abc.abstractmethod
    def list_dirs(self, prefix: str = "") -> builtins.list[str]:
        """Names one level below `prefix` ("" or ending in "/") that have keys below them, each
        without the trailing "/"."""

    @abc.abstractmethod
    def list_versions(self, prefix: str = "", *, page: int = 1000) -> Iterator[ObjectVersion]:
        """All versions and delete markers under a prefix: those of a key one after the other,
        newest first in the store's own order, whatever their times say (which may be of whole
        seconds, and for a multipart upload that of its beginning). A key that equals `prefix`
        comes first. `Unsupported` without versioning.

        Args:
            page: how many to ask for at first: a hint from who may stop early.
        """

    @abc.abstractmethod
    def list_level_versions(self, prefix: str = "") -> Iterator[ObjectVersion | str]:
        """One level of `list_versions`: versions and markers of the keys that begin with `prefix`
        and have no "/" behind it, and as `str`, each once, what the others have there before their
        first "/": names of folders, where `prefix` is "" or ends in "/". A folder may also be named
        that has lost all its versions; who needs to know lists it. A key that equals `prefix` comes
        before all other keys."""

    @abc.abstractmethod
    def delete(self, key: str, *, if_match: str = "") -> None:
        """Delete the current object (a delete marker where versioning is on). No error when
        there is none, unless `if_match` is given (then `PreconditionFailed`)."""

    @abc.abstractmethod
    def delete_version(self, key: str, version_id: str) -> None:
        """Remove one version or delete marker for good. No error when there is none.
        `AccessDenied` also where Object Lock holds it."""

    def delete_versions(self, items: Sequence[tuple[str, str]]) -> builtins.list[Undeleted]:
        """Remove versions and delete markers, each (key, version id), for good and in no order.

        Returns:
            Those that may not go: no permission, or Object Lock holds them. None of the others is
            left. After an error some are gone; asking again is safe.
        """
        left = []
        for key, version_id in items:
            try:
                self.delete_version(key, version_id)
            except AccessDenied as e:
                left.append(Undeleted(key, version_id, e.message))
        return left

    def has_object_lock(self) -> bool:
        """Whether versions can be locked with `hold_version`. False where nobody may ask."""
        return False

    def hold_version(self, key: str, version_id: str, *, hold: bool) -> None:
        """Put a legal hold on a version, or take it off: nobody can delete it meanwhile.
        `Unsupported` where `has_object_lock` is False, `NotFound` for a version that is gone."""
        raise Unsupported(f"{self.url} cannot lock versions ({key})")

    @property
    def prefix_in_bucket(self) -> str:
        """What the bucket has before each key: "" or ending in "/"."""
        return ""

    def lifecycle_rules(self) -> builtins.list[Mapping[str, Any]]:
        """The bucket's lifecycle rules as S3 tells them; [] for stores that have none.
        `AccessDenied` or `Unsupported` where they cannot be read."""
        return []

    @abc.abstractmethod
    def copy(
        self,
        source: ObjectVersion,
        key: str,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str = "",
        if_none_match: bool = False,
    ) -> ObjectVersion:
        """Server-side copy of exactly `source.version_id` (None: current) to `key`, of any size.
        `metadata` None keeps the source's."""

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of connections. The store is not used afterwards."""
