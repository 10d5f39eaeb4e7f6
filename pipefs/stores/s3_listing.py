"""Listings of S3: pages, names below a folder, and versions in their true order.

S3 gives versions and delete markers in one XML document, newest first for each key, but boto3
parts them into two lists and the times have whole seconds only. So the order is taken from the
document. Servers that group them there are put in order by IsLatest and time.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pipefs.errors import Unsupported
from pipefs.stores.s3_errors import Where, s3_errors
from pipefs.types import ObjectVersion

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_ORDER = "PipefsOrder"
PAGE = 1000


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


class Listing:
    """Listings of one bucket below one prefix."""

    def __init__(self, client: S3Client, where: Where, prefix: str, common: Mapping[str, str]):
        self._client = client
        self._where = where
        self._prefix = prefix
        self._common: dict[str, Any] = {"Bucket": where.bucket, **common}

    def objects(self, prefix: str, start_after: str) -> Iterator[ObjectVersion]:
        asked: dict[str, Any] = {**self._common, "Prefix": self._prefix + prefix}
        if start_after:
            asked["StartAfter"] = self._prefix + start_after
        for page in self._pages("list_objects_v2", asked):
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

    def versions(self, prefix: str) -> Iterator[ObjectVersion]:
        asked: dict[str, Any] = {**self._common, "Prefix": self._prefix + prefix}
        carried: list[tuple[bool, dict[str, Any]]] = []
        while True:
            with s3_errors(self._where, f"list versions of {asked['Prefix'] or 'the bucket'}"):
                page: Any = self._client.list_object_versions(**asked)
            groups: dict[str, list[tuple[bool, dict[str, Any]]]] = {}
            for item in [*carried, *_document_order(page)]:
                groups.setdefault(item[1]["Key"], []).append(item)
            truncated = bool(page.get("IsTruncated")) and "NextKeyMarker" in page
            # The last key may go on in the next page.
            carried = groups.pop(page["NextKeyMarker"], []) if truncated else []
            for entries in groups.values():
                yield from self._one_key(entries)
            if not truncated:
                return
            # Both markers travel together, or versions are skipped.
            asked["KeyMarker"] = page["NextKeyMarker"]
            asked["VersionIdMarker"] = page.get("NextVersionIdMarker", "")
            if not asked["VersionIdMarker"]:
                del asked["VersionIdMarker"]

    def _one_key(self, entries: list[tuple[bool, dict[str, Any]]]) -> Iterator[ObjectVersion]:
        for is_marker, entry in newest_first(entries):
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


def _document_order(page: dict[str, Any]) -> list[tuple[bool, dict[str, Any]]]:
    versions, markers = iter(page.get("Versions", [])), iter(page.get("DeleteMarkers", []))
    return [(is_marker, next(markers if is_marker else versions)) for is_marker in page[_ORDER]]


def newest_first(entries: list[tuple[bool, dict[str, Any]]]) -> list[tuple[bool, dict[str, Any]]]:
    """One key's entries as the document has them, unless their times or IsLatest say otherwise."""
    times = [(entry["IsLatest"], nanoseconds(entry["LastModified"])) for _, entry in entries]
    if all(a >= b for a, b in pairwise(times)):
        return entries
    return sorted(entries, key=lambda e: (e[1]["IsLatest"], e[1]["LastModified"]), reverse=True)
