"""What only one side has, and removing it there.

Nothing is removed that the user changed since it was looked at, nor what stays local by itself.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pipefs.errors import Refused
from pipefs.folder.deciding import Folder, Sides, stays_local
from pipefs.folder.plan import Step
from pipefs.folder.reports import Options, Report
from pipefs.folder.scan import look_at
from pipefs.folder.states import Known, Local, Remote
from pipefs.publishing import Deletion, Publisher
from pipefs.replica import Replica

_AT_ONCE = 2000
"""Deletions in one commit."""


def only_here(replica: Replica, sides: Sides) -> list[str]:
    """Files of the folder that the pipe does not have."""
    stays = stays_local(replica)
    return [p for p in _lacking(sides.local, sides.remote, sides) if not stays(p)]


def only_there(sides: Sides) -> list[str]:
    """Files of the pipe that the folder does not have."""
    return list(_lacking(sides.remote, sides.local, sides))


def _lacking(
    one: Mapping[str, Local] | Mapping[str, Remote],
    other: Mapping[str, Local] | Mapping[str, Remote],
    sides: Sides,
) -> Iterator[str]:
    # What was left out is there, if not as a file; so is what is in a folder that was left out.
    for path in sorted(one):
        if path not in other and not sides.scan.hides(path):
            yield path


def _above(path: str) -> Iterator[str]:
    """It, and the folders above it."""
    while path:
        yield path
        path = path.rpartition("/")[0]


def is_nowhere_else(known: Known | None, local: Local) -> bool:
    """Whether a file that the pipe lacks has bytes that it never had."""
    return known is None or not known.local_is_same(local)


def refuse_empty(sides: Sides, options: Options, report: Report) -> None:
    """
    Raises:
        Refused: everything would be deleted, as the side that gives has nothing.
    """
    pushed = report.direction == "push"
    gives, loses = (sides.local, sides.remote) if pushed else (sides.remote, sides.local)
    if gives or not loses or options.empty_ok:
        return
    empty = f"{report.folder} has no files" if pushed else f"{report.name} has no files"
    raise Refused(
        f"{empty}: with --delete, all {len(loses):,} files of the other side would go",
        hint="If you mean it: -y",
    )


def first_to_go(extra: Sequence[str], steps: Sequence[Step]) -> list[str]:
    """Of what is to be deleted: files that lie where a step needs a folder, or below where it
    needs a file."""
    if not extra:
        return []
    files = {step.path for step in steps}
    folders = {above for path in files for above in _above(path)} - files
    return [p for p in extra if p in folders or any(above in files for above in _above(p))]


def make_room_here(sides: Sides, steps: Sequence[Step]) -> list[str]:
    """Remove folders without any file where a step needs a file; paths where one has files."""
    full = []
    for step in steps:
        place = sides.folder.place(step.path)
        if step.local is not None or not os.path.isdir(place):
            continue
        if not os.path.islink(place) and not any(files for _, _, files in os.walk(place)):
            for folder, _, _ in os.walk(place, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
        if os.path.isdir(place):
            full.append(step.path)
    return full


def make_room_there(
    publisher: Publisher, replica: Replica, sides: Sides, steps: Sequence[Step]
) -> None:
    """Remove folders of the pipe without any file where a step needs a file. One that has files
    stays, and the step fails."""
    needed = [step.path for step in steps if step.path in sides.folders]
    empty: list[str] = []
    if needed:
        with replica.opened(listing=False) as now:
            for path in needed:
                inside = list(now.walk(path))
                if all(item.kind == "dir" for item in inside):
                    empty += [item.path for item in inside]
    if empty:
        publisher.publish([Deletion(path) for path in empty])


def delete_here(sides: Sides, paths: Iterable[str], report: Report) -> None:
    """Delete files of the folder, and folders that are empty then."""
    gone = []
    for path in paths:
        place = sides.folder.place(path)
        now = look_at(place)
        if now is not None and not now.is_same_file(sides.local[path]):
            report.failed[path] = "changed just now: it stays"
            continue
        try:
            os.unlink(place)
        except FileNotFoundError:
            pass
        except OSError as e:
            report.failed[path] = e.strerror or str(e)
            continue
        gone.append(path)
    report.deleted += gone
    remove_empty(sides.folder, gone)


def remove_empty(folder: Folder, gone: Iterable[str]) -> None:
    """Remove the folders that held these paths, as far as nothing is in them."""
    above = {p for path in gone for p in _above(path.rpartition("/")[0])}
    for path in sorted(above, reverse=True):
        with contextlib.suppress(OSError):
            os.rmdir(folder.place(path))


def delete_there(publisher: Publisher, sides: Sides, paths: Iterable[str], report: Report) -> None:
    """Delete files of the pipe, each while it is the version that was seen.

    Raises:
        Store errors: what was deleted until then is.
    """
    chosen = list(paths)
    for first in range(0, len(chosen), _AT_ONCE):
        part = chosen[first : first + _AT_ONCE]
        seen = [sides.remote[path] for path in part]
        items = [Deletion(p, r.version or r.etag) for p, r in zip(part, seen, strict=True)]
        for done in publisher.publish(items):
            if done.error is None:
                report.deleted.append(done.path)
            else:
                report.failed[done.path] = done.error.message
