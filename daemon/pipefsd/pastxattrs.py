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

_KEPT = (b"user.", b"trusted.")
_ACLS = (acl.ACCESS, acl.DEFAULT)


def get_xattr(
    node: Inode, name: bytes, label: str, cached: Callable[[Inode], float], *, acls: bool
) -> bytes:
    """OSError ENODATA, EOPNOTSUPP. `acls`: the kernel enforces access lists; else nobody is shown
    any, and the mode is that without them."""
    check_known(name, acls=acls)
    if name.startswith(PREFIX):
        found = _virtual(node, name.removeprefix(PREFIX), label, cached)
    elif name in _ACLS:
        found = acl.shown(node.xattrs, name, node.mode)
    else:
        found = (node.xattrs or {}).get(name)
    if found is None:
        raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
    return found


def check_known(name: bytes, *, acls: bool) -> None:
    """OSError EOPNOTSUPP for a namespace that nobody keeps, as for live files."""
    if not (name.startswith(_KEPT) or (acls and name in _ACLS)):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


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


def list_xattrs(node: Inode, *, trusted: bool, acls: bool) -> list[bytes]:
    """Names. `trusted`: for a caller who may see `trusted.*`."""
    hidden = (() if trusted else (b"trusted.",)) + (() if acls else _ACLS)
    return sorted(name for name in node.xattrs or {} if not name.startswith(hidden))
