"""Moving one of a home's large folders to another place: cache, pulled files, embedded stores.

A link stays in its place, so nothing has to be configured and an older pipefs finds it too. The
content is copied, synced, and compared before the old one goes; link and old folder change places
in one step. Killed anywhere, every file is at the old place or at the new one, and the same call
goes on. Nothing may be mounted meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipefs.errors import NoSpace, PipefsError, Refused, UsageError
from pipefs.folder.landing import exchange
from pipefs.folder.places import folder_of, pipes_folder
from pipefs.folder.record import record_file
from pipefs.home import Home, resolve_home
from pipefs.mountinfo import pipefs_mount_of
from pipefs.movedto import note_moved
from pipefs.profiles import profile_names
from pipefs.registry import Registry
from pipefs.sparse import Gaps, data_from, hole_from
from pipefs.units import show_size

KINDS = ("cache", "pipes", "stores")
_CHUNK_BYTES = 1 << 20

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Move:
    """What is to be moved, or was."""

    kind: str
    folder: str
    """Where it seems to be, before and after."""
    source: str
    """Where it is now."""
    target: str
    files: int = 0
    bytes: int = 0
    """On disk: holes cost nothing."""


def folder_of_kind(home: Home, kind: str) -> Path:
    """
    Raises:
        UsageError: no such kind.
    """
    if kind not in KINDS:
        raise UsageError(f"{kind} is nothing that moves", hint=f"One of {', '.join(KINDS)}")
    return {"cache": home.cache, "pipes": pipes_folder(home), "stores": home.stores}[kind]


def plan(home: Home, kind: str, new: str | os.PathLike[str]) -> Move:
    """What a move would do; changes nothing.

    Raises:
        UsageError: the new place is relative, inside the old one, or the same. Refused: it has
            files already, or lies in one of our mounts. NoSpace: it does not fit there.
    """
    folder = folder_of_kind(home, kind)
    target = Path(os.path.normpath(os.path.expanduser(new)))
    if not target.is_absolute():
        raise UsageError(f"{new} is not an absolute path", hint=f"{Path.cwd() / new}")
    source = Path(os.path.realpath(folder))
    real = Path(os.path.realpath(target))
    if target == folder and folder.is_symlink():
        raise UsageError(
            f"{folder} is the link to {source}",
            hint=f"To have it back there: rm {folder} && mv {source} {folder}",
        )
    if real == source:
        return Move(kind, str(folder), str(source), str(real))  # done, but perhaps for its end
    if folder.is_symlink() and not (_has_files(source) or os.path.lexists(_aside(folder))):
        raise Refused(
            f"{folder} leads to {source}, where nothing is: its disk may be out",
            hint=f"Mount it, then again · if it is given up: rm {folder}",
        )
    if source in real.parents or real in source.parents:
        raise UsageError(f"{target} and {source} are not apart", hint="Choose a place beside it")
    if inside := pipefs_mount_of(str(real)):
        raise Refused(f"{target} lies in the pipefs mount {inside.path}", hint="Use a local disk")
    if _has_files(real) and not _is_ready(folder, real):
        raise Refused(f"{target} has files already", hint="Name a new or empty folder")
    files, size = _measure(source)
    above = real
    while not above.exists():
        above = above.parent
    if not _same_disk(source, above):
        disk = os.statvfs(above)
        free = disk.f_bavail * disk.f_frsize
        if free < size:
            raise NoSpace(
                f"{target} has room for {show_size(free)}, and {show_size(size)} are to be moved",
                hint="Make room there, or free the cache first: pipefs unpin, pipefs remove",
            )
    return Move(kind, str(folder), str(source), str(real), files, size)


def move(home: Home, wanted: Move, progress: Progress = lambda _: None) -> None:
    """Do it, or go on with one that was interrupted.

    Args:
        progress: told how many bytes were copied since the last call.
    Raises:
        Refused: files went on changing meanwhile; nothing was moved.
    """
    folder, target = Path(wanted.folder), Path(wanted.target)
    with _records_follow(home, wanted.kind):
        _move(folder, target, progress)
    note_moved(home, str(target))


def _move(folder: Path, target: Path, progress: Progress) -> None:
    _finish(folder)
    source = Path(os.path.realpath(folder))
    if source == target:
        (target / MARK).unlink(missing_ok=True)
        return
    if not source.exists():
        source.mkdir(parents=True, mode=0o700)
    target.parent.mkdir(parents=True, exist_ok=True)
    link = _aside(folder)
    if _same_disk(source, target.parent) and not folder.is_symlink():
        with contextlib.suppress(FileNotFoundError):
            target.rmdir()  # an empty one
        _make_link(link, target)
        _swap(folder, link)
        os.rename(link, target)  # killed before this: `_finish` does it
        return
    _copy_all(source, target, progress)
    _make_link(link, target)
    _swap(folder, link)
    _delete_old(folder)


@contextlib.contextmanager
def _records_follow(home: Home, kind: str) -> Iterator[None]:
    """What is known of each pulled file is kept by its folder's real path. Where a kill left a
    record behind, the next pull compares the files."""
    homes = [*homes_of(home)] if kind == "pipes" else []
    pipes = [(one, pipe) for one in homes for pipe in Registry(one).list([])]

    def records() -> list[Path]:
        return [record_file(one, str(folder_of(one, p)), p.pipe_id) for one, p in pipes]

    before = records()
    yield
    for old, new in zip(before, records(), strict=True):
        if old != new and old.exists() and not new.exists():
            os.rename(old, new)


def homes_of(home: Home) -> Iterator[Home]:
    """This user's or machine's default profile and all others: they share these folders."""
    env = {"PIPEFS_HOME": str(home.cache.parent)} if home.kind == "single" else dict(os.environ)
    system = home.kind == "system"
    for name in (None, *profile_names(home)):
        yield resolve_home(system=system, profile=name, config_file=home.config_file, env=env)


def _aside(folder: Path) -> Path:
    """The other half of an exchange: first the new link, then what was there before."""
    return folder.with_name(f"{folder.name}.moving")


def _finish(folder: Path) -> None:
    """Complete a move that was interrupted after its exchange."""
    link = _aside(folder)
    if not os.path.lexists(link):
        return
    if not os.path.lexists(folder):
        os.rename(link, folder)  # between the two renames of a system without exchange
    elif folder.is_symlink() and not link.is_symlink():
        target = Path(os.readlink(folder))
        if target.exists():
            _delete_old(folder)
        else:
            os.rename(link, target)
    elif link.is_symlink() and folder.is_symlink() and _was_copied(link, folder):
        _delete_old(folder)
    else:
        link.unlink()  # a link that was never put in its place


def _was_copied(old: Path, new: Path) -> bool:
    """Whether the content of `new` is that of `old`: the mark goes last."""
    try:
        return (new / MARK).read_text() == os.path.realpath(old)
    except OSError:
        return False


def _make_link(link: Path, target: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        link.unlink()
    link.symlink_to(target)


def _swap(folder: Path, link: Path) -> None:
    if exchange(str(folder), str(link)):
        return
    # A system that cannot exchange: killed between these, `_finish` puts the link in its place.
    old = folder.with_name(f"{folder.name}.old")
    os.rename(folder, old)
    os.rename(link, folder)
    os.rename(old, link)


def _delete_old(folder: Path) -> None:
    """Delete what is aside after it was compared with what is in its place now."""
    old, new = _aside(folder), Path(os.path.realpath(folder))
    was_link = old.is_symlink()
    source = Path(os.path.realpath(old))
    for path in _differing(source, new):
        _copy_one(source, new, path, os.lstat(source / path), lambda _: None)
    if differing := _differing(source, new):
        raise Refused(
            f"{source / differing[0]} changed while it was moved; {source} was kept beside {new}",
            hint="End what writes there, then call it again",
        )
    if source.exists():
        shutil.rmtree(source)
    if was_link:
        old.unlink()
    (new / MARK).unlink(missing_ok=True)


# --- copying ----------------------------------------------------------------------------------


def _walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every path below a folder, from it, directories before what is in them."""
    for above, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = os.path.join(above, name)
            if name.startswith(MARK) and above == str(root):
                continue
            yield os.path.relpath(path, root), os.lstat(path)


