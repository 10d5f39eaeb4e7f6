"""Bringing the outbox up: when, how many at once, and what happens when it fails.

One scheduler thread decides what is due; a few workers do the transfers (`Transfers`: each call
does one thing whole). What is due is found by notices (the watcher's, the filesystem's) and by an
audit of the durable marks every few seconds, so a lost notice costs seconds, never an upload.
Failures are tried again with growing pauses; a lost condition is handed to `on_conflict`, which
looks at the key. Knows nothing of FUSE.
"""

from __future__ import annotations

import heapq
import logging
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from pipefs.errors import PipefsError, PreconditionFailed
from pipefs.files import LocalFiles
from pipefs.relocation import Relocator
from pipefs.stores.base import Cancelled
from pipefs.transfers import Transfers
from pipefsd.refusals import Refusal, Refusals

log = logging.getLogger(__name__)

WORKERS = 8
"""Transfers at once: small files are bound by latency, large ones go in parallel parts anyway."""

BUSY_WORKERS = 1
"""While programs work on the mount: what they wait for comes first."""

BUSY_REQUESTS_S = 200.0
"""Requests a second that count as work."""

AUDIT_S = 5.0
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0


class Uploader:
    """The transfers of one pipe.

    Args:
        on_conflict: called with an inode whose upload lost its condition; returns when the key
            has been looked at.
        on_landed: called after anything landed that other machines should learn.
        on_trouble: called with each error of the store, and with None when a transfer worked;
            whether the store refuses that change alone.
        requests: how many requests of the kernel were served so far.
    """

    def __init__(
        self,
        transfers: Transfers,
        relocator: Relocator,
        files: LocalFiles,
        *,
        on_conflict: Callable[[int], None],
        on_landed: Callable[[], None],
        on_trouble: Callable[[PipefsError | None], bool],
        may_write: Callable[[], bool],
        requests: Callable[[], int],
    ) -> None:
        self._requests = requests
        self._seen = (0.0, 0)
        self._workers = WORKERS
        self._transfers = transfers
        self._relocator = relocator
        self._files = files
        self._on_conflict = on_conflict
        self._on_landed = on_landed
        self._on_trouble = on_trouble
        self._may_write = may_write
        self._refusals = Refusals()
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="upload")
        self._wake = threading.Condition()
        # The fields below are protected by `_wake`.
        self._due: dict[int, float] = {}
        self._queue: list[tuple[float, int]] = []
        """Heap over `_due`; an entry that is no longer true is skipped when its time comes."""
        self._busy: set[object] = set()
        self._pauses: dict[object, float] = {}
        self._not_before: dict[object, float] = {}
        self._urgent = 0
        self._stopping = False
        self._next_audit = 0.0
        self._sending: dict[int, int] = {}
        self._thread = threading.Thread(target=self._run, name="uploader", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def refused(self, ino: int) -> bool:
        """Whether the store refuses this file, or the copy that follows its rename: it is tried
        again, but somebody has to do something about it."""
        return ino in self._refusals or ("copy", ino) in self._refusals

    def refusals(self, since: float = 0.0) -> dict[object, Refusal]:
        """What waits to go up and was refused at its last try, if that was at `since` (of the
        monotonic clock) or later: files by their numbers, ("copy", number), ("delete", key)."""
        self._refusals.keep(self._waits)
        return self._refusals.since(since)

    def stop(self) -> None:
        """Stop after the transfers under way; what remains is durable."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        self._thread.join(5)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def notice(self, ino: int) -> None:
        """This file may have something to go up, after its quiet period. Wakes nobody: the
        scheduler looks at least every quiet period, and a copy of many files makes many of these.
        """
        with self._wake:
            self._plan(ino, time.monotonic() + self._transfers.policy.quiet_period_s)

    def _plan(self, ino: int, due: float) -> None:
        """Let a file be due, later than it was or for the first time. Holds `_wake`."""
        if ino not in self._due:
            heapq.heappush(self._queue, (due, ino))
        if self._due.get(ino, 0.0) < due:
            self._due[ino] = due

    def hurry(self, on: bool) -> None:
        """While anybody hurries (`flush`, draining) nothing waits for its quiet period or for
        the pause after a failure."""
        with self._wake:
            self._urgent += 1 if on else -1
            self._next_audit = 0.0
            if on:
                self._not_before.clear()
            self._wake.notify_all()

    def sending(self) -> tuple[int, int]:
        """(files, bytes) going up now."""
        with self._wake:
            return len(self._sending), sum(self._sending.values())

    # --- the scheduler ------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._wake:
                if self._stopping:
                    return
                if not self._may_write():
                    self._wake.wait(1.0)
                    continue
                urgent = self._urgent > 0
                audit = time.monotonic() >= self._next_audit
            try:
                self._make_way(urgent)
                if audit:
                    self._audit(urgent)
                self._submit_files(urgent)
                more = self._submit_rest(urgent)
            except PipefsError as e:  # the state database is full or broken: say so, go on
                log.error("uploads cannot be planned: %s", e)
                more = False
            except Exception:  # the thread's top: without it nothing would go up any more
                log.exception("planning uploads failed")
                more = False
            with self._wake:
                if not self._stopping:
                    self._wake.wait(0.05 if urgent or more else self._pause_until_due())

    def _make_way(self, urgent: bool) -> None:
        """Few transfers at once while the mount is busy, unless somebody waits for them."""
        now, count = time.monotonic(), self._requests()
        before, old = self._seen
        if now - before < 0.04:
            return
        busy = (count - old) / (now - before) > BUSY_REQUESTS_S
        self._workers = BUSY_WORKERS if busy and not urgent else WORKERS
        self._seen = (now, count)

    def _pause_until_due(self) -> float:
        longest = min(0.5, max(0.05, self._transfers.policy.quiet_period_s))
        if not self._queue or len(self._busy) >= self._workers:
            return longest
        return min(longest, max(0.02, self._queue[0][0] - time.monotonic()))

    def _audit(self, urgent: bool) -> None:
        """Go by the durable marks: whatever notice was lost, this finds the file."""
        now = time.monotonic()
        for ino in self._files.inos():
            local = self._files.get(ino)
            mark = local.mark if local is not None else None
            if mark is None:
                self._files.tidy(ino)
            elif not mark.writers and (mark.changed or mark.opened is not None):
                with self._wake:
                    if ino not in self._due and ino not in self._busy:
                        self._plan(ino, now)
        self._refusals.keep(self._waits)
        with self._wake:
            self._next_audit = now + (0.2 if urgent else AUDIT_S)

    def _waits(self, name: object) -> bool:
        """Whether this transfer's change is one that waits to go up."""
        match name:
            case int():
                local = self._files.get(name)
                mark = local.mark if local is not None else None
                return mark is not None and not mark.writers
            case ("copy", int(ino)):
                return self._relocator.waits(ino)
            case ("delete", str(key)):
                return self._transfers.deletes(key)
        return False

    def _submit_files(self, urgent: bool) -> None:
        with self._wake:
            ready = self._take_ready(urgent)
        for ino in ready:
            self._pool.submit(self._upload, ino, urgent)

    def _take_ready(self, urgent: bool) -> list[int]:
        """Files to start now; they are busy from here on. Holds `_wake`."""
        now = time.monotonic()
        ready: list[int] = []
        later: list[tuple[float, int]] = []
        while self._queue and len(self._busy) < self._workers:
            planned, ino = self._queue[0]
            if planned > now and not urgent:
                break
            heapq.heappop(self._queue)
            due = max(self._due.get(ino, 0.0) if not urgent else 0.0, self._not_before.get(ino, 0))
            if ino in self._busy or due > now:
                later.append((max(due, now + 0.05), ino))
                continue
            self._due.pop(ino, None)
            self._busy.add(ino)
            ready.append(ino)
        for item in later:
            heapq.heappush(self._queue, item)
        return ready

    def _submit_rest(self, urgent: bool) -> bool:
        """Renames' copies, deletions and markers; True while there is more to do at once."""
        up, copies, few = self._transfers, self._relocator, self._workers * 4
        jobs: list[tuple[object, Callable[[], bool]]] = [
            *((("copy", i), partial(copies.relocate, i)) for i in copies.due(few, force=urgent)),
            *((("delete", c.key), partial(up.delete, c)) for c in up.deletions(few)),
            *((("marker", i), partial(copies.mark_directory, i)) for i in copies.markers(few)),
            *((("settle", s.key), partial(up.settle, s)) for s in up.left_over(few)),
        ]
        now = time.monotonic()
        submitted = 0
        for name, job in jobs:
            with self._wake:
                if len(self._busy) >= self._workers or name in self._busy:
                    continue
                if self._not_before.get(name, 0.0) > now:
                    continue
                self._busy.add(name)
            self._pool.submit(self._work, name, job)
            submitted += 1
        return submitted > 0

    # --- the workers --------------------------------------------------------------------------

    def _upload(self, ino: int, urgent: bool) -> None:
        def progress(count: int) -> None:
            with self._wake:
                self._sending[ino] = max(0, self._sending.get(ino, 0) - count)

        def job() -> bool:
            st = self._files.stat(ino)
            with self._wake:
                self._sending[ino] = st.st_size if st is not None else 0
            try:
                return self._transfers.upload(ino, force=urgent, progress=progress)
            except Cancelled:
                return False  # opened for writing again: its close brings a notice
            finally:
                with self._wake:
                    self._sending.pop(ino, None)

        self._work(ino, job)

    def _work(self, name: object, job: Callable[[], bool]) -> None:
        """Run one transfer; plan the next try if it did not work."""
        again = False
        try:
            landed = job()
            self._refusals.drop(name)
            with self._wake:
                self._pauses.pop(name, None)
                self._not_before.pop(name, None)
                if not landed:
                    # Not due after all, or waiting for something else: not at once again.
                    self._not_before[name] = time.monotonic() + 0.3
            again = not landed
            if landed:
                if isinstance(name, int):
                    # A put was answered; the other jobs may be settled without a request.
                    self._on_trouble(None)
                self._on_landed()
        except PreconditionFailed as e:
            again = True
            self._lost(name, e)
        except (PipefsError, OSError) as e:
            again = True
            self._failed(name, e)
        except Exception:  # a worker's top: keep the thread pool alive, show the bug
            again = True
            log.exception("a transfer failed unexpectedly")
            self._pause(name)
        finally:
            with self._wake:
                self._busy.discard(name)
                local = self._files.get(name) if again and isinstance(name, int) else None
                if isinstance(name, int) and local is not None and local.mark is not None:
                    self._plan(name, time.monotonic() + 0.2)
                self._wake.notify_all()

    def _lost(self, name: object, error: PreconditionFailed) -> None:
        log.info("somebody else was first: %s", error)
        self._refusals.drop(name)
        ino = name if isinstance(name, int) else name[1] if isinstance(name, tuple) else None
        try:
            if isinstance(ino, int):
                self._on_conflict(ino)
        except PipefsError as e:
            self._failed(name, e)
            return
        self._pause(name)

    def _failed(self, name: object, error: PipefsError | OSError) -> None:
        pause, what = self._pause(name), self._describe(name)
        refused = isinstance(error, PipefsError) and self._on_trouble(error)
        if refused and self._waits(name):
            self._refusals.add(name, Refusal(time.monotonic(), what, str(error)))
        else:
            self._refusals.drop(name)
        log.log(
            logging.ERROR if refused else logging.WARNING,
            "%s could not go up: %s; next try in %.0f s",
            what,
            error,
            pause,
        )

    def _describe(self, name: object) -> str:
        if isinstance(name, int):
            sidecar = self._files.staging.sidecar(name)
            return sidecar.path if sidecar is not None else f"inode {name}"
        return f"{name}"

    def _pause(self, name: object) -> float:
        """Full jitter up to twice the last pause, so that many failures do not march in step."""
        with self._wake:
            pause = min(LONGEST_PAUSE_S, self._pauses.get(name, FIRST_PAUSE_S / 2) * 2)
            self._pauses[name] = pause
            wait = random.uniform(pause / 2, pause)
            self._not_before[name] = time.monotonic() + wait
        return wait
