"""What views of numbered nodes share: inodes by number, and a whole tree by its names."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Sequence

from pipefs.manifest import Entry
from pipefs.past import browsing
from pipefs.past.browsing import fail
from pipefs.past.learning import Learner
from pipefs.past.nodes import NodeTable, PastNode, directory_node, inode_of
from pipefs.past.views import ROOT
from pipefs.records import Inode
from pipefs.stores.base import Store


class NumberedView:
    """Half of a `PastView`: `lookup` and `children` are the child's.

    Args:
        prefix: of all keys of the tree.
        time_ns: mtime of directories that nothing says one of.
    """

    def __init__(
        self,
        store: Store,
        table: NodeTable,
        label: str,
        *,
        prefix: str = "",
        time_ns: int,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.label = label
        self._store = store
        self._table = table
        self._learner = Learner(store, table)
        self._root = directory_node(ROOT, b"", prefix)
        self._time_ns = time_ns
        self._clock = clock

    def node(self, ino: int, *, wait: bool = True) -> Inode:
        found = self._root if ino == ROOT else self._table.get(ino)
        if found is None:
            raise fail(errno.ESTALE)
        shown = self._learner.complete([(ino, found)], wait=wait)
        if not shown:
            raise fail(errno.ESTALE)
        return inode_of(shown[0][1], ino, self._time_ns)

    def lookup(self, parent: int, name: bytes, *, wait: bool = True) -> Inode:
        raise NotImplementedError

    def children(
        self, ino: int, after: bytes, limit: int, *, wait: bool = True
    ) -> list[tuple[bytes, Inode]]:
        raise NotImplementedError

    def entries(self, names: Sequence[bytes] = ()) -> Iterator[Entry]:
        return browsing.entries(self, names)

    def _directory(self, ino: int) -> PastNode:
        found = self._root if ino == ROOT else self._table.get(ino)
        if found is None:
            raise fail(errno.ESTALE)
        if not found.is_dir:
            raise fail(errno.ENOTDIR)
        return found

    def _inodes(self, nodes: Sequence[PastNode], wait: bool) -> list[tuple[bytes, Inode]]:
        """Nodes as they are shown; those that are gone by now are left out."""
        shown = self._learner.complete(self._table.number(nodes), wait=wait)
        return [(node.name, inode_of(node, ino, self._time_ns)) for ino, node in shown]

    def _inode(self, node: PastNode | None, wait: bool) -> Inode:
        shown = self._inodes([node], wait) if node is not None else []
        if not shown:
            raise fail(errno.ENOENT)
        return shown[0][1]
