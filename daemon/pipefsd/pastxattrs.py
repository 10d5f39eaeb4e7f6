"""Extended attributes of the past: the file's own as they were, and what pipefs knows of it.

`user.pipefs.version`, `etag`, `sha256`, `cached` as for live files, and `snapshot`, the name of the
view it is seen in. All are found by name; the virtual ones are not listed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from pipefs import acl
from pipefs.records import Inode
from pipefsd.virtual import PREFIX

_HIDDEN = (acl.ACCESS, acl.DEFAULT)
"""Access lists are enforced where the kernel does it for the whole mount; past modes say enough."""


def get_xattr(node: Inode, name: bytes, label: str, cached: Callable[[Inode], float]) -> bytes:
    """OSError ENODATA."""
    found = None
    if name.startswith(PREFIX):
        found = _virtual(node, name.removeprefix(PREFIX), label, cached)
    elif name not in _HIDDEN:
        found = (node.xattrs or {}).get(name)
    if found is None:
        raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
    return found


def _virtual(
    node: Inode, name: bytes, label: str, cached: Callable[[Inode], float]
) -> bytes | None:
    if name == b"snapshot":
        return label.encode()
    content = node.content
    if content is None:
        return None
    if name == b"version":
        return content.version_id.encode() if content.version_id else None
    if name == b"etag":
        return content.etag.encode()
    if name == b"sha256":
        kind, _, digits = content.checksum.partition(":")
        return digits.encode() if kind == "sha256" else None
    if name == b"cached":
        return b"%d" % round(cached(node))
    return b"clean" if name == b"state" else None


def list_xattrs(node: Inode, *, trusted: bool) -> list[bytes]:
    """Names. `trusted`: for a caller who may see `trusted.*`."""
    hidden = (() if trusted else (b"trusted.",)) + _HIDDEN
    return sorted(name for name in node.xattrs or {} if not name.startswith(hidden))
