"""A past tree from a list in memory: what another system pinned, or any set of versions.

`ManifestView` reads its parts when somebody looks at them; here all is at hand. The list is put
in manifest order and directories that paths only imply are added, so that the same list gives the
same numbers in every process.
"""

from __future__ import annotations

import bisect
import errno
import os
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from pipefs import manifest
from pipefs.manifest import Entry, Head, Place
from pipefs.past.entries import inode_of
from pipefs.past.views import ROOT
from pipefs.records import Inode


class ListedView:
    """The tree of these entries: see `pipefs.past.views.PastView`. Never waits.

    Of two entries at one path the first counts. A file where other paths need a directory is
    shown beside it, its name with `%2F` behind, as everywhere in pipefs.

    Args:
        time_ns: mtime of the root and of directories that no entry describes.
        missing: paths of files that belong to the tree and are not in the store any more.
    """

    def __init__(
        self, entries: Iterable[Entry], label: str, *, time_ns: int = 0, missing: Iterable[str] = ()
    ) -> None:
        self.label = label
        self.missing = sorted(missing)
        self._head = Head(mtime=time_ns)
        self._entries = in_order(entries, time_ns)
        self._places = [manifest.place_in(e.path) for e in self._entries]

    # --- PastView -----------------------------------------------------------------------------

    def node(self, ino: int, *, wait: bool = True) -> Inode:
        if ino == ROOT:
            return inode_of(self._head, ROOT, parent=ROOT)
        return self._inode(self._entry(ino), ino)

    def lookup(self, parent: int, name: bytes, *, wait: bool = True) -> Inode:
        return self.at([*self._names(parent), name])

    def children(
        self, ino: int, after: bytes, limit: int, *, wait: bool = True
    ) -> list[tuple[bytes, Inode]]:
        directory = b"\0".join(self._names(ino))
        out: list[tuple[bytes, Inode]] = []
        for n in range(bisect.bisect_right(self._places, (directory, after)), len(self._places)):
            above, name = self._places[n]
            if above != directory or len(out) >= limit:
                break
            out.append((name, self._inode(self._entries[n], n + ROOT + 1, parent=ino)))
        return out

    def entries(self, names: Sequence[bytes] = ()) -> Iterator[Entry]:
        names = list(names)
        if names:
            found = self.find(names)
            if found is None:
                return
            yield found[1]
            if found[1].kind != "dir":
                return
        top = b"\0".join(names)
        for n in range(bisect.bisect_left(self._places, (top, b"")), len(self._places)):
            if not manifest.is_below(self._places[n][0], names):
                break
            yield self._entries[n]

    # --- by path ------------------------------------------------------------------------------

    def at(self, names: Sequence[bytes], *, wait: bool = True) -> Inode:
        """The inode at a path. OSError ENOENT."""
        if not names:
            return self.node(ROOT)
        found = self.find(names)
        if found is None:
            raise _fail(errno.ENOENT)
        return self._inode(found[1], found[0] + ROOT + 1)

    def find(self, names: Sequence[bytes], *, wait: bool = True) -> tuple[int, Entry] | None:
        """(number, entry) at a path that is not the root."""
        place: Place = manifest.place_of(names)
        n = bisect.bisect_left(self._places, place)
        if n == len(self._places) or self._places[n] != place:
            return None
        return n, self._entries[n]

    # --- inside -------------------------------------------------------------------------------

    def _entry(self, ino: int) -> Entry:
        if not 0 <= ino - ROOT - 1 < len(self._entries):
            raise _fail(errno.ESTALE)
        return self._entries[ino - ROOT - 1]

    def _names(self, ino: int) -> list[bytes]:
        if ino == ROOT:
            return []
        entry = self._entry(ino)
        if entry.kind != "dir":
            raise _fail(errno.ENOTDIR)
        return manifest.names_in(entry.path)

    def _inode(self, entry: Entry, ino: int, *, parent: int = 0) -> Inode:
        if entry.kind == "link":
            found = self.find(manifest.names_in(entry.link))
            if found is None or found[1].kind == "link":
                raise _fail(errno.ENOENT)
            return self._inode(found[1], found[0] + ROOT + 1)
        names = manifest.names_in(entry.path)
        if not parent:
            above = self.find(names[:-1]) if len(names) > 1 else None
            parent = above[0] + ROOT + 1 if above is not None else ROOT
        return inode_of(entry, ino, parent=parent, name=names[-1])


def in_order(entries: Iterable[Entry], time_ns: int = 0) -> list[Entry]:
    """Entries as a manifest has them, with the directories that their paths imply."""
    found: dict[str, Entry] = {}
    for entry in entries:
        found.setdefault(entry.path, entry)
    needed: set[str] = set()
    for path in found:
        above = path.rpartition("/")[0]
        while above and above not in needed:
            needed.add(above)
            above = above.rpartition("/")[0]
    for path in needed:
        standing = found.get(path)
        if standing is not None and standing.kind != "dir":
            beside = _beside(standing)
            found.setdefault(beside.path, beside)
        if standing is None or standing.kind != "dir":
            found[path] = Entry(path=path, kind="dir", mtime=time_ns)
    return sorted(found.values(), key=lambda e: manifest.place_in(e.path))


def _beside(entry: Entry) -> Entry:
    """The same file under a name that no directory needs."""
    names = manifest.names_in(entry.path)
    path = manifest.path_of([*names[:-1], names[-1] + b"%2F"])
    return msgspec.structs.replace(entry, path=path, key=entry.object_key)


def _fail(code: int) -> OSError:
    return OSError(code, os.strerror(code))
