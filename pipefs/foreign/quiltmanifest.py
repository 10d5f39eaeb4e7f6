"""quilt3's manifest: JSON Lines, and the top hash that names it. Pure.

The first line is about the package, each further one about a file: its logical key, its physical
key (a URL with a VersionId), size and hash. The top hash covers all but the physical keys.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlparse

from pipefs.errors import Corrupt
from pipefs.foreign.pins import Pin
from pipefs.manifest import names_in

VERSION = "v0"

Line = dict[str, Any]
"""As JSON has it."""

_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
_plain = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def head(message: str, user_meta: Mapping[str, object]) -> Line:
    """The first line."""
    return {"version": VERSION, "user_meta": dict(user_meta), "message": message or None}


def line(logical: str, url: str, size: int, hash_of: Mapping[str, str]) -> Line:
    """The line of a file."""
    return {
        "logical_key": logical,
        "physical_keys": [url],
        "size": size,
        "hash": dict(hash_of),
        "meta": {},
    }


def top_hash(first: Line, lines: Iterable[Line]) -> str:
    """What names the package: the lines are in the order of `walk_order`."""
    found = hashlib.sha256(_canonical(first).encode())
    for one in lines:
        part = {k: one[k] for k in ("hash", "logical_key", "meta", "size")}
        found.update(_canonical(part).encode())
    return found.hexdigest()


def walk_order(logical: str) -> list[str]:
    """Sort key: quilt3 sorts the names of each directory, so `a/x` comes before `a.txt`."""
    return logical.split("/")


def encode(first: Line, lines: Iterable[Line]) -> bytes:
    return "".join(f"{_plain(one)}\n" for one in (first, *lines)).encode()


def logical_key(path: str, top: str) -> str:
    """The name of a file in the package of a directory: its path below it, as text."""
    names = names_in(path)[len(names_in(top)) :] if path != top else names_in(path)[-1:]
    try:
        return b"/".join(names).decode()
    except UnicodeDecodeError:
        return "/".join(path.split("/")[-len(names) :])  # escaped as in the bucket


def url_of(bucket: str, full: str, version: str | None) -> str:
    """A physical key."""
    query = f"?{urlencode({'versionId': version})}" if version is not None else ""
    return f"s3://{bucket}{quote('/' + full)}{query}"


def key_in(url: str, bucket: str) -> tuple[str, str] | None:
    """(key, VersionId or "") of a physical key; None: it is not in this bucket."""
    parts = urlparse(url)
    if parts.scheme != "s3" or parts.netloc != bucket:
        return None
    version = parse_qs(parts.query).get("versionId", [""])[0]
    return unquote(parts.path).removeprefix("/"), version


def decode(data: bytes, where: str) -> Iterator[Line]:
    """The lines, the package's first.

    Raises:
        Corrupt: these bytes are no manifest.
    """
    for text in data.splitlines():
        try:
            one = json.loads(text)
        except ValueError as e:
            raise Corrupt(f"{where} is no manifest of quilt3: {e}") from e
        if not isinstance(one, dict):
            raise Corrupt(f"{where} is no manifest of quilt3: a line is no object")
        yield one


def pin_of(one: Line, bucket: str) -> Pin | None:
    """The version that a line stands for; None: it is a directory's line, or elsewhere."""
    keys = one.get("physical_keys")
    if not keys or not isinstance(keys, list):
        return None
    found = key_in(str(keys[0]), bucket)
    if found is None:
        return None
    said = one.get("hash") or {}
    plain = said.get("type") == "SHA256" and isinstance(said.get("value"), str)
    size = one.get("size")
    return Pin(
        *found,
        size=size if isinstance(size, int) else -1,
        checksum=f"sha256:{said['value']}" if plain else "",
        path=str(one.get("logical_key", "")),
    )
