"""Bringing up what waits: for `flush`, for a snapshot, for an unmount.

Everything goes up by itself; whoever waits for it only makes the uploader hurry.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from pipefs.errors import PipefsError, StoreError, TimedOut
from pipefs.policy import Policy
from pipefs.units import show_count, show_size
from pipefs.volume import Volume
from pipefsd.refusals import Refusal
from pipefsd.syncer import Health, Syncer
from pipefsd.uploader import Uploader

_POLL_S = 0.1
_CLOSING_S = 0.05
"""Longer than a close takes to get here."""
_CLOSING_POLL_S = 0.002
"""A close is mostly there within one; a look at the marks costs microseconds."""


class Outbox:
    """What one pipe has not in its store yet, and how to wait for it."""

    def __init__(
        self,
        name: str,
        volume: Volume,
        policy: Policy,
        uploader: Uploader,
        syncer: Syncer,
        health: Health,
        may_write: Callable[[], bool],
    ) -> None:
        self._name = name
        self._volume = volume
        self._policy = policy
        self._uploader = uploader
        self._syncer = syncer
        self._health = health
        self._may_write = may_write

    def stays_local(self, names: list[bytes]) -> bool:
        """Whether a path never goes up."""
        return self._policy.stays_local(names)

    def remaining(self) -> tuple[int, int]:
        """(changes, bytes) that are closed and not in the store and announced yet."""
        out = self._volume.outbox(self._policy.stays_local)
        return out.waiting, out.bytes

    def _once_closed(self) -> tuple[int, int]:
        """`remaining`, where a program's close(2) counts although the kernel did not tell us of it
        yet: what looks open for writing may be closed."""
        out = self._volume.outbox(self._policy.stays_local)
        if not out.open_files:
            return out.waiting, out.bytes
        until = time.monotonic() + _CLOSING_S
        while self._volume.files.has_writers() and time.monotonic() < until:
            time.sleep(_CLOSING_POLL_S)
        return self.remaining()

    def flush(
        self,
        timeout_s: float | None,
        progress: Callable[[Mapping[str, object]], None],
    ) -> tuple[int, int]:
        """Wait until everything that is closed now is in the store and announced; (changes,
        bytes) that were waited for. What programs change meanwhile is not waited for.

        Raises:
            TimedOut: `timeout_s` ran out.
            StoreError: the store has refused all that is left since this began.
        """
        if not self._may_write():
            return 0, 0
        started = time.monotonic()
        first = self._once_closed()
        standing = self._volume.standing(self._policy.stays_local)
        self._uploader.hurry(True)
        try:
            while True:
                files, size = standing.left()
                if not files and self._announced():
                    return first
                refused = self._uploader.refusals(started)
                if (names := standing.stuck(refused)) and self._announced():
                    raise self._refused([refused[name] for name in names])
                files = max(1, files)
                progress({"files": files, "bytes": size})
                if timeout_s is not None and time.monotonic() - started >= timeout_s:
                    raise TimedOut(
                        f"{show_count(files, 'change')} ({show_size(size)}) of {self._name} "
                        f"{'is' if files == 1 else 'are'} still going up after {timeout_s:g} s",
                        hint=self._health.last_error and f"last error: {self._health.last_error}",
                    )
                self._syncer.poke()
                time.sleep(_POLL_S)
        finally:
            self._uploader.hurry(False)

    def _announced(self) -> bool:
        try:
            self._syncer.announce()
        except PipefsError as e:
            self._health.report(e)
            return False
        return True

    def _refused(self, refused: list[Refusal]) -> StoreError:
        count = len(refused)
        return StoreError(
            f"{show_count(count, 'change')} of {self._name} cannot go up; everything else is "
            f"saved. {refused[0].what}: {refused[0].reason}",
            hint="It is tried again by itself; until then it is on this machine only.",
        )

    def drain(self, timeout_s: float) -> tuple[int, int]:
        """Bring up what goes up in this time; (changes, bytes) that are left."""
        if not self._may_write():
            return 0, 0
        if timeout_s <= 0:
            return self.remaining()  # not asked to bring anything up, so nothing is hurried
        deadline = time.monotonic() + timeout_s
        self._uploader.hurry(True)
        try:
            while True:
                self._syncer.poke()
                files, size = self.remaining()
                if not files or time.monotonic() >= deadline:
                    return files, size
                time.sleep(min(0.05, max(0.0, deadline - time.monotonic())))
        finally:
            self._uploader.hurry(False)
