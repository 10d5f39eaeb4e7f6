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


class Notices:
    """One mount's notices. Called by the syncer, never by a thread that answers requests."""

    def __init__(self, volume: Volume, notifier: Notifier) -> None:
        self._volume = volume
        self._notifier = notifier

    def tell(self, effects: Effects) -> None:
        """Call after the tree has the changes; waits for `DELAY_S`."""
        if not effects.entries and not effects.attributes:
            return
        time.sleep(DELAY_S)
        self._send(effects)
        again = threading.Timer(AGAIN_S, self._send, [effects])
        again.daemon = True
        again.start()

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
