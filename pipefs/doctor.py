"""What could keep pipefs from working here: checks of this machine and of a pipe's store.

Each check yields `Finding`s and never raises; with `fix` it does what cannot hurt (versioning on,
abort rule, dead mounts away) and says so. Prints nothing.
"""

from __future__ import annotations

import ctypes.util
import errno
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct

from pipefs.errors import NotFound, PipefsError
from pipefs.mountinfo import PIPEFS_TYPE, MountEntry, read_mounts
from pipefs.registry import PATIENCE_S, Pipe
from pipefs.stores.base import Capabilities, Store
from pipefs.units import show_seconds

OK, NOTE, BAD = "ok", "note", "bad"

MAX_SKEW_S = 120.0
"""S3 refuses requests at 15 minutes; conflict names and moments mislead long before that."""

_PACKAGES = ("boto3", "click", "lmdb", "msgspec", "watchdog", "xxhash")
_OPTIONAL = {
    "obstore": "small objects go up and down several times slower",
    "awscrt": "no CRC64NVME and CRC32C checksums",
    "fuse": "no --transport libfuse (package fusepy)",
}
_MIN_WATCHES = 8192


class Finding(Struct, frozen=True):
    """One line of the report."""

    level: str
    """ok, note (works, but less well) or bad."""
    what: str
    detail: str = ""
    todo: str = ""
    """What to do, a command where there is one."""
    fixed: bool = False


def check_machine(*, fix: bool, is_ours: Callable[[str], bool]) -> Iterator[Finding]:
    """Python packages, FUSE, kernel, inotify, dead mounts.

    Args:
        is_ours: whether a folder is one where this home mounts. A dead mount elsewhere is worth a
            note, and stays: whose it is, and why, is not known here.
    """
    yield from _check_packages()
    if sys.platform == "linux":
        yield from _check_fuse()
    yield check_libfuse()
    yield _check_kernel()
    yield _check_inotify()
    yield from _check_dead_mounts(fix, is_ours)


def _check_packages() -> Iterator[Finding]:
    missing = [p for p in _PACKAGES if importlib.util.find_spec(p) is None]
    if missing:
        yield Finding(
            BAD, "python packages", f"missing: {', '.join(missing)}", "pip install pipefs"
        )
    else:
        yield Finding(OK, "python packages", f"Python {platform.python_version()}")
    for name, loss in _OPTIONAL.items():
        if importlib.util.find_spec(name) is None:
            yield Finding(NOTE, name, f"not installed: {loss}", "pip install -U pipefs")


def check_libfuse() -> Finding:
    """Where `--transport libfuse` has its library from: needed only where there is no other."""
    package, linux = "libfuse 2", sys.platform == "linux"
    # Asks the loader's own list; the library itself is loaded only by what mounts with it.
    found = ctypes.util.find_library("fuse")
    if found is not None:
        return Finding(OK, package, found)
    todo = "As root: apt install libfuse2" if linux else "Install macFUSE"
    return Finding(NOTE if linux else BAD, package, "missing: no --transport libfuse", todo)


def _check_fuse() -> Iterator[Finding]:
    device = Path("/dev/fuse")
    if not device.exists():
        yield Finding(BAD, "/dev/fuse", "is missing", "As root: modprobe fuse (in a container: "
                      "run it with --device /dev/fuse --cap-add SYS_ADMIN)")  # fmt: skip
        return
    if not os.access(device, os.R_OK | os.W_OK):
        yield Finding(BAD, "/dev/fuse", "may not be opened by you", "As root: chmod 666 /dev/fuse")
        return
    yield Finding(OK, "/dev/fuse")
    if os.geteuid() == 0:
        return
    helper = shutil.which("fusermount3")
    if helper is None:
        yield Finding(
            BAD, "fusermount3", "is missing, so only root can mount", "As root: apt install fuse3"
        )
    elif not os.stat(helper).st_mode & 0o4000:
        yield Finding(
            BAD, "fusermount3", f"{helper} is not setuid root", f"As root: chmod u+s {helper}"
        )
    else:
        yield Finding(OK, "fusermount3", helper)
    if not _user_allow_other():
        yield Finding(
            NOTE,
            "allow_other",
            "other users cannot enter your mounts",
            "As root: echo user_allow_other >> /etc/fuse.conf",
        )


