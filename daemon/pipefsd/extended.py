"""Extended attributes: the user's own, kept with the file, access lists, and ours about its state.

`user.*` and `trusted.*` are kept as they are; `system.posix_acl_*` where the kernel enforces access
lists. `security.*` is not kept: labels and capabilities are this machine's business, and a file
capability that outlived a write made elsewhere would be a hole. Asked for one we say EOPNOTSUPP,
not ENODATA: after that `ls -l` asks for no other file's. `user.pipefs.*` is virtual (see
`virtual`): found by name, never listed, so that `cp -a` and `rsync -X` settle.

Errors are ext4's. Who may set what (`user.*` only on files and directories, `trusted.*` only by
root) the kernel decides before it asks.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from pipefs import acl, tree
from pipefs.db import Txn
from pipefs.records import Dirty, Inode
from pipefs.types import ROOT_INO
from pipefs.volume import Volume
from pipefsd.virtual import PREFIX, VirtualAttributes

_CREATE, _REPLACE = 1, 2
_KEPT = (b"user.", b"trusted.")
_ACLS = (acl.ACCESS, acl.DEFAULT)
MAX_VALUE_BYTES = 64 << 10
MAX_TOTAL_BYTES = 128 << 10
"""Names and values of one file together: each look at a file and each commit carries them."""
MAX_NAMES_BYTES = 64 << 10
"""What listxattr(2) can return."""


def _fail(code: int) -> OSError:
    return OSError(code, os.strerror(code))


class ExtendedAttributes:
    """xattrs of one pipe's files. Changes are durable against kill -9 when they return."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self.virtual = VirtualAttributes(volume)
        self.acls = False
        """The kernel enforces access lists. Else they are neither shown nor taken: a list that
        nobody enforces promises what it does not keep."""

    def get(self, ino: int, name: bytes, *, wait: bool = True) -> bytes:
        """Raises OSError (ENODATA, EOPNOTSUPP, EINVAL) and, without `wait`, WouldBlock."""
        if name.startswith(PREFIX):
            return self.virtual.get(ino, name.removeprefix(PREFIX), wait=wait)
        self._check(name)
        node = self._volume.inode(ino)
        if name in _ACLS:
            found = acl.shown(node.xattrs, name, node.mode)
        else:
            found = (node.xattrs or {}).get(name)
        if found is None:
            raise _fail(errno.ENODATA)
        return found

    def list(self, ino: int, *, trusted: bool) -> list[bytes]:
        """Names. `trusted`: for a caller who may see `trusted.*`."""
        hidden = (() if trusted else (b"trusted.",)) + (() if self.acls else _ACLS)
        return sorted(
            name for name in self._volume.inode(ino).xattrs or {} if not name.startswith(hidden)
        )

    def set(
        self,
        ino: int,
        name: bytes,
        value: bytes,
        flags: int,
        *,
        kill_sgid: bool = False,
        unique: int = 0,
    ) -> None:
        """setxattr(2). `kill_sgid`: with an access list, the set-gid bit goes.

        Raises:
            OSError: EEXIST and ENODATA by the flags, E2BIG (value over 64 KiB), ENOSPC (the file's
                together over 128 KiB), EINVAL, EPERM (`user.pipefs.*`), EOPNOTSUPP.
        """
        self._check_change(name)
        if len(value) > MAX_VALUE_BYTES:
            raise _fail(errno.E2BIG)

        def change(node: Inode) -> None:
            known = dict(node.xattrs or {})
            if flags & _CREATE and name in known:
                raise _fail(errno.EEXIST)
            if flags & _REPLACE and name not in known:
                raise _fail(errno.ENODATA)
            if name in _ACLS:
                _set_acl(node, name, value, kill_sgid)
            else:
                known[name] = value
                node.xattrs = known
            _check_room(node.xattrs or {})

        self._change(ino, unique, change)

    def remove(self, ino: int, name: bytes, *, unique: int = 0) -> None:
        """removexattr(2). Raises OSError: ENODATA, EPERM, EOPNOTSUPP, EINVAL."""
        self._check_change(name)

        def change(node: Inode) -> None:
            known = dict(node.xattrs or {})
            if known.pop(name, None) is None:
                raise _fail(errno.ENODATA)
            node.xattrs = known or None

        self._change(ino, unique, change)

    def _check_change(self, name: bytes) -> None:
        if name.startswith(PREFIX):
            raise _fail(errno.EPERM)
        self._check(name)

    def _check(self, name: bytes) -> None:
        if name in _ACLS and self.acls:
            return
        if not name.startswith(_KEPT):
            raise _fail(errno.EOPNOTSUPP)
        if name in _KEPT:
            raise _fail(errno.EINVAL)

    def _change(self, ino: int, unique: int, change: Callable[[Inode], None]) -> None:
        with self._volume.db.update() as t:
            node = tree.inode(t, ino)
            if node is None:
                raise _fail(errno.ESTALE)
            change(node)
            node.ctime_ns = self._volume.now_ns()
            self._put(t, node)
            self._volume.replies.record(t, unique, ino)

    def _put(self, t: Txn, node: Inode) -> None:
        if node.parent or node.ino == ROOT_INO:
            node.dirty |= Dirty.ANNOUNCE
        tree.put_inode(t, node)


def _set_acl(node: Inode, name: bytes, value: bytes, kill_sgid: bool) -> None:
    if name == acl.DEFAULT:
        if not node.is_dir:
            raise _fail(errno.EACCES)
        node.xattrs = acl.set_default(node.xattrs, value)
        return
    node.mode, node.xattrs = acl.set_access(node.xattrs, node.mode, value, kill_sgid=kill_sgid)


def _check_room(xattrs: dict[bytes, bytes]) -> None:
    names = sum(len(name) + 1 for name in xattrs)
    total = sum(len(value) for value in xattrs.values()) + names
    if total > MAX_TOTAL_BYTES or names > MAX_NAMES_BYTES:
        raise _fail(errno.ENOSPC)
