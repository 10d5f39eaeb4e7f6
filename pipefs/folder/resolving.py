"""Conflicts of a plain folder: what changed here and in the pipe since both were in step.

Nobody's bytes go without being asked for: `mine` leaves the file, and the next push puts it in the
place of the pipe's version; `theirs` fetches that one over ours, which is nowhere else; `both`
renames ours first, so that the next push adds it under its new name.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import replace

from pipefs.conflictmessages import Keep, Resolved
from pipefs.conflicts import conflict_names
from pipefs.descriptor import who
from pipefs.errors import NotFound, PipefsError, Refused
from pipefs.folder.deciding import Folder, decide, look, noted
from pipefs.folder.landing import move_aside
from pipefs.folder.places import command_for
from pipefs.folder.pulling import pull
from pipefs.folder.record import Record
from pipefs.folder.reports import Options, Progress
from pipefs.replica import Replica


def conflicts(replica: Replica, folder: Folder, options: Options | None = None) -> list[str]:
    """Paths that changed on both sides; nothing is done. Store errors."""
    options = replace(options or Options(), dry_run=True, merge_mode=None, mode="default")
    with Record(replica.home, folder.path, replica.pipe.pipe_id, alone=False) as record:
        return decide(look(replica, folder, record, options), options, "pull").conflicts


def resolve(
    replica: Replica,
    folder: Folder,
    path: str,
    keep: Keep,
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Resolved:
    """End the conflict of one file.

    Args:
        keep: see above.
    Raises:
        NotFound: neither side has it. Refused: it is in no conflict. Conflict: it was changed
        meanwhile, and stays. Busy. Store errors.
    """
    options = Options(files=(path,), cached=False, dry_run=dry_run)
    with Record(replica.home, folder.path, replica.pipe.pipe_id, alone=not dry_run) as record:
        sides = look(replica, folder, record, options)
        (name,) = decide(sides, options, "pull").conflicts or [""]
        if not name:
            raise _no_conflict(replica, folder, path, known=path in {*sides.local, *sides.remote})
        if keep == "mine" and not dry_run:
            record.put(noted(sides, decide(sides, replace(options, merge_mode="keep"), "pull")))
    if keep == "mine":
        return Resolved(name, "", keep)
    copy = free_name(folder, name) if keep == "both" else ""
    if not dry_run:
        fetch = replace(options, files=(name,))
        if copy:
            keep_both(replica, folder, name, copy, fetch, progress)
        else:
            pull(replica, folder, replace(fetch, merge_mode="overwrite"), progress)
    return Resolved(name, copy, keep, replaced="" if copy else name)


def keep_both(
    replica: Replica,
    folder: Folder,
    path: str,
    copy: str,
    options: Options,
    progress: Progress | None = None,
) -> None:
    """Rename ours to `copy` and fetch theirs; where that fails, ours has its name again."""
    move_aside(folder.place(path), folder.place(copy))
    try:
        pull(replica, folder, options, progress)
    except BaseException:
        with contextlib.suppress(PipefsError, OSError):
            move_aside(folder.place(copy), folder.place(path))
        raise


def free_name(folder: Folder, path: str) -> str:
    """Where ours may go: `NAME.conflict-HOST-TIME.EXT` beside it."""
    above, _, name = path.rpartition("/")
    host = who().rpartition("@")[2]
    for found in conflict_names(os.fsencode(name), host, time.time_ns()):
        copy = os.path.join(above, os.fsdecode(found))
        if not os.path.lexists(folder.place(copy)):
            return copy
    raise Refused(f"no conflict name is free beside {path}")


def _no_conflict(replica: Replica, folder: Folder, path: str, *, known: bool) -> PipefsError:
    name = replica.pipe.name
    if not known:
        return NotFound(f"there is no {path} in the pipe {name}, nor in {folder.path}")
    return Refused(
        f"{path} is in no conflict: it did not change on both sides",
        hint=f"What changed: {command_for(replica.home, replica.pipe, folder.path, 'pull')} -n",
    )
