"""One mount through libfuse 2: mounting, the loop, and its end.

libfuse opens `/dev/fuse` itself and ties the mount to this process: when it ends, the mount is
dead (ENOTCONN), and the next worker mounts anew. So a crash interrupts open files, which it does
not on the kernel transport.

The loop is ours and not libfuse's (see `loop`), so each request's header can be read before libfuse
takes it (see `requests`).

What other machines change is not told to the kernel, for libfuse 2 has no way to: names and
attributes are believed for `TIMEOUT_S`, and pages are dropped when a file is opened that changed.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Literal

from pipefs.errors import AccessDenied, PipefsError, Refused, UsageError
from pipefsd.transports.base import Caller, Features, Operations
from pipefsd.transports.libfuse import library
from pipefsd.transports.libfuse.bridge import Bridge, errno_of
from pipefsd.transports.libfuse.loop import Loop
from pipefsd.transports.libfuse.operations import PathOperations
from pipefsd.transports.libfuse.replies import Replies
from pipefsd.transports.libfuse.requests import GETATTR, RELEASE, Request

log = logging.getLogger(__name__)

TIMEOUT_S: Final = 1.0
"""How long the kernel believes names and attributes; a change elsewhere is seen after it."""
REQUEST_BYTES: Final = 128 << 10
"""The most that libfuse 2 takes in one read or write."""
SWITCH_INTERVAL_S: Final = 0.0001
"""As on the kernel transport: a computing thread must not hold up the answers of others."""

Reason = Literal["unmounted", "stopped"]


class SilentNotifier:
    """A `Notifier` for a kernel that cannot be told anything: the timeouts do it. What was
    remembered here is forgotten."""

    def __init__(self, forget_folders: Callable[[], None]) -> None:
        self._forget_folders = forget_folders

    def inval_entry(self, parent: int, name: bytes) -> None:
        self._forget_folders()

    def inval_inode(self, node: int, offset: int, length: int) -> None:
        pass

    def delete_entry(self, parent: int, node: int, name: bytes) -> None:
        self._forget_folders()

    def increment_epoch(self) -> None:
        self._forget_folders()

    def flush(self, wait_s: float) -> bool:
        return True


class LibfuseSession:
    """Serves `operations` on one mount: `mount`, then `run`, once each."""

    def __init__(
        self,
        operations: Operations,
        *,
        fsname: str,
        subtype: str = "pipefs",
        allow_other: bool,
        read_only: bool = False,
        flags: tuple[str, ...] = ("nosuid", "nodev"),
        drain_s: float = 10.0,
    ) -> None:
        """`flags`: as mount(8) has them; suid and dev only without their "no".
        `drain_s`: how long `run` waits for requests under way when it is stopped."""
        self._operations = operations
        self._options = _options(
            fsname, subtype, allow_other=allow_other, read_only=read_only, flags=flags
        )
        self._drain_s = drain_s
        self._request = Request()
        self._session: int | None = None
        self._channel: int | None = None
        self._replies: Replies | None = None
        self._loop = Loop(self._serve_one)
        self._paths = PathOperations(operations, self._request, self._forget_attributes)
        self._bridge = Bridge(self._paths, self._request, self._loop.step_back)

    def mount(self, directory: str) -> Features:
        """Mount on an existing, empty directory and agree with the kernel; nothing is answered
        before `run`.

        Raises:
            UsageError: `allow_other` without `user_allow_other`.
            AccessDenied: not allowed to mount. Refused: other failures, with libfuse's words.
        """
        arguments = [b"pipefs", b"-f", b"-o", self._options, os.fsencode(directory)]
        argv = (ctypes.c_char_p * len(arguments))(*arguments)
        place, threads = ctypes.c_char_p(), ctypes.c_int()
        callbacks = self._bridge.callbacks
        with _heard() as said:
            handle = library.setup(
                len(arguments),
                argv,
                ctypes.pointer(callbacks),
                ctypes.sizeof(callbacks),
                ctypes.byref(place),
                ctypes.byref(threads),
                None,
            )
        if not handle:
            raise _failure(directory, " ".join(said))
        self._session = library.get_session(handle)
        self._channel = library.next_channel(self._session, None)
        assert self._channel is not None
        self._replies = Replies(self._channel, self._request)
        while not self._bridge.agreed:
            if not self._serve_one():
                raise PipefsError(f"{directory} was mounted, and unmounted again at once")
        return self._features()

    def _features(self) -> Features:
        agreed = self._bridge.agreed
        writes = agreed["max_write"] if agreed["big_writes"] else 4096
        return Features(
            "libfuse",
            [
                f"FUSE 7.{agreed['minor']}",
                f"{REQUEST_BYTES >> 10} KiB reads",
                f"{writes >> 10} KiB writes",
                "a crash interrupts open files",
            ],
        )

    def stop(self) -> None:
        """Make `run` return without unmounting; the mount dies with the process. From any thread
        or signal handler, any time."""
        self._loop.stop()

    def run(self) -> Reason:
        """Serve until unmounted or stopped, and say which."""
        switch_interval_s = sys.getswitchinterval()
        sys.setswitchinterval(min(switch_interval_s, SWITCH_INTERVAL_S))
        self._operations.start(SilentNotifier(self._paths.paths.forget_folders), self._features())
        try:
            unmounted = self._loop.run(self._drain_s)
        finally:
            sys.setswitchinterval(switch_interval_s)
        if not unmounted:
            return "stopped"
        self._operations.stop()
        return "unmounted"

    def _forget_attributes(self, node: int) -> None:
        if self._replies is not None:
            self._replies.forget_attributes(node)

    # --- requests -----------------------------------------------------------------------------

    def _serve_one(self) -> bool:
        """Wait for a request and serve it; False when the mount is gone."""
        buffer = self._request.buffer
        if buffer is None:
            size = library.buffer_size(self._channel)
            buffer = self._request.buffer = ctypes.create_string_buffer(size)
        channel = ctypes.c_void_p(self._channel)
        got: int = library.receive(ctypes.byref(channel), buffer, len(buffer))
        if got in (-errno.EINTR, -errno.EAGAIN):
            return True
        if got <= 0:
            if got < 0:
                log.warning("reading requests: %s", os.strerror(-got))
            return False
        self._loop.begin()
        try:
            self._request.begin(memoryview(buffer)[:got])
            self._process(buffer, got)
        finally:
            self._loop.finish()
        return True

    def _process(self, buffer: ctypes.Array[ctypes.c_char], size: int) -> None:
        assert self._replies is not None
        request = self._request
        gone = self._paths.removed.get(request.node) if request.opcode == GETATTR else None
        if gone is None:
            # RELEASE asks for a path after its callback, when others may be under way by now.
            alone = self._loop.alone() and request.opcode != RELEASE
            process = library.process_alone if alone else library.process
            process(self._session, buffer, size, self._replies.channel())
            return
        try:
            self._replies.attributes(self._paths.stat_removed(gone, Caller(*request.caller)))
        except Exception as error:  # The error boundary of what libfuse has no part in.
            self._replies.error(errno_of(error, "getattr"))


def _options(
    fsname: str, subtype: str, *, allow_other: bool, read_only: bool, flags: tuple[str, ...]
) -> bytes:
    """Options of the mount.

    use_ino: our inode numbers. big_writes: without it libfuse 2 gets 4 KiB at a time. Not
    atomic_o_trunc: this kernel interface would not say that set-id bits are to go. Not
    hard_remove: with it libfuse has no path for an open file without a name, so its fstat(2)
    fails; `PathOperations.rename` sees to it that no `.fuse_hidden…` ever exists.
    """
    # libfuse takes nosuid and nodev for granted.
    granted = (word for word in ("suid", "dev") if f"no{word}" not in flags)
    words = [
        *("default_permissions", "use_ino", "big_writes"),
        *(*flags, *granted),
        *(f"max_read={REQUEST_BYTES}", f"max_write={REQUEST_BYTES}"),
        *(f"entry_timeout={TIMEOUT_S}", f"attr_timeout={TIMEOUT_S}", "negative_timeout=0"),
        *(f"fsname={_escape(fsname)}", f"subtype={_escape(subtype)}"),
        *(["allow_other"] if allow_other else []),
        *(["ro"] if read_only else []),
    ]
    return os.fsencode(",".join(words))


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace(",", "\\,")


@contextmanager
def _heard() -> Iterator[list[str]]:
    """What libfuse and fusermount write to the standard error meanwhile: they have no other way
    to say why. Written by other threads at that moment, it is heard too."""
    said: list[str] = []
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as paper:
        os.dup2(paper.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            paper.seek(0)
            said += paper.read().decode(errors="replace").split()


def _failure(directory: str, said: str) -> PipefsError:
    if "user_allow_other" in said:
        return UsageError(
            "other users may not be let in: /etc/fuse.conf lacks user_allow_other",
            hint="mount without allow_other, or have root add that line",
        )
    message = f"cannot mount on {directory}: {said or 'libfuse gave no reason'}"
    if "device not found" in said:
        return Refused(message, hint="modprobe fuse (in a container: --device /dev/fuse)")
    if "ermission denied" in said or "not permitted" in said:
        return AccessDenied(
            message,
            hint="/dev/fuse and the directory must be yours to use "
            "(in a container: --device /dev/fuse --cap-add SYS_ADMIN)",
        )
    return Refused(message)
