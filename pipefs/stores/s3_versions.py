"""Versions of S3 as such: removing them, by the thousand, and locking them.

DeleteObjects takes a thousand versions in one request and answers for each of them. Keys that its
XML cannot carry go one by one. A version under Object Lock (legal hold or retention) is refused;
that is an answer here, not an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipefs.errors import AccessDenied, NotFound, StoreError, Unsupported
from pipefs.stores.base import Undeleted
from pipefs.stores.s3_errors import Where, from_code, s3_errors

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

AT_ONCE = 1000
"""S3's limit for one DeleteObjects."""

_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|\r")
"""XML 1.0 has no such characters, and a carriage return does not arrive as one."""


class Versions:
    """Requests about single versions below one prefix."""

    def __init__(self, client: S3Client, where: Where, prefix: str, common: Mapping[str, str]):
        self._client = client
        self._where = where
        self._prefix = prefix
        self._common: dict[str, Any] = {"Bucket": where.bucket, **common}
        self._locks: bool | None = None

    def delete(self, key: str, version_id: str) -> None:
        """As `Store.delete_version`."""
        try:
            with s3_errors(self._where, f"delete version {version_id} of {key}"):
                self._client.delete_object(
                    Key=self._prefix + key, VersionId=version_id, **self._common
                )
        except NotFound as e:
            if 'bucket "' in e.message:
                raise

    def delete_many(self, items: Sequence[tuple[str, str]]) -> list[Undeleted]:
        """As `Store.delete_versions`."""
        left = []
        plain = []
        for key, version_id in items:
            if not _NOT_XML.search(self._prefix + key):
                plain.append((key, version_id))
                continue
            try:
                self.delete(key, version_id)
            except AccessDenied as e:
                left.append(Undeleted(key, version_id, e.message))
        for first in range(0, len(plain), AT_ONCE):
            left += self._delete_page(plain[first : first + AT_ONCE])
        return left

    def _delete_page(self, items: Sequence[tuple[str, str]]) -> list[Undeleted]:
        doing = f"delete {len(items)} versions, {items[0][0]} the first"
        named: list[Any] = [{"Key": self._prefix + k, "VersionId": v} for k, v in items]
        with s3_errors(self._where, doing):
            answer = self._client.delete_objects(
                Delete={"Objects": named, "Quiet": True}, **self._common
            )
        left = []
        failed: StoreError | None = None
        for entry in answer.get("Errors", []):
            code, message = entry.get("Code", ""), entry.get("Message", "")
            error = from_code(code, 0, message, self._where, doing)
            key = entry.get("Key", "")[len(self._prefix) :]
            if isinstance(error, AccessDenied):
                left.append(Undeleted(key, entry.get("VersionId", ""), error.message))
            elif isinstance(error, StoreError):
                failed = error  # the whole request is tried again: those that went are no error
            elif not isinstance(error, NotFound):
                raise error
        if failed is not None:
            raise failed
        return left

    def has_lock(self) -> bool:
        """As `Store.has_object_lock`; asked once."""
        if self._locks is None:
            try:
                with s3_errors(self._where, f"ask for Object Lock of {self._where.bucket}"):
                    found = self._client.get_object_lock_configuration(Bucket=self._where.bucket)
                state = found.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled")
                self._locks = state == "Enabled"
            except (AccessDenied, NotFound, Unsupported):
                # Most servers say in this way that the bucket has none.
                self._locks = False
        return self._locks

    def hold(self, key: str, version_id: str, *, on: bool) -> None:
        """As `Store.hold_version`."""
        if not self.has_lock():
            # Some servers take a hold in a bucket without Object Lock, and it holds nothing.
            raise Unsupported(
                f'bucket "{self._where.bucket}" has no Object Lock',
                hint="It is turned on for a bucket as a whole, and stays on.",
            )
        with s3_errors(self._where, f"lock version {version_id} of {key}"):
            self._client.put_object_legal_hold(
                Key=self._prefix + key,
                VersionId=version_id,
                LegalHold={"Status": "ON" if on else "OFF"},
                **self._common,
            )
