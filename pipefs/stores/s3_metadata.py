"""User metadata as S3 can carry it: lower-case keys, ASCII values.

A value that is printable ASCII without outer blanks goes as it is, so that rclone and s3fs read
`mtime`, `mode`, `uid` and `gid`. Every other value (and one that looks like the encoding, and the
empty one, which some servers drop) goes as one RFC 2047 word, `=?UTF-8?B?<base64>?=`, whatever
its length. Values that others wrote as RFC 2047 words are decoded the same way.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from email.errors import HeaderParseError
from email.header import decode_header

from pipefs.errors import UsageError

MAX_METADATA_BYTES = 2048
"""S3's limit over all keys and values as sent."""

_PLAIN = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?\Z")
_OURS = re.compile(r"=\?UTF-8\?B\?([A-Za-z0-9+/=]*)\?=\Z")
_KEY = re.compile(r"[a-z0-9!#$&'*+.^_`|~-]+\Z")


def encode_metadata(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """
    Raises:
        UsageError: a key is no lower-case header name, or all together are over 2 KiB.
    """
    encoded: dict[str, str] = {}
    for key, value in (metadata or {}).items():
        if not _KEY.match(key):
            raise UsageError(f"{key!r} cannot be a metadata key: lower-case letters, digits, - _ .")
        if not _PLAIN.match(value) or value.startswith("=?"):
            word = base64.b64encode(value.encode("utf-8", "surrogatepass")).decode()
            encoded[key] = f"=?UTF-8?B?{word}?="
        else:
            encoded[key] = value
    total = sum(len(k) + len(v) for k, v in encoded.items())
    if total > MAX_METADATA_BYTES:
        raise UsageError(f"metadata of {total} bytes is over S3's limit of {MAX_METADATA_BYTES}")
    return encoded


def decode_metadata(raw: Mapping[str, str]) -> dict[str, str]:
    """What `encode_metadata` was given; foreign values come back as they are or decoded."""
    return {key.lower(): _decode(value) for key, value in raw.items()}


def _decode(value: str) -> str:
    if not (value.startswith("=?") and value.endswith("?=")):
        return value
    try:
        if ours := _OURS.match(value):
            return base64.b64decode(ours[1], validate=True).decode("utf-8", "surrogatepass")
        return "".join(
            part.decode(charset or "ascii") if isinstance(part, bytes) else part
            for part, charset in decode_header(value)
        )
    except (HeaderParseError, binascii.Error, LookupError, UnicodeDecodeError):
        return value
