"""Listings of S3: pages, names below a folder, and versions in their true order.

S3 gives versions and delete markers in one XML document, newest first for each key, but boto3
parts them into two lists, and the times have whole seconds only. So the order is taken from the
document. Where a server groups markers behind versions there, IsLatest and time put them between.

Seen on SeaweedFS 4.48: when a listing has several pages, it loses a key at a page's end if another
key there is its name and a character below "/" (`data` beside `data.csv`). Only whole pages are
asked for, so that there are few ends.
"""

from __future__ import annotations

import email.utils
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from pipefs.errors import Unsupported
from pipefs.stores.ahead import one_ahead
from pipefs.stores.s3_errors import Where, s3_errors
from pipefs.types import ObjectVersion

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_ORDER = "PipefsOrder"
_PAGE = 1000
"""What S3 gives when it is not told."""
Entry = tuple[bool, dict[str, Any]]
"""Whether it is a delete marker, and what boto3 made of it."""


class _Page(NamedTuple):
    keys: list[list[Entry]]
    """Entries of each key."""
    folders: list[str]
    """Common prefixes."""


def note_document_order(client: S3Client) -> None:
    """Have every answer to ListObjectVersions say which entry was a marker, in document order."""
    client.meta.events.register("after-call.s3.ListObjectVersions", _note_order)


def _note_order(http_response: Any, parsed: dict[str, Any], **_other: object) -> None:
    if http_response.status_code != 200:
        return
    tags = [child.tag.rpartition("}")[2] for child in ET.fromstring(http_response.content)]
    parsed[_ORDER] = [t == "DeleteMarker" for t in tags if t in ("Version", "DeleteMarker")]


def nanoseconds(moment: datetime | None) -> int:
    """0 where the server did not tell."""
    return int(moment.timestamp() * 1000) * 1_000_000 if moment else 0


def date_ns(answer: Mapping[str, Any]) -> int:
    """The server's clock when it answered, whole seconds; 0 where it has none."""
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        return nanoseconds(email.utils.parsedate_to_datetime(date)) if date else 0
    except ValueError:
        return 0


