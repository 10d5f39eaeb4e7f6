"""One bucket with a pair of credentials for reading and one for writing, or only for reading.

Reading and listing go by the first, everything that changes something by the second: a pair for
reading alone can then be handed to whoever only reads. Nothing else differs from `S3Store`.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NoReturn

from pipefs.errors import AccessDenied
from pipefs.stores.base import FileBody, Undeleted
from pipefs.stores.s3 import S3Store
from pipefs.stores.s3_settings import S3Settings
from pipefs.types import Credentials, ObjectVersion


def s3_store(
    bucket: str, prefix: str, settings: S3Settings, credentials: Credentials | None
) -> S3Store:
    """The store that fits the credentials. Sends no request."""
    if not credentials:
        return S3Store(bucket, prefix, settings)
    read, write = credentials.read, credentials.write
    if write is None:
        return ReadOnlyS3Store(bucket, prefix, replace(settings, access_key=read))
    writing = replace(settings, access_key=write)
    if read is None or read == write:
        return S3Store(bucket, prefix, writing)
    return SplitS3Store(bucket, prefix, writing, replace(settings, access_key=read))


class SplitS3Store(S3Store):
    """Writes by the pair of `settings`, reads by the pair of `reading`."""

    def __init__(self, bucket: str, prefix: str, settings: S3Settings, reading: S3Settings) -> None:
        super().__init__(bucket, prefix, settings)
        self.reader = S3Store(bucket, prefix, reading)

    def get(self, key: str, version_id: str | None, start: int, length: int) -> bytes:
        return self.reader.get(key, version_id, start, length)

    def head(self, key: str, version_id: str | None = None) -> ObjectVersion:
        return self.reader.head(key, version_id)

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectVersion]:
        return self.reader.list(prefix, start_after=start_after)

    def list_dirs(self, prefix: str = "") -> builtins.list[str]:
        return self.reader.list_dirs(prefix)

    def list_versions(self, prefix: str = "", *, page: int = 1000) -> Iterator[ObjectVersion]:
        return self.reader.list_versions(prefix, page=page)

    def list_level_versions(self, prefix: str = "") -> Iterator[ObjectVersion | str]:
        return self.reader.list_level_versions(prefix)

    def close(self) -> None:
        self.reader.close()
        super().close()


class ReadOnlyS3Store(S3Store):
    """Refuses every write before it is sent, whatever the pair would be allowed to do."""

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
        self._refuse(f"put {key}")

    def copy(
        self,
        source: ObjectVersion,
        key: str,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str = "",
        if_none_match: bool = False,
    ) -> ObjectVersion:
        self._refuse(f"copy to {key}")

    def delete(self, key: str, *, if_match: str = "") -> None:
        self._refuse(f"delete {key}")

    def delete_version(self, key: str, version_id: str) -> None:
        self._refuse(f"delete a version of {key}")

    def delete_versions(self, items: Sequence[tuple[str, str]]) -> builtins.list[Undeleted]:
        self._refuse("delete versions")

    def hold_version(self, key: str, version_id: str, *, hold: bool) -> None:
        self._refuse(f"lock a version of {key}")

    def _refuse(self, what: str) -> NoReturn:
        raise AccessDenied(
            f"only credentials for reading are stored: not done: {what}",
            hint="Store a pair for writing: pipefs cred set NAME --write",
        )
