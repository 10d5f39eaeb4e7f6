"""One round of a folder that is kept in step: both sides' changes, and deletions where wanted.

First deletions, so that nothing that is to go comes back; then what the pipe has comes here, with
ours set aside where both changed; then what the folder has goes there.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import time
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Literal

from pipefs.errors import Conflict, NotFound, Refused
from pipefs.filters import Patterns, patterns_of
from pipefs.folder.deciding import (
    EPOCH,
    Bytes,
    Folder,
    Sides,
    decide,
    filters_of,
    look,
    note_epoch,
    stays_local,
)
from pipefs.folder.landing import move_aside
from pipefs.folder.places import command_for
from pipefs.folder.pulling import pull
from pipefs.folder.pushing import push
from pipefs.folder.record import Record
from pipefs.folder.removing import delete_here, delete_there
from pipefs.folder.reports import Options, PartlyMoved, Report
from pipefs.folder.resolving import conflicts, free_name
from pipefs.publishing import Publisher
from pipefs.replica import Replica
from pipefs.units import show_count

FOLLOW_S = 10.0
"""How often the log is looked at: half a million requests a month, a fifth of a dollar on AWS."""
_TRIES = 3

What = Literal[
    "pulled", "pushed", "deleted here", "deleted there", "conflict", "failed", "offline", "online"
]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was done, or with a preview would be."""

    what: What
    path: str = ""
    size: int = 0
    text: str = ""
    """The path of the copy, of a conflict; the reason, of what failed and of being offline."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """How a folder is watched.

    Args:
        include, exclude: as of `Options`.
        delete: what is deleted on one side is deleted on the other. Without it, what is deleted
            here comes back, and what is deleted in the pipe stays here.
        follow_s: how often the log is looked at, in seconds.
    """

    include: Patterns = None
    exclude: Patterns = None
    delete: bool = False
    follow_s: float = FOLLOW_S


class Gone(NotFound):
    """The folder is not what it was when the watch began."""


class Empty(Refused):
    """One side has nothing at all, or never had what it lacks."""


class Rounds:
    """Rounds of one folder and pipe.

    Args:
        tell: told of each thing that was done.
    """

    def __init__(
        self, replica: Replica, folder: Folder, wishes: Wishes, tell: Callable[[Event], None]
    ) -> None:
        self._replica = replica
        self._folder = folder
        self._wishes = wishes
        self._tell = tell
        self._place: tuple[int, int] | None = None
        self.listed = time.monotonic()
        """When the pipe was last listed for what other tools wrote."""
        self.is_pulling = False
        """Whether it may be interrupted: what is pulled is pulled again at no loss."""

    def options(self, busy: Sequence[str] = (), *, cached: bool = True) -> Options:
        """The filters, without files that are being written."""
        exclude = self._wishes.exclude
        if busy:
            given = self._replica.pipe.settings.exclude if exclude is None else patterns_of(exclude)
            exclude = (*given, *map(_pattern_of, busy))
        return Options(include=self._wishes.include, exclude=exclude, cached=cached)

    def go(self, busy: Sequence[str], *, cached: bool) -> int:
        """Both sides in step, but for files that are being written; how many failed."""
        self.check_folder()
        options = self.options(busy, cached=cached)
        failed = self._deletions(options) if self._wishes.delete else 0
        self.is_pulling = True
        try:
            failed += self._pull(options)
        finally:
            self.is_pulling = False
        if not cached:
            self.listed = time.monotonic()
        return failed + self._push(replace(options, cached=True))

    def send(self) -> int:
        """What of a round goes to the pipe, whatever is to be pulled; how many failed."""
        self.check_folder()
        options = self.options()
        failed = self._deletions(options) if self._wishes.delete else 0
        self._keep_both(options)
        return failed + self._push(options)

    def begin(self) -> None:
        """Make the folder if it is not there. Asked before all else."""
        os.makedirs(self._folder.path, exist_ok=True)
        status = os.stat(self._folder.path)
        self._place = status.st_dev, status.st_ino

    def check_folder(self) -> None:
        """A disk that was taken out must not look like files that were deleted.

        Raises:
            Gone: the folder is not the one that it was at `begin`.
        """
        with contextlib.suppress(OSError):
            status = os.stat(self._folder.path)
            if (status.st_dev, status.st_ino) == self._place:
                return
        raise Gone(f"the folder {self._folder.path} is not there any more")

    def _pull(self, options: Options) -> int:
        for _ in range(_TRIES):
            try:
                report = _report_of(lambda: pull(self._replica, self._folder, options))
            except Conflict:
                self._keep_both(options)
                continue
            for file in report.files:
                self._tell(Event("pulled", str(file), file.size))
            return self._told(report)
        raise Conflict("files change on both sides faster than they can be kept")

    def _keep_both(self, options: Options) -> None:
        for path in conflicts(self._replica, self._folder, options):
            copy = free_name(self._folder, path)
            move_aside(self._folder.place(path), self._folder.place(copy))
            self._tell(Event("conflict", path, text=copy))

    def _push(self, options: Options) -> int:
        # What cannot be pulled now keeps nothing from going up.
        options = replace(options, unpulled_ok=True)
        report = _report_of(lambda: push(self._replica, self._folder, options))
        for file in report.files:
            self._tell(Event("pushed", str(file), file.size))
        return self._told(report)

    def _told(self, report: Report) -> int:
        for path, why in report.failed.items():
            self._tell(Event("failed", path, text=why))
        return len(report.failed)

    # --- deletions ----------------------------------------------------------------------------

    def _deletions(self, options: Options) -> int:
        """What was in step and is deleted on one side, unchanged on the other."""
        home, pipe = self._replica.home, self._replica.pipe
        report = Report(pipe.name, self._folder.path, "push")
        with Record(home, self._folder.path, pipe.pipe_id) as record:
            sides = look(self._replica, self._folder, record, options)
            self.check_folder()  # again: the store may have kept us waiting
            is_new = record.fact(EPOCH) not in ("", sides.epoch)
            if is_new:  # what it lacks shows when it was listed once more
                sides = look(self._replica, self._folder, record, replace(options, cached=False))
            here, there = self._deleted(sides, options)
            if is_new:
                self._refuse_new(there)
                record.note({EPOCH: sides.epoch})
            note_epoch(sides, record)
            delete_here(sides, there, report)
            for path in report.deleted:
                self._tell(Event("deleted here", path))
            known = len(report.deleted)
            try:
                if here:
                    delete_there(Publisher(self._replica), sides, here, report)
            finally:
                record.forget(report.deleted)
                for path in report.deleted[known:]:
                    self._tell(Event("deleted there", path))
        return self._told(report)

    def _deleted(self, sides: Sides, options: Options) -> tuple[list[str], list[str]]:
        """(deleted here, deleted in the pipe); the other side still has each as it was."""
        takes, stays = filters_of(self._replica, options).takes, stays_local(self._replica)
        here, there = [], []
        for path, known in sorted(sides.known.items()):
            local, remote = sides.local.get(path), sides.remote.get(path)
            if not takes(path) or stays(path) or sides.scan.hides(path):
                continue
            if local is None and remote is not None and known.remote_is_same(remote):
                here.append(path)
            elif remote is None and local is not None and _is_unchanged(sides, path):
                there.append(path)
        self._refuse_empty("push", self._folder.path, sides.local, here)
        self._refuse_empty("pull", self._replica.pipe.name, sides.remote, there)
        return here, there

    def _refuse_empty(self, verb: str, side: str, has: Sized, loses: Sized) -> None:
        """All of a side went at once: perhaps it was not the user."""
        if len(has) or len(loses) < 2:
            return
        home, pipe, place = self._replica.home, self._replica.pipe, self._folder.path
        raise Empty(
            f"{side} has no files any more: the {len(loses):,} of the other side stay",
            hint=f"If you mean it: {command_for(home, pipe, place, verb)} --delete -y",
        )

    def _refuse_new(self, lacking: Sequence[str]) -> None:
        """A pipe that was made anew never had what it lacks: nobody deleted that."""
        if not lacking:
            return
        home, pipe, place = self._replica.home, self._replica.pipe, self._folder.path
        raise Empty(
            f"{pipe.name} was made anew, and lacks {show_count(len(lacking), 'file')} of "
            f"{place}, such as {lacking[0]}: nothing moves",
            hint=f"To put them there: {command_for(home, pipe, place, 'push')} --mode all\n"
            f"To delete them here: {command_for(home, pipe, place, 'pull')} --delete",
        )

    # --- a preview ----------------------------------------------------------------------------

    def preview(self) -> None:
        """Tell what a round would do; nothing is done."""
        options = self.options(cached=False)
        home, pipe = self._replica.home, self._replica.pipe
        with Record(home, self._folder.path, pipe.pipe_id, alone=False) as record:
            sides = look(self._replica, self._folder, record, options)
        gone: set[str] = set()
        if self._wishes.delete:
            here, there = self._deleted(sides, options)
            gone = {*here, *there}
            for what, paths in (("deleted here", there), ("deleted there", here)):
                for path in paths:
                    self._tell(Event(what, path))  # type: ignore[arg-type]  # both are `What`
        plan, stays = decide(sides, options, "pull"), stays_local(self._replica)
        for path in plan.conflicts:
            self._tell(Event("conflict", path, text=free_name(self._folder, path)))
        for step in plan.steps:
            if sides.scan.is_away(step.path):
                continue
            if step.remote is not None and step.path not in gone:
                self._tell(Event("pulled", step.path, step.remote.size))
        for step in decide(sides, options, "push").steps:
            if step.local is not None and step.path not in gone and not stays(step.path):
                self._tell(Event("pushed", step.path, step.local.size))


def _is_unchanged(sides: Sides, path: str) -> bool:
    known, local = sides.known[path], sides.local[path]
    if known.local_is_same(local):
        return True
    # Times that were too young to tell; the bytes do.
    return (known.size, known.mtime_ns) == (local.size, -1) and Bytes(sides).is_unchanged(path)


def _report_of(move: Callable[[], Report]) -> Report:
    try:
        return move()
    except PartlyMoved as e:
        return e.report


def _pattern_of(path: str) -> str:
    """A pattern that matches this path. A `|` or a blank at an end would be none of it."""
    return re.sub(r"[|\s]", "?", glob.escape(path))
