"""What an author says of a file: as object metadata, for every S3 tool, and as xattrs on a mount.

`{"author": "maria", "rows": 12}` is the object metadata `author: maria` and `pipefs-meta:
{"rows": 12}`, and the extended attributes `user.author` and `user.pipefs-meta`. Text under a name
that can be a header's goes as it is; all else goes together as JSON, so types come back. Names
that other programs read (`mtime`, `mode`, …) are never used for it. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pipefs.errors import UsageError
from pipefs.stores.s3_metadata import encode_metadata

FORMAT_KEY = "pipefs-format"
OBJECT_KEY = "pipefs-object"
META_KEY = "pipefs-meta"
T4_KEY = "helium"

ROOM_BYTES = 1600
"""S3 takes 2,048 for all metadata of an object; attributes and write id are among them."""
MAX_META_BYTES = 60_000
"""An extended attribute has at most 64 KiB."""

_OTHER_NAMES = "mtime atime ctime btime mode uid gid rdev md5chksum s3cmd-attrs sha256 xxh3"
_OTHERS = frozenset({*_OTHER_NAMES.split(), T4_KEY})
"""Names with a meaning to pipefs, rclone, s3fs, s3cmd or T4."""
_HEADER = re.compile(r"[a-z0-9][a-z0-9_.-]{0,99}\Z")
_PREFIX = b"user."


def headers_for(meta: Mapping[str, Any] | None) -> dict[str, str]:
    """The object metadata that says it: {} for none.

    Raises:
        UsageError: a name that is no text or begins with "pipefs", or what JSON cannot hold.
    """
    plain: dict[str, str] = {}
    rest: dict[str, Any] = {}
    for name, value in (meta or {}).items():
        if not isinstance(name, str) or not name:
            raise UsageError(f"metadata needs names of text, and {name!r} is none")
        if name.startswith("pipefs"):
            raise UsageError(
                f"{name!r} cannot name metadata", hint="Names with pipefs in front are its own"
            )
        if isinstance(value, str) and _HEADER.match(name) and name not in _OTHERS:
            plain[name] = value
        else:
            rest[name] = value
    if rest:
        plain[META_KEY] = _json(rest)
    if sum(len(k) + len(v.encode("utf-8", "surrogatepass")) for k, v in plain.items()) > (
        MAX_META_BYTES
    ):
        raise UsageError(
            f"metadata of more than {MAX_META_BYTES:,} bytes", hint="Put it as a file of its own"
        )
    return plain


def that_fit(headers: Mapping[str, str]) -> dict[str, str]:
    """As much of object metadata as S3 takes beside the file's attributes: all of it, or only the
    format. What does not fit is in the commit (`xattrs_for`)."""
    try:
        sent = encode_metadata(headers)
    except UsageError:
        sent = {}
    if headers and not 0 < sum(len(k) + len(v) for k, v in sent.items()) <= ROOM_BYTES:
        return {k: v for k, v in headers.items() if k in (FORMAT_KEY, OBJECT_KEY)}
    return dict(headers)


def xattrs_for(headers: Mapping[str, str]) -> dict[bytes, bytes]:
    """The same as extended attributes."""
    return {_PREFIX + k.encode(): v.encode("utf-8", "surrogatepass") for k, v in headers.items()}


def meta_of(
    headers: Mapping[str, str], xattrs: Mapping[bytes, bytes] | None = None
) -> dict[str, Any]:
    """What the author said, from an object's metadata or, where the file has any, from its
    extended attributes: these can be changed later. Metadata of other tools counts, T4's too."""
    found = {
        _text(name.removeprefix(_PREFIX)): _text(value)
        for name, value in (xattrs or {}).items()
        if name.startswith(_PREFIX)
    }
    source: Mapping[str, str] = found if any(_is_meta(k) for k in found) else headers
    meta: dict[str, Any] = {k: v for k, v in source.items() if _is_meta(k) and k != META_KEY}
    said = t4_header(source).get("user_meta")
    meta |= said if isinstance(said, dict) else {}
    rest = _parsed(source.get(META_KEY, ""))
    return meta | (rest if isinstance(rest, dict) else {})


def t4_header(headers: Mapping[str, str]) -> dict[str, Any]:
    """What T4 wrote beside an object: `target` and `user_meta`; {} where it wrote nothing."""
    found = _parsed(headers.get(T4_KEY, ""))
    return found if isinstance(found, dict) else {}


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return value.decode("utf-8", "surrogateescape")  # some other program's


def is_said(name: bytes) -> bool:
    """Whether an extended attribute holds what an author said."""
    return name.startswith(_PREFIX) and _is_meta(_text(name.removeprefix(_PREFIX)))


def _is_meta(name: str) -> bool:
    return name == META_KEY or not (name.startswith("pipefs") or name in _OTHERS)


def _json(value: dict[str, Any]) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as e:
        raise UsageError(f"metadata can be whatever JSON can, and this cannot: {e}") from e


def _parsed(text: str) -> Any:
    try:
        return json.loads(text) if text else None
    except ValueError:
        return None
