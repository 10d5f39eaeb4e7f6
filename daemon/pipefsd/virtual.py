"""`user.pipefs.*`: what pipefs knows about a file, as extended attributes that can only be read.

state    clean, dirty, uploading, failed, conflict
version  VersionId     etag  ETag, without quotes     cached  percent of the version in the cache
sha256, xxh3  hex digits, where the object's metadata or the store's own checksum tells them

`sha256` and `xxh3` ask the store, the rest is at hand. None is ever listed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from pipefs.errors import PipefsError, WouldBlock
from pipefs.records import Content
from pipefs.volume import Volume

PREFIX = b"user.pipefs."

_DIGITS = {b"sha256": (64,), b"xxh3": (16, 32)}
"""Hex digits of each digest; XXH3 has 64 and 128 bits."""


def _fail(code: int) -> OSError:
    return OSError(code, os.strerror(code))


class VirtualAttributes:
    """The virtual attributes of one pipe's files."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self.failed: Callable[[int], bool] = lambda _ino: False
        """Whether the last upload of a file failed for a reason that does not pass by itself."""

    def get(self, ino: int, name: bytes, *, wait: bool) -> bytes:
        """The value of `user.pipefs.NAME`.

        Raises:
            OSError: ENODATA (no such attribute, or not known of this file).
            WouldBlock: the store must be asked, and `wait` is False.
        """
        if name == b"state":
            state = self._volume.state_of(ino)
            return b"failed" if state == "dirty" and self.failed(ino) else state.encode()
        node = self._volume.inode(ino)
        content = node.content
        if content is None or not node.is_file:
            raise _fail(errno.ENODATA)
        if name == b"version" and content.version_id:
            return content.version_id.encode()
        if name == b"etag":
            return content.etag.encode()
        if name == b"cached":
            return b"%d" % round(self._volume.cached_percent(content))
        if name in _DIGITS and self._volume.files.get(ino) is None:
            return self._digest(content, name, wait)
        raise _fail(errno.ENODATA)

    def _digest(self, content: Content, name: bytes, wait: bool) -> bytes:
        """What the store tells of a version; of changed bytes here nothing is known."""
        if not wait:
            raise WouldBlock
        try:
            found = self._volume.store.head(content.key, content.version_id)
        except PipefsError as e:
            raise _fail(errno.ENODATA) from e
        value = found.metadata.get(name.decode(), "").strip().lower()
        good = len(value) in _DIGITS[name] and all(c in "0123456789abcdef" for c in value)
        if not good or found.etag != content.etag:
            raise _fail(errno.ENODATA)
        return value.encode()