def _measure(root: Path) -> tuple[int, int]:
    found = [status for _, status in _walk(root) if not stat.S_ISDIR(status.st_mode)]
    return len(found), sum(512 * status.st_blocks for status in found)


def _copy_all(source: Path, target: Path, progress: Progress) -> None:
    target.mkdir(mode=0o700, exist_ok=True)
    (target / MARK).write_text(str(source))
    folders = ["."]
    linked: dict[tuple[int, int], str] = {}
    for path, status in _walk(source):
        there = os.path.join(target, path)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFDIR:
            os.makedirs(there, mode=0o700, exist_ok=True)
            folders.append(path)
        elif status.st_nlink > 1 and (first := linked.get((status.st_dev, status.st_ino))):
            _link_again(first, there)
        else:
            _copy_one(source, target, path, status, progress)
            linked[status.st_dev, status.st_ino] = there
    for path in reversed(folders):  # their times, when nothing more is put into them
        shutil.copystat(os.path.join(source, path), os.path.join(target, path))
    os.sync()


def _link_again(first: str, there: str) -> None:
    if os.path.lexists(there) and os.path.samefile(first, there):
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(there)
    os.link(first, there, follow_symlinks=False)


def _copy_one(
    source: Path, target: Path, path: str, status: os.stat_result, progress: Progress
) -> None:
    here, there = os.path.join(source, path), os.path.join(target, path)
    if stat.S_ISSOCK(status.st_mode) or _is_copied(status, there):
        return
    temporary = os.path.join(target, f"{MARK}.part")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(here), temporary)
    elif stat.S_ISREG(status.st_mode):
        _copy_bytes(here, temporary, progress)
    else:
        os.mknod(temporary, status.st_mode, status.st_rdev)
    if os.geteuid() == 0:
        os.chown(temporary, status.st_uid, status.st_gid, follow_symlinks=False)
    shutil.copystat(here, temporary, follow_symlinks=False)
    os.replace(temporary, there)


