"""From the folder into the pipe: parallel, checked, and never over a change of somebody else.

Each file is put in the place of the version that was seen there, so who was faster wins and the
other is told. Files go up in parts of a commit each; what is done is recorded after each of them.
A push that is killed loses nothing: the next one finds in the store what had landed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from pipefs.errors import Conflict, NoSpace, NotFound, PipefsError, ServerFault, StoreError
from pipefs.folder.deciding import (
    Folder,
    Sides,
    decide,
    forget_gone,
    look,
    note_epoch,
    noted,
    refuse_missing,
    stays_local,
)
from pipefs.folder.places import command_for
from pipefs.folder.plan import Plan, Step
from pipefs.folder.record import Record
from pipefs.folder.removing import (
    delete_there,
    first_to_go,
    make_room_there,
    only_there,
    refuse_empty,
)
from pipefs.folder.reports import Moved, Options, Progress, Report, Silent, named
from pipefs.folder.scan import look_at
from pipefs.folder.states import Known, Local, Remote, in_step
from pipefs.publishing import ABSENT, Outcome, Publication, Published, Publisher
from pipefs.replica import Replica
from pipefs.stores.base import MULTIPART_THRESHOLD_BYTES

PART_FILES = 2000
PART_BYTES = 1 << 30
"""What goes up before it is announced and recorded."""
PARTS_AT_ONCE = 2
"""While one is planned or announced, the other one keeps the store busy."""


def push(
    replica: Replica,
    folder: Folder,
    options: Options | None = None,
    progress: Progress | None = None,
) -> Report:
    """Send what the folder has and the pipe has not.

    Returns:
        What was done; with `dry_run` what would be done, and nothing is changed.
    Raises:
        Conflict: the pipe has changes that were not pulled (not with mode `all` or named files);
            nothing was done.
        NotFound: there is no such folder, or a file that was named is not in it.
        Refused: `delete` from a folder without files. ReadOnly, AccessDenied: nothing may be put.
        PartlyMoved: some files could not be sent, were changed by somebody else meanwhile, or
            change all the time.
        Busy: another pull or push of this folder runs.
        Store errors: what was done until then stays done.
    """
    began = time.monotonic()
    options, progress = options or Options(), progress or Silent()
    report = Report(replica.pipe.name, folder.path, "push", options.dry_run)
    if not os.path.isdir(folder.path):
        raise NotFound(
            f"there is no folder {folder.path}",
            hint=f"Make it, and put files there · another one: --dest FOLDER\n"
            f"The pipe's files: {command_for(replica.home, replica.pipe, folder.path, 'pull')}",
        )
    with Record(
        replica.home, folder.path, replica.pipe.pipe_id, alone=not options.dry_run
    ) as known:
        run = _Push(replica, folder, known, options, progress, report)
        plan = run.plan()
        if options.dry_run:
            report.files = [_moved(s.path, s.local, s.is_new) for s in plan.steps]
            report.deleted = run.extra
        else:
            run.run(plan)
    report.seconds = time.monotonic() - began
    report.check()
    return report


class _Push:
    """One push under way."""

    def __init__(
        self,
        replica: Replica,
        folder: Folder,
        record: Record,
        options: Options,
        progress: Progress,
        report: Report,
    ) -> None:
        self._replica = replica
        self._folder = folder
        self._record = record
        self._options = options
        self._progress = progress
        self._report = report
        self._publisher = Publisher(replica, progress=lambda _path, count: progress.add(count))
        self._done: dict[str, Moved] = {}
        self._sides: Sides
        self.extra: list[str] = []
        """What is to be deleted in the pipe."""

    def plan(self) -> Plan:
        """Look at both sides; errors as of `push`."""
        if not self._options.dry_run:
            self._publisher.finish_others()
        self._sides = self._look()
        plan = decide(self._sides, self._options, "push")
        self._report.gone, self._report.left_out = plan.gone, self._sides.scan.left_out
        refuse_missing(plan, self._report)
        self._refuse_unpulled(plan)
        if self._options.delete and self._options.files is None:
            refuse_empty(self._sides, self._options, self._report)
            self.extra = only_there(self._sides)
        return plan

    def _look(self) -> Sides:
        sides = look(self._replica, self._folder, self._record, self._options)
        stays, left_out = stays_local(self._replica), dict(sides.scan.left_out)
        left_out |= {p: "stays local (setting local_only)" for p in sides.local if stays(p)}
        files = {p: f for p, f in sides.local.items() if p not in left_out}
        return replace(sides, scan=replace(sides.scan, files=files, left_out=left_out))

    def _refuse_unpulled(self, plan: Plan) -> None:
        others = self._options.unpulled_ok and not self._options.delete
        unpulled = plan.conflicts if others else plan.unpulled
        if not unpulled:
            return
        home, pipe, place = self._replica.home, self._replica.pipe, self._folder.path
        raise Conflict(
            f"{self._report.name} has changes that were not pulled: {named(unpulled)}",
            hint=f"First: {command_for(home, pipe, place, 'pull')}\nYours in their place all the "
            f"same: {command_for(home, pipe, place, 'push')} --mode all",
        )

    # --- doing it -----------------------------------------------------------------------------

    def run(self, plan: Plan) -> None:
        self._record.put(noted(self._sides, plan))
        if plan.steps or self.extra:
            self._publisher.may_write()
        self._progress.start(len(plan.steps), sum(_local(s).size for s in plan.steps))
        try:
            self._make_room(plan)
            again = self._send_all(plan.steps)
            # Written since: theirs is the newer state. Who writes on and on has to be asked.
            for step in self._send_all(again):
                self._report.failed[step.path] = "it is written to all the time: push it later"
            if not self._report.failed:
                delete_there(self._publisher, self._sides, self.extra, self._report)
        finally:
            self._report.files = [self._done[p] for p in sorted(self._done)]
            self._record.forget(self._report.deleted)
        forget_gone(self._replica, self._sides, self._record, self._options)
        note_epoch(self._sides, self._record)

    def _make_room(self, plan: Plan) -> None:
        first = first_to_go(self.extra, plan.steps)
        self.extra = sorted(set(self.extra) - set(first))
        delete_there(self._publisher, self._sides, first, self._report)
        make_room_there(self._publisher, self._replica, self._sides, plan.steps)

    def _send_all(self, steps: Sequence[Step]) -> list[Step]:
        """Send them; returns those that were written to meanwhile, as they are now."""
        # Large ones last: few of them go at once, and small ones would wait for their turn.
        order = sorted(steps, key=lambda s: (_local(s).size > MULTIPART_THRESHOLD_BYTES, s.path))
        parts, again = list(_parts(order)), list[Step]()
        ended: PipefsError | None = None
        with ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="push") as pool:
            sent = [pool.submit(self._publish, part) for part in parts]
            try:
                for part, one in zip(parts, sent, strict=True):
                    # What was under way when another failed is noted as well.
                    ended = self._take(part, one, again) or ended
                    if ended is not None:
                        pool.shutdown(wait=False, cancel_futures=True)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self._publisher.stop()
                raise
        if ended is not None:
            raise ended
        return again

    def _publish(self, steps: Sequence[Step]) -> tuple[int, list[Published]]:
        read_ns = time.time_ns()
        return read_ns, self._publisher.publish([self._publication(step) for step in steps])

    def _take(
        self, steps: Sequence[Step], sent: Future[tuple[int, list[Published]]], again: list[Step]
    ) -> PipefsError | None:
        """Note what became of a part; the error that ends the push."""
        try:
            read_ns, done = sent.result()
        except CancelledError:
            return None
        except PipefsError as e:
            return e
        learnt: dict[str, Known] = {}
        answers = any(one.error is None for one in done)
        ended: PipefsError | None = None
        for step, one in zip(steps, done, strict=True):
            # A store that took the others is there, and will not have this one.
            alone = answers and isinstance(one.error, ServerFault)
            if isinstance(one.error, StoreError | NoSpace) and not alone:
                ended = ended or one.error  # the others have it from the first
            elif one.error is not None:
                self._report.failed[step.path] = one.error.message
                self._progress.done(step.path)
            elif (changed := self._landed(step, one, read_ns, learnt)) is not None:
                again.append(changed)
        self._record.put(learnt)
        return ended

    def _publication(self, step: Step) -> Publication:
        seen = step.remote
        expected = ABSENT if seen is None else seen.version or seen.etag
        return Publication(step.path, Path(self._folder.place(step.path)), expected=expected)

    def _landed(
        self, step: Step, one: Published, read_ns: int, learnt: dict[str, Known]
    ) -> Step | None:
        """Note a file that is in the pipe now; a step for what was written to it meanwhile."""
        content = one.content
        assert content is not None  # it did not fail
        path, before = step.path, _local(step)
        remote = Remote(
            content.size,
            before.mtime_ns,
            content.key,
            content.version_id,
            content.etag,
            content.checksum,
        )
        if one.outcome is Outcome.SAME:
            self._progress.add(before.size)
        first = self._done.get(path)
        is_new = step.is_new if first is None else first.is_new
        self._done[path] = _moved(path, before, is_new, one.version)
        now, now_ns = look_at(self._folder.place(path)), time.time_ns()
        if now is not None and now.is_same_file(before):
            learnt[path] = in_step(now, remote, now_ns, read_ns=read_ns)
            self._progress.done(path)
            return None
        # In step with nothing here; but the pipe's version is ours.
        learnt[path] = Known(-1, -1, -1, remote.version, remote.etag, remote.checksum, now_ns)
        self._progress.done(path)
        return None if now is None else Step(path, now, remote, False)


def _local(step: Step) -> Local:
    assert step.local is not None  # a push has nothing else
    return step.local


def _moved(path: str, local: Local | None, is_new: bool, version: str = "") -> Moved:
    assert local is not None
    return Moved(path, local.size, local.mtime_ns, version, is_new=is_new)


def _parts(steps: Sequence[Step]) -> Iterator[list[Step]]:
    """The first is small: so the store has work sooner, and the parts that run at once are not
    announced at once, when it would have none."""
    part: list[Step] = []
    size, most = 0, PART_FILES // 8
    for step in steps:
        if part and (len(part) >= most or size + _local(step).size > PART_BYTES):
            yield part
            part, size, most = [], 0, PART_FILES
        part.append(step)
        size += _local(step).size
    if part:
        yield part
