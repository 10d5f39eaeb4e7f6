"""Keeping one pipe's tree and its bucket in step: one thread that follows, announces and lists.

It alone talks to the commit log. Each second it follows the commits of other machines (one small
GET); it announces ours at most once a second, the first at once; it lists the pipe every
`refresh_interval`. When the store does not answer, the pipe is offline: reads go on from the
cache, writes wait in the outbox, and the thread tries again with growing pauses.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipefs import tree
from pipefs.conflicts import Effects
from pipefs.errors import (
    AccessDenied,
    NotFound,
    PipefsError,
    ServerFault,
    StoreUnavailable,
    TimedOut,
)
from pipefs.follow import Follower
from pipefs.volume import Volume

log = logging.getLogger(__name__)

FOLLOW_S = 1.0
COMMIT_SPACING_S = 1.0
COMMIT_GATHER_S = 0.05
"""Files that land together go into one commit."""
LOG_CHECK_S = 30.0
_ROUNDS = 5
"""Commits that one `announce` makes at most: busy programs always have something new."""
LONGEST_PAUSE_S = 30.0
TOLD_S = 10.0
"""How long `refresh` waits for another thread that tells the kernel what it found."""
NOTICED_AFTER_S = 5.0
"""How long one request about the log is tried before the pipe counts as offline."""


@dataclass(slots=True)
class Health:
    """Whether the store answers. Written by several threads, each field alone."""

    offline_since_ns: int = 0
    last_error: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def report(self, error: BaseException | None) -> None:
        """A request failed, or (None) one was answered."""
        with self.lock:
            if error is None:
                if self.offline_since_ns:
                    log.info("the store answers again")
                    self.last_error = ""
                self.offline_since_ns = 0
                return
            self.last_error = str(error)
            if isinstance(error, StoreUnavailable | TimedOut) and not self.offline_since_ns:
                self.offline_since_ns = time.time_ns()
                log.warning("offline: %s", error)

    def transfer(self, error: PipefsError | None) -> bool:
        """A transfer failed, or (None) one was answered.

        Returns:
            Whether this change alone is refused: the store answers, and will not have it. Whether
            the store answers is known by the log, which is asked each second.
        """
        fault = isinstance(error, ServerFault) and not self.offline_since_ns
        if fault or isinstance(error, AccessDenied | NotFound):
            return True
        self.report(error)
        return False


class Syncer:
    """The thread of one pipe that keeps tree and bucket in step.

    Args:
        on_effects: told of changes from elsewhere, after the tree has them.
        on_new_log: called when `.pipefs/` was deleted and a log begins anew.
    """

    def __init__(
        self,
        volume: Volume,
        follower: Follower,
        health: Health,
        *,
        on_effects: Callable[[Effects], None],
        on_new_log: Callable[[], None],
        refresh_interval_s: float,
        may_write: Callable[[], bool],
    ) -> None:
        self._volume = volume
        self._follower = follower
        self._health = health
        self._on_effects = on_effects
        self._on_new_log = on_new_log
        self._refresh_interval_s = refresh_interval_s
        self._may_write = may_write
        self._busy = threading.Lock()
        """Held while the follower works: one thread at a time."""
        self._telling = threading.Condition()
        """Protects `_untold`; a leaf."""
        self._untold: set[object] = set()
        """Work that the tree has, and the kernel was not told of yet: one item each."""
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._last_commit = 0.0
        self._last_check = time.monotonic()
        self._last_listing = time.monotonic()
        self._pause = 0.0
        self._thread = threading.Thread(target=self._run, name="syncer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._wake.set()
        self._thread.join(10)

    def poke(self) -> None:
        """Something landed: announce it soon."""
        self._wake.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            poked = self._wake.wait(max(FOLLOW_S, self._pause))
            self._wake.clear()
            if self._stopping.is_set():
                return
            if poked:
                wait = self._last_commit + COMMIT_SPACING_S - time.monotonic()
                self._stopping.wait(max(COMMIT_GATHER_S, wait))
            self._round()

    def _round(self) -> None:
        try:
            self.step()
            self._health.report(None)
            self._pause = 0.0
        except (PipefsError, OSError) as e:
            self._health.report(e)
            self._pause = min(LONGEST_PAUSE_S, max(1.0, self._pause * 2))
            if isinstance(e, AccessDenied):
                log.error("%s", e)
        except Exception:  # the thread's top: the pipe must go on
            log.exception("following the commit log failed")
            self._pause = LONGEST_PAUSE_S

    def step(self) -> None:
        """Follow, announce, and list if it is time. Raises what the store raises."""
        with self._working() as effects:
            now = time.monotonic()
            if now - self._last_check > LOG_CHECK_S:
                self._last_check = now
                self._follower.check_log()
            effects.merge(self._follower.follow())
            if self._may_write():
                more, count = self._follower.announce()
                effects.merge(more)
                if count:
                    self._last_commit = time.monotonic()
            due = now - self._last_listing > self._refresh_interval_s
            if due or self._follower.must_relist():
                effects.merge(self._list())

    @contextmanager
    def _working(self) -> Iterator[Effects]:
        """The follower is the caller's. What it found is told afterwards, also where it failed
        half way: the tree has it."""
        effects, work = Effects(), object()
        try:
            with self._busy:
                with self._telling:
                    self._untold.add(work)
                yield effects
        finally:
            try:
                self.tell(effects)
            finally:
                with self._telling:
                    self._untold.discard(work)
                    self._telling.notify_all()

    def announce(self) -> None:
        """Announce what is finished now, at once. Raises what the store raises."""
        rounds = 0
        with self._working() as effects:
            # What makes way for something else may be in one commit, and that in the next.
            while rounds < _ROUNDS:
                more, count = self._follower.announce()
                effects.merge(more)
                if not count:
                    break
                self._last_commit = time.monotonic()
                rounds += 1

    def _list(self) -> Effects:
        """List the pipe; where a log begins anew, describe the pipe again first. Holds `_busy`."""
        if self._follower.must_relist() and self._may_write():
            self._on_new_log()
        self._last_listing = time.monotonic()
        return self._follower.reconcile()

    def refresh(self, *, full: bool) -> int:
        """Follow now, and list with `full`; the number of names that changed. What there was until
        then shows in the mount when this returns."""
        with self._working() as effects:
            effects.merge(self._follower.follow())
            if full:
                self._follower.check_log()
                effects.merge(self._list())
            with self._telling:
                earlier = set(self._untold)
        self._health.report(None)
        # Another thread may have found it a moment ago, and be about to tell.
        with self._telling:
            self._telling.wait_for(lambda: not earlier & self._untold, TOLD_S)
        return len(effects.entries) + len(effects.attributes)

    @contextmanager
    def still(self) -> Iterator[None]:
        """Nothing is followed, announced or listed meanwhile: the base stands still."""
        with self._busy:
            yield

    def look_at(self, ino: int) -> None:
        """An upload or copy lost its condition: learn what is at its key now."""
        with self._working() as effects:
            effects.merge(self._follower.follow())
            if not effects.entries:
                # Put by another machine a moment ago, most likely: its commit tells who it was.
                self._stopping.wait(FOLLOW_S)
                effects.merge(self._follower.follow())
            with self._volume.db.view() as v:
                names = tree.names_to(v, ino)
                key = tree.key_for(v, names) if names else ""
            if key:
                effects.merge(self._follower.check_keys([key]))

    def tell(self, effects: Effects) -> None:
        """What was changed under `still`, or found elsewhere: the kernel and the cache learn it."""
        for old, new in effects.same_bytes:
            self._volume.reader.share_blocks(old.ref(), new.ref())
        self._on_effects(effects)