class Listing:
    """Listings of one bucket below one prefix."""

    def __init__(self, client: S3Client, where: Where, prefix: str, common: Mapping[str, str]):
        self._client = client
        self._where = where
        self._prefix = prefix
        self._common: dict[str, Any] = {"Bucket": where.bucket, **common}
        # Learnt once for the server. Until then the last key of each page waits for the next.
        self._interleaves = False

    def objects(self, prefix: str, start_after: str) -> Iterator[ObjectVersion]:
        asked: dict[str, Any] = {**self._common, "Prefix": self._prefix + prefix}
        if start_after:
            asked["StartAfter"] = self._prefix + start_after
        for page in one_ahead(self._pages("list_objects_v2", asked)):
            for entry in page.get("Contents", []):
                key = entry["Key"][len(self._prefix) :]
                if key:
                    yield ObjectVersion(
                        key=key,
                        version_id=None,
                        etag=entry.get("ETag", "").strip('"'),
                        size=entry["Size"],
                        last_modified_ns=nanoseconds(entry.get("LastModified")),
                    )

    def dirs(self, prefix: str) -> list[str]:
        full = self._prefix + prefix
        names: set[str] = set()
        for page in self._pages(
            "list_objects_v2", {**self._common, "Prefix": full, "Delimiter": "/"}
        ):
            for entry in page.get("CommonPrefixes", []):
                names.add(entry["Prefix"][len(full) :].removesuffix("/"))
        return sorted(names)

    def _pages(self, method: str, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
        while True:
            with s3_errors(self._where, f"list s3://{self._where.bucket}/{asked['Prefix']}"):
                page = getattr(self._client, method)(**asked)
            yield page
            token = page.get("NextContinuationToken")
            if not page.get("IsTruncated") or not token:
                return
            asked["ContinuationToken"] = token
            asked.pop("StartAfter", None)

    def versions(self, prefix: str, first: int) -> Iterator[ObjectVersion]:
        # One more, since the last key of a page may wait for the next one.
        extra = {"MaxKeys": first + 1} if first < _PAGE else {}
        for page in one_ahead(self._version_pages(prefix, extra)):
            for entries in page.keys:
                yield from self._one_key(entries)

    def level_versions(self, prefix: str) -> Iterator[ObjectVersion | str]:
        skip = len(self._prefix + prefix)
        named: set[str] = set()
        for page in one_ahead(self._version_pages(prefix, {"Delimiter": "/"})):
            for entries in page.keys:
                yield from self._one_key(entries)
            for folder in page.folders:
                name = folder[skip:].removesuffix("/")
                if name not in named:
                    named.add(name)
                    yield name

    def _version_pages(self, prefix: str, extra: Mapping[str, Any]) -> Iterator[_Page]:
        asked: dict[str, Any] = {**self._common, "Prefix": self._prefix + prefix, **extra}
        carried: list[Entry] = []
        while True:
            with s3_errors(self._where, f"list versions of {asked['Prefix'] or 'the bucket'}"):
                page: Any = self._client.list_object_versions(**asked)
            self._interleaves = self._interleaves or interleaves(page[_ORDER])
            groups: dict[str, list[Entry]] = {}
            for item in [*carried, *_document_order(page)]:
                groups.setdefault(item[1]["Key"], []).append(item)
            truncated = bool(page.get("IsTruncated")) and "NextKeyMarker" in page
            carried = []
            if truncated and not self._interleaves:
                # The last key may go on in the next page.
                carried = groups.pop(page["NextKeyMarker"], [])
            folders = [p["Prefix"] for p in page.get("CommonPrefixes", [])]
            yield _Page(list(groups.values()), folders)
            if not truncated:
                return
            asked.pop("MaxKeys", None)
            # Both markers travel together, or versions are skipped.
            asked["KeyMarker"] = page["NextKeyMarker"]
            asked["VersionIdMarker"] = page.get("NextVersionIdMarker", "")
            if not asked["VersionIdMarker"]:
                del asked["VersionIdMarker"]

    def _one_key(self, entries: list[Entry]) -> Iterator[ObjectVersion]:
        for is_marker, entry in newest_first(entries, interleaved=self._interleaves):
            key = entry["Key"][len(self._prefix) :]
            if "VersionId" not in entry:
                raise Unsupported(f"{self._where.endpoint} lists versions without their ids")
            if key:
                yield ObjectVersion(
                    key=key,
                    version_id=entry["VersionId"],
                    etag=entry.get("ETag", "").strip('"'),
                    size=entry.get("Size", 0),
                    last_modified_ns=nanoseconds(entry.get("LastModified")),
                    is_latest=entry["IsLatest"],
                    is_delete_marker=is_marker,
                )


def _document_order(page: dict[str, Any]) -> list[Entry]:
    versions, markers = iter(page.get("Versions", [])), iter(page.get("DeleteMarkers", []))
    return [(is_marker, next(markers if is_marker else versions)) for is_marker in page[_ORDER]]


def interleaves(markers: Sequence[bool]) -> bool:
    """Whether a page, as marker or not in document order, shows that the server does not put all
    markers behind all versions: then the document's order is the store's."""
    return any(a and not b for a, b in pairwise(markers))


def newest_first(entries: list[Entry], *, interleaved: bool) -> list[Entry]:
    """One key's entries in the order that the store gave them.

    Args:
        interleaved: the server is known to mix markers and versions. Else markers behind versions
            may only be grouped there, and go where IsLatest and their times say; versions among
            themselves, and markers among themselves, are never reordered, for a multipart upload
            has the time of its beginning.
    """
    versions = [e for e in entries if not e[0]]
    markers = [e for e in entries if e[0]]
    if interleaved or not (versions and markers) or entries != versions + markers:
        return entries
    out: list[Entry] = []
    while versions and markers:
        # Of one second: as the document has it.
        marker_is_newer = _recency(markers[0]) > _recency(versions[0])
        out.append((markers if marker_is_newer else versions).pop(0))
    return [*out, *versions, *markers]


def _recency(entry: Entry) -> tuple[bool, int]:
    return entry[1]["IsLatest"], nanoseconds(entry[1]["LastModified"])
