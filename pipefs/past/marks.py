"""Who needs which version: a compact table of (key, version) → holder.

Ten bytes a version: a 64-bit hash and the number of its holder. Where two versions have one hash
(of a billion, one question in eighteen billion meets another's line) the one that is asked about
stays longer than it must: a mistake is always on the side of keeping. Nothing is kept of the keys
themselves. Not thread-safe.
"""

from __future__ import annotations

import bisect
from array import array

import xxhash

SHARED = 0xFFFF
"""Several snapshots hold it."""
LOG = 0xFFFE
"""The live tree of a commit since the cut-off has it: a snapshot of that commit may be made yet."""
FOREIGN = 0xFFFD
"""A snapshot that another system made."""
MANY = 0xFFF0
"""Snapshots from here on are counted together."""

_BUCKETS = 256
_FRESH = 300_000
"""Lines in a dict before they are sorted in: about 30 MB."""


def version_hash(key: str, version: str) -> int:
    return key_hash(f"{key}\0{version}")


def key_hash(key: str) -> int:
    return xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogatepass"))


class Marks:
    """The table. A version that two snapshots hold is `SHARED`; a snapshot's claim counts more
    than those of the log and of other systems, which end by themselves."""

    def __init__(self) -> None:
        self._hashes = [array("Q") for _ in range(_BUCKETS)]
        self._holders = [array("H") for _ in range(_BUCKETS)]
        self._fresh: dict[int, int] = {}

    def add(self, key: str, version: str, holder: int) -> None:
        """Note that `holder` (a snapshot's number, or one of the above) needs this version."""
        self.add_hash(version_hash(key, version), holder)

    def add_hash(self, at: int, holder: int) -> None:
        """The same by the `version_hash`."""
        known = self._fresh.get(at)
        self._fresh[at] = holder if known is None else _both(known, holder)
        if len(self._fresh) >= _FRESH:
            self._settle()

    def holder(self, key: str, version: str) -> int | None:
        """Who needs it; None: nobody."""
        return self.holder_of(version_hash(key, version))

    def holder_of(self, at: int) -> int | None:
        """The same by the `version_hash`."""
        fresh = self._fresh.get(at)
        hashes = self._hashes[at >> 56]
        n = bisect.bisect_left(hashes, at)
        if n == len(hashes) or hashes[n] != at:
            return fresh
        known = self._holders[at >> 56][n]
        return known if fresh is None else _both(known, fresh)

    def __len__(self) -> int:
        if self._fresh:
            self._settle()
        return sum(map(len, self._hashes))

    def _settle(self) -> None:
        """Sort what is fresh into the arrays, bucket by bucket."""
        parts: list[dict[int, int]] = [{} for _ in range(_BUCKETS)]
        for at, holder in self._fresh.items():
            parts[at >> 56][at] = holder
        self._fresh = {}
        for n, fresh in enumerate(parts):
            if not fresh:
                continue
            known = dict(zip(self._hashes[n], self._holders[n], strict=True))
            for at, holder in fresh.items():
                known[at] = _both(known[at], holder) if at in known else holder
            order = sorted(known)
            self._hashes[n] = array("Q", order)
            self._holders[n] = array("H", [known[at] for at in order])


def _both(one: int, other: int) -> int:
    if one == other:
        return one
    if one in (LOG, FOREIGN):
        return other
    return one if other in (LOG, FOREIGN) else SHARED
