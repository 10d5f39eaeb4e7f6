"""A pipe as it was at a moment, from the store's own versions. Any versioned bucket has them.

Directories are listed when somebody looks at them, one level at a time, and kept in memory while
there is room; `pipefs.past.levels` says what counts as there. docs/SEMANTICS.md says what cannot
be promised.
"""

from __future__ import annotations

import bisect
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from pipefs.errors import WouldBlock
from pipefs.keys import component_of
from pipefs.past.browsing import BATCH
from pipefs.past.levelcache import SHARED, LevelCache
from pipefs.past.levels import (
    Level,
    current_at,
    find_folder,
    is_hidden,
    read_level,
    versions_of,
)
from pipefs.past.nodes import NodeTable, PastNode, directory_node, file_node
from pipefs.past.numbered import NumberedView
from pipefs.records import Inode
from pipefs.stores.base import Store

SETTLED_NS = 15 * 10**9
"""Until so long after a moment, versions of that moment may still appear: whole seconds, clocks
that differ, puts under way."""
_FRESH_NS = 10**9
"""Age of a listing that is good enough for a moment that has not settled."""
_COUNTED = 10_000
"""Directories of which is known how many names were asked for."""
_LOOKED_UP = 3
"""Names asked for one by one in a directory before it is listed."""


class MomentView(NumberedView):
    """The tree at a moment: see `pipefs.past.views.PastView`.

    Args:
        moment_ns: ns since 1970; `levels.PRESENT`: the newest of everything.
        label: @TIME.
        time_ns: mtime of directories without a marker object; without it the moment.
    """

    def __init__(
        self,
        store: Store,
        table: NodeTable,
        moment_ns: int,
        label: str,
        *,
        time_ns: int | None = None,
        clock: Callable[[], int] = time.time_ns,
        levels: LevelCache = SHARED,
    ) -> None:
        shown_ns = moment_ns if time_ns is None else time_ns
        super().__init__(store, table, label, time_ns=shown_ns, clock=clock)
        self.moment_ns = moment_ns
        self._levels = levels
        self._self = object()
        """What this view's listings are kept under."""
        self._lock = threading.Lock()  # protects what follows; a leaf
        self._looked_up: Counter[str] = Counter()

    def settled(self) -> bool:
        """Whether nothing new can belong to the moment, so that all of it may be kept for good."""
        return self._clock() >= self.moment_ns + SETTLED_NS

    # --- PastView -----------------------------------------------------------------------------

    def lookup(self, parent: int, name: bytes, *, wait: bool = True) -> Inode:
        prefix = self._directory(parent).key
        level = self._cached(prefix)
        if level is None and wait and self._is_asked_singly(prefix, name):
            return self._inode(self._look(parent, prefix, name), wait)
        level = level or self._read(prefix, wait)
        nodes = self._nodes(level, parent, [name], wait)
        return self._inode(nodes[0] if nodes else None, wait)

    def children(
        self, ino: int, after: bytes, limit: int, *, wait: bool = True
    ) -> list[tuple[bytes, Inode]]:
        prefix = self._directory(ino).key
        level = self._cached(prefix) or self._read(prefix, wait)
        out: list[tuple[bytes, Inode]] = []
        at = bisect.bisect_right(level.names, after)
        while len(out) < limit and at < len(level.names):
            some = level.names[at : at + min(limit - len(out), BATCH)]
            at += len(some)
            out += self._inodes(self._nodes(level, ino, some, wait), wait)
        return out

    # --- inside -------------------------------------------------------------------------------

    def _nodes(
        self, level: Level, parent: int, names: Sequence[bytes], wait: bool
    ) -> list[PastNode]:
        """Those of the names that were there."""
        if not wait and any(n in level.folders and n not in level.found for n in names):
            raise WouldBlock
        level.find(self._store, names, self.moment_ns)
        out = []
        for name in names:
            file, folder = level.files.get(name), level.found.get(name)
            if file is not None:
                out.append(file_node(parent, name, file))
            elif folder is not None:
                out.append(directory_node(parent, name, folder.prefix, folder.marker))
        return out

    def _cached(self, prefix: str) -> Level | None:
        level = self._levels.get(self._self, prefix)
        if level is None:
            return None
        final = level.read_ns >= self.moment_ns + SETTLED_NS
        if final or self._clock() - level.read_ns <= _FRESH_NS:
            return level
        self._levels.drop(self._self, prefix)
        return None

    def _read(self, prefix: str, wait: bool) -> Level:
        if not wait:
            raise WouldBlock
        level = read_level(self._store, prefix, self.moment_ns, self._clock())
        self._levels.put(self._self, prefix, level)
        return level

    def _is_asked_singly(self, prefix: str, name: bytes) -> bool:
        """Whether a name is looked for alone: a large directory need not be listed for one file.
        Stand-ins are known from the listing only."""
        if b"%" in name:
            return False
        with self._lock:
            if len(self._looked_up) > _COUNTED:
                self._looked_up.clear()
            self._looked_up[prefix] += 1
            return self._looked_up[prefix] <= _LOOKED_UP

    def _look(self, parent: int, prefix: str, name: bytes) -> PastNode | None:
        key = prefix + component_of(name)
        if is_hidden(self._store, key):
            return None
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(find_folder, self._store, f"{key}/", self.moment_ns)
            found = current_at(versions_of(self._store, key), self.moment_ns)
            folder = asked.result()
        if folder is not None:
            return directory_node(parent, name, folder.prefix, folder.marker)
        return file_node(parent, name, found) if found is not None else None
