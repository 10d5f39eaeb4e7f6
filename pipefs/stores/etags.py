"""Whether an ETag is the MD5 of the content. S3 promises it for some objects only."""

from __future__ import annotations

import logging
from typing import Any

from pipefs.errors import PipefsError
from pipefs.stores.base import Store
from pipefs.stores.local import LocalStore
from pipefs.stores.s3_errors import s3_errors
from pipefs.stores.wrapper import innermost

log = logging.getLogger(__name__)


def etag_is_md5(store: Store, key: str, version_id: str | None) -> bool:
    """Whether the ETag of this version, of one part, is the MD5 of its content. One HEAD.

    Objects under a key of KMS or of the client have other ETags. False also where it cannot be
    found out.
    """
    from pipefs.stores.s3 import S3Store

    inner = innermost(store)
    if isinstance(inner, LocalStore):
        return True
    if not isinstance(inner, S3Store):
        return False
    asked: dict[str, Any] = {} if version_id is None else {"VersionId": version_id}
    try:
        with s3_errors(inner.where, f"head {key}"):
            answer = inner.client.head_object(Bucket=inner.bucket, Key=inner.prefix + key, **asked)
    except PipefsError as e:
        log.info("%s: its ETag is not trusted: %s", key, e)
        return False
    plain = answer.get("ServerSideEncryption", "AES256") == "AES256"
    return plain and "SSECustomerAlgorithm" not in answer
