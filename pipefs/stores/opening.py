"""From a URL to a store: `s3://bucket/prefix` or `file:///dir`. Sends no request."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

from pipefs.errors import UsageError
from pipefs.stores.base import Store
from pipefs.stores.local_files import is_store
from pipefs.stores.retrying import RetryPolicy
from pipefs.stores.wrap import RetryStore, innermost
from pipefs.types import Credentials

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}\Z")
_FORMS = "Use s3://BUCKET/PREFIX or file:///DIRECTORY."


def parse_s3_url(url: str) -> tuple[str, str]:
    """Bucket and prefix; the prefix without outer slashes and taken as it is, `%` and all.

    Raises:
        UsageError: no bucket, an impossible bucket name, credentials or a query in the URL.
    """
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    if "@" in bucket:
        raise UsageError(
            "a store's URL carries no credentials", hint="Store them apart: pipefs cred set NAME"
        )
    if not _BUCKET.match(bucket):
        raise UsageError(f"{url!r} names no bucket that S3 could have", hint=_FORMS)
    prefix = prefix.strip("/")
    if any(part in ("", ".", "..") for part in prefix.split("/")) and prefix:
        raise UsageError(f"the prefix of {url!r} has an empty, '.' or '..' part", hint=_FORMS)
    if len(prefix.encode()) > 512:
        raise UsageError("the prefix is longer than 512 bytes, which leaves too little for keys")
    return bucket, prefix


def parse_file_url(url: str) -> str:
    """The directory of a `file://` URL (percent-decoded).

    Raises:
        UsageError: a host, a query, or a path that is not absolute.
    """
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise UsageError(
            f"{url!r} is no directory of this machine",
            hint="Three slashes: file:///srv/data. Write # as %23 and ? as %3F.",
        )
    if not path.startswith("/") or "\0" in path or os.path.normpath(path) == "/":
        raise UsageError(f"{url!r} names no directory", hint="Write it as file:///srv/data.")
    return os.path.normpath(path)


def _checked_endpoint(endpoint_url: str) -> str:
    if endpoint_url and not re.match(r"https?://[^/]+", endpoint_url):
        raise UsageError(
            f"the endpoint {endpoint_url!r} is no URL", hint="Write it as https://HOST:PORT."
        )
    return endpoint_url


def open_store(
    url: str,
    *,
    endpoint_url: str = "",
    region: str = "",
    profile: str = "",
    addressing: str = "auto",
    engine: str = "auto",
    checksum: str = "auto",
    storage_class: str = "",
    sse: str = "",
    kms_key: str = "",
    requester_pays: bool = False,
    credentials: Credentials | None = None,
    policy: RetryPolicy | None = None,
    make: bool = True,
) -> Store:
    """The store of a URL with retries (60 s for an operation unless `policy` says otherwise). Made
    after a fork, never before. Without `credentials` boto3 finds them (else see `s3_split`).

    Args:
        make: whether a local store may be made where there is none. If not, every request to it
            raises StoreError until it is there.
    Raises:
        UsageError: the URL or a setting. AccessDenied, NoSpace, Corrupt: a local store that
            cannot be opened.
    """
    scheme, separator, place = url.partition("://")
    if scheme.lower() not in ("file", "s3") or not separator:
        raise UsageError(f"{url!r} is no store that pipefs knows", hint=_FORMS)
    if scheme.lower() == "file":
        return _open_local(url, policy, make)
    bucket, prefix = parse_s3_url(f"s3://{place}")
    # boto3 takes 0.4 s to import: only who talks to S3 pays for it.
    from pipefs.stores.s3_settings import S3Settings
    from pipefs.stores.s3_split import s3_store

    settings = S3Settings(
        endpoint_url=_checked_endpoint(endpoint_url),
        region=region,
        profile=profile,
        addressing=addressing,
        engine=engine,
        checksum=checksum,
        storage_class=storage_class,
        sse=sse,
        kms_key=kms_key,
        requester_pays=requester_pays,
    )
    return RetryStore(s3_store(bucket, prefix, settings, credentials), policy)


def _open_local(url: str, policy: RetryPolicy | None, make: bool) -> Store:
    from pipefs.stores.local import LocalStore

    folder = parse_file_url(url)
    if not make and not is_store(folder):
        from pipefs.stores.late import LateStore

        return RetryStore(LateStore(folder), policy)
    return RetryStore(LocalStore(folder), policy)


def stores_above(store: Store) -> Iterator[Store]:
    """The places in the same bucket that this store lies in, the nearest first; nothing for an
    embedded store. The caller closes each."""
    inner = innermost(store)
    parts = store.prefix_in_bucket.rstrip("/").split("/")
    if parts == [""]:
        return
    from pipefs.stores.s3 import S3Store

    if isinstance(inner, S3Store):
        for count in range(len(parts) - 1, -1, -1):
            yield RetryStore(S3Store(inner.bucket, "/".join(parts[:count]), inner.settings))
