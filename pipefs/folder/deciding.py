"""Both sides and the record, put together: what a pull or push of a folder has to do.

Reads a file's bytes only where times and sizes leave open whether it changed.
"""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass

from pipefs.descriptor import FORMAT_KEY
from pipefs.errors import NotFound, Refused, UsageError
from pipefs.filters import Filters
from pipefs.folder.places import command_for, folder_of
from pipefs.folder.plan import Plan, Planner, Wanted
from pipefs.folder.record import Record
from pipefs.folder.reports import Direction, Options, Report
from pipefs.folder.scan import is_ours, is_part, look_at_files, scan
from pipefs.folder.states import Known, Local, Remote, Scan, in_step
from pipefs.mountinfo import pipefs_mount_of
from pipefs.policy import Policy
from pipefs.replica import Item, Replica
from pipefs.stores.opening import parse_file_url
from pipefs.sums import Sums

_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Folder:
    """A plain folder of a pipe."""

    path: str
    """Absolute."""

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> Folder:
        """The folder at a path, which need not be there.

        Raises:
            Refused: it is in a mount of pipefs, or is no folder.
        """
        full = os.path.abspath(os.path.expanduser(os.fspath(path)))
        if (mount := pipefs_mount_of(full)) is not None:
            raise Refused(
                f"{path} is in the mount {mount.path}, which is always in step",
                hint="Choose a folder outside of it with --dest, or: pipefs flush",
            )
        if os.path.islink(full) and not os.path.exists(full):
            raise Refused(
                f"{path} is a link that leads nowhere", hint="Is the disk mounted that it leads to?"
            )
        if os.path.exists(full) and not os.path.isdir(full):
            raise Refused(f"{path} is no folder")
        return cls(full)

    def place(self, path: str) -> str:
        """Where a path of the pipe is on disk."""
        return os.path.join(self.path, path)


@dataclass(frozen=True, slots=True)
class Sides:
    """What there is on both sides, as far as the filters take it."""

    folder: Folder
    scan: Scan
    known: Mapping[str, Known]
    remote: Mapping[str, Remote]
    read_ns: int
    """When the folder was looked at."""
    folders: Set[str] = frozenset()
    """Of the pipe, whatever the filters take."""
    epoch: str = ""
    """Of the pipe's log; "" where it has none."""

    @property
    def local(self) -> Mapping[str, Local]:
        return self.scan.files


def filters_of(replica: Replica, options: Options) -> Filters:
    """Those of the call, else the pipe's own."""
    settings = replica.pipe.settings
    return Filters.of(
        options.include, options.exclude, otherwise=(settings.include, settings.exclude)
    )


def stays_local(replica: Replica) -> Callable[[str], bool]:
    """Whether a path never goes up, by the pipe's setting `local_only`."""
    policy = Policy(local_only=replica.pipe.settings.local_only)
    return lambda path: policy.stays_local([os.fsencode(name) for name in path.split("/")])


def remote_of(item: Item) -> Remote:
    return Remote(
        item.size,
        item.mtime_ns,
        item.key,
        item.version_id,
        item.etag,
        item.checksum,
        item.mode,
    )


def look(replica: Replica, folder: Folder, record: Record, options: Options) -> Sides:
    """Both sides now.

    Raises:
        UsageError: a path in `options.files` that no file can have. Refused: the pipe's store is
        in the folder, or the folder in it. Store errors.
    """
    filters = filters_of(replica, options)
    _refuse_store(replica, folder, filters)
    remote: dict[str, Remote] = {}
    other: dict[str, str] = {}
    folders: set[str] = set()
    with replica.opened(cached=options.cached) as now:
        epoch = now.position().epoch
        named = _named(options)
        items = now.walk() if named is None else filter(None, map(now.entry, named))
        for item in items:
            if item.path.endswith(f"/{FORMAT_KEY}"):
                other[item.path.removesuffix(f"/{FORMAT_KEY}")] = "another pipe is there, and stays"
            if item.kind == "dir":
                folders.add(item.path)
            elif why := _why_left_out(item):
                other[item.path] = why
            elif named is not None or filters.takes(item.path):
                remote[item.path] = remote_of(item)
    read_ns = time.time_ns()
    if named is not None:
        found = look_at_files(folder.path, named)
    else:
        found = scan(folder.path, filters, follow_links=options.follow_links)
        _mind_disks(found, record, remote)
    found.hidden.update(other)
    found.left_out.update({p: why for p, why in other.items() if filters.takes(p)})
    return Sides(folder, found, record.known(), remote, read_ns, folders, epoch)


def _mind_disks(found: Scan, record: Record, remote: Mapping[str, Remote]) -> None:
    """A disk in the folder that is not mounted now must not look like files that were deleted.
    Where all files are there without it, it is a folder from then on."""
    before = set(json.loads(record.fact(MOUNTS) or "[]"))
    lost = before - found.mounts
    missing = [p for p in record.known() if p in remote and p not in found.files] if lost else []
    found.away.update(place for place in lost if _has_below(place, missing))
    for place in found.away:
        if _has_below(place, remote):
            found.left_out[place] = "its disk is not mounted"
    now = found.mounts | found.away
    if record.is_alone and now != before:
        record.note({MOUNTS: json.dumps(sorted(now))})


def _has_below(place: str, paths: Iterable[str]) -> bool:
    return any(path.startswith(f"{place}/") for path in paths)


