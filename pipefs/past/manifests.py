"""Manifests as they lie in the bucket: read by parts, kept on this machine, written once.

`ManifestStore` fetches and puts the objects; what was read is kept in a folder of files named by
their content and, decoded, in a small table. `ManifestView` is the tree a manifest describes,
of which only the parts that somebody looks at are ever loaded. Thread-safe.
"""

from __future__ import annotations

import bisect
import errno
import itertools
import os
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipefs import manifest
from pipefs.errors import Corrupt, NotFound, PreconditionFailed, WouldBlock
from pipefs.manifest import Entry, PartRef, Place, Root
from pipefs.past.entries import inode_of
from pipefs.past.views import ROOT
from pipefs.records import Inode
from pipefs.stores.base import Store

_DECODED = 24
"""Parts kept decoded: about 1.5 MB each."""

YOUNG_NS = 3600 * 10**9
"""An object of this age is safe from a prune for the rest of the day (`catalog.GRACE_NS`)."""
_CLOCKS_DIFFER_NS = 600 * 10**9


@dataclass(frozen=True, slots=True)
class Part:
    """A part, decoded, with the places of its entries for finding one."""

    entries: list[Entry]
    places: list[Place]


class Parts(Protocol):
    """Where a view has its parts from."""

    def part(self, name: str, *, wait: bool = True) -> Part:
        """Errors as `ManifestStore.root`."""


class ManifestStore:
    """The manifest objects of one pipe.

    Args:
        folder: where objects are kept on this machine; None: nowhere. May be deleted at any
            time. Shared by processes: a file there appears whole or not at all.
    """

    def __init__(self, store: Store, folder: Path | None) -> None:
        self._store = store
        self._folder = folder
        self._lock = threading.Lock()  # protects the table below; a leaf
        self._parts: OrderedDict[str, Part] = OrderedDict()
        self._lent: dict[str, bytes] = {}

    def root(self, name: str, *, wait: bool = True) -> Root:
        """
        Raises:
            NotFound: no such object. Corrupt, NewerFormat: as `manifest.decode_root`.
            WouldBlock: not kept here, and `wait` is False.
        """
        return manifest.decode_root(self._bytes(name, wait), name)

    def part(self, name: str, *, wait: bool = True) -> Part:
        """Errors as `root`."""
        with self._lock:
            found = self._parts.get(name)
            if found is not None:
                self._parts.move_to_end(name)
                return found
        entries = manifest.decode_part(self._bytes(name, wait), name)
        part = Part(entries, [manifest.place_in(e.path) for e in entries])
        with self._lock:
            self._parts[name] = part
            while len(self._parts) > _DECODED:
                self._parts.popitem(last=False)
        return part

    def lend(self, name: str, data: bytes) -> None:
        """Let a part be known that is not in the bucket, for as long as this object lives."""
        self._lent[name] = data

    def put(self, data: bytes) -> str:
        """Store a part or root, unless it is there already; returns its name.

        One that has lain there for long is put anew: if nobody needs it, a prune may be about to
        delete it, and what is young it leaves alone.
        """
        name = manifest.name_of_object(data)
        packed = manifest.compress(data)
        for if_none_match in (True, False):
            try:
                self._store.put(
                    manifest.key_of_object(name),
                    packed,
                    content_type="application/gzip",
                    if_none_match=if_none_match,
                )
                break
            except PreconditionFailed:
                # The same bytes: an earlier manifest has this part, or another machine was first.
                if self._is_young(name):
                    break
        self._keep(name, packed)
        return name

    def renew(self, name: str) -> None:
        """As `put` for a part that is there, or kept here. `NotFound`: it is neither."""
        self.put(self._bytes(name, True))

    def _is_young(self, name: str) -> bool:
        try:
            there_ns = self._store.head(manifest.key_of_object(name)).last_modified_ns
        except NotFound:
            return False
        return -_CLOCKS_DIFFER_NS < time.time_ns() - there_ns < YOUNG_NS

    def _bytes(self, name: str, wait: bool) -> bytes:
        kept = self._lent.get(name) or self._kept(name)
        if kept is not None:
            return kept
        if not wait:
            raise WouldBlock
        packed = self._store.get(manifest.key_of_object(name), None, 0, 1 << 30)
        data = manifest.uncompress(packed, name)
        self._keep(name, packed)
        return data

    def _kept(self, name: str) -> bytes | None:
        if self._folder is None:
            return None
        path = self._folder / name
        try:
            return manifest.uncompress(path.read_bytes(), name)
        except OSError:
            return None
        except Corrupt:
            path.unlink(missing_ok=True)
            return None

    def _keep(self, name: str, packed: bytes) -> None:
        """Without a sync: a file that is not whole is noticed when it is read."""
        if self._folder is None:
            return
        draft = self._folder / f".{name}.{uuid.uuid4().hex}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            draft.write_bytes(packed)
            draft.replace(self._folder / name)
        except OSError:
            draft.unlink(missing_ok=True)  # a full disk: it is fetched again next time


