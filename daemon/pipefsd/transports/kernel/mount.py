"""Mounting and unmounting, as root by mount(2) and for everybody else through fusermount3.

Also the small levers next to a mount: its readahead, its connection's abort switch, whether it is
dead. Needs no FUSE library. Nothing here reads or answers requests.
"""

from __future__ import annotations

import array
import ctypes
import errno
import os
import shutil
import socket
import stat
import subprocess
import threading
from pathlib import Path
from typing import NoReturn

from pipefs.errors import (
    AccessDenied,
    AlreadyExists,
    Busy,
    NotFound,
    PipefsError,
    Refused,
    UsageError,
)
from pipefsd.transports.kernel.mountinfo import MountInfo, is_mounted

__all__ = [
    "MountInfo",
    "abort",
    "connection_id",
    "is_dead",
    "is_mounted",
    "mount",
    "set_readahead",
    "unmount",
]

_DEVICE = "/dev/fuse"
_CONNECTIONS = Path("/sys/fs/fuse/connections")
_MS_RDONLY = 1
_MS_FLAGS = {"nosuid": 2, "nodev": 4, "noexec": 8}
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_HINT_FUSE3 = "apt-get install fuse3"
_HINT_CONTAINER = "in a container: --device /dev/fuse --cap-add SYS_ADMIN"

_libc = ctypes.CDLL(None, use_errno=True)


def mount(
    directory: Path,
    *,
    fsname: str,
    subtype: str = "pipefs",
    allow_other: bool,
    read_only: bool = False,
    default_permissions: bool = True,
    max_read: int = 1 << 20,
    flags: tuple[str, ...] = ("nosuid", "nodev"),
) -> int:
    """Mount on `directory` and return the /dev/fuse descriptor; nothing answers on it yet.

    `flags`: any of nosuid, nodev, noexec. By default set-id bits and device files have no effect;
    only root may mount without these two.

    Raises:
        UsageError: no such directory, or not one; `allow_other` without `user_allow_other`.
        AlreadyExists: something of FUSE is mounted there. Busy: and its daemon is dead.
        AccessDenied: not allowed to mount. Refused: no /dev/fuse, no fusermount3, other failures.
    """
    _check_directory(directory)
    as_root = os.geteuid() == 0
    options = [f"max_read={max_read}"]
    if allow_other:
        options.append("allow_other")
    if default_permissions:
        options.append("default_permissions")
    if as_root:
        bits = sum(_MS_FLAGS[word] for word in flags) | (_MS_RDONLY if read_only else 0)
        return _mount_as_root(directory, fsname, subtype, options, bits)
    options += [f"fsname={_escape(fsname)}", f"subtype={_escape(subtype)}", *flags]
    if read_only:
        options.append("ro")
    return _mount_by_helper(directory, options)


def unmount(directory: Path, *, lazy: bool = False) -> None:
    """Unmount. `lazy` takes it out of the tree at once even if it is in use.

    Raises:
        NotFound: not a mount point. Busy: in use. AccessDenied: not yours.
    """
    found = is_mounted(directory)
    if found is None:
        raise NotFound(f"cannot unmount {directory}: nothing is mounted there")
    directory = found.mount_point
    if os.geteuid() != 0:
        command = [_helper(), "-u", *(["-z"] if lazy else []), "--", os.fspath(directory)]
        run = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if run.returncode:
            _raise_unmount(directory, _errno_in(run.stderr), run.stderr)
        return
    flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)
    if _libc.umount2(os.fsencode(directory), flags):
        code = ctypes.get_errno()
        _raise_unmount(directory, code, os.strerror(code))


def set_readahead(directory: Path, kib: int = 1024) -> bool:
    """Let the kernel read ahead that much on this mount; False if that is not ours to set (only
    root, only where sysfs is writable)."""
    found = is_mounted(directory)
    if found is None:
        return False
    path = Path(f"/sys/class/bdi/{found.major}:{found.minor}/read_ahead_kb")
    try:
        path.write_text(f"{kib}\n")
    except OSError:
        return False
    return True


def connection_id(directory: Path) -> int:
    """Number of the mount's FUSE connection; asks the mount table only, never the daemon.

    Raises:
        NotFound: no FUSE mount there.
    """
    found = is_mounted(directory)
    if found is None or not found.fstype.startswith("fuse"):
        raise NotFound(f"no FUSE mount on {directory}")
    return found.minor


def abort(connection: int) -> bool:
    """Break a connection: everything that waits on the mount fails with ECONNABORTED, what comes
    later with ENOTCONN. False if there is no such connection or it is not ours."""
    path = _CONNECTIONS / str(connection) / "abort"
    if os.geteuid() == 0 and not os.path.ismount(_CONNECTIONS):
        # Minimal systems do not mount the control filesystem.
        _libc.mount(b"fusectl", os.fsencode(_CONNECTIONS), b"fusectl", 0, None)
    try:
        path.write_text("1\n")
    except OSError:
        return False
    return True


