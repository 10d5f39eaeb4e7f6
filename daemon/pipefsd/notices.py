"""Telling the kernel what other machines changed.

Names and attributes are cached for an hour, so each remote change must reach the kernel, and after
every answer that was computed before it: an old answer that arrives later would stay for that
hour. So a notice is sent a moment after the tree has the change, and once more a second later,
for an answer that a busy machine held up.
"""

from __future__ import annotations

import threading
import time

from pipefs.conflicts import Effects
from pipefs.types import ROOT_INO
from pipefs.volume import Volume
from pipefsd.nodes import ROOT_NODE, node_id
from pipefsd.transports.base import Notifier

DELAY_S = 0.02
AGAIN_S = 1.0
KNOWN_S = 0.5
WRITTEN_S = 0.2


class Notices:
    """One mount's notices. Called by the syncer, never by a thread that answers requests."""

    def __init__(self, volume: Volume, notifier: Notifier) -> None:
        self._volume = volume
        self._notifier = notifier
        self._lock = threading.Lock()  # protects _written; a leaf
        self._written: set[int] = set()

    def tell(self, effects: Effects) -> None:
        """Call after the tree has the changes; waits for `DELAY_S`, and until the kernel knows,
        unless that takes long: a lock there may wait for an answer of ours."""
        if not effects.entries and not effects.attributes:
            return
        time.sleep(DELAY_S)
        self._send(effects)
        self._notifier.flush(KNOWN_S)
        again = threading.Timer(AGAIN_S, self._send, [effects])
        again.daemon = True
        again.start()

    def written(self, node: int) -> None:
        """A file was closed that the kernel wrote itself: the mtime that it knows may be that of
        before, for a write by mmap. Told soon, many at once: closing files is a hot path."""
        with self._lock:
            self._written.add(node)
            if len(self._written) > 1:
                return
        timer = threading.Timer(WRITTEN_S, self._tell_written)
        timer.daemon = True
        timer.start()

    def _tell_written(self) -> None:
        with self._lock:
            nodes, self._written = self._written, set()
        for node in nodes:
            self._notifier.inval_inode(node, -1, 0)

    def _send(self, effects: Effects) -> None:
        notifier = self._notifier
        for ino in effects.attributes:
            notifier.inval_inode(self._live_node(ino), -1, 0)
        for parent, name in effects.entries:
            notifier.inval_entry(node_id(parent), name)
        for parent in {parent for parent, _ in effects.entries}:
            notifier.inval_inode(node_id(parent), -1, 0)

    def _live_node(self, ino: int) -> int:
        if ino == ROOT_INO:
            return ROOT_NODE
        try:
            node = self._volume.inode(ino)
        except OSError:
            return node_id(ino)
        return node_id(ino, 0 if node.is_dir else node.epoch)
