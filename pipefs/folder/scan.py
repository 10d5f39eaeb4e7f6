"""What is on disk: the regular files of a folder, with links followed.

A link to a file counts as that file, and one to a folder as that folder unless it leads back to a
folder above it. Names that belong to pipefs never count, nor do special files.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator

from pipefs.filters import Filters
from pipefs.folder.states import Local, Scan

PART = ".pipefs-part-"
"""What the name of an unfinished download begins with; it lies where the file will be."""


def local_of(status: os.stat_result) -> Local:
    return Local(
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
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
        OSError: a folder cannot be read: what is in it must not look as if it were deleted.
    """
    found = Scan()
    walk = _Walk(found, filters or Filters(), follow_links)
    try:
        status = os.stat(folder)
    except FileNotFoundError:
        return found
    walk.go(folder, "", ((status.st_dev, status.st_ino),))
    return found


def look_at_files(folder: str, paths: Collection[str]) -> Scan:
    """As `scan`, of these paths only."""
    found = Scan()
    for path in paths:
        if (local := look_at(os.path.join(folder, path))) is not None:
            found.files[path] = local
    return found


class _Walk:
    def __init__(self, found: Scan, filters: Filters, follow_links: bool) -> None:
        self._found = found
        self._filters = filters
        self._links = follow_links

    def go(self, directory: str, above: str, way: tuple[tuple[int, int], ...]) -> None:
        below = []
        for entry in self._entries(directory):
            path = above + entry.name
            if is_ours(path):
                continue
            if entry.is_symlink() and not self._links:
                self._leave(path, "symbolic link")
            elif entry.is_dir():
                status = entry.stat()
                place = (status.st_dev, status.st_ino)
                if entry.is_symlink() and place in way:
                    self._leave(path, "link to a folder above it")
                else:
                    below.append((entry.path, f"{path}/", (*way, place)))
            else:
                self._file(entry, path)
        for deeper in below:
            self.go(*deeper)

    @staticmethod
    def _entries(directory: str) -> Iterator[os.DirEntry[str]]:
        with os.scandir(directory) as entries:
            yield from entries

    def _file(self, entry: os.DirEntry[str], path: str) -> None:
        if entry.name.startswith(PART):
            self._found.parts[path] = entry.stat(follow_symlinks=False).st_mtime_ns
        elif not self._filters.takes(path):
            return
        elif entry.is_file():
            try:
                self._found.files[path] = local_of(entry.stat())
            except FileNotFoundError:
                pass  # it went meanwhile
        else:
            broken = entry.is_symlink()
            self._leave(path, "link that leads nowhere" if broken else "special file")

    def _leave(self, path: str, why: str) -> None:
        if self._filters.takes(path):
            self._found.left_out[path] = why
