"""How long the supervisor waits for what. Values only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long the supervisor waits for what, in seconds unless named otherwise."""

    start_s: float = 150.0
    """For the first worker of a mount. Its service may list a whole bucket before it is ready
    (1,000 keys a request); below the 180 s that a client waits for its answer."""
    takeover_s: float = 30.0
    """For a worker that takes over: it knows the tree already, and processes are waiting."""
    restart_s: float = 60.0
    """Without a worker for so long, the connection is aborted (DESIGN: 60 s)."""
    crashes: int = 5
    """So many deaths within `crash_window_s` are a loop, not bad luck."""
    crash_window_s: float = 60.0
    drain_s: float = 60.0
    """For the outbox, when the mount goes without a request that says otherwise."""
    stop_s: float = 15.0
    """For a worker to stop before it is killed."""
    errand_s: float = 20.0
    """For checking a directory, mounting, unmounting."""
    retry_s: float = 60.0
    """Between attempts to mount an automount pipe that failed."""
    idle_look_s: float = 2.0
    """Between looks whether a mount that is to go is still in use."""
    status_s: float = 10.0
    """Between status lines for the service manager; also how long a worker may take for one."""
    idle_exit_s: float = 30.0
    """A supervisor that a mount command started ends after so long without a mount."""


BACKOFF_S = (0.0, 0.25, 1.0, 2.0, 4.0, 8.0)
"""Waits before each new worker; the last one repeats."""
