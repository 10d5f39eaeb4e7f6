"""The directory a pipe is mounted on: its rules, mounting, probing, unmounting.

Every function here may wait for a disk, a mount or fusermount3, so the supervisor runs them as
errands (see `children`), never in its own process.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipefs.errors import AlreadyExists, Busy, NotFound, PipefsError, Refused, UsageError
from pipefs.mountinfo import PIPEFS_TYPE, MountEntry, read_mounts
from pipefsd import givenmount
from pipefsd.children import Answer
from pipefsd.transports.kernel import mount as kernel

log = logging.getLogger(__name__)

MAX_HOLDERS: Final = 5
"""Processes named in a "busy" message; more would not help."""


@dataclass(frozen=True, slots=True)
class MountPlan:
    """Where and how to mount."""

    label: str
    directory: str
    """Absolute."""
    explicit: bool
    """The user chose the directory, so it must exist; otherwise it is made, and removed again."""
    read_only: bool
    allow_other: bool
    transport: str = "kernel"
    flags: tuple[str, ...] = ("nosuid", "nodev")
    """What mount(8) calls them; see `kernel.mount.mount`."""
    acl: bool = False
    """The kernel is to enforce access lists."""
    given: str = ""
    """Mounted already, on an automount point; its descriptor is offered at this socket."""


def mount_pipe(plan: MountPlan) -> tuple[Answer, int | None]:
    """Check the directory, recover a dead mount on it, mount; hands over the descriptor.

    With libfuse the worker mounts, so there is no descriptor then.

    Raises:
        NotFound: an explicit directory that does not exist.
        Refused: not empty (which also keeps a mount from hiding the home's own folders).
        UsageError: not a directory.
        AlreadyExists: something else is mounted there.
    """
    if plan.given:
        # No look at the directory: until the mount is announced, it would wait for us.
        connection = connection_on(plan.directory)
        return Answer(path=plan.directory, connection=connection), givenmount.taken(plan.given)
    clear_dead_mounts(plan.directory)
    if not plan.explicit:
        _make(plan.directory)
    directory = os.path.realpath(plan.directory)
    clear_dead_mounts(directory)
    _check_directory(directory)
    if plan.transport == "libfuse":
        return Answer(path=directory), None
    try:
        descriptor = kernel.mount(
            Path(directory),
            fsname=plan.label,
            allow_other=plan.allow_other,
            read_only=plan.read_only,
            flags=plan.flags,
        )
    except PipefsError:
        if not plan.explicit:
            with contextlib.suppress(OSError):
                os.rmdir(directory)
        raise
    # 1 MiB: the default of 128 KiB makes eight requests of one. Only root may, only Linux can.
    kernel.set_readahead(Path(directory), 1024)
    try:
        return Answer(path=directory, connection=connection_on(directory)), descriptor
    except PipefsError:
        os.close(descriptor)
        raise


def _make(directory: str) -> None:
    try:
        os.makedirs(directory, mode=0o755, exist_ok=True)
    except FileExistsError as error:
        raise Refused(
            f"cannot mount on {directory}: it is not a directory",
            hint="Move it away, or say where: pipefs mount NAME DIR",
        ) from error
    except OSError as error:
        raise Refused(
            f"cannot make the mount point {directory}: {error.strerror}",
            hint="Say where to mount: pipefs mount NAME DIR",
        ) from error


def is_automount(directory: str) -> bool:
    """Whether an automount point of systemd or autofs waits there to be mounted on."""
    entry = _mount_on(directory)
    return entry is not None and entry.fstype == "autofs"


def _mount_on(directory: str) -> MountEntry | None:
    """The topmost mount exactly on `directory`."""
    found = None
    for entry in read_mounts():
        if entry.path == directory:
            found = entry
    return found


def connection_on(directory: str) -> int:
    """Number of the FUSE connection that is mounted on `directory`, a path without links.

    Raises:
        PipefsError: nothing is.
    """
    entry = _mount_on(directory)
    if entry is None:
        raise PipefsError(f"{directory} was mounted, and unmounted again at once")
    return entry.connection


def _is_ours(directory: str, connection: int) -> bool:
    entry = _mount_on(directory)
    return entry is not None and entry.fstype == PIPEFS_TYPE and entry.connection == connection


def clear_dead_mounts(directory: str) -> None:
    """Unmount what a dead daemon left on `directory`.

    Raises:
        AlreadyExists: a living mount is there.
    """
    # Several dead mounts may lie on each other; the bound only guards against a mount we may
    # not unmount and that comes back each time.
    for _ in range(16):
        entry = _mount_on(directory)
        if entry is None:
            return
        if entry.fstype == "autofs":
            return  # An automount point of systemd or autofs that waits for exactly this.
        if entry.fstype != PIPEFS_TYPE or not kernel.is_dead(Path(directory)):
            what = f"pipe {entry.source}" if entry.fstype == PIPEFS_TYPE else entry.source
            raise AlreadyExists(
                f"{directory} is already a mount point: {what} ({entry.fstype})",
                hint=f"Unmount it first: umount {directory}",
            )
        log.warning("%s was left behind by a daemon that died; unmounting it", directory)
        kernel.unmount(Path(directory), lazy=True)
    raise Busy(f"the dead mount on {directory} cannot be removed", hint=f"umount -l {directory}")


def _check_directory(directory: str) -> None:
    if is_automount(directory):
        return  # Empty, and reading it would wait for us.
    try:
        names = os.listdir(directory)
    except FileNotFoundError as error:
        raise NotFound(
            f"the directory {directory} does not exist", hint=f"mkdir -p {directory}"
        ) from error
    except NotADirectoryError as error:
        raise UsageError(f"{directory} is not a directory") from error
    except OSError as error:
        raise Refused(f"cannot mount on {directory}: {error.strerror}") from error
    if names:
        raise Refused(
            f"the directory {directory} is not empty ({len(names)} entries, "
            f"among them {min(names)!r}): a mount would hide them",
            hint="Choose an empty directory, or move its content away",
        )


def probe_mount(directory: str) -> tuple[Answer, int | None]:
    """Return once the mount answers a request. Raises `PipefsError` when it answers an error."""
    try:
        os.statvfs(directory)
    except OSError as error:
        raise PipefsError(
            f"the mount on {directory} does not answer: {error.strerror}",
            hint="See the daemon's log",
        ) from error
    return Answer(path=directory), None


def unmount_pipe(
    directory: str, connection: int, *, remove: bool, lazy: bool
) -> tuple[Answer, int | None]:
    """Unmount `connection` from `directory`, and with `remove` delete the empty directory.

    Not mounted, or something else mounted there by now, is left alone and no error.

    Raises:
        Busy: in use; the message names the processes that could be found.
    """
    if _is_ours(directory, connection):
        try:
            kernel.unmount(Path(directory), lazy=lazy)
        except NotFound:
            pass  # Somebody was quicker.
        except Busy as error:
            raise _busy(directory, find_holders(directory, maps=True)) from error
    if remove:
        # Whoever put files below the mount point meanwhile keeps them.
        with contextlib.suppress(OSError):
            os.rmdir(directory)
    return Answer(path=directory), None


def check_idle(directory: str) -> tuple[Answer, int | None]:
    """Raises `Busy` when a process obviously uses the mount: cheaper before a drain than after."""
    holders = find_holders(directory, maps=False)
    if holders:
        raise _busy(directory, holders)
    return Answer(path=directory), None


def abandon_mount(directory: str, connection: int, *, remove: bool) -> tuple[Answer, int | None]:
    """Abort the connection, so that everything waiting in it gets an error, and detach it."""
    # Only while it is listed: the number of a connection that is gone may be another's by now.
    # One that was detached before ends with its last descriptor, which the supervisor closes.
    if _is_ours(directory, connection):
        kernel.abort(connection)
    return unmount_pipe(directory, connection, remove=remove, lazy=True)


def _busy(directory: str, holders: list[str]) -> Busy:
    by = f": {', '.join(holders[:MAX_HOLDERS])}" if holders else ""
    more = f" and {len(holders) - MAX_HOLDERS} more" if len(holders) > MAX_HOLDERS else ""
    return Busy(
        f"{directory} is in use{by}{more}",
        hint="Close those files and leave the directory, then unmount again",
    )


def find_holders(directory: str, *, maps: bool) -> list[str]:
    """Processes with a file or folder of the mount open, as `name (pid)`.

    Reads links in /proc only, which sends nothing to the mount; other users' processes are
    invisible to an unprivileged daemon.
    """
    prefix = directory.rstrip("/") + "/"
    own = {os.getpid(), os.getppid()}
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) in own:
            continue
        uses = _paths_of(Path("/proc") / name, maps=maps)
        if any(path == directory or path.startswith(prefix) for path in uses):
            found.append(f"{_command(name)} ({name})")
    return found


def _paths_of(process: Path, *, maps: bool) -> Iterator[str]:
    # Processes end while we look, and others are not ours to see.
    with contextlib.suppress(OSError):
        for link in ("cwd", "root"):
            yield os.readlink(process / link)
        for descriptor in os.listdir(process / "fd"):
            with contextlib.suppress(FileNotFoundError):
                yield os.readlink(process / "fd" / descriptor)
        if maps:
            for line in (process / "maps").read_text(errors="replace").splitlines():
                yield line[line.find("/") :] if "/" in line else ""


def _command(pid: str) -> str:
    try:
        return Path("/proc", pid, "comm").read_text().strip()
    except OSError:
        return "process"
