"""Conflicts of a mounted pipe, ended on request: nothing is followed or announced meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable

from pipefs.conflictmessages import Resolve
from pipefs.errors import ReadOnly, StoreError, TimedOut
from pipefs.records import Inode
from pipefs.settling import Settler
from pipefs.volume import Volume
from pipefsd.control import Progress, Result
from pipefsd.outboxes import Outbox
from pipefsd.syncer import Syncer

log = logging.getLogger(__name__)

_SAVED_WITHIN_S = 20.0
"""For what is about to go to be in the store first. It mostly is: uploads take no longer."""


class Settlements:
    """Ends conflicts of one mounted pipe."""

    def __init__(self, name: str, volume: Volume, outbox: Outbox, syncer: Syncer) -> None:
        self._name = name
        self._volume = volume
        self._outbox = outbox
        self._syncer = syncer

    def resolve(
        self,
        request: Resolve,
        progress: Progress,
        why_read_only: str,
        *,
        orphaned: Callable[[Inode], None],
        versioned: bool,
    ) -> Result:
        """Do it, tell the kernel, and let it go up. See `Resolve` for errors.

        Args:
            orphaned: told of each inode that lost its last name.
            versioned: whether the store keeps what is replaced.
        """
        if why_read_only and request.keep != "both":
            raise ReadOnly(f"{self._name} cannot be changed here: {why_read_only}")
        settler = Settler(self._name, self._volume, orphaned=orphaned, versioned=versioned)
        if not (request.dry_run or request.force or settler.is_saved(request.path, request.keep)):
            try:
                self._outbox.flush(_SAVED_WITHIN_S, lambda p: progress(dict(p)))
            except (TimedOut, StoreError) as e:
                log.info("before a conflict is resolved: %s", e)  # it is refused where that counts
        with self._syncer.still():
            done, effects = settler.settle(request)
        if not request.dry_run:
            self._syncer.tell(effects)
            self._syncer.poke()
        return done