MOUNTS = "mounts"
"""Fact of a record: folders, a JSON list, that a disk was mounted on when it was last seen."""


def _refuse_store(replica: Replica, folder: Folder, filters: Filters) -> None:
    """A store that is put into itself grows with every push."""
    if not replica.pipe.url.startswith("file://"):
        return
    store = os.path.realpath(parse_file_url(replica.pipe.url))
    place = os.path.realpath(folder.path)
    above = os.path.commonpath([store, place])
    if above == store:
        home, pipe = replica.home, replica.pipe
        mount = command_for(home, pipe, str(folder_of(home, pipe)), "mount")
        raise Refused(
            f"{folder.path} is in the store of {pipe.name} itself",
            hint=f"Choose another folder. Its files, to be read and written: {mount}",
        )
    inside = os.path.relpath(store, place)
    if above == place and not filters.shuts_out(inside):
        raise Refused(
            f"the store of {replica.pipe.name} is in the folder {folder.path}",
            hint=f"Choose another one, or leave it out: --exclude {shlex.quote(f'{inside}/*')}",
        )


def _why_left_out(item: Item) -> str:
    """Why what a pipe has at a path cannot be in a folder; "" where it can."""
    if is_part(item.path):
        return "named like an unfinished download"
    if is_ours(item.path):
        return "a name of pipefs itself"
    if item.is_file:
        return ""
    return "symbolic link" if item.kind == "symlink" else "special file"


def _named(options: Options) -> list[str] | None:
    if options.files is None:
        return None
    names = []
    for given in options.files:
        name = os.path.normpath(given).strip("/")
        if name.startswith("../") or name in ("", ".", "..") or is_ours(name):
            raise UsageError(
                f"{given!r} is no file of a pipe",
                hint="Name files by their paths in the pipe, such as 2026/q3.csv",
            )
        names.append(name)
    return names


def decide(sides: Sides, options: Options, direction: Direction) -> Plan:
    """The plan; nothing is done yet."""
    planner = Planner(sides.local, sides.known, sides.remote, Bytes(sides))
    wanted = Wanted(options.mode, options.merge_mode, options.nrecent, _named(options))
    return planner.pull(wanted) if direction == "pull" else planner.push(wanted)


def refuse_missing(plan: Plan, report: Report) -> None:
    """
    Raises:
        NotFound: files were named that are not on the side they should come from.
    """
    if plan.missing:
        where = f"pipe {report.name}" if report.direction == "pull" else f"folder {report.folder}"
        raise NotFound(
            f"there is no file {' and no '.join(plan.missing)} in the {where}",
            hint=f"What is in a folder: --include '{plan.missing[0]}/*'",
        )


def noted(sides: Sides, plan: Plan) -> dict[str, Known]:
    """What the record has to learn from the comparison alone."""
    now_ns = time.time_ns()
    learnt = {
        path: in_step(sides.local[path], sides.remote[path], now_ns, read_ns=sides.read_ns)
        for path in plan.in_step
    }
    for path in plan.kept:
        seen = sides.remote[path]
        learnt[path] = Known(-1, -1, -1, seen.version, seen.etag, seen.checksum, now_ns)
    return learnt


EPOCH = "epoch"
"""Fact of a record: the pipe's log that it was in step with."""


def note_epoch(sides: Sides, record: Record) -> None:
    """Remember the log, where none is known yet."""
    if sides.epoch and not record.fact(EPOCH):
        record.note({EPOCH: sides.epoch})


def forget_gone(replica: Replica, sides: Sides, record: Record, options: Options) -> None:
    """Drop the rows of files that neither side has any more."""
    if options.files is not None:
        return
    takes = filters_of(replica, options).takes
    record.forget(
        [
            path
            for path in sides.known
            if path not in sides.local
            and path not in sides.remote
            and not sides.scan.is_away(path)
            and takes(path)
        ]
    )


class Bytes:
    """Answers about files' bytes, from their bytes."""

    def __init__(self, sides: Sides) -> None:
        self._sides = sides

    def is_unchanged(self, path: str) -> bool:
        known = self._sides.known[path]
        return self._has(path, known.size, known.etag, known.checksum)

    def is_equal(self, path: str) -> bool:
        local, remote = self._sides.local[path], self._sides.remote[path]
        if local.size != remote.size:
            return False
        if local.size == 0:
            return True
        same_time = local.mtime_ns == remote.mtime_ns
        if same_time and path not in self._sides.known:
            return True
        # Both changed since they were in step: some programs give all that they write one time.
        found = self._compare(path, remote.size, remote.etag, remote.checksum)
        return same_time if found is None else found

    def _has(self, path: str, size: int, etag: str, checksum: str) -> bool:
        return self._compare(path, size, etag, checksum) or False

    def _compare(self, path: str, size: int, etag: str, checksum: str) -> bool | None:
        """Whether the local file has these sums; None where they say nothing."""
        sums, left = Sums(size, "" if checksum else etag, checksum), size
        try:
            with open(self._sides.folder.place(path), "rb", buffering=0) as file:
                while piece := file.read(_PIECE_BYTES):
                    sums.add(piece)
                    left -= len(piece)
        except OSError:
            return False  # who has to read it says why that fails, and of this file alone
        if left:
            return False
        if checksum:
            return not sums.sha256_differs()
        differs = sums.md5_differs()
        return None if differs is None else not differs