def _user_allow_other() -> bool:
    try:
        text = Path("/etc/fuse.conf").read_text(errors="replace")
    except OSError:
        return False
    return re.search(r"(?m)^\s*user_allow_other\b", text) is not None


def _check_kernel() -> Finding:
    release = platform.release()
    match = re.match(r"(\d+)\.(\d+)", release)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    if sys.platform != "linux":
        return Finding(NOTE, "kernel", f"{sys.platform}: only the libfuse transport")
    if version < (6, 9):
        return Finding(NOTE, "kernel", f"{release}: no passthrough (needs 6.9), writes are slower")
    if os.geteuid() != 0:
        return Finding(OK, "kernel", f"{release}; passthrough only for mounts made by root")
    return Finding(OK, "kernel", f"{release}, passthrough")


def _check_inotify() -> Finding:
    folder = Path("/proc/sys/fs/inotify")
    try:
        watches = int((folder / "max_user_watches").read_text())
        instances = int((folder / "max_user_instances").read_text())
    except (OSError, ValueError):
        return Finding(NOTE, "inotify", "limits unknown; uploads start by rescans")
    if watches < _MIN_WATCHES or instances < 64:
        return Finding(
            NOTE,
            "inotify",
            f"{watches} watches, {instances} instances: few",
            "As root: sysctl fs.inotify.max_user_watches=65536 fs.inotify.max_user_instances=256",
        )
    return Finding(OK, "inotify", f"{watches:,} watches, {instances:,} instances")


def dead_mounts(mounts: list[MountEntry] | None = None) -> list[MountEntry]:
    """Our mounts whose connection the kernel has given up.

    Asks by `statfs` in child processes with a bound: on a mount whose daemon hangs it would wait
    for ever, and a waiting mount is not a dead one.
    """
    ours = [e for e in (read_mounts() if mounts is None else mounts) if e.fstype == PIPEFS_TYPE]
    code = "import os,sys\ntry: os.statvfs(sys.argv[1])\nexcept OSError as e: sys.exit(e.errno)"
    children = [
        subprocess.Popen([sys.executable, "-S", "-c", code, entry.path], stderr=subprocess.DEVNULL)
        for entry in ours
    ]
    deadline = time.monotonic() + 2.0
    for child in children:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            # Killed, and not waited for: the kernel may hold it until the mount answers.
            child.kill()
    gone = (errno.ENOTCONN, errno.ECONNABORTED)  # No descriptor left; connection aborted.
    return [e for e, child in zip(ours, children, strict=True) if child.poll() in gone]


def _check_dead_mounts(fix: bool, is_ours: Callable[[str], bool]) -> Iterator[Finding]:
    for entry in dead_mounts():
        ours = is_ours(entry.path)
        if not (fix and ours):
            # Somebody else may be mounting it again at this moment.
            umount = f"pipefs umount {shlex.quote(entry.path)}"
            level, todo = (BAD, "pipefs doctor --fix") if ours else (NOTE, umount)
            yield Finding(level, entry.path, "dead mount: its daemon is gone", todo)
            continue
        from pipefs.detach import detach

        try:
            detach(entry)
            yield Finding(OK, entry.path, "dead mount removed", fixed=True)
        except PipefsError as e:
            yield Finding(BAD, entry.path, e.message, e.hint)


def check_pipe(pipe: Pipe, *, fix: bool = False) -> Iterator[Finding]:
    """Reachability, credentials, what the store can do, lifecycle rules, clock."""
    try:
        store = pipe.open_store(patience_s=PATIENCE_S)
    except PipefsError as e:
        yield Finding(BAD, pipe.name, e.message, e.hint)
        return
    try:
        capabilities = store.probe()
        yield Finding(OK, pipe.name, f"{pipe.url} answers")
        yield from _check_versioning(pipe, store, capabilities, fix)
        yield from _check_capabilities(capabilities)
        yield from _check_lifecycle(pipe, store, fix)
        yield from _check_clock(store, capabilities)
        yield from _check_descriptor(pipe, store)
    except NotFound as e:
        command = f"pipefs create {pipe.name} {pipe.url} --create-bucket"
        yield Finding(BAD, pipe.name, e.message, e.hint or command)
    except PipefsError as e:
        yield Finding(BAD, pipe.name, e.message, e.hint)
    finally:
        store.close()