def is_dead(directory: Path, wait_s: float = 2.0) -> bool:
    """Whether a FUSE mount is there whose daemon is gone for good (ENOTCONN). A daemon that does
    not answer within `wait_s` counts as alive."""
    if is_mounted(directory) is None:
        return False
    dead = threading.Event()

    def ask() -> None:
        try:
            # Not stat: the kernel may answer that from its cache on a dead mount.
            os.statvfs(directory)
        except OSError as e:
            if e.errno in (errno.ENOTCONN, errno.ECONNABORTED):
                dead.set()

    thread = threading.Thread(target=ask, name="is-dead", daemon=True)
    thread.start()
    thread.join(wait_s)
    return dead.is_set()


def _check_directory(directory: Path) -> None:
    found = is_mounted(directory)
    if found is not None and found.fstype.startswith("fuse"):
        if is_dead(directory):
            raise Busy(
                f"{directory} holds a dead mount ({found.fsname})", hint=f"umount -l {directory}"
            )
        raise AlreadyExists(f"{found.fsname} is already mounted on {directory}")
    try:
        mode = os.stat(directory).st_mode
    except OSError as e:
        raise UsageError(
            f"cannot mount on {directory}: {e.strerror}", hint=f"mkdir -p {directory}"
        ) from e
    if not stat.S_ISDIR(mode):
        raise UsageError(f"cannot mount on {directory}: not a directory")


def _mount_as_root(
    directory: Path, fsname: str, subtype: str, options: list[str], flags: int
) -> int:
    try:
        fd = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as e:
        hint = "modprobe fuse" if e.errno == errno.ENOENT else _HINT_CONTAINER
        raise Refused(f"cannot open {_DEVICE}: {e.strerror}", hint=hint) from e
    rootmode = stat.S_IFMT(os.stat(directory).st_mode)
    data = ",".join(
        [
            *(f"fd={fd}", f"rootmode={rootmode:o}"),
            *(f"user_id={os.getuid()}", f"group_id={os.getgid()}", *options),
        ]
    )
    failed = _libc.mount(
        os.fsencode(fsname),
        os.fsencode(directory),
        f"fuse.{subtype}".encode(),
        ctypes.c_ulong(flags),
        data.encode(),
    )
    if failed:
        code = ctypes.get_errno()
        os.close(fd)
        message = f"cannot mount on {directory}: {os.strerror(code)}"
        if code == errno.EPERM:
            raise AccessDenied(message, hint=_HINT_CONTAINER)
        raise Refused(message)
    return fd


def _mount_by_helper(directory: Path, options: list[str]) -> int:
    if not os.path.exists(_DEVICE):
        raise Refused(f"there is no {_DEVICE}", hint="modprobe fuse, or " + _HINT_CONTAINER)
    helper = _helper()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        run = subprocess.run(
            [helper, "-o", ",".join(options), "--", os.fspath(directory)],
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
        theirs.close()
        fd = _receive_descriptor(ours)
    if run.returncode or fd is None:
        if fd is not None:
            os.close(fd)
        _raise_helper(directory, run.stderr.strip())
    return fd


def _receive_descriptor(channel: socket.socket) -> int | None:
    size = array.array("i").itemsize
    _, ancillary, _, _ = channel.recvmsg(1, socket.CMSG_SPACE(size), socket.MSG_CMSG_CLOEXEC)
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            return array.array("i", payload[:size])[0]
    return None


def _helper() -> str:
    found = shutil.which("fusermount3")
    if found is None:
        raise Refused("fusermount3 is not installed; only root can do without", hint=_HINT_FUSE3)
    return found


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace(",", "\\,")


def _raise_helper(directory: Path, said: str) -> NoReturn:
    if "user_allow_other" in said:
        raise UsageError(
            "other users may not be let in: /etc/fuse.conf lacks user_allow_other",
            hint="mount without allow_other, or have root add that line",
        )
    message = f"cannot mount on {directory}: {said or 'fusermount3 gave no reason'}"
    if f"open {_DEVICE}" in said:
        raise AccessDenied(message, hint=f"have root run: chmod 666 {_DEVICE}")
    if "ermission denied" in said or "not permitted" in said or "has write access" in said:
        raise AccessDenied(message, hint="the directory must be yours; " + _HINT_CONTAINER)
    raise Refused(message)


def _errno_in(said: str) -> int:
    for code in (errno.EBUSY, errno.EPERM, errno.EACCES):
        if os.strerror(code) in said:
            return code
    return errno.EINVAL if "not found" in said or "not mounted" in said else errno.EPERM


def _raise_unmount(directory: Path, code: int, said: str) -> NoReturn:
    message = f"cannot unmount {directory}: {said.strip()}"
    error: PipefsError
    if code == errno.EBUSY:
        error = Busy(message, hint="leave the directory and close its files, or unmount lazily")
    elif code in (errno.EINVAL, errno.ENOENT):
        error = NotFound(message)
    else:
        error = AccessDenied(message)
    raise error
