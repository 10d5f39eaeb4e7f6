"""A past tree from a list: what another system pinned, or any set of versions.

The list is put in manifest order and cut into parts that are kept packed in memory. The
directories that paths only imply are added. So the same list gives the same numbers in every
process, and the tree answers as that of a snapshot does.
"""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from pipefs import manifest
from pipefs.errors import NotFound
from pipefs.manifest import Entry, Head, PartRef, Root
from pipefs.past.manifests import ManifestView, Part

_UNPACKED = 8
"""Parts kept as entries: up to 1.5 MB each."""


class ListedView(ManifestView):
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
        self.missing = sorted(missing)
        packed = _Packed()
        refs = [packed.add(part) for part in manifest.chunks(in_order(entries, time_ns))]
        super().__init__(packed, Root(Head(mtime=time_ns), refs), label)


class _Packed:
    """Parts in memory. Thread-safe once all are added."""

    def __init__(self) -> None:
        self._packed: dict[str, bytes] = {}
        self._lock = threading.Lock()  # protects the table below; a leaf
        self._unpacked: OrderedDict[str, Part] = OrderedDict()

    def add(self, entries: list[Entry]) -> PartRef:
        data = manifest.encode_part(entries)
        name = manifest.name_of_object(data)
        self._packed[name] = zlib.compress(data, 1)
        return manifest.ref_of(entries, name)

    def part(self, name: str, *, wait: bool = True) -> Part:
        with self._lock:
            found = self._unpacked.get(name)
            if found is not None:
                self._unpacked.move_to_end(name)
                return found
        if name not in self._packed:
            raise NotFound(f"the list has no part {name}")
        entries = manifest.decode_part(zlib.decompress(self._packed[name]), name)
        part = Part(entries, [manifest.place_in(e.path) for e in entries])
        with self._lock:
            self._unpacked[name] = part
            while len(self._unpacked) > _UNPACKED:
                self._unpacked.popitem(last=False)
        return part


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
