"""Making a pipe: from a name and a URL to a registered, described, checked pipe; and unmaking it.

Everything that could fail is tried before anything is written; what is written in the bucket
comes before what is written here, so that a failed `create` leaves no half-registered pipe. Says
what it found and prints nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pipefs import descriptor
from pipefs.config import Settings, check_options
from pipefs.descriptor import Found, PipeDescriptor
from pipefs.errors import AccessDenied, NotFound, StoreError, Unsupported, UsageError
from pipefs.home import NAME_RE, Home, check_name
from pipefs.registry import PATIENCE_S, Pipe, Registry, open_store_for
from pipefs.stores.base import Capabilities, Store
from pipefs.types import Credentials

if TYPE_CHECKING:
    from pipefs.stores.s3 import S3Store


@dataclass(frozen=True, slots=True)
class Created:
    """What `create_pipe` did."""

    pipe: Pipe
    descriptor: PipeDescriptor
    adopted: bool
    """The bucket described the pipe already: name and options are from there."""
    described: bool
    """The description is in the bucket (False: credentials may only read)."""
    found: Found
    """What the prefix held; only looked at when the pipe is new there."""
    capabilities: Capabilities
    bucket_created: bool = False
    warnings: list[str] = field(default_factory=list)
    """Lifecycle rules that destroy old versions, one sentence each."""
    refused: Mapping[str, object] = field(default_factory=dict)
    """Settings that the bucket asked for and did not get."""


def is_url(text: str) -> bool:
    return "://" in text


def bucket_of(url: str) -> str:
    """Bucket of an S3 URL, "" for other stores."""
    parts = urlsplit(url)
    return parts.netloc if parts.scheme == "s3" else ""


def normal_url(url: str) -> str:
    """A store URL in its one spelling. `UsageError` for anything else, credentials included."""
    from pipefs.stores.opening import parse_file_url, parse_s3_url

    scheme = url.partition("://")[0]
    if "@" in urlsplit(url).netloc:
        raise UsageError(
            "a URL must not hold a key or password",
            hint="Credentials come from the AWS files and variables: aws configure",
        )
    if scheme == "s3":
        bucket, prefix = parse_s3_url(url)
        return f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"
    if scheme == "file":
        return Path(parse_file_url(url)).as_uri()
    raise UsageError(
        f"{url} is not the URL of a store",
        hint="s3://bucket/prefix, or file:///absolute/folder for a folder on this machine",
    )


def name_from(url: str) -> str:
    """The pipe's name when only a URL was given: its last part."""
    parts = urlsplit(url)
    last = unquote(parts.path.rstrip("/").rpartition("/")[2]) or parts.netloc
    return check_name(last)


def create_pipe(
    registry: Registry,
    name: str | None,
    url: str | None,
    options: Mapping[str, object],
    *,
    create_bucket: bool = False,
) -> Created:
    """Register a pipe, adopting what its bucket says of it, or describing it there.

    Raises:
        UsageError, AlreadyExists (name taken), NotFound (no such bucket), AccessDenied,
        StoreUnavailable, NewerFormat: nothing was registered.
    """
    if name is not None and url is None and is_url(name):
        name, url = None, name
    if name is None and url is None:
        raise UsageError("neither a name nor a URL", hint="pipefs create NAME [s3://bucket/prefix]")
    options = check_options(options)
    if name is not None:
        check_name(name)
        if name in registry.names():
            raise registry.taken(name)
    where = normal_url(url or registry.new_url(name or "", str(options.get("parent", ""))))
    settings = registry.settings_for(name or "", options, where)
    keys = _credentials(registry, name, where, options)
    made = create_bucket and _create_bucket(where, settings, keys)
    store = open_store_for(where, settings, keys, patience_s=PATIENCE_S)
    try:
        return _create_in(registry, store, name, where, options, bucket_created=made)
    finally:
        store.close()


def _credentials(
    registry: Registry, name: str | None, url: str, options: Mapping[str, object]
) -> Credentials | None:
    """What was stored under the pipe's name before it was made, or for its parent."""
    last = name or unquote(url.rstrip("/").rpartition("/")[2])
    return registry.credentials_for(last, options) if NAME_RE.fullmatch(last) else None


def _create_in(
    registry: Registry,
    store: Store,
    name: str | None,
    url: str,
    options: Mapping[str, object],
    *,
    bucket_created: bool,
) -> Created:
    try:
        capabilities = store.probe()
    except NotFound as e:
        # Not `NotFound` for the caller: that is a pipe, snapshot or path. The store is away.
        again = f"pipefs create {name or name_from(url)} {url} --create-bucket"
        raise StoreError(e.message, hint=f"Create it with versioning: {again}") from e
    known = descriptor.read_descriptor(store)
    final = name or (known.name if known is not None else name_from(url))
    check_name(final)
    if final in registry.names():
        raise registry.taken(final)
    found = Found(0, 0, 0, False)
    described = True
    if known is None:
        found = descriptor.survey(store)
        known, described = descriptor.describe(store, final, dict(options))
        adopted = described and known.name != final
    else:
        adopted = True
    pipe = registry.add(final, url, known.pipe_id, {**known.options, **options})
    return Created(
        pipe=pipe,
        descriptor=known,
        adopted=adopted,
        described=described,
        found=found,
        capabilities=capabilities,
        bucket_created=bucket_created,
        warnings=lifecycle_warnings(store),
        refused=known.refused,
    )


def s3_of(store: Store) -> S3Store | None:
    """The S3 store inside its wrappers, None for other stores."""
    if not bucket_of(store.url):
        return None
    from pipefs.stores.s3 import S3Store
    from pipefs.stores.wrapper import innermost

    inner = innermost(store)
    return inner if isinstance(inner, S3Store) else None


def _create_bucket(url: str, settings: Settings, keys: Credentials | None) -> bool:
    """Make the bucket if it is missing: versioning on, unfinished uploads end after a week."""
    store = open_store_for(url, settings, keys, patience_s=PATIENCE_S)
    try:
        s3 = s3_of(store)
        if s3 is None:
            return False
        made = not s3.admin.exists()
        if made:
            s3.admin.create(versioning=True)
        s3.admin.enable_versioning()
        s3.admin.ensure_abort_rule()
        return made
    finally:
        store.close()


def lifecycle_warnings(store: Store) -> list[str]:
    """Rules of the bucket that would destroy snapshots or files; where they cannot be read, a
    sentence that says so."""
    from pipefs.past import lifecycle

    try:
        return [j.text for j in lifecycle.of(store) if j.level != lifecycle.NOTE]
    except (AccessDenied, Unsupported):
        return ["the lifecycle rules cannot be read: they may destroy old versions unseen"]
    except StoreError:
        return []


def purge_store(pipe: Pipe, home: Home) -> int:
    """Delete every version of every object of a pipe, for good; the number of versions.

    Raises:
        StoreError: some are left; run it again.
    """
    store = pipe.open_store()
    count = 0
    try:
        try:
            for version in list(store.list_versions()):
                store.delete_version(version.key, version.version_id or "null")
                count += 1
        except Unsupported:
            for item in list(store.list()):
                store.delete(item.key)
                count += 1
    except NotFound:
        pass  # The bucket is gone already.
    finally:
        store.close()
    parts = urlsplit(pipe.url)
    folder = unquote(parts.path)
    if parts.scheme == "file" and os.path.dirname(folder) == str(home.stores):
        shutil.rmtree(folder, ignore_errors=True)
    return count
