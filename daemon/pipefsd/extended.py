"""Extended attributes: the user's own, kept with the file, and ours about its state.

`user.pipefs.*` is virtual: found by name, never listed, so that `cp -a` and `rsync -X` settle.
"""

from __future__ import annotations

import errno
import os

from pipefs import tree
from pipefs.db import Txn
from pipefs.records import Dirty, Inode
from pipefs.volume import Volume

_OURS = b"user.pipefs."
_CREATE, _REPLACE = 1, 2
MAX_VALUE_BYTES = 64 << 10


def _fail(code: int) -> OSError:
    return OSError(code, os.strerror(code))


class ExtendedAttributes:
    """xattrs of one pipe's files."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume

    def get(self, ino: int, name: bytes) -> bytes:
        if name.startswith(_OURS):
            return self._virtual(ino, name.removeprefix(_OURS).decode("ascii", "replace"))
        if not name.startswith(b"user."):
            raise _fail(errno.ENODATA)
        found = (self._volume.inode(ino).xattrs or {}).get(name)
        if found is None:
            raise _fail(errno.ENODATA)
        return found

    def _virtual(self, ino: int, name: str) -> bytes:
        node = self._volume.inode(ino)
        content = node.content
        if name == "state":
            return self._volume.state_of(ino).encode()
        if content is not None and name == "version" and content.version_id:
            return content.version_id.encode()
        if content is not None and name == "etag":
            return content.etag.encode()
        if content is not None and name == "cached" and node.is_file:
            return b"%d" % round(self._volume.cached_percent(content))
        raise _fail(errno.ENODATA)

    def list(self, ino: int) -> list[bytes]:
        return sorted(self._volume.inode(ino).xattrs or {})

    def set(self, ino: int, name: bytes, value: bytes, flags: int) -> None:
        self._check(ino, name)
        if len(value) > MAX_VALUE_BYTES:
            raise _fail(errno.E2BIG)
        with self._volume.db.update() as t:
            node = tree.need(t, ino)
            known = dict(node.xattrs or {})
            if flags & _CREATE and name in known:
                raise _fail(errno.EEXIST)
            if flags & _REPLACE and name not in known:
                raise _fail(errno.ENODATA)
            known[name] = value
            self._store(t, node, known)

    def remove(self, ino: int, name: bytes) -> None:
        self._check(ino, name)
        with self._volume.db.update() as t:
            node = tree.need(t, ino)
            known = dict(node.xattrs or {})
            if known.pop(name, None) is None:
                raise _fail(errno.ENODATA)
            self._store(t, node, known)

    def _check(self, ino: int, name: bytes) -> None:
        if name.startswith(_OURS):
            raise _fail(errno.EPERM)
        if not name.startswith(b"user."):
            raise _fail(errno.EOPNOTSUPP)

    def _store(self, t: Txn, node: Inode, xattrs: dict[bytes, bytes]) -> None:
        node.xattrs = xattrs or None
        node.ctime_ns = self._volume.now_ns()
        node.dirty |= Dirty.ANNOUNCE
        tree.put_inode(t, node)
