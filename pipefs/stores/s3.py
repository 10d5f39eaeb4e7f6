"""S3 and what speaks its protocol: the versioned-store contract on boto3, with obstore's help.

boto3 alone does everything; where obstore imports (`engine="auto"`), it carries reads and puts of
one request (see `obstore_engine` for what it cannot do). Every put carries a checksum and a
condition where one is asked for. Nothing is tried again here, except parts of a multipart upload:
`wrap.RetryStore` does that.

Never looks at a vendor's name, keeps no thread between calls (obstore's runtime has its own), and
writes nothing outside its prefix. Objects older than versioning have the version id "null", which
an overwrite may replace. `last_modified_ns` of a put is 0 where the answer has no date (obstore).
"""

from __future__ import annotations

import builtins
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipefs.errors import NotFound, PreconditionFailed, Unsupported, UsageError
from pipefs.stores.base import (
    MULTIPART_THRESHOLD_BYTES,
    Capabilities,
    FileBody,
    Store,
    Undeleted,
)
from pipefs.stores.obstore_engine import make_engine
from pipefs.stores.s3_bucket import BucketAdmin
from pipefs.stores.s3_checksum import NO_CHECKSUM, choose_checksum
from pipefs.stores.s3_errors import Where, from_code, s3_errors
from pipefs.stores.s3_listing import Listing, date_ns, nanoseconds, note_document_order
from pipefs.stores.s3_metadata import decode_metadata, encode_metadata
from pipefs.stores.s3_multipart import MAX_PART_BYTES, Multipart, read_all
from pipefs.stores.s3_probe import probe_conditional_copy, probe_store
from pipefs.stores.s3_settings import S3Settings, make_client, make_session
from pipefs.stores.s3_versions import Versions
from pipefs.types import ObjectVersion

MAX_KEY_BYTES = 1024


