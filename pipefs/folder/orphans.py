"""What only one side has, found and removed on purpose: nothing else ever deletes by comparing.

A file that was never pushed is one too, and is nowhere else: it is told apart.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Literal

from pipefs.errors import NotFound
from pipefs.folder.deciding import Folder, Sides, look
from pipefs.folder.record import Record
from pipefs.folder.removing import (
    delete_here,
    delete_there,
    is_nowhere_else,
    only_here,
    only_there,
    refuse_empty,
)
from pipefs.folder.reports import Moved, Options, Report
from pipefs.publishing import Publisher
from pipefs.replica import Replica

Where = Literal["local", "remote", "both"]


@dataclass(slots=True)
class Orphans:
    """What only one side has, by path."""

    name: str
    """Of the pipe."""
    folder: str
    dry_run: bool
    local: list[Moved] = field(default_factory=list)
    """Files of the folder that the pipe has not."""
    remote: list[Moved] = field(default_factory=list)
    """Files of the pipe that the folder has not."""
    lost: list[str] = field(default_factory=list)
    """Of `local`: what the pipe never had, so it is nowhere else."""
    failed: dict[str, str] = field(default_factory=dict)
    """What could not be removed, and why."""

    @property
    def bytes(self) -> int:
        return sum(f.size for f in [*self.local, *self.remote])

    def __len__(self) -> int:
        return len(self.local) + len(self.remote)


def orphans(
    replica: Replica, folder: Folder, where: Where = "local", options: Options | None = None
) -> Orphans:
    """What only the folder has (`where` local), only the pipe (remote), or one of them (both).

    Args:
        options: which paths count (`files`, filters, `cached`); with `dry_run` False what is found
            is removed there.
    Raises:
        NotFound, Refused: files of the pipe would be removed because there is no such folder, or,
            unless `options.empty_ok`, because it has no files.
        Busy: a pull or push of this folder runs. Store errors: what was removed until then is.
    """
    options = options or Options(dry_run=True)
    found = Orphans(replica.pipe.name, folder.path, options.dry_run)
    with Record(
        replica.home, folder.path, replica.pipe.pipe_id, alone=not options.dry_run
    ) as known:
        sides = look(replica, folder, known, options)
        if where in ("local", "both"):
            _find_here(replica, sides, found)
        if where in ("remote", "both"):
            _find_there(sides, found)
        if not options.dry_run:
            if found.remote:
                _refuse_missing(sides, options, found)
            _remove(replica, sides, known, found)
    return found


def _find_here(replica: Replica, sides: Sides, found: Orphans) -> None:
    for path in only_here(replica, sides):
        local = sides.local[path]
        found.local.append(Moved(path, local.size, local.mtime_ns))
        if is_nowhere_else(sides.known.get(path), local):
            found.lost.append(path)


def _find_there(sides: Sides, found: Orphans) -> None:
    for path in only_there(sides):
        remote = sides.remote[path]
        version = remote.version or remote.etag
        found.remote.append(Moved(path, remote.size, remote.mtime_ns, version))


def _refuse_missing(sides: Sides, options: Options, found: Orphans) -> None:
    if not os.path.isdir(found.folder):
        raise NotFound(
            f"there is no folder {found.folder}: nothing was deleted in {found.name}",
            hint="Mount the disk that it is on · another one: --dest FOLDER",
        )
    if options.files is None:
        refuse_empty(sides, options, Report(found.name, found.folder, "push"))


def _remove(replica: Replica, sides: Sides, record: Record, found: Orphans) -> None:
    report = Report(found.name, found.folder, "push")
    try:
        delete_there(Publisher(replica), sides, found.remote, report)
        delete_here(sides, found.local, report)
    finally:
        record.forget(report.deleted)
    gone = set(report.deleted)
    found.local = [f for f in found.local if f in gone]
    found.remote = [f for f in found.remote if f in gone]
    found.failed = report.failed
