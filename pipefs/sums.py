"""What a version's bytes should be, by its SHA-256 or its ETag.

An ETag says something where it is an MD5: of a whole object, or of the MD5s of the parts of a
multipart upload, if the size of these parts can be found. Pure.
"""

from __future__ import annotations

import hashlib
import re

_MULTIPART = re.compile(r"([0-9a-f]{32})-(\d+)\Z")
_MD5 = re.compile(r"[0-9a-f]{32}\Z")
_TRIED = 8
"""Part sizes that are tried at once: each costs an MD5 of all bytes."""
_PART_MIB = (5, 6, 8, 10, 12, 15, 16, 20, 24, 25, 32, 40, 48, 50, 64, 100, 128, 200, 256, 512, 1024)


class Sums:
    """The sums of one file's bytes, fed in order, that could be compared with what is known.

    Args:
        etag: without quotes; "" where nothing is to be made of it.
        checksum: `sha256:<hex>`, or "".
    """

    def __init__(self, size: int, etag: str, checksum: str) -> None:
        self._etag = etag
        self._checksum = checksum.removeprefix("sha256:")
        self._sha256 = hashlib.sha256() if checksum.startswith("sha256:") else None
        multipart = _MULTIPART.match(etag)
        count = int(multipart[2]) if multipart else 0
        self._parts = {size: _Parts(size) for size in part_sizes(size, count)}
        whole = _MD5.match(etag) is not None
        self._md5 = hashlib.md5(usedforsecurity=False) if whole else None

    def add(self, piece: bytes | memoryview) -> None:
        for one in (self._sha256, self._md5, *self._parts.values()):
            if one is not None:
                one.update(piece)

    def sha256_differs(self) -> bool:
        if self._sha256 is None:
            return False
        return self._sha256.hexdigest() != self._checksum

    def md5_differs(self) -> bool | None:
        """None: the ETag is no MD5 that can be computed."""
        if self._md5 is not None:
            return self._md5.hexdigest() != self._etag
        if any(p.etag() == self._etag for p in self._parts.values()):
            return False
        return None


def part_sizes(size: int, count: int) -> list[int]:
    """Part sizes in use with which an object of `size` bytes has `count` parts."""
    if not count or not size:
        return []
    mib = 1 << 20
    low, high = -(-size // count), (size - 1) // (count - 1) if count > 1 else size
    whole = range(-(-low // mib), high // mib + 1)  # MiB
    tried = whole if len(whole) <= _TRIED else _PART_MIB
    sizes = {low, *(n * mib for n in tried), -(-low // mib) * mib}
    return sorted(s for s in sizes if -(-size // s) == count)


class _Parts:
    """The ETag of a multipart upload with parts of one size."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._left = size
        self._part = hashlib.md5(usedforsecurity=False)
        self._done: list[bytes] = []

    def update(self, piece: bytes | memoryview) -> None:
        at = memoryview(piece)
        while at:
            some, at = at[: self._left], at[self._left :]
            self._part.update(some)
            self._left -= len(some)
            if not self._left:
                self._end()

    def _end(self) -> None:
        self._done.append(self._part.digest())
        self._part, self._left = hashlib.md5(usedforsecurity=False), self._size

    def etag(self) -> str:
        if self._left < self._size:
            self._end()
        whole = hashlib.md5(b"".join(self._done), usedforsecurity=False).hexdigest()
        return f"{whole}-{len(self._done)}"