def _copy_bytes(here: str, there: str, progress: Progress) -> None:
    """Holes stay holes: a cache's map is sparse."""
    gaps = Gaps(None, 0)
    with open(here, "rb") as old, open(there, "wb") as new:
        size = os.fstat(old.fileno()).st_size
        start = data_from(old.fileno(), 0, gaps)
        while start is not None and start < size:
            stop = hole_from(old.fileno(), start, size, gaps)
            while start < stop and (
                part := os.pread(old.fileno(), min(_CHUNK_BYTES, stop - start), start)
            ):
                os.pwrite(new.fileno(), part, start)
                progress(len(part))
                start += len(part)
            start = data_from(old.fileno(), stop, gaps)
        new.truncate(size)


def _is_copied(status: os.stat_result, there: str) -> bool:
    try:
        found = os.lstat(there)
    except FileNotFoundError:
        return False
    same_kind = stat.S_IFMT(found.st_mode) == stat.S_IFMT(status.st_mode)
    return same_kind and _fingerprint(found) == _fingerprint(status)


def _fingerprint(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _differing(source: Path, target: Path) -> list[str]:
    """Paths that the target lacks or has otherwise. What is newer there is not: since the exchange
    programs write there."""
    found = []
    for path, status in _walk(source):
        there = os.path.join(target, path)
        if stat.S_ISSOCK(status.st_mode):
            continue
        if not os.path.lexists(there) or (
            stat.S_ISREG(status.st_mode) and _is_older(os.lstat(there), status)
        ):
            found.append(path)
    return found


def _is_older(copy: os.stat_result, original: os.stat_result) -> bool:
    same = _fingerprint(copy) == _fingerprint(original)
    return not same and copy.st_mtime_ns <= original.st_mtime_ns


def _has_files(folder: Path) -> bool:
    try:
        return any(folder.iterdir())
    except OSError:
        return os.path.lexists(folder)


def _is_ready(folder: Path, target: Path) -> bool:
    """Whether an interrupted move was on its way to this place."""
    if _was_copied(folder, target):
        return True
    link = _aside(folder)
    return link.is_symlink() and os.readlink(link) == str(target)


MARK = ".pipefs-moving"
"""In the new place until everything is there: whose content it is."""


def _same_disk(one: Path, other: Path) -> bool:
    try:
        return os.stat(one).st_dev == os.stat(other).st_dev
    except FileNotFoundError:
        return False


def refuse_while_used(homes: Iterable[Home]) -> None:
    """
    Raises:
        Refused: something is mounted in one of these homes, or a daemon does not answer.
    """
    from pipefs.client import SupervisorClient

    for home in homes:
        try:
            mounts = SupervisorClient(home).mounts_or_none()
        except PipefsError as e:
            raise Refused(f"the daemon does not say what is mounted: {e}") from e
        if mounts:
            profile = f"--profile {home.profile} " if home.profile else ""
            raise Refused(
                f'"{mounts[0].name}" is mounted at {mounts[0].path}',
                hint=f"First: pipefs {profile}umount --all",
            )
