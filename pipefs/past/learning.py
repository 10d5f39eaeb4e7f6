"""Attributes of past files: what the metadata of a version says, asked for once and kept.

A listing tells sizes and LastModified; mode, owner and the mtime that somebody set are metadata of
the object (the keys of rclone and s3fs), which take a HEAD each. So nodes that are to be shown
are completed some at a time, and a table keeps what was learnt: a version is asked for once, for
all moments and after restarts.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from pipefs.errors import AccessDenied, NotFound, WouldBlock
from pipefs.past.levels import AT_ONCE
from pipefs.past.nodes import NodeTable, Numbered, PastNode, described
from pipefs.stores.base import Store


class Learner:
    """Completes nodes. Thread-safe; no thread outlives a call."""

    def __init__(self, store: Store, table: NodeTable) -> None:
        self._store = store
        self._table = table
        self._denied = False

    def complete(self, nodes: Sequence[Numbered], *, wait: bool) -> list[Numbered]:
        """The same nodes with their attributes; those whose version is gone by now are left out.

        Where versions may be listed and not read, the listing is all there is: LastModified, and
        the modes of objects that have none.

        Raises:
            WouldBlock: the store must be asked, and `wait` is False.
        """
        unknown = [numbered for numbered in nodes if not numbered[1].known]
        if not unknown or self._denied:
            return list(nodes)
        if not wait:
            raise WouldBlock
        if len(unknown) == 1:
            learnt = {unknown[0][0]: self._head(unknown[0][1])}
        else:
            with ThreadPoolExecutor(min(AT_ONCE, len(unknown))) as pool:
                found = pool.map(lambda numbered: self._head(numbered[1]), unknown)
                learnt = dict(zip((ino for ino, _ in unknown), found, strict=True))
        self._table.learn({i: n for i, n in learnt.items() if n is not None and n.known})
        complete = ((ino, learnt.get(ino, node)) for ino, node in nodes)
        return [(ino, node) for ino, node in complete if node is not None]

    def _head(self, node: PastNode) -> PastNode | None:
        """The node as its object describes it; None: that version is gone."""
        if self._denied:
            return node
        try:
            return described(node, self._store.head(node.key, node.version))
        except NotFound:
            return None
        except AccessDenied:
            self._denied = True
            return node
