"""A new manifest from an old one and what changed since, or from the whole tree.

Parts in which nothing changed are taken as they are; the others are walked anew, from their first
place to the next border that the old manifest has too. Borders follow from the paths alone, so
the outcome is the same, byte for byte, as if everything had been walked.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from pipefs import manifest
from pipefs.manifest import Entry, PartRef, Place, Root
from pipefs.past.entries import head_of
from pipefs.past.walking import Source, walk
from pipefs.touched import Touched

PUTS_AT_ONCE = 8
_QUEUED = 32
"""Parts that wait to be put: about 300 KB each."""

Put = Callable[[bytes], str]
"""Stores a part's bytes, unless they are there; returns its name."""


def build(source: Source, put: Put, old: Root | None, changed: Sequence[Touched]) -> Root:
    """The manifest of a tree.

    Args:
        old: a manifest of an earlier state of the tree; None: everything is walked.
        changed: every path that may be different since.
    Raises:
        What `put` raises; then nothing refers to the parts that were put.
    """
    head = head_of(source.root())
    with ThreadPoolExecutor(PUTS_AT_ONCE, thread_name_prefix="manifest") as pool:
        made: list[PartRef | Future[PartRef]] = []
        pending = 0
        for part in _parts(source, old.parts if old is not None else [], changed):
            if isinstance(part, PartRef):
                made.append(part)
                continue
            made.append(pool.submit(_put, put, part))
            pending += 1
            if pending % _QUEUED == 0:
                _wait(made[-_QUEUED])
        return Root(head, [_wait(p) for p in made])


def _put(put: Put, entries: list[Entry]) -> PartRef:
    return manifest.ref_of(entries, put(manifest.encode_part(entries)))


def _wait(part: PartRef | Future[PartRef]) -> PartRef:
    return part if isinstance(part, PartRef) else part.result()


def _parts(
    source: Source, old: Sequence[PartRef], changed: Sequence[Touched]
) -> Iterator[PartRef | list[Entry]]:
    """The parts of the new manifest in order: an old one as it is, or the lines of a new one."""
    if not old:
        yield from manifest.chunks(walk(source))
        return
    firsts = [manifest.place_in(p.first) for p in old]
    borders = {place: n for n, place in enumerate(firsts)}
    dirty = _dirty(firsts, changed)
    at = 0
    while at < len(old):
        if dirty[at]:
            # What sorts before everything there was belongs to the first part.
            start = firsts[at] if at else (b"", b"")
            at = yield from _anew(walk(source, start), borders, at)
        else:
            yield old[at]
            at += 1


def _anew(
    entries: Iterator[Entry], borders: dict[Place, int], at: int
) -> Generator[list[Entry], None, int]:
    """Parts of these lines, up to a border of an old part behind `at`; returns that part."""
    part: list[Entry] = []
    for entry in entries:
        if not part:
            following = borders.get(manifest.place_in(entry.path), at)
            if following > at:
                return following
        part.append(entry)
        if manifest.ends_part(entry.path, len(part)):
            yield part
            part = []
    if part:
        yield part
    return len(borders)


def _dirty(firsts: Sequence[Place], changed: Sequence[Touched]) -> list[bool]:
    """Which old parts have a place that may have changed."""
    out = [False] * len(firsts)
    for one in changed:
        own = manifest.place_of(one.names)
        _mark(out, firsts, own, own)
        if one.below:
            top = b"\0".join(one.names)
            # Directories below it begin with "top, NUL"; 0x01 is the next byte after that.
            _mark(out, firsts, (top, b""), (top + b"\x01", b""))
    return out


def _mark(out: list[bool], firsts: Sequence[Place], low: Place, high: Place) -> None:
    for n in range(
        max(0, bisect.bisect_right(firsts, low) - 1), max(1, bisect.bisect_right(firsts, high))
    ):
        out[n] = True
