"""`.versions/` of one directory: the history of each file, deleted ones too.

    .versions/q3.csv.gz/0007-20261101T120000Z.csv.gz

One name for every file that has or had a version directly in the directory, and in it one file for
each version: its number, counted from the oldest that this machine saw, when it was made, and the
file's own suffix, so that programs read it as what it is. A number never means another version,
also when older ones are pruned. Delete markers make no file.
"""

from __future__ import annotations

import bisect
import errno
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from pipefs.errors import WouldBlock
from pipefs.keys import component_of, name_of, suffix_of
from pipefs.past.browsing import fail
from pipefs.past.levels import by_key, free, versions_of
from pipefs.past.nodes import NodeTable, PastNode, directory_node, file_node
from pipefs.past.numbered import NumberedView
from pipefs.past.views import ROOT
from pipefs.records import Inode
from pipefs.stores.base import Store
from pipefs.types import ObjectVersion

_FRESH_NS = 10**9
"""Age of a listing that is good enough: new versions appear within a second."""
_KEPT = 64
"""Files whose versions are kept that long."""


class VersionsView(NumberedView):
    """The versions of a directory's files: see `pipefs.past.views.PastView`, but it grows with
    each new version.

    Args:
        prefix: of the directory's keys, "" or ending in "/" (`prefix_of`).
    """

    def __init__(
        self,
        store: Store,
        table: NodeTable,
        prefix: str,
        label: str = ".versions",
        *,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        super().__init__(store, table, label, prefix=prefix, time_ns=clock(), clock=clock)
        self._lock = threading.Lock()  # protects the two below; a leaf
        self._listed: tuple[int, dict[bytes, str]] = (0, {})
        """When, and name → key of the files."""
        self._versions: OrderedDict[str, tuple[int, list[ObjectVersion]]] = OrderedDict()
        """key → when, and its versions without markers, oldest first."""

    # --- PastView -----------------------------------------------------------------------------

    def lookup(self, parent: int, name: bytes, *, wait: bool = True) -> Inode:
        directory = self._directory(parent)
        if parent != ROOT:
            return self._inode(self._files(parent, directory, wait).get(name), wait)
        key = self._root.key + component_of(name)
        if b"%" in name:  # perhaps a stand-in
            found = self._keys(wait).get(name)
            if found is None:
                raise fail(errno.ENOENT)
            key = found
        there = self._versions_of(key, wait)
        return self._inode(directory_node(ROOT, name, key) if there else None, wait)

    def children(
        self, ino: int, after: bytes, limit: int, *, wait: bool = True
    ) -> list[tuple[bytes, Inode]]:
        directory = self._directory(ino)
        if ino == ROOT:
            nodes = {n: directory_node(ROOT, n, key) for n, key in self._keys(wait).items()}
        else:
            nodes = self._files(ino, directory, wait)
        names = sorted(nodes)
        at = bisect.bisect_right(names, after)
        return self._inodes([nodes[name] for name in names[at : at + limit]], wait)

    # --- inside -------------------------------------------------------------------------------

    def _files(self, ino: int, directory: PastNode, wait: bool) -> dict[bytes, PastNode]:
        """The versions of one file by their names."""
        if ino == ROOT or directory.parent != ROOT:
            return {}
        versions = self._versions_of(directory.key, wait)
        ids = [v.version_id or "" for v in versions]
        numbers = self._table.version_numbers(directory.key, ids)
        suffix = suffix_of(directory.name)
        out = {}
        for version_id, version in zip(ids, versions, strict=True):
            moment = time.gmtime(version.last_modified_ns // 10**9)
            stamp = time.strftime("%Y%m%dT%H%M%SZ", moment)
            name = f"{numbers[version_id]:04d}-{stamp}{suffix}".encode()
            out[name] = file_node(ino, name, version)
        return out

    def _versions_of(self, key: str, wait: bool) -> list[ObjectVersion]:
        now = self._clock()
        with self._lock:
            read_ns, found = self._versions.get(key, (0, []))
        if now - read_ns <= _FRESH_NS:
            return found
        if not wait:
            raise WouldBlock
        listed = versions_of(self._store, key)
        found = [v for v in reversed(listed) if not v.is_delete_marker]
        with self._lock:
            self._versions[key] = (now, found)
            self._versions.move_to_end(key)
            if len(self._versions) > _KEPT:
                self._versions.popitem(last=False)
        return found

    def _keys(self, wait: bool) -> dict[bytes, str]:
        """Files of the directory that have versions."""
        now = self._clock()
        with self._lock:
            read_ns, found = self._listed
        if now - read_ns <= _FRESH_NS:
            return found
        if not wait:
            raise WouldBlock
        prefix = self._root.key
        items = self._store.list_level_versions(prefix)
        versions = (item for item in items if not isinstance(item, str))
        keys = [
            key
            for key, group in by_key(versions)
            if key != prefix and not all(v.is_delete_marker for v in group)
        ]
        found = {}
        for key in sorted(keys):
            found[free(found, name_of(key[len(prefix) :]))] = key
        with self._lock:
            self._listed = (now, found)
        return found


def prefix_of(store: Store, names: Sequence[bytes]) -> str:
    """The prefix of the keys in a directory: from its names, or where one may be a stand-in, from
    what the store has. "" or ending in "/"."""
    prefix = ""
    for name in names:
        component = component_of(name)
        if b"%2" in name:
            folders = (f for f in store.list_level_versions(prefix) if isinstance(f, str))
            component = next((f for f in sorted(folders) if name_of(f) == name), component)
        prefix += component + "/"
    return prefix
