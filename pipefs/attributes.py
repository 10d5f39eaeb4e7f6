"""File attributes as object metadata, with the keys and forms that rclone and s3fs use.

`mtime` seconds with decimals, `mode` st_mode in decimal, `uid`, `gid`: each of the three programs
reads the others' files. Pure.
"""

from __future__ import annotations

import mimetypes
import stat
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation

from pipefs.commits import Change
from pipefs.records import NO_MODE, Inode
from pipefs.times import bounded_ns
from pipefs.types import ObjectVersion

_NS = 10**9


def metadata_of(node: Inode, mtime_ns: int) -> dict[str, str]:
    """Object metadata for a file or directory marker."""
    out = {"mtime": f"{mtime_ns // _NS}.{mtime_ns % _NS:09d}"}
    if not node.mode & NO_MODE:
        out["mode"] = str(node.mode)
    if node.uid >= 0:
        out["uid"] = str(node.uid)
    if node.gid >= 0:
        out["gid"] = str(node.gid)
    return out


def content_type_of(name: bytes) -> str:
    """MIME type by the file's name, as the AWS tools guess it."""
    kind, _encoding = mimetypes.guess_type(name.decode("utf-8", "replace"))
    return kind or "application/octet-stream"


def change_of(found: ObjectVersion, path: str) -> Change:
    """The `put` that announces an object another tool wrote."""
    metadata = found.metadata
    mode = _integer(metadata, "mode")
    return Change(
        op="put",
        path=path,
        key="" if found.key == path else found.key,
        version=found.version_id,
        etag=found.etag,
        size=found.size,
        mode=stat.S_IFREG | stat.S_IMODE(mode) if mode is not None else None,
        uid=_integer(metadata, "uid"),
        gid=_integer(metadata, "gid"),
        mtime=_nanoseconds(metadata) or found.last_modified_ns or None,
    )


def _integer(metadata: Mapping[str, str], key: str) -> int | None:
    try:
        value = int(metadata.get(key, ""), 0)
    except ValueError:
        return None
    return value if 0 <= value < 1 << 32 else None


def _nanoseconds(metadata: Mapping[str, str]) -> int | None:
    try:
        value = Decimal(metadata.get("mtime", ""))
    except InvalidOperation:
        return None
    known = value.is_finite() and abs(value) < 1 << 40
    return bounded_ns(int(value * _NS)) if known else None