class S3Store(Store):
    """One bucket and prefix. Thread-safe; make it after a fork."""

    def __init__(self, bucket: str, prefix: str = "", settings: S3Settings | None = None) -> None:
        """Make the clients; no request is sent.

        Raises:
            UsageError: settings that do not fit together, or an unknown profile.
        """
        self.settings = settings or S3Settings()
        self.bucket = bucket
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.url = f"s3://{bucket}/{self.prefix}".rstrip("/")
        session = make_session(self.settings)
        self.client = make_client(session, self.settings)
        note_document_order(self.client)
        profile = self.settings.profile or os.environ.get("AWS_PROFILE", "")
        key_id = self.settings.access_key.access_key_id if self.settings.access_key else ""
        self.where = Where(bucket, self.client.meta.endpoint_url, profile, self.prefix, key_id)
        self.admin = BucketAdmin(self.client, self.where)
        self.checksum = choose_checksum(self.settings.checksum)
        payer: dict[str, Any] = (
            {"RequestPayer": "requester"} if self.settings.requester_pays else {}
        )
        self._common = payer
        self._listing = Listing(self.client, self.where, self.prefix, payer)
        self._versions = Versions(self.client, self.where, self.prefix, payer)
        self._session = session
        self._conditional_copy: bool | None = None
        self._versioned = False
        self._make_engine()

    def _make_engine(self) -> None:
        self._engine = make_engine(
            *(self._session, self.client, self.bucket, self.settings),
            *(self.checksum.name, self.where),
        )

    @property
    def engine_name(self) -> str:
        """ "obstore" or "boto3", for `status` and `doctor`."""
        return "obstore" if self._engine else "boto3"

    def close(self) -> None:
        self._engine = None
        self.client.close()

    def probe(self) -> Capabilities:
        return probe_store(self)

    def drop_checksums(self) -> None:
        """Send no checksums from now on: the endpoint refuses them (found by `probe`)."""
        self.checksum = NO_CHECKSUM
        self._make_engine()

    # --- writing -----------------------------------------------------------------------------

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
        full = self._full(key)
        encoded = encode_metadata(metadata)
        conditions = _conditions(if_match, if_none_match)
        size = body.size if isinstance(body, FileBody) else len(body)
        try:
            if isinstance(body, FileBody) and size > MULTIPART_THRESHOLD_BYTES:
                create = self._write_options(encoded, content_type)
                answer = self._multipart().upload(
                    full, body, self.settings.part_size_bytes, create, conditions
                )
                etag, version_id = answer["ETag"].strip('"'), answer.get("VersionId")
                modified_ns = date_ns(answer)
            else:
                data = read_all(body) if isinstance(body, FileBody) else body
                if self._engine and self._engine.can_name(full):
                    etag, version_id = self._engine.put(
                        full, data, encoded, content_type, if_match, if_none_match
                    )
                    modified_ns = 0
                else:
                    etag, version_id, modified_ns = self._put_boto(
                        full, data, self._write_options(encoded, content_type) | conditions
                    )
                if isinstance(body, FileBody):
                    body.progress(size)
        except NotFound as e:
            raise _lost_if(e, if_match, key) from e
        return ObjectVersion(
            key, version_id, etag, size, modified_ns, metadata=dict(metadata or {})
        )

    def _put_boto(
        self, full: str, data: bytes, options: dict[str, Any]
    ) -> tuple[str, str | None, int]:
        with s3_errors(self.where, f"put {full}"):
            answer: Any = self.client.put_object(
                Bucket=self.bucket, Key=full, Body=data, **self.checksum.header(data), **options
            )
        return answer["ETag"].strip('"'), answer.get("VersionId"), date_ns(answer)

    def _write_options(self, encoded: dict[str, str], content_type: str) -> dict[str, Any]:
        chosen = {
            "ContentType": content_type,
            "StorageClass": self.settings.storage_class,
            "ServerSideEncryption": self.settings.sse,
            "SSEKMSKeyId": self.settings.kms_key,
        }
        return {"Metadata": encoded, **self._common} | {k: v for k, v in chosen.items() if v}

    def _multipart(self) -> Multipart:
        threads = self.settings.part_threads
        return Multipart(self.client, self.where, self.checksum, threads, self._common)

    def copy(
        self,
        source: ObjectVersion,
        key: str,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str = "",
        if_none_match: bool = False,
    ) -> ObjectVersion:
        full = self._full(key)
        conditions = _conditions(if_match, if_none_match)
        origin: Any = {"Bucket": self.bucket, "Key": self._full(source.key)}
        if source.version_id is not None:
            origin["VersionId"] = source.version_id
        by_parts = source.size > MAX_PART_BYTES or (
            bool(conditions) and not self._has_conditional_copy()
        )
        try:
            if by_parts:
                return self._copy_by_parts(source, origin, full, metadata, conditions)
            return self._copy_at_once(source, origin, full, metadata, conditions)
        except NotFound as e:
            if if_match:
                self.head(source.key, source.version_id)  # is it the source that is missing?
            raise _lost_if(e, if_match, key) from e

    def _copy_at_once(
        self,
        source: ObjectVersion,
        origin: Any,  # boto3's CopySource
        full: str,
        metadata: Mapping[str, str] | None,
        conditions: dict[str, Any],
    ) -> ObjectVersion:
        options = self._write_options({}, "") | conditions
        del options["Metadata"]
        # Also needed below to tell the caller what was kept, and for the size.
        kept, content_type = self._head(source.key, source.version_id)
        if metadata is not None or source.key == full[len(self.prefix) :]:
            # AWS refuses a copy of the current version onto itself that replaces nothing.
            chosen = kept.metadata if metadata is None else metadata
            options |= {
                "MetadataDirective": "REPLACE",
                "Metadata": encode_metadata(chosen),
                **({"ContentType": content_type} if content_type else {}),
            }
        with s3_errors(self.where, f"copy {origin['Key']} to {full}"):
            answer: Any = self.client.copy_object(
                Bucket=self.bucket, Key=full, CopySource=origin, **options
            )
        result = answer["CopyObjectResult"]
        return ObjectVersion(
            full[len(self.prefix) :],
            answer.get("VersionId"),
            result["ETag"].strip('"'),
            kept.size,
            nanoseconds(result.get("LastModified")),
            metadata=kept.metadata if metadata is None else dict(metadata),
        )

    def _copy_by_parts(
        self,
        source: ObjectVersion,
        origin: Any,  # boto3's CopySource
        full: str,
        metadata: Mapping[str, str] | None,
        conditions: dict[str, Any],
    ) -> ObjectVersion:
        found, content_type = self._head(source.key, source.version_id)
        chosen = dict(found.metadata if metadata is None else metadata)
        options = self._write_options(encode_metadata(chosen), content_type)
        if found.size == 0:  # there is no range of nothing
            etag, version_id, modified_ns = self._put_boto(full, b"", options | conditions)
        else:
            answer = self._multipart().copy(origin, found.size, full, options, conditions)
            etag, version_id = answer["ETag"].strip('"'), answer.get("VersionId")
            modified_ns = date_ns(answer)
        key = full[len(self.prefix) :]
        return ObjectVersion(key, version_id, etag, found.size, modified_ns, metadata=chosen)

    def _has_conditional_copy(self) -> bool:
        """Whether CopyObject honours conditions; tried once, since some servers ignore them."""
        if self._conditional_copy is None:
            self._conditional_copy = probe_conditional_copy(self)
        return self._conditional_copy

    def delete(self, key: str, *, if_match: str = "") -> None:
        condition = _conditions(if_match, False)
        try:
            with s3_errors(self.where, f"delete {key}"):
                self.client.delete_object(
                    Bucket=self.bucket, Key=self._full(key), **condition, **self._common
                )
        except NotFound as e:
            if if_match or 'bucket "' in e.message:
                raise _lost_if(e, if_match, key) from e

    def delete_version(self, key: str, version_id: str) -> None:
        self._full(key)
        self._versions.delete(key, version_id)

    def delete_versions(self, items: Sequence[tuple[str, str]]) -> builtins.list[Undeleted]:
        return self._versions.delete_many(items)

    def has_object_lock(self) -> bool:
        return self._versions.has_lock()

    def hold_version(self, key: str, version_id: str, *, hold: bool) -> None:
        self._versions.hold(key, version_id, on=hold)

    # --- reading -----------------------------------------------------------------------------

    def get(self, key: str, version_id: str | None, start: int, length: int) -> bytes:
        if length <= 0:
            return b""
        full = self._full(key)
        try:
            if self._engine and self._engine.can_name(full):
                return self._engine.get(full, version_id, start, length)
            with s3_errors(self.where, f"get {full}"):
                answer = self.client.get_object(
                    Bucket=self.bucket,
                    Key=full,
                    Range=f"bytes={start}-{start + length - 1}",
                    **self._version(version_id),
                    **self._common,
                )
                return answer["Body"].read()
        except Unsupported as e:
            if "InvalidRange" in e.message or "(416)" in e.message:
                return b""
            raise

    @staticmethod
    def _version(version_id: str | None) -> dict[str, Any]:
        return {} if version_id is None else {"VersionId": version_id}

    def head(self, key: str, version_id: str | None = None) -> ObjectVersion:
        full = self._full(key)
        found = None
        if self._engine and self._engine.can_name(full):
            found = self._engine.head(full, version_id)
        return replace(found, key=key) if found else self._head(key, version_id)[0]

    def _head(self, key: str, version_id: str | None) -> tuple[ObjectVersion, str]:
        """The object and its content type. `is_latest` is True only where no version was named."""
        with s3_errors(self.where, f"head {key}"):
            answer = self.client.head_object(
                Bucket=self.bucket,
                Key=self._full(key),
                **self._version(version_id),
                **self._common,
            )
        if answer.get("DeleteMarker"):
            raise from_code("NoSuchKey", 404, "a delete marker", self.where, f"head {key}")
        found = ObjectVersion(
            key=key,
            version_id=answer.get("VersionId"),
            etag=answer["ETag"].strip('"'),
            size=answer["ContentLength"],
            last_modified_ns=nanoseconds(answer.get("LastModified")),
            metadata=decode_metadata(answer.get("Metadata", {})),
            is_latest=version_id is None,
        )
        return found, answer.get("ContentType", "")

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectVersion]:
        return self._listing.objects(prefix, start_after)

    def list_dirs(self, prefix: str = "") -> builtins.list[str]:
        return self._listing.dirs(prefix)

    def list_versions(self, prefix: str = "", *, page: int = 1000) -> Iterator[ObjectVersion]:
        self._require_versions()
        yield from self._listing.versions(prefix, page)

    def list_level_versions(self, prefix: str = "") -> Iterator[ObjectVersion | str]:
        self._require_versions()
        yield from self._listing.level_versions(prefix)

    def _require_versions(self) -> None:
        # Once it was on it can only be suspended, so that answer is asked for once.
        self._versioned = self._versioned or self.admin.versioning_state() != ""
        if not self._versioned:
            raise Unsupported(
                f'bucket "{self.bucket}" has no versioning',
                hint="Turn it on: pipefs doctor NAME --fix",
            )

    def _full(self, key: str) -> str:
        full = self.prefix + key
        if not key or len(full.encode("utf-8", "surrogatepass")) > MAX_KEY_BYTES:
            raise UsageError(f"{full[:80]!r} cannot be a key: 1 to {MAX_KEY_BYTES} bytes of UTF-8")
        return full

    @property
    def prefix_in_bucket(self) -> str:
        return self.prefix

    def lifecycle_rules(self) -> builtins.list[Mapping[str, Any]]:
        return self.admin.rules()

    # --- the bucket --------------------------------------------------------------------------

    def bucket_exists(self) -> bool:
        return self.admin.exists()

    def create_bucket(self, versioning: bool = True) -> None:
        self.admin.create(versioning=versioning)

    def enable_versioning(self) -> None:
        self.admin.enable_versioning()


def _conditions(if_match: str, if_none_match: bool) -> dict[str, Any]:
    if if_match and if_none_match:
        raise UsageError("if_match and if_none_match exclude each other")
    if if_match:
        return {"IfMatch": f'"{if_match}"'}
    return {"IfNoneMatch": "*"} if if_none_match else {}


def _lost_if(e: NotFound, if_match: str, key: str) -> NotFound | PreconditionFailed:
    """404 on a condition means that the object is gone, which is a lost race."""
    if if_match and 'bucket "' not in e.message:
        return PreconditionFailed(f"{key} is not {if_match} any more: it is gone")
    return e


__all__ = ["S3Settings", "S3Store"]
