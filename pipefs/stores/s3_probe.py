"""What an endpoint can do, found by trying; in `.pipefs/probe/<nonce>`, removed with all versions.

Never infers anything from a vendor's name: servers are known that accept a condition and ignore
it, which loses updates in silence.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from pipefs.errors import (
    AccessDenied,
    Corrupt,
    PipefsError,
    PreconditionFailed,
    StoreUnavailable,
    Unsupported,
)
from pipefs.stores.base import Capabilities
from pipefs.stores.s3_errors import s3_errors

if TYPE_CHECKING:
    from pipefs.stores.s3 import S3Store

log = logging.getLogger(__name__)

STALE_ETAG = "00000000000000000000000000000000"


def probe_store(store: S3Store) -> Capabilities:
    """Every capability of `store`; also settles its checksums and its way of conditional copies."""
    next(iter(store.list(".pipefs/")), None)  # cannot even list: the caller's error
    state = store.admin.versioning_state()
    detail: dict[str, str] = {}
    if state != "Enabled":
        detail["versioning"] = {
            "": "bucket versioning is off: mounting works, snapshots do not",
            "Suspended": "bucket versioning is suspended: new versions replace each other",
        }.get(state, "not allowed to ask whether versioning is on")
    key = f".pipefs/probe/{secrets.token_hex(8)}"
    found = dict.fromkeys(("put", "multipart", "delete", "checksums", "writable"), False)
    try:
        found["writable"] = _first_put(store, key, detail)
        if found["writable"]:
            found["put"] = _conditional_put(store, key, detail)
            found["multipart"] = _conditional_multipart(store, key, detail)
            found["checksums"] = _checksums(store, key, detail)
            found["delete"] = _conditional_delete(store, key, detail)
            store._conditional_copy = probe_conditional_copy(store)
    finally:
        _remove(store, key)
    return Capabilities(
        versioning=state == "Enabled",
        conditional_put=found["put"],
        conditional_multipart=found["multipart"],
        conditional_delete=found["delete"],
        checksums=found["checksums"],
        writable=found["writable"],
        versioning_state=state,
        detail=detail,
    )


def _first_put(store: S3Store, key: str, detail: dict[str, str]) -> bool:
    try:
        try:
            store.put(key, b"pipefs probe")
        except (Unsupported, Corrupt) as e:
            if not store.checksum.name:
                raise
            # Some servers refuse a checksum they do not know: without it, or not at all.
            detail["checksums"] = f"refused with {store.checksum.name}: {e}"
            store.drop_checksums()
            store.put(key, b"pipefs probe")
        store.delete(key)
        store.put(key, b"pipefs probe")
    except AccessDenied as e:
        log.info("not writable: %s", e)
        detail["writable"] = "your credentials may not write (s3:PutObject denied)"
        return False
    return True


def _refused(call: Callable[[], object], name: str, what: str, detail: dict[str, str]) -> bool:
    """Whether the call failed as a condition that does not hold must."""
    try:
        call()
    except PreconditionFailed:
        return True
    except StoreUnavailable:
        raise
    except PipefsError as e:
        detail[name] = f"{what} is not possible: {e}"
        return False
    detail[name] = f"{what} is accepted and ignored: concurrent writers would lose updates"
    return False


def _conditional_put(store: S3Store, key: str, detail: dict[str, str]) -> bool:
    name = "conditional_put"
    absent = _refused(
        *(lambda: store.put(key, b"2", if_none_match=True), name),
        *("If-None-Match: * on an object that exists", detail),
    )
    stale = _refused(
        *(lambda: store.put(key, b"3", if_match=STALE_ETAG), name),
        *("If-Match with a stale ETag", detail),
    )
    if not (absent and stale):
        return False
    try:
        # A server that refuses every condition is of no use either.
        store.put(key, b"4", if_match=store.head(key).etag)
        store.put(f"{key}-new", b"5", if_none_match=True)
    except (PreconditionFailed, Unsupported) as e:
        detail[name] = f"a condition that holds is refused: {e}"
        return False
    return True


def _conditional_multipart(store: S3Store, key: str, detail: dict[str, str]) -> bool:
    def complete(condition: dict[str, Any]) -> None:
        full = store.prefix + key
        call: dict[str, Any] = {"Bucket": store.bucket, "Key": full}
        with s3_errors(store.where, "probe a multipart upload"):
            upload = store.client.create_multipart_upload(**call)["UploadId"]
            try:
                part = store.client.upload_part(**call, UploadId=upload, PartNumber=1, Body=b"6")
                parts: Any = {"Parts": [{"ETag": part["ETag"], "PartNumber": 1}]}
                store.client.complete_multipart_upload(
                    **call, UploadId=upload, MultipartUpload=parts, **condition
                )
            finally:
                with contextlib.suppress(Exception):  # completed, or gone: nothing to abort
                    store.client.abort_multipart_upload(**call, UploadId=upload)

    absent: dict[str, Any] = {"IfNoneMatch": "*"}
    stale: dict[str, Any] = {"IfMatch": f'"{STALE_ETAG}"'}
    return all(
        _refused(partial(complete, c), "conditional_multipart", f"completion {c}", detail)
        for c in (absent, stale)
    )


def _conditional_delete(store: S3Store, key: str, detail: dict[str, str]) -> bool:
    return _refused(
        *(lambda: store.delete(key, if_match=STALE_ETAG), "conditional_delete"),
        *("a delete with a stale If-Match", detail),
    )


def _checksums(store: S3Store, key: str, detail: dict[str, str]) -> bool:
    if not store.checksum.name:
        detail.setdefault("checksums", "turned off by the setting `checksum`")
        return False
    wrong: dict[str, Any] = store.checksum.wrong_header()
    try:
        with s3_errors(store.where, "probe a wrong checksum"):
            store.client.put_object(Bucket=store.bucket, Key=store.prefix + key, Body=b"7", **wrong)
    except (Corrupt, Unsupported):
        return True
    detail["checksums"] = f"a put with a wrong {store.checksum.name} is accepted"
    return False


def probe_conditional_copy(store: S3Store) -> bool:
    """Whether CopyObject refuses `If-None-Match: *` on an existing and a stale `If-Match`."""
    key = f".pipefs/probe/{secrets.token_hex(8)}"
    full = store.prefix + key
    try:
        made = store.put(key, b"pipefs probe")
        origin: Any = {"Bucket": store.bucket, "Key": full}
        if made.version_id:
            origin["VersionId"] = made.version_id

        def copy(condition: dict[str, Any]) -> None:
            with s3_errors(store.where, "probe a conditional copy"):
                store.client.copy_object(
                    Bucket=store.bucket,
                    Key=full,
                    CopySource=origin,
                    MetadataDirective="REPLACE",
                    **condition,
                )

        return all(
            _refused(partial(copy, c), "conditional_copy", "a conditional copy", {})
            for c in ({"IfNoneMatch": "*"}, {"IfMatch": f'"{STALE_ETAG}"'})
        )
    finally:
        _remove(store, key)


def _remove(store: S3Store, key: str) -> None:
    """Everything the probe wrote, versions and markers too; never fails."""
    with contextlib.suppress(PipefsError):
        for version in list(store.list_versions(key)):
            if version.version_id is not None:
                store.delete_version(version.key, version.version_id)
        return
    for name in (key, f"{key}-new"):
        with contextlib.suppress(PipefsError):
            store.delete(name)
