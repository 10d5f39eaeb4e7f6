"""File names and object keys: the one escaping rule, both ways.

A file name is bytes, a key is text. Most names are their own key component. Bytes that a key
cannot carry (control characters, bytes that are not UTF-8, the backslash, which some stores take
for a slash) are written `%XX`; a literal `%` that would read as such an escape is written `%25`.
Every legal path therefore has exactly one key, and `names_of(key_of(names)) == names`. A path too
long for a key gets a shortened one, which stands for it; then the commit log has the path.

The other way round a bucket may hold keys that are no path: empty or dot components, components
over 255 bytes. Those get a stand-in name (below), and the entry in the tree remembers the key
itself. Pure functions, no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import xxhash

PARKED = ".pipefs/moving/"
"""Where bytes wait for their own key: on stores without versions while another file's are there,
and of files that are published all at once until their commit is there."""
MAX_KEY_BYTES = 1024
MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 8192
"""Of a path as text. Linux takes 4,096 in one call; deeper places are reached step by step."""

# Codes that stand for a byte in a key: controls, DEL, "%", the backslash, "." and "/" (the last
# two only occur in stand-in names), and all bytes from 0x80, which appear alone only where UTF-8
# is broken.
_CODE = r"(?:[01][0-9A-F]|7F|2[5EF]|5C|[89A-F][0-9A-F])"
_LITERAL_PERCENT = re.compile(f"%(?={_CODE})")
_ESCAPE = re.compile(f"%25(?={_CODE})|%(?!25){_CODE}")
_PLAIN = re.compile(r"[^\x00-\x1f\x7f%\\\udc80-\udcff]*\Z")
_SUFFIX = re.compile(rb"(?<=.)(?:\.[A-Za-z0-9]{1,7}){1,2}\Z")
_SHORTENED = re.compile(r"(?:^|/)(%~[0-9a-f]{32})(?:\.[A-Za-z0-9]{1,7}){0,2}\Z")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\\udc80-\udcff]")


def component_of(name: bytes) -> str:
    """The key component of one file name."""
    text = name.decode("utf-8", "surrogateescape")
    if _PLAIN.match(text):
        return text
    text = _LITERAL_PERCENT.sub("%25", text)
    return _UNSAFE.sub(lambda m: f"%{ord(m[0]) & 0xFF:02X}", text)


def key_of(names: Sequence[bytes], *, prefix_bytes: int = 0) -> str:
    """The key of a path: its components; where these with the prefix would exceed S3's 1,024
    bytes, as many of them as fit and then `%~`, 32 hex digits that stand for the whole path, and
    the name's suffix."""
    key = "/".join(map(component_of, names))
    room = MAX_KEY_BYTES - prefix_bytes
    if len(key.encode()) <= room:
        return key
    last = _digest(key) + suffix_of(names[-1])
    above: list[str] = []
    room -= len(last)
    for component in map(component_of, names[:-1]):
        room -= len(component.encode()) + 1
        if room < 0:
            break
        above.append(component)
    return "/".join([*above, last])


def _digest(path: str) -> str:
    return "%~" + xxhash.xxh3_128_hexdigest(path.encode())


def suffix_of(name: bytes) -> str:
    """`.csv.gz`: what tells other tools what a file is; "" where there is none."""
    return m[0].decode() if (m := _SUFFIX.search(name)) else ""


def stands_for_a_path(key: str) -> bool:
    """Whether only the commit log can say whose object this is: its path was too long."""
    return _SHORTENED.search(key) is not None


def name_of(component: str) -> bytes:
    """The file name of one key component; a stand-in where the component is no file name."""
    if component in ("", ".", ".."):
        return component.replace(".", "%2E").encode() or b"%2F"
    name = _unescape(component)
    if name is None:
        name = component.encode("utf-8", "surrogateescape")
    name = name.replace(b"\0", b"%00")  # S3 takes it, no file system does
    if len(name) > MAX_NAME_BYTES:
        digest = xxhash.xxh3_64_hexdigest(name).encode()
        name = name[:200] + b"%2F" + digest
    return name


def names_of(key: str) -> list[bytes]:
    """The path of a key, without a trailing slash (directory markers name the directory)."""
    return [name_of(c) for c in key.removesuffix("/").split("/")]


def is_natural(key: str, names: Sequence[bytes]) -> bool:
    """Whether the file at this path may keep this key (else its object is to be moved)."""
    if names_of(key) == list(names):
        return True
    found = _SHORTENED.search(key)
    return found is not None and found[1] == _digest("/".join(map(component_of, names)))


def bytes_of(text: str) -> bytes:
    """Undo `component_of` for bytes that are no file name: link targets, attribute names."""

    def byte(m: re.Match[str]) -> str:
        code = int(m[0][1:3], 16)
        return chr(code if code < 0x80 else 0xDC00 + code)

    return _ESCAPE.sub(byte, text).encode("utf-8", "surrogateescape")


def _unescape(component: str) -> bytes | None:
    """Undo `component_of`; None where it did not make this component."""
    if "%" not in component:
        return component.encode("utf-8", "surrogateescape")

    name = bytes_of(component)
    legal = b"/" not in name and b"\0" not in name and name not in (b".", b"..")
    return name if legal and component_of(name) == component else None


def prefix_bytes_of(url: str) -> int:
    """Bytes that the prefix adds to each key, for S3's limit of 1,024."""
    if not url.startswith("s3://"):
        return 0
    _bucket, _, prefix = url.removeprefix("s3://").partition("/")
    return len(prefix.rstrip("/").encode()) + 1 if prefix else 0