class ManifestView:
    """The tree of one manifest: see `pipefs.past.views.PastView`.

    The number of an inode is its place in the manifest, so it means the same in every process.

    Args:
        path: names of the directory or file that the snapshot is of; beside it only the
            directories above it are there.
    """

    def __init__(self, store: Parts, root: Root, label: str, path: Sequence[bytes] = ()) -> None:
        self.label = label
        self.root = root
        self._store = store
        self._path = list(path)
        self._firsts = [manifest.place_in(p.first) for p in root.parts]
        self._ends = list(itertools.accumulate(p.entries for p in root.parts))

    # --- PastView -----------------------------------------------------------------------------

    def node(self, ino: int, *, wait: bool = True) -> Inode:
        if ino == ROOT:
            return inode_of(self.root.head, ROOT, parent=ROOT)
        number = ino - ROOT - 1
        if not 0 <= number < (self._ends[-1] if self._ends else 0):
            raise _fail(errno.ESTALE)
        at = bisect.bisect_right(self._ends, number)
        start = self._ends[at - 1] if at else 0
        return self._inode(self._part(at, wait).entries[number - start], ino, wait)

    def lookup(self, parent: int, name: bytes, *, wait: bool = True) -> Inode:
        return self.at([*self._names(parent, wait), name], wait=wait)

    def children(
        self, ino: int, after: bytes, limit: int, *, wait: bool = True
    ) -> list[tuple[bytes, Inode]]:
        names = self._names(ino, wait)
        directory = b"\0".join(names)
        out: list[tuple[bytes, Inode]] = []
        for number, entry, place in self._from((directory, after), wait):
            if place[0] != directory or len(out) >= limit:
                break
            if place[1] > after and self._covers([*names, place[1]]):
                out.append((place[1], self._inode(entry, number + ROOT + 1, wait, parent=ino)))
        return out

    def entries(self, names: Sequence[bytes] = ()) -> Iterator[Entry]:
        names = self.scope(names)
        if names:
            found = self.find(names)
            if found is None:
                return
            yield found[1]
            if found[1].kind != "dir":
                return
        for _, entry, place in self._from((b"\0".join(names), b""), True):
            if not manifest.is_below(place[0], names):
                break
            yield entry

    # --- by part ------------------------------------------------------------------------------

    def scope(self, names: Sequence[bytes]) -> list[bytes]:
        """The path at and below which `entries(names)` finds something: deeper than these names
        where the snapshot is of a part of them."""
        names = list(names)
        return self._path if self._path[: len(names)] == names else names

    def parts_at(self, names: Sequence[bytes]) -> list[PartRef]:
        """The parts that may hold entries at and below a path, in order."""
        names = self.scope(names)
        if not names:
            return self.root.parts
        return [p for p, first, last in self._ranges() if _overlaps(names, first, last)]

    def part(self, name: str) -> Part:
        """One part of it, read; unlike `entries` with what lies beside the snapshot's path."""
        return self._read(name, True)

    # --- by path ------------------------------------------------------------------------------

    def at(self, names: Sequence[bytes], *, wait: bool = True) -> Inode:
        """The inode at a path. OSError ENOENT, ENOTDIR."""
        if not names:
            return self.node(ROOT)
        found = self.find(names, wait=wait)
        if found is None:
            raise _fail(errno.ENOENT)
        number, entry = found
        return self._inode(entry, number + ROOT + 1, wait)

    def find(self, names: Sequence[bytes], *, wait: bool = True) -> tuple[int, Entry] | None:
        """(number, entry) at a path that is not the root."""
        if not self._covers(names):
            return None
        place = manifest.place_of(names)
        at = bisect.bisect_right(self._firsts, place) - 1
        if at < 0:
            return None
        part = self._part(at, wait)
        n = bisect.bisect_left(part.places, place)
        if n == len(part.places) or part.places[n] != place:
            return None
        return (self._ends[at - 1] if at else 0) + n, part.entries[n]

    def refs(self) -> list[PartRef]:
        """The parts that hold what the snapshot is of."""
        return self.parts_at(())

    def _ranges(self) -> Iterator[tuple[PartRef, Place, Place | None]]:
        yield from zip(self.root.parts, self._firsts, [*self._firsts[1:], None], strict=True)

    # --- inside -------------------------------------------------------------------------------

    def _covers(self, names: Sequence[bytes]) -> bool:
        n = min(len(names), len(self._path))
        return list(names[:n]) == self._path[:n]

    def _part(self, at: int, wait: bool) -> Part:
        return self._read(self.root.parts[at].part, wait)

    def _read(self, name: str, wait: bool) -> Part:
        try:
            return self._store.part(name, wait=wait)
        except NotFound as e:
            raise Corrupt(
                f"a part of the snapshot {self.label} is gone from the store: {e}",
                hint="Somebody deleted it below .pipefs/manifests/",
            ) from e

    def _from(self, place: Place, wait: bool) -> Iterator[tuple[int, Entry, Place]]:
        """(number, entry, place) from a place on, in order."""
        first = max(0, bisect.bisect_right(self._firsts, place) - 1)
        for at in range(first, len(self.root.parts)):
            part = self._part(at, wait)
            start = self._ends[at - 1] if at else 0
            for n in range(bisect.bisect_left(part.places, place), len(part.entries)):
                yield start + n, part.entries[n], part.places[n]

    def _names(self, ino: int, wait: bool) -> list[bytes]:
        """Path of a directory of this view."""
        if ino == ROOT:
            return []
        number = ino - ROOT - 1
        if not 0 <= number < (self._ends[-1] if self._ends else 0):
            raise _fail(errno.ESTALE)
        at = bisect.bisect_right(self._ends, number)
        entry = self._part(at, wait).entries[number - (self._ends[at - 1] if at else 0)]
        if entry.kind != "dir":
            raise _fail(errno.ENOTDIR)
        return manifest.names_in(entry.path)

    def _inode(self, entry: Entry, ino: int, wait: bool, *, parent: int = 0) -> Inode:
        if entry.kind == "link":
            found = self.find(manifest.names_in(entry.link), wait=wait)
            if found is not None and found[1].kind != "link":
                return self._inode(found[1], found[0] + ROOT + 1, wait)
            raise _fail(errno.ENOENT)
        names = manifest.names_in(entry.path)
        if not parent:
            above = self.find(names[:-1], wait=wait) if len(names) > 1 else None
            parent = above[0] + ROOT + 1 if above is not None else ROOT
        return inode_of(entry, ino, parent=parent, name=names[-1])


def _overlaps(names: Sequence[bytes], first: Place, last: Place | None) -> bool:
    """Whether places from `first` to before `last` have some at or below these names."""
    own = manifest.place_of(names)
    if first <= own and (last is None or own < last):
        return True
    top = b"\0".join(names)
    if manifest.is_below(first[0], names):
        return True
    return first <= (top, b"") and (last is None or (top, b"") < last)


def _fail(code: int) -> OSError:
    return OSError(code, os.strerror(code))
