"""The mount of a pipe on this machine, for who works on the pipe's store beside it.

What programs wrote through the mount goes up first, and what was published shows there at once.
Nothing is started: where no daemon runs or the pipe is not mounted, there is nothing to do.
"""

from __future__ import annotations

import logging

from pipefs.client import NotRunning, SupervisorClient, WorkerClient
from pipefs.errors import PipefsError
from pipefs.home import Home
from pipefs.protocol import MountItem

log = logging.getLogger(__name__)

FLUSH_S = 120.0
"""For what was written through the mount to be in the store."""


class Beside:
    """The live mount of one pipe, if there is one. Asked anew each time. Thread-safe."""

    def __init__(self, home: Home, name: str) -> None:
        self._home = home
        self._name = name

    def mount(self) -> MountItem | None:
        """The mount that shows the pipe, not one of its snapshots; None: there is none."""
        client = SupervisorClient(self._home)
        if not client.socket.exists():
            return None
        found = client.mounts_or_none()
        return next((m for m in found if m.name == self._name and m.snapshot is None), None)

    def bring_up(self, timeout_s: float = FLUSH_S) -> bool:
        """Wait until what was closed in the mount is in the store and in the log; False: there is
        no mount.

        Raises:
            TimedOut: it did not go up in time.
        """
        found = self.mount()
        if found is None:
            return False
        try:
            WorkerClient(found.socket).flush(timeout_s=timeout_s)
        except NotRunning:
            return False  # unmounted meanwhile
        return True

    def show(self, *, full: bool = False) -> None:
        """Let the mount follow the log now; with `full`, list the pipe too. It would do so by
        itself within seconds, so a failure is only logged."""
        found = self.mount()
        if found is None:
            return
        try:
            WorkerClient(found.socket).refresh(full=full)
        except PipefsError as e:
            log.info("the mount at %s shows it later: %s", found.path, e)
