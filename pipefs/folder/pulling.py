"""From the pipe into the folder: parallel, checked, and never over a change of the user.

A file is fetched into a part beside its place and takes its name when it is whole, has the right
bytes, time and mode, and what it replaces is still what was looked at. What is done is recorded as
it is done; the part of a large file stays after an interruption, and the next pull goes on from it.
"""

from __future__ import annotations

import contextlib
import os
import time

from pipefs.errors import Conflict
from pipefs.folder.deciding import (
    Folder,
    Sides,
    decide,
    forget_gone,
    look,
    note_epoch,
    noted,
    refuse_missing,
)
from pipefs.folder.fetching import Fetched, Fetcher
from pipefs.folder.landing import sync_file_system
from pipefs.folder.places import command_for
from pipefs.folder.plan import Plan, Step
from pipefs.folder.record import Record
from pipefs.folder.removing import (
    delete_here,
    first_to_go,
    is_nowhere_else,
    make_room_here,
    only_here,
    refuse_empty,
)
from pipefs.folder.reports import Moved, Options, Progress, Report, Silent, named
from pipefs.folder.states import in_step
from pipefs.replica import Replica

DOCUMENTS = ("README.md", "LICENSE.md")

_OLD_PART_NS = 7 * 86_400 * 10**9
"""Nobody comes back for a part after that."""
_RECORD_EVERY_S = 5.0


def pull(
    replica: Replica,
    folder: Folder,
    options: Options | None = None,
    progress: Progress | None = None,
) -> Report:
    """Bring what the pipe has and the folder has not.

    Returns:
        What was done; with `dry_run` what would be done, and nothing is changed.
    Raises:
        Conflict: files changed on both sides and no rule was given; nothing was done.
        NotFound: a file that was named is not in the pipe.
        PartlyMoved: some files could not be had, or were changed meanwhile.
        Busy: another pull or push of this folder runs.
        Store errors: what was done until then stays done.
    """
    began = time.monotonic()
    options = options or Options()
    report = Report(replica.pipe.name, folder.path, "pull", options.dry_run)
    with Record(
        replica.home, folder.path, replica.pipe.pipe_id, alone=not options.dry_run
    ) as known:
        sides = look(replica, folder, known, options)
        plan = decide(sides, options, "pull")
        plan.steps = [step for step in plan.steps if not sides.scan.is_away(step.path)]
        refuse_missing(plan, report)
        _refuse_conflicts(replica, plan, report)
        report.kept, report.lost = plan.kept, plan.lost
        report.left_out = sides.scan.left_out
        extra = _extra(replica, sides, options, report)
        if options.dry_run:
            report.files = [_would(step) for step in plan.steps]
            report.deleted = extra
        else:
            first = first_to_go(extra, plan.steps)
            delete_here(sides, first, report)
            _Pull(replica, sides, known, report, progress or Silent()).run(plan)
            if not report.failed:
                delete_here(sides, sorted(set(extra) - set(first)), report)
            known.forget(report.deleted)
            forget_gone(replica, sides, known, options)
            note_epoch(sides, known)
    report.documents = [d for d in DOCUMENTS if d in report.files]
    report.seconds = time.monotonic() - began
    report.check()
    return report


def is_synced(replica: Replica, folder: Folder, *, cached: bool = True) -> list[str]:
    """Paths that a pull would bring, or that changed on both sides; [] where there are none."""
    options = Options(dry_run=True, cached=cached)
    with Record(replica.home, folder.path, replica.pipe.pipe_id, alone=False) as known:
        plan = decide(look(replica, folder, known, options), options, "pull")
    return sorted([step.path for step in plan.steps] + plan.conflicts)


def _extra(replica: Replica, sides: Sides, options: Options, report: Report) -> list[str]:
    """What is to be deleted here; of it, what the pipe never had is told as lost."""
    if not options.delete or options.files is not None:
        return []
    refuse_empty(sides, options, report)
    extra = only_here(replica, sides)
    report.lost = sorted(
        {*report.lost} | {p for p in extra if is_nowhere_else(sides.known.get(p), sides.local[p])}
    )
    return extra


def _would(step: Step) -> Moved:
    remote = step.remote
    assert remote is not None
    version = remote.version or remote.etag
    return Moved(step.path, remote.size, remote.mtime_ns, version, is_new=step.is_new)


def _refuse_conflicts(replica: Replica, plan: Plan, report: Report) -> None:
    if not plan.conflicts:
        return
    home, pipe, one = replica.home, replica.pipe, plan.conflicts[0]
    resolve = command_for(home, pipe, report.folder, "resolve", one)
    raise Conflict(
        "changed here and in the pipe since both were in step: " + named(plan.conflicts),
        hint=f"Keep yours: --merge-mode keep · take the pipe's: --merge-mode overwrite\n"
        f"One by one: {resolve} --keep mine|theirs|both",
    )


class _Pull:
    """One pull under way."""

    def __init__(
        self, replica: Replica, sides: Sides, record: Record, report: Report, progress: Progress
    ) -> None:
        self._replica = replica
        self._sides = sides
        self._record = record
        self._report = report
        self._progress = progress
        self._unrecorded: list[Fetched] = []
        self._recorded_at = time.monotonic()

    def run(self, plan: Plan) -> None:
        self._record.put(noted(self._sides, plan))
        self._remove_old_parts()
        if not plan.steps:
            return
        os.makedirs(self._sides.folder.path, exist_ok=True)
        size = sum(step.remote.size for step in plan.steps if step.remote)
        self._progress.start(len(plan.steps), size)
        fetcher = Fetcher(self._replica.store, self._sides.folder, self._progress)
        full = dict.fromkeys(
            make_room_here(self._sides, plan.steps), "a folder with files is there"
        )
        self._report.failed |= full
        try:
            fetcher.fetch([s for s in plan.steps if s.path not in full], self._take, self._fail)
        finally:
            self._save()
            self._report.files.sort()

    def _take(self, done: Fetched) -> None:
        step, remote = done.step, done.remote
        version = remote.version or remote.etag
        moved = Moved(step.path, remote.size, remote.mtime_ns, version, is_new=step.is_new)
        self._report.files.append(moved)
        self._unrecorded.append(done)
        self._progress.done(step.path)
        if time.monotonic() - self._recorded_at > _RECORD_EVERY_S:
            self._save()

    def _fail(self, step: Step, reason: str) -> None:
        self._report.failed[step.path] = reason
        self._progress.done(step.path)

    def _save(self) -> None:
        """First the bytes, then the row: else an empty file after a power loss would look like
        one that the user emptied."""
        if self._unrecorded:
            sync_file_system(self._sides.folder.path)
            now_ns = time.time_ns()
            self._record.put(
                {d.step.path: in_step(d.local, d.remote, now_ns) for d in self._unrecorded}
            )
            self._unrecorded.clear()
        self._recorded_at = time.monotonic()

    def _remove_old_parts(self) -> None:
        horizon = time.time_ns() - _OLD_PART_NS
        for path, mtime_ns in self._sides.scan.parts.items():
            if mtime_ns < horizon:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._sides.folder.place(path))
