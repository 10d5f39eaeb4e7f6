"""What of a project's `data/` was pushed, what was not, and what differs in the bucket.

The first question is answered on this machine alone; the second looks into the bucket.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from pipefs.filters import Filters
from pipefs.folder.deciding import Bytes, Folder, Sides, look
from pipefs.folder.plan import Planner, Side
from pipefs.folder.record import Record, record_file
from pipefs.folder.reports import Options
from pipefs.folder.scan import scan
from pipefs.folder.states import Known
from pipefs.home import Home
from pipefs.project.markers import Marker, left_out, read_markers, taken_over
from pipefs.project.settings import Project
from pipefs.registry import Pipe
from pipefs.replica import Replica

PUSHED = "pushed"
"""Fact of a folder's record: when it was last pushed, in ns."""
_DATAKIT = "datakit"
"""Fact of a folder's record: datakit's markers were taken over."""


@dataclass(slots=True)
class Standing:
    """A project's files against what was in step last."""

    pushed_ns: int = 0
    """0: never."""
    files: int = 0
    never: list[str] = field(default_factory=list)
    """Never pushed, and never pulled."""
    changed: list[str] = field(default_factory=list)
    """Since they were in step."""


@dataclass(slots=True)
class Compared:
    """Both sides; what is in step is in no list."""

    only_local: list[str] = field(default_factory=list)
    only_remote: list[str] = field(default_factory=list)
    changed_local: list[str] = field(default_factory=list)
    changed_remote: list[str] = field(default_factory=list)
    conflict: list[str] = field(default_factory=list)
    """Changed on both sides."""
    differ: list[str] = field(default_factory=list)
    """On both sides with other bytes, and nothing tells which is newer."""


def patterns(project: Project, pipe: Pipe | None) -> tuple[str, ...]:
    """What of `data/` does not count: the pipe's own `exclude`, and what is no data."""
    own = pipe.settings.exclude if pipe is not None else ()
    return (*own, *left_out(project))


def standing(home: Home, project: Project, pipe: Pipe | None) -> Standing:
    """What was pushed and what was not, by what this machine knows.

    Args:
        pipe: the project's, where it was used on this machine.
    """
    markers = read_markers(project)
    include = pipe.settings.include if pipe is not None else ()
    found = scan(str(project.data), Filters(include, patterns(project, pipe)))
    known, pushed_ns = _remembered(home, project, pipe)
    known = {path: k for path, k in known.items() if k.synced_ns}
    answer = Standing(pushed_ns, len(found.files))
    if not pushed_ns:
        answer.pushed_ns = max((m.time_ns for m in markers.values()), default=0)
    sides = Sides(Folder(str(project.data)), found, known, {}, time.time_ns())
    for path, local in sorted(found.files.items()):
        if path in known:
            one = known[path]
            same = one.local_is_same(local) or (
                one.size == local.size and Bytes(sides).is_unchanged(path)
            )
            if not same:
                answer.changed.append(path)
        elif path not in markers:
            answer.never.append(path)
        elif local.mtime_ns > markers[path].time_ns:
            answer.changed.append(path)
    return answer


def _remembered(home: Home, project: Project, pipe: Pipe | None) -> tuple[dict[str, Known], int]:
    folder = str(project.data)
    if pipe is None or not record_file(home, folder, pipe.pipe_id).exists():
        return {}, 0
    with Record(home, folder, pipe.pipe_id, alone=False) as record:
        return record.known(), int(record.fact(PUSHED) or 0)


def note_push(home: Home, project: Project, pipe: Pipe) -> None:
    """Remember that the project was pushed now."""
    with Record(home, str(project.data), pipe.pipe_id) as record:
        record.note({PUSHED: str(time.time_ns())})


def compared(replica: Replica, project: Project) -> Compared:
    """Both sides now; other tools' work is listed for."""
    options = Options(exclude=patterns(project, replica.pipe), cached=False)
    folder = Folder(str(project.data))
    with Record(replica.home, folder.path, replica.pipe.pipe_id, alone=False) as record:
        sides = look(replica, folder, record, options)
    markers = read_markers(project)
    known = {**sides.known, **taken_over(markers, sides, time.time_ns())}
    sides = Sides(folder, sides.scan, known, sides.remote, sides.read_ns)
    return _sorted_out(sides)


def _sorted_out(sides: Sides) -> Compared:
    planner = Planner(sides.local, sides.known, sides.remote, Bytes(sides))
    found = Compared()
    for path in sorted({*sides.local, *sides.remote}):
        here, there = planner.sides(path)
        if there is Side.ABSENT:
            found.only_local.append(path)
        elif here is Side.ABSENT:
            found.only_remote.append(path)
        elif here is there is Side.CHANGED:
            (found.conflict if path in sides.known else found.differ).append(path)
        elif here is Side.CHANGED:
            found.changed_local.append(path)
        elif there is Side.CHANGED:
            found.changed_remote.append(path)
    return found


def take_over(replica: Replica, project: Project) -> int:
    """Put what datakit noted into the folder's record, once; how many files that tells of.

    Raises:
        Busy: another pull or push of this folder runs. Store errors.
    """
    markers: dict[str, Marker] = read_markers(project)
    if not markers:
        return 0
    folder = Folder(str(project.data))
    with Record(replica.home, folder.path, replica.pipe.pipe_id) as record:
        if record.fact(_DATAKIT):
            return 0
        options = Options(exclude=patterns(project, replica.pipe))
        learnt = taken_over(markers, look(replica, folder, record, options), time.time_ns())
        record.put(learnt)
        record.note({_DATAKIT: str(time.time_ns())})
        return len(learnt)
