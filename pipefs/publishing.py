"""Putting files into a pipe without a mount: bodies in parallel, then one commit that names them.

    send        each body goes to its own key, in the place of the version that the caller saw
    announce    one commit names them all, so other machines see them at once
    follow      with `atomic`, the bytes wait below `.pipefs/moving/` until then, where no listing
                of another machine finds a part of them; then the store copies them to their keys

What is done is written down as it goes (`pipefs.unfinished`): a publication that is killed loses
nothing, and the next one on this machine finishes it. Threads end with the call.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from pipefs.beside import Beside
from pipefs.commits import MAX_CHANGES, Change
from pipefs.conditional import ConditionalStore
from pipefs.errors import (
    FAULTS_IN_A_ROW,
    AccessDenied,
    Conflict,
    NoSpace,
    PipefsError,
    ReadOnly,
    Refused,
    ServerFault,
    StoreUnavailable,
    UsageError,
)
from pipefs.finishing import Finisher, Follow
from pipefs.jobs import taken
from pipefs.keys import PARKED
from pipefs.records import Content
from pipefs.replica import Replica
from pipefs.replicated import Now, to_names, to_path
from pipefs.sending import (
    ABSENT,
    ANY,
    Deletion,
    Expected,
    Job,
    Outcome,
    Progress,
    Publication,
    Sender,
    check_metadata,
    is_large,
)
from pipefs.unfinished import Notes, left_behind
from pipefs.whereto import folder_problem, refuse_tangled

__all__ = [
    "ABSENT",
    "ANY",
    "Deletion",
    "Expected",
    "Outcome",
    "Publication",
    "Published",
    "Publisher",
]

log = logging.getLogger(__name__)

WORKERS = 16
"""Bodies on their way at once: a small put is one round trip."""
LARGE_AT_ONCE = 4
"""Of those, files that go in parts: each has parts of its own in flight."""
MAX_ATOMIC = 20 * MAX_CHANGES
"""Paths in one commit: a follower holds it in memory, about 300 bytes each."""

_FATAL = (StoreUnavailable, AccessDenied, NoSpace)
"""What would meet every other path too."""


@dataclass(frozen=True, slots=True)
class Published:
    """What became of one path."""

    path: str
    outcome: Outcome
    version: str = ""
    """As `Item.version`; "" after a deletion or a failure."""
    size: int = 0
    sent_bytes: int = 0
    error: PipefsError | None = None
    content: Content | None = None
    """What the path has now; None after a deletion or a failure."""


class Publisher:
    """Publishes into one pipe. Thread-safe; several at once, in any number of processes.

    Args:
        progress: told of each path's bytes as they go.
        workers: bodies on their way at once.
    """

    def __init__(
        self,
        replica: Replica,
        *,
        progress: Progress = lambda _path, _bytes: None,
        workers: int = WORKERS,
    ) -> None:
        self.replica = replica
        self.beside = Beside(replica.home, replica.pipe.name)
        self._progress = progress
        self._workers = workers
        self._large = threading.BoundedSemaphore(LARGE_AT_ONCE)
        self._sends: set[threading.Event] = set()
        """Of each call that sends; set: it is to end."""

    def publish(
        self, items: Sequence[Publication | Deletion], *, atomic: bool = False
    ) -> list[Published]:
        """Put and delete; the results in the order of the items.

        When it returns, everything that did not fail is in the store and announced, and shows in
        a mount of this machine. A path of which the store has the same bytes is not sent; of it
        at most attributes change.

        Args:
            atomic: other machines see all of it or nothing; the first failure undoes the rest.
        Raises:
            UsageError: one path twice, a name no file has, too many for `atomic`. ReadOnly,
            AccessDenied: nothing may be put. Conflict, and whatever else failed: with `atomic`
            only; without, failures are in the results. Busy, store errors: what landed is in the
            store, and the next call on this machine announces it.
        """
        if not items:
            return []
        if atomic and len(items) > MAX_ATOMIC:
            raise UsageError(f"at most {MAX_ATOMIC:,} paths can be published at once")
        self.may_write()
        self.beside.bring_up()
        notes = Notes(self._folder)
        finisher = Finisher(self.replica, self._conditional, notes, self._workers)
        finisher.finish_others()
        try:
            jobs = self._jobs(items, atomic)
            self._send(jobs, notes)
            self._announce(jobs, atomic, finisher)
            self._after(jobs, finisher)
        except BaseException:
            notes.leave()
            raise
        notes.done()
        self.beside.show()
        return [_result(job) for job in jobs]

    def stop(self) -> None:
        """Let `publish` in other threads end soon, by CancelledError. What landed is in the store,
        and the next call on this machine announces it."""
        for stop in tuple(self._sends):
            stop.set()

    @property
    def _folder(self) -> Path:
        return self.replica.folder / "unfinished"

    @property
    def _conditional(self) -> ConditionalStore:
        return ConditionalStore(self.replica.store, lambda: self.replica.capabilities)

    def may_write(self) -> None:
        """Raises `ReadOnly`, `AccessDenied` where nothing may be put."""
        name = self.replica.pipe.name
        if self.replica.pipe.settings.read_only:
            raise ReadOnly(
                f"{name} is set to read only here", hint=f"pipefs set {name} read_only=no"
            )
        if not self.replica.capabilities.writable and not self.replica.ask_again().writable:
            raise AccessDenied(
                f"your credentials may not write {name}",
                hint="Others: pipefs set NAME aws_profile=PROFILE",
            )

    def finish_others(self) -> None:
        """Finish the publications of this machine that were killed, as `publish` does first: so
        the tree knows what they left in the store. Errors as there."""
        if any(left_behind(self._folder)):
            self.may_write()
            Finisher(
                self.replica, self._conditional, Notes(self._folder), self._workers
            ).finish_others()

    # --- planning -----------------------------------------------------------------------------

    def _jobs(self, items: Sequence[Publication | Deletion], atomic: bool) -> list[Job]:
        paths: set[str] = set()
        jobs = []
        # No listing: what the tree does not know of is met by the condition of the put.
        with self.replica.opened(listing=False) as now:
            folders: dict[str, PipefsError | None] = {}
            gone = {to_path(to_names(i.path)) for i in items if isinstance(i, Deletion)}
            for item in items:
                path = to_path(to_names(item.path))
                if not path or path in paths:
                    raise UsageError(
                        f"{path} is named twice" if path else "the pipe itself is no file"
                    )
                paths.add(path)
                jobs.append(self._job(now, item, path, folders, gone))
        refuse_tangled(j.path for j in jobs if isinstance(j.wanted, Publication))
        if atomic:
            for job in jobs:
                job.parked = f"{PARKED}{uuid.uuid4().hex}"
        return jobs

    def _job(
        self,
        now: Now,
        item: Publication | Deletion,
        path: str,
        folders: dict[str, PipefsError | None],
        gone: set[str],
    ) -> Job:
        try:
            job = Job(item, path, now.entry(path), now.place(path))
        except OSError as e:
            raise UsageError(f"{path}: {os.strerror(e.errno or 0)}") from e
        if isinstance(item, Publication):
            check_metadata(path, item.metadata or {})
            job.error = folder_problem(now, path.rpartition("/")[0], folders)
            if job.before is not None and job.before.kind == "dir":
                job.error = Refused(f"{path} is a folder in {self.replica.pipe.name}")
            return job
        if job.before is not None and job.before.is_file:
            job.links = [other for other in now.links_of(path) if other not in gone]
        if job.before is not None and job.before.kind == "dir":
            left = next((i.path for i in now.walk(path) if i.path not in gone), "")
            if left:
                job.error = Refused(f"{path} is not empty: {left}", hint="Name what is in it too")
        return job

    # --- sending ------------------------------------------------------------------------------

    def _send(self, jobs: list[Job], notes: Notes) -> None:
        stop = threading.Event()
        sender = Sender(self._conditional, notes, self._progress, stop)
        fatal: list[PipefsError] = []
        faults: list[PipefsError] = []

        def one(job: Job) -> None:
            if job.error is None and fatal:
                job.error = fatal[0]
            if job.error is not None or stop.is_set():
                return
            try:
                self._send_one(sender, job)
                faults.clear()
            except PipefsError as e:
                job.error = e
                fatal.extend(_meets_all(e, faults))
            if job.error is not None:
                job.outcome, job.change, job.gone = Outcome.FAILED, None, None

        if len(jobs) == 1:
            one(jobs[0])
        else:
            self._at_once(one, jobs, stop)

    def _at_once(self, one: Callable[[Job], None], jobs: list[Job], stop: threading.Event) -> None:
        waiting = deque(jobs)

        def work() -> None:
            for job in taken(waiting, stop):
                one(job)

        # One future for each worker: one for each job would wake this thread as often.
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="publish")
        self._sends.add(stop)
        try:
            workers = [pool.submit(work) for _ in range(min(self._workers, len(jobs)))]
            for worker in as_completed(workers):
                worker.result()
            if stop.is_set():
                raise CancelledError
        except BaseException:
            stop.set()
            raise
        finally:
            self._sends.discard(stop)
            pool.shutdown(cancel_futures=True)

    def _send_one(self, sender: Sender, job: Job) -> None:
        if isinstance(job.wanted, Publication) and is_large(job.wanted.body):
            with self._large:
                sender.send(job)
        else:
            sender.send(job)

    # --- telling ------------------------------------------------------------------------------

    def _announce(self, jobs: list[Job], atomic: bool, finisher: Finisher) -> None:
        changes = [job.change for job in jobs if job.change is not None]
        # What is above goes before what is in it: a rebase removes from the end.
        changes.sort(key=lambda c: c.path if c.op == "delete" else "")
        if not atomic:
            with self.replica.opened(listing=False) as now:
                for part in _parts(changes):
                    now.commit(part)
            return
        parked = [job.parked for job in jobs if job.parked and job.content is not None]
        failed = [job for job in jobs if job.error is not None]
        if failed:
            finisher.drop(parked)
            raise _error_of(failed)
        finisher.expect(_follows(jobs), [j.gone for j in jobs if j.gone is not None])
        lost: list[Job] = []

        def planned() -> list[Change]:
            lost[:] = [job for job in jobs if _is_lost(now, job)]
            return [] if lost else changes

        with self.replica.opened(listing=False) as now:
            now.commit(planned)
        if lost:
            finisher.drop(parked)
            raise _error_of(lost)

    def _after(self, jobs: list[Job], finisher: Finisher) -> None:
        finisher.follow(_follows(jobs))
        finisher.remove([job.gone for job in jobs if job.gone is not None])


def _meets_all(error: PipefsError, faults: list[PipefsError]) -> list[PipefsError]:
    """The error of every other path, where this one would be.

    Args:
        faults: of the store at single paths, since it took one.
    """
    if not isinstance(error, ServerFault):
        return [error] if isinstance(error, _FATAL) else []
    faults.append(error)
    down = len(faults) >= FAULTS_IN_A_ROW
    return [StoreUnavailable(error.message, hint=error.hint)] if down else []


def _follows(jobs: list[Job]) -> list[Follow]:
    return [Follow(j.follows, j.place.there if j.parked else None) for j in jobs if j.follows]


def _is_lost(now: Now, job: Job) -> bool:
    """Whether somebody else announced another version while ours waited."""
    if job.change is None or job.wanted.expected is ANY:
        return False
    before, found = job.before, now.entry(job.path)
    return (found.version if found else None) != (before.version if before else None)


def _error_of(failed: list[Job]) -> PipefsError:
    """One error for a publication of which nothing was done."""
    lost = [job.path for job in failed if job.error is None or isinstance(job.error, Conflict)]
    others = [job.error for job in failed if job.error and not isinstance(job.error, Conflict)]
    if others:
        return others[0]
    more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
    return Conflict(
        f"nothing was published: somebody else changed {', '.join(lost[:5])}{more}",
        hint="Look at theirs first, then do it again",
    )


def _result(job: Job) -> Published:
    if job.outcome is Outcome.SAME and job.before is not None:
        before = job.before
        found = before.content() if before.is_file else None
        return Published(job.path, job.outcome, before.version, before.size, content=found)
    content = job.content if job.error is None else None
    version = (content.version_id or content.etag) if content is not None else ""
    size = content.size if content is not None else 0
    return Published(job.path, job.outcome, version, size, job.sent_bytes, job.error, content)


def _parts(changes: Sequence[Change]) -> Iterator[list[Change]]:
    items = iter(changes)
    while part := list(itertools.islice(items, MAX_CHANGES)):
        yield part
