"""What is on disk: the regular files of a folder, with links followed.

A link to a file counts as that file, and one to a folder as that folder unless it leads back to a
folder above it. Names that belong to pipefs never count, nor do special files.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import stat
from collections.abc import Collection

from pipefs.errors import PipefsError
from pipefs.filters import Filters
from pipefs.folder.states import Local, Scan
from pipefs.times import int64_ns

PART = ".pipefs-part-"
"""What the name of an unfinished download begins with; it lies where the file will be."""

_PART_NAME = re.compile(re.escape(PART) + "[0-9a-f]{16}")


_WENT = (errno.ENOENT, errno.ENOTDIR)


def is_part(path: str) -> bool:
    """Whether a path has the name of an unfinished download. Others that begin so are files."""
    return _PART_NAME.fullmatch(path.rpartition("/")[2]) is not None


def local_of(status: os.stat_result) -> Local:
    return Local(
        status.st_size,
        int64_ns(status.st_mtime_ns),
        int64_ns(status.st_ctime_ns),
        stat.S_IMODE(status.st_mode),
        status.st_ino,
    )


def look_at(path: str) -> Local | None:
    """The regular file at a path, or None where there is none."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return local_of(status) if stat.S_ISREG(status.st_mode) else None


def is_ours(path: str) -> bool:
    """Whether a path has a name that no file of a pipe can have."""
    return path.startswith(".pipefs/") or path == ".pipefs" or ".snapshots" in path.split("/")


def scan(folder: str, filters: Filters | None = None, *, follow_links: bool = True) -> Scan:
    """Every regular file below a folder that the filters take; a folder that is not there is empty.

    Raises:
        PipefsError: a folder cannot be read: what is in it must not look as if it were deleted.
    """
    found = Scan()
    walk = _Walk(found, filters or Filters(), follow_links)
    try:
        status = os.stat(folder)
    except FileNotFoundError:
        return found
    walk.go(folder, "", ((status.st_dev, status.st_ino),))
    walk.look_again(folder)
    return found


def look_at_files(folder: str, paths: Collection[str]) -> Scan:
    """As `scan`, of these paths only."""
    found = Scan()
    for path in paths:
        if (local := look_at(os.path.join(folder, path))) is not None:
            found.files[path] = local
    return found


_Way = tuple[tuple[int, int], ...]
"""(device, inode) of a folder and of those above it."""


class _Walk:
    def __init__(self, found: Scan, filters: Filters, follow_links: bool) -> None:
        self._found = found
        self._filters = filters
        self._links = follow_links
        self._devices: dict[str, int] = {}
        """Of the folders in `mounts`."""

    def go(self, directory: str, above: str, way: _Way) -> None:
        below = []
        for entry in self._entries(directory, above):
            path = above + entry.name
            if is_ours(path):
                continue
            try:
                deeper = self._entry(entry, path, way)
            except OSError as e:
                self._unseen(path, entry.path, e)
            else:
                below += [(entry.path, f"{path}/", deeper)] if deeper else []
        for one in below:
            self.go(*one)

    def look_again(self, folder: str) -> None:
        """A disk that went while it was looked at had nothing in it."""
        for path, device in self._devices.items():
            try:
                is_there = os.stat(os.path.join(folder, path)).st_dev == device
            except OSError:
                is_there = False
            if not is_there:
                self._found.away.add(path)

    def _entries(self, directory: str, above: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(directory) as entries:
                found = list(entries)
        except OSError as e:
            self._unseen(above[:-1], directory, e)
            return []
        if not found and above and os.path.islink(directory):
            self._found.hidden.add(above[:-1])  # perhaps the disk behind it is not mounted
        return found

    def _unseen(self, path: str, place: str, why: OSError) -> None:
        """What could not be looked at must not look as if it were deleted."""
        self._found.hidden.add(path)
        if path and why.errno in _WENT:
            return  # meanwhile, or to where we had looked before
        if path and self._filters.shuts_out(path):
            return
        exclude = shlex.quote(f"{path}/*")
        raise PipefsError(
            f"{place} cannot be read: {why.strerror or why}",
            hint=f"Let it be read, or leave it out: --exclude {exclude}" if path else "",
        ) from why

    def _entry(self, entry: os.DirEntry[str], path: str, way: _Way) -> _Way:
        """The way into it, where it is a folder to go into."""
        if entry.is_symlink() and not (self._links and _leads_somewhere(entry)):
            self._leave(path, "link that leads nowhere" if self._links else "symbolic link")
        elif entry.is_dir():
            status = entry.stat()
            place = (status.st_dev, status.st_ino)
            if not entry.is_symlink() and status.st_dev != way[-1][0]:
                self._found.mounts.add(path)
                self._devices[path] = status.st_dev
            if not entry.is_symlink() or place not in way:
                return (*way, place)
            self._leave(path, "link to a folder above it")
        else:
            self._file(entry, path)
        return ()

    def _file(self, entry: os.DirEntry[str], path: str) -> None:
        if is_part(path):
            self._found.parts[path] = entry.stat(follow_symlinks=False).st_mtime_ns
        elif entry.is_file():
            if self._filters.takes(path):
                self._found.files[path] = local_of(entry.stat())
        else:
            self._leave(path, "special file")

    def _leave(self, path: str, why: str) -> None:
        # Whatever the filters say of its own name: they may take what would be below it.
        self._found.hidden.add(path)
        if self._filters.takes(path):
            self._found.left_out[path] = why


def _leads_somewhere(link: os.DirEntry[str]) -> bool:
    try:
        link.stat()
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return False
        raise
    return True
