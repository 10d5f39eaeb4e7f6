"""A plain folder kept in step with a pipe while this runs, without a mount.

Round after round: what both sides changed is kept twice, what the pipe has comes here, what the
folder has goes there. A round begins when files here have rested for the pipe's `quiet_period`,
when the log tells of a commit (looked at every few seconds, two small requests), and when a
listing is due. A store that does not answer is waited for. All in the calling thread; only
watchdog's own threads run beside it, until the call ends.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable, Iterator

from pipefs.commits import Position
from pipefs.errors import (
    Busy,
    Conflict,
    PartlyDone,
    PipefsError,
    StoreUnavailable,
    TimedOut,
)
from pipefs.folder.deciding import Folder, filters_of
from pipefs.folder.noticing import Noticing
from pipefs.folder.record import record_file
from pipefs.folder.rounds import Empty, Event, Gone, Rounds, Wishes
from pipefs.home import make_private
from pipefs.replica import STALE_S, Replica
from pipefs.turns import turn

_LONGEST_PAUSE_S = 30.0


class Hurry(KeyboardInterrupt):
    """To be raised by a signal handler after `stop`, where the last push takes too long."""


class Watch:
    """One folder and one pipe.

    Args:
        tell: told of each thing that was done.
    """

    def __init__(
        self,
        replica: Replica,
        folder: Folder,
        wishes: Wishes | None = None,
        tell: Callable[[Event], None] = lambda _event: None,
    ) -> None:
        self._replica = replica
        self._folder = folder
        self._wishes = wishes or Wishes()
        self._tell = tell
        self._rounds = Rounds(replica, folder, self._wishes, tell)
        self._settings = settings = replica.pipe.settings
        self._rest = settings.quiet_period_s, settings.min_version_interval_s
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()  # may be woken by a signal
        self._stopping = False
        self._seen: Position | None = None
        self._failures = 0
        self._last_reason = ""
        self._owed = True
        """A round is: the last one did not come to its end."""
        self.is_offline = False
        self.looks = 0
        """How often the log was looked at."""

    @property
    def is_pulling(self) -> bool:
        """Whether it may be interrupted: what is pulled is pulled again at no loss."""
        return self._rounds.is_pulling

    def preview(self) -> None:
        """Tell what a round would do; nothing is done."""
        self._rounds.preview()

    # --- life ---------------------------------------------------------------------------------

    def once(self) -> None:
        """One round.

        Raises:
            Busy: the folder is watched already, or pulled or pushed just now. PartlyDone: some
            files failed. Store errors.
        """
        with self._alone():
            if self._rounds.go([], cached=False):
                raise PartlyDone(f"not all of {self._folder.path} is in step")

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Until `stop`; then what waits goes up.

        Args:
            ready: called when changes are noticed and the first round is done.
        Raises:
            Busy: the folder is watched already. PartlyDone: at the end not all went up. NotFound:
            the folder is gone. What keeps the first round from working, but for a store that is
            out of reach.
        """
        takes = filters_of(self._replica, self._rounds.options()).takes
        with self._alone(), Noticing(self._folder.path, takes, self._nudge) as noticing:
            self._attempt(noticing, first=True)
            ready()
            while not self._stopping:
                if self._wait(noticing):
                    self._attempt(noticing)
            self._finish(noticing)

    def stop(self) -> None:
        """Let `run` end. From any thread, or a signal handler."""
        self._stopping = True
        self._nudge()

    def _nudge(self) -> None:
        self._wake.put(None)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        self._rounds.begin()
        record = record_file(self._replica.home, self._folder.path, self._replica.pipe.pipe_id)
        make_private(record.parent)
        with turn(record.with_suffix(".watch"), 0.0, f"the folder {self._folder.path}"):
            yield

    def _wait(self, noticing: Noticing) -> bool:
        """Wait for the next reason for a round; False: look again whether there is one."""
        began, wait_s = time.monotonic(), self._wishes.follow_s
        if self._failures:
            wait_s = min(_LONGEST_PAUSE_S, 2.0 ** (self._failures - 1))
        while not self._stopping:
            left = began + wait_s - time.monotonic()
            ready = noticing.ready_in(*self._rest)
            if ready is not None and not self._failures:
                left = min(left, ready)
            if left <= 0:
                return True
            with contextlib.suppress(queue.Empty):
                self._wake.get(timeout=left)
        return False

    def _attempt(self, noticing: Noticing, *, first: bool = False) -> None:
        """A round if there is a reason, and what its failure means for the next one."""
        busy, ready = noticing.busy(*self._rest), noticing.ready_in(*self._rest)
        stale = time.monotonic() - self._rounds.listed > min(
            STALE_S, self._settings.refresh_interval_s
        )
        self._owed |= ready == 0.0
        try:
            self._rounds.check_folder()
            if self._has_moved() or stale or self._owed:
                self._owed = True
                noticing.take(busy)
                self._rounds.go(busy, cached=not stale)
                self._owed = False
            self._worked()
        except Hurry as e:
            raise self._unfinished("it took too long") from e
        except KeyboardInterrupt:
            if not self._stopping:
                raise  # else what is left here goes up
        except PipefsError as e:
            if isinstance(e, Gone) or (first and not isinstance(e, _PASSING)):
                raise
            self._failed(e)
        except OSError as e:  # a file system that is full, or errs; the next round may work
            if first:
                raise
            self._failed(PipefsError(f"{e.filename or self._folder.path}: {e.strerror or e}"))

    def _has_moved(self) -> bool:
        """Whether the pipe changed since the last round."""
        with self._replica.opened(listing=False) as now:
            seen = now.position()
        self.looks += 1
        moved, self._seen = seen != self._seen, seen
        return moved

    def _worked(self) -> None:
        if self.is_offline:
            self._tell(Event("online"))
        self.is_offline, self._failures, self._last_reason = False, 0, ""

    def _failed(self, error: PipefsError) -> None:
        self._failures += 1
        if isinstance(error, Busy | Conflict):
            return  # somebody else was faster; the next round is soon
        away = isinstance(error, StoreUnavailable | TimedOut)
        if away and not self.is_offline:
            self._tell(Event("offline", text=error.message))
        elif not away and error.message != self._last_reason:
            text = f"{error.message} · {error.hint}" if error.hint else error.message
            self._tell(Event("failed", text=text))
        self.is_offline, self._last_reason = away, error.message

    def _finish(self, noticing: Noticing) -> None:
        """The last push: also of what has not rested."""
        if self.is_offline and not self._owed and noticing.ready_in(*self._rest) is None:
            return  # nothing waits
        try:
            if self._rounds.send():
                raise self._unfinished("see above")
        except KeyboardInterrupt as e:
            raise self._unfinished("it took too long") from e
        except PipefsError as e:
            if isinstance(e, PartlyDone | Gone):
                raise
            raise self._unfinished(e.message) from e

    def _unfinished(self, why: str) -> PartlyDone:
        return PartlyDone(
            f"not all of {self._folder.path} went up: {why}",
            hint="It stays there, and goes up at the next watch or push",
        )


_PASSING = (StoreUnavailable, TimedOut, Busy, Conflict, Empty)
"""What a watch that begins waits for."""
