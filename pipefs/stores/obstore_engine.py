"""The hot path by obstore (Rust): reads of a version's range, and puts of one request.

What it cannot do goes by boto3 (tried with obstore 0.12):

- multipart with a condition: obstore falls back to one request for the whole body;
- keys with empty parts, outer slashes, `.`/`..` parts or control characters: refused or changed;
- listing of versions, deleting a version, copying from a version: not offered; metadata with bytes
  that are not ASCII: refused;
- a virtual-hosted endpoint of one's own: it wants the bucket inside the endpoint, so those keep
  boto3 unless the endpoint is AWS's.

Credentials, region, endpoint, CA bundle and proxies are boto3's, so both engines talk to the same
server as the same user. obstore keeps threads of its own: make the store after a fork.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from botocore.utils import get_environ_proxies

from pipefs.errors import UsageError
from pipefs.stores.s3_errors import Where, s3_errors
from pipefs.stores.s3_metadata import decode_metadata
from pipefs.stores.s3_settings import S3Settings
from pipefs.types import ObjectVersion

if TYPE_CHECKING:
    import boto3
    from mypy_boto3_s3 import S3Client

# Parts that obstore keeps as they are; everything else goes by boto3.
_SAFE_KEY = re.compile(r"(?:[^\x00-\x1f\x7f/\\]+)(?:/[^\x00-\x1f\x7f/\\]+)*\Z")
_DOTS = re.compile(r"(?:^|/)\.\.?(?:/|\Z)")


def make_engine(
    session: boto3.session.Session,
    client: S3Client,
    bucket: str,
    settings: S3Settings,
    checksum_name: str,
    where: Where,
) -> ObstoreEngine | None:
    """The engine, or None where it does not import or does not fit (`engine="auto"`).

    Raises:
        UsageError: it was asked for by name and is not possible.
    """
    if settings.engine == "boto3":
        return None
    why = _why_not(session, client, settings)
    if why and settings.engine == "obstore":
        raise UsageError(f"engine obstore is not possible: {why}", hint="Use engine = auto.")
    return None if why else ObstoreEngine(session, client, bucket, settings, checksum_name, where)


def _why_not(session: boto3.session.Session, client: S3Client, settings: S3Settings) -> str:
    try:
        import obstore  # noqa: F401  # only whether it imports
    except ImportError as e:
        return str(e)
    if session.get_credentials() is None:
        return "there are no credentials"
    if _virtual(client, settings) and "amazonaws.com" not in client.meta.endpoint_url:
        return "virtual addressing at an endpoint that is not AWS's"
    return ""


def _virtual(client: S3Client, settings: S3Settings) -> bool:
    if settings.addressing == "auto":
        return "amazonaws.com" in client.meta.endpoint_url
    return settings.addressing == "virtual"


def _options(
    client: S3Client, settings: S3Settings, endpoint: str, checksum_name: str
) -> dict[str, Any]:  # obstore's options are of many types
    return {
        # The variable of that name would otherwise win over the endpoint given here.
        "aws_endpoint_url_s3": endpoint,
        "endpoint": endpoint,
        "region": client.meta.region_name,
        "virtual_hosted_style_request": _virtual(client, settings),
        "conditional_put": "etag",
        # Only these two are known to it; every request is also signed over its SHA-256.
        **({"checksum_algorithm": "CRC64NVME"} if checksum_name == "CRC64NVME" else {}),
        **({"request_payer": True} if settings.requester_pays else {}),
        **({"server_side_encryption": settings.sse} if settings.sse else {}),
        **({"sse_kms_key_id": settings.kms_key} if settings.kms_key else {}),
    }


class ObstoreEngine:
    """One bucket by obstore. Keys are whole keys, with the store's prefix."""

    def __init__(
        self,
        session: boto3.session.Session,
        client: S3Client,
        bucket: str,
        settings: S3Settings,
        checksum_name: str,
        where: Where,
    ) -> None:
        import obstore
        from obstore.auth.boto3 import Boto3CredentialProvider
        from obstore.store import S3Store as ObstoreBucket

        self._obstore = obstore
        self._where = where
        endpoint = client.meta.endpoint_url
        if _virtual(client, settings):
            scheme, _, host = endpoint.partition("://")
            endpoint = f"{scheme}://{bucket}.{host}"
        self._storage_class = settings.storage_class
        self._store = ObstoreBucket(
            bucket,
            credential_provider=Boto3CredentialProvider(session, ttl=timedelta(minutes=5)),
            client_options=_client_options(session, endpoint, settings),
            retry_config={"max_retries": 0, "retry_timeout": timedelta(0)},
            **_options(client, settings, endpoint, checksum_name),
        )

    @staticmethod
    def can_name(key: str) -> bool:
        """Whether obstore sends this key unchanged."""
        return bool(_SAFE_KEY.match(key)) and not _DOTS.search(key)

    def put(
        self,
        key: str,
        body: bytes,
        metadata: Mapping[str, str],
        content_type: str,
        if_match: str,
        if_none_match: bool,
    ) -> tuple[str, str | None]:
        """ETag without quotes, and version id."""
        attributes = dict(metadata)
        if content_type:
            attributes["Content-Type"] = content_type
        if self._storage_class:
            attributes["Storage-Class"] = self._storage_class
        mode: Any = "overwrite"  # obstore's type is not importable at run time
        if if_none_match:
            mode = "create"
        elif if_match:
            mode = {"e_tag": f'"{if_match}"'}
        with s3_errors(self._where, f"put {key}"):
            answer = self._obstore.put(
                self._store, key, body, attributes=attributes, mode=mode, use_multipart=False
            )
        return (answer["e_tag"] or "").strip('"'), answer["version"]

    def get(self, key: str, version_id: str | None, start: int, length: int) -> bytes:
        """As `Store.get`, for `length` above 0; `Unsupported` past the end (see `S3Store.get`)."""
        options: Any = {"range": (start, start + length)}
        if version_id:
            options["version"] = version_id
        with s3_errors(self._where, f"get {key}"):
            return bytes(self._obstore.get(self._store, key, options=options).bytes())

    def head(self, key: str, version_id: str | None) -> ObjectVersion | None:
        """As `Store.head`, with the whole key; None where obstore cannot read the answer."""
        # Its own `head` leaves user metadata out; this is a HEAD request too.
        options: Any = {"head": True}
        if version_id:
            options["version"] = version_id
        with s3_errors(self._where, f"head {key}"):
            try:
                answer = self._obstore.get(self._store, key, options=options)
            except self._obstore.exceptions.BaseError as e:
                if "status code" not in str(e) and "etadata" in str(e):
                    return None
                raise
        meta = answer.meta
        # Attributes of S3's own have capitals.
        metadata = {k: str(v) for k, v in answer.attributes.items() if k == k.lower()}
        return ObjectVersion(
            key=key,
            version_id=meta["version"],
            etag=(meta["e_tag"] or "").strip('"'),
            size=meta["size"],
            last_modified_ns=int(meta["last_modified"].timestamp()) * 10**9,
            metadata=decode_metadata(metadata),
            is_latest=version_id is None,
        )


def _client_options(
    session: boto3.session.Session, endpoint: str, settings: S3Settings
) -> Any:  # obstore's type is not importable at run time
    options: dict[str, Any] = {
        "allow_http": endpoint.startswith("http://"),
        "connect_timeout": timedelta(seconds=settings.connect_timeout_s),
        "read_timeout": timedelta(seconds=settings.read_timeout_s),
        # Of the whole request: 16 MiB at 64 KiB/s.
        "timeout": timedelta(seconds=256),
        "user_agent": "pipefs",
    }
    # boto3 has no public way to its botocore session.
    bundle = session._session.get_config_variable("ca_bundle")
    if bundle and os.path.exists(bundle):
        with open(bundle, "rb") as file:
            options["root_certificate"] = file.read()
    # Empty where NO_PROXY names the host.
    proxies = get_environ_proxies(endpoint)
    scheme = endpoint.partition("://")[0]
    if scheme in proxies:
        options["proxy_url"] = proxies[scheme]
    return options