def _check_versioning(
    pipe: Pipe, store: Store, capabilities: Capabilities, fix: bool
) -> Iterator[Finding]:
    if capabilities.versioning:
        yield Finding(OK, "versioning", "on")
        return
    from pipefs.creation import bucket_of, s3_of

    s3 = s3_of(store)
    if not fix or s3 is None:
        state = capabilities.versioning_state or "never turned on"
        yield Finding(
            BAD,
            "versioning",
            f"{state}: no snapshots, no past",
            f"pipefs doctor {pipe.name} --fix   or: aws s3api put-bucket-versioning --bucket "
            f"{bucket_of(pipe.url)} --versioning-configuration Status=Enabled",
        )
        return
    try:
        s3.admin.enable_versioning()
        yield Finding(OK, "versioning", "turned on", fixed=True)
    except PipefsError as e:
        yield Finding(BAD, "versioning", e.message, e.hint)


def _check_capabilities(capabilities: Capabilities) -> Iterator[Finding]:
    detail = capabilities.detail or {}
    for name, loss in (
        ("writable", "the pipe is read-only"),
        ("conditional_put", "one writer at a time, by a lease"),
        ("conditional_multipart", "of two writers of a large file one may win unseen"),
        ("conditional_delete", "a delete may hit a version written a moment before"),
        ("checksums", "damage on the way up is found only when reading"),
    ):
        words = name.replace("_", " ")
        if getattr(capabilities, name):
            yield Finding(OK, words)
        else:
            yield Finding(NOTE, words, detail.get(name) or f"no: {loss}")


def _check_lifecycle(pipe: Pipe, store: Store, fix: bool) -> Iterator[Finding]:
    from pipefs.creation import s3_of
    from pipefs.past import lifecycle

    s3 = s3_of(store)
    if s3 is None:
        return
    try:
        found = lifecycle.of(store)
    except PipefsError as e:
        yield Finding(NOTE, "lifecycle", f"cannot be read: {e.message}", e.hint)
        return
    for one in found:
        # Never fixed here: the rule is somebody's decision about somebody's money.
        level = NOTE if one.level == lifecycle.NOTE else BAD
        yield Finding(level, "lifecycle", one.text, "Remove the rule, or limit it to other keys")
    if not found:
        yield Finding(OK, "lifecycle", "no rule deletes old versions")
    if fix:
        try:
            s3.admin.ensure_abort_rule()
            yield Finding(OK, "unfinished uploads", "are removed after a week", fixed=True)
        except PipefsError as e:
            yield Finding(NOTE, "unfinished uploads", e.message, e.hint)


def _check_clock(store: Store, capabilities: Capabilities) -> Iterator[Finding]:
    if not capabilities.writable:
        return
    key = f".pipefs/probe/clock-{uuid.uuid4().hex}"
    before = time.time()
    made = store.put(key, b"clock")
    after = time.time()
    seen = store.head(key).last_modified_ns / 1e9
    if made.version_id:
        store.delete_version(key, made.version_id)
    else:
        store.delete(key)
    # S3 tells whole seconds, so the middle of the request is known to half a second.
    skew = seen + 0.5 - (before + after) / 2
    if abs(skew) <= MAX_SKEW_S:
        yield Finding(OK, "clock", "agrees with the store")
        return
    way = "behind" if skew > 0 else "ahead of"
    text = f"this machine is {show_seconds(abs(skew))} {way} the store"
    yield Finding(BAD, "clock", text, "Set the clock: timedatectl set-ntp true")


def _check_descriptor(pipe: Pipe, store: Store) -> Iterator[Finding]:
    from pipefs.descriptor import read_descriptor

    found = read_descriptor(store)
    if found is None:
        yield Finding(
            NOTE,
            ".pipefs/pipe.json",
            "is missing: other machines must be told name and options",
            f"pipefs remove {pipe.name}, then pipefs create {pipe.name} {pipe.url}",
        )
    elif found.pipe_id != pipe.pipe_id:
        yield Finding(
            BAD,
            ".pipefs/pipe.json",
            "describes another pipe than the one registered here",
            f"pipefs remove {pipe.name}, then pipefs create {pipe.url}",
        )
    else:
        yield Finding(OK, ".pipefs/pipe.json", f"format {found.format}")
