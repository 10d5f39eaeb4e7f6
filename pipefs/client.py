"""Talking to the daemon: one call, one request, one answer, over its control sockets.

Every call has a bound; the daemon's errors are raised again as their own classes. Starts a
supervisor when a command needs one and none answers. Starts no thread, keeps no connection.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct

from pipefs import installed_service, protocol
from pipefs.errors import Corrupt, PipefsError, Refused, TimedOut
from pipefs.home import Home
from pipefs.pastmessages import (
    CheckedOut,
    Checkout,
    GetPresent,
    PresentPart,
    PresentTree,
    Restore,
    RestoreDone,
    SnapshotTaken,
    TakeSnapshot,
)
from pipefs.protocol import (
    Empty,
    Flushed,
    FlushProgress,
    Mounted,
    MountItem,
    MountList,
    MountStatus,
    Pong,
    Refreshed,
    Unmounted,
)

START_TIMEOUT_S = 15.0
"""A supervisor answers in about a second; boto3 on a cold disk takes several."""

SERVICE_START_S = 60.0
"""For systemd to bring the service up as far as its control socket."""

MOUNT_TIMEOUT_S = 180.0
"""A first mount lists the bucket, within the daemon's own deadlines; this only stops a hang."""

ANSWER_SLACK_S = 15.0
"""How much longer than the daemon's own bound a caller waits for its answer."""

SNAPSHOT_SLACK_S = 600.0
"""Beyond the wait for uploads: the first manifest of a large pipe is read from all of its tree."""

T = TypeVar("T", bound=Struct)
P = TypeVar("P", bound=Struct)
Progress = Callable[[FlushProgress], None]


class NotRunning(Refused):
    """No process answers at a control socket."""


def call(
    path: Path | str,
    request: protocol.SupervisorRequest | protocol.WorkerRequest,
    result: type[T],
    *,
    timeout_s: float | None,
    progress: Callable[[P], None] | None = None,
    told: type[P] | None = None,
) -> T:
    """Send one request and wait for its answer.

    Args:
        timeout_s: bound of the whole call; None waits as long as the daemon lives.
        told: what a progress line is; `FlushProgress` if not given.
    Raises:
        NotRunning: nobody listens, or the daemon went away before it answered.
        TimedOut: no answer in time; whether the request was done is unknown.
        PipefsError: the class the daemon raised.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.settimeout(min(5.0, timeout_s) if timeout_s is not None else 5.0)
            sock.connect(os.fspath(path))
            sock.sendall(protocol.encode_request(request))
        except TimeoutError as e:
            raise TimedOut(f"the daemon at {path} does not take requests") from e
        except (FileNotFoundError, ConnectionError) as e:
            raise NotRunning(f"no daemon answers at {path}") from e
        except PermissionError as e:
            raise Refused(
                f"{path} belongs to another user",
                hint="Run as the user who mounted, or with --system as root",
            ) from e
        return _answer(sock, path, result, deadline, progress, told or FlushProgress)


def _answer(
    sock: socket.socket,
    path: Path | str,
    result: type[T],
    deadline: float | None,
    progress: Callable[[Any], None] | None,
    told: type[Struct],
) -> T:
    buffer = bytearray()
    while True:
        line = _read_line(sock, buffer, path, deadline)
        reply = protocol.decode_reply(line)
        if reply.error is not None:
            raise protocol.error_from_wire(reply.error)
        if reply.ok:
            return protocol.decode_body(reply.result, result)
        if progress is not None:
            progress(protocol.decode_body(reply.progress, told))


def _read_line(
    sock: socket.socket, buffer: bytearray, path: Path | str, deadline: float | None
) -> bytes:
    while (end := buffer.find(b"\n")) < 0:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimedOut(f"the daemon at {path} did not answer in time")
        if len(buffer) > protocol.MAX_LINE_BYTES:
            raise Corrupt(f"the daemon at {path} sent an endless line")
        sock.settimeout(left)
        try:
            data = sock.recv(1 << 16)
        except TimeoutError:
            continue
        except ConnectionError:
            data = b""
        if not data:
            raise NotRunning(f"the daemon at {path} ended before it answered")
        buffer += data
    line = bytes(buffer[:end])
    del buffer[: end + 1]
    return line


class SupervisorClient:
    """The supervisor of one home."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.socket = home.supervisor_socket

    def ping(self, timeout_s: float = 5.0) -> Pong:
        return call(self.socket, protocol.Ping(), Pong, timeout_s=timeout_s)

    def mount(self, request: protocol.Mount) -> Mounted:
        return call(self.socket, request, Mounted, timeout_s=MOUNT_TIMEOUT_S)

    def umount(self, request: protocol.Umount, *, progress: Progress | None = None) -> Unmounted:
        """`progress` is told what is still going up."""
        bound = None if request.timeout_s is None else request.timeout_s + ANSWER_SLACK_S
        if request.wait is False:
            bound = ANSWER_SLACK_S
        return call(self.socket, request, Unmounted, timeout_s=bound, progress=progress)

    def mounts(self) -> list[MountItem]:
        return call(self.socket, protocol.ListMounts(), MountList, timeout_s=10.0).mounts

    def mounts_or_none(self) -> list[MountItem]:
        """`mounts`, or [] when no supervisor runs."""
        try:
            return self.mounts()
        except NotRunning:
            return []

    def shutdown(self, timeout_s: float = 120.0) -> None:
        call(self.socket, protocol.Shutdown(), Empty, timeout_s=timeout_s)

    def end(self, timeout_s: float = 30.0) -> None:
        """`shutdown`, and wait until its process is gone: then nobody writes to the home's state.

        Raises:
            NotRunning: there is none. TimedOut: it does not go.
        """
        pid, deadline = self.ping().pid, time.monotonic() + timeout_s
        self.shutdown(timeout_s)
        while Path(f"/proc/{pid}").exists():
            if time.monotonic() > deadline:
                raise TimedOut(f"the daemon (process {pid}) does not end")
            time.sleep(0.02)


class WorkerClient:
    """The worker of one mount."""

    def __init__(self, path: Path | str) -> None:
        self.socket = path

    def ping(self, timeout_s: float = 5.0) -> Pong:
        return call(self.socket, protocol.Ping(), Pong, timeout_s=timeout_s)

    def status(self, timeout_s: float = 10.0) -> MountStatus:
        return call(self.socket, protocol.GetStatus(), MountStatus, timeout_s=timeout_s)

    def flush(
        self,
        path: str | None = None,
        *,
        timeout_s: float | None = None,
        progress: Progress | None = None,
    ) -> Flushed:
        """Raises `TimedOut` when not everything was in the store after `timeout_s`."""
        bound = None if timeout_s is None else timeout_s + ANSWER_SLACK_S
        request = protocol.Flush(path, timeout_s)
        return call(self.socket, request, Flushed, timeout_s=bound, progress=progress)

    def snapshot(self, request: TakeSnapshot, *, progress: Progress | None = None) -> SnapshotTaken:
        """Waits as long as uploads take, or `request.timeout_s`."""
        bound = None if request.timeout_s is None else request.timeout_s + SNAPSHOT_SLACK_S
        return call(self.socket, request, SnapshotTaken, timeout_s=bound, progress=progress)

    def restore(self, request: Restore, *, progress: Progress | None = None) -> RestoreDone:
        return call(self.socket, request, RestoreDone, timeout_s=None, progress=progress)

    def checkout(self, snapshot: str | None) -> CheckedOut:
        return call(self.socket, Checkout(snapshot), CheckedOut, timeout_s=60.0)

    def present(self, on_part: Callable[[PresentPart], None]) -> PresentTree:
        """The live tree as a manifest; `on_part` gets what is not in the bucket."""
        request = GetPresent()
        return call(
            self.socket, request, PresentTree, timeout_s=600.0, progress=on_part, told=PresentPart
        )

    def refresh(self, *, full: bool = False, timeout_s: float | None = 600.0) -> Refreshed:
        return call(self.socket, protocol.Refresh(full), Refreshed, timeout_s=timeout_s)


def connect_or_start(
    home: Home, *, system: bool = False, config_file: str | None = None
) -> SupervisorClient:
    """The supervisor of a home, started if none answers; returns when it answers.

    Where a service is installed for the home, systemd starts it. Else the new process is detached:
    its own session, output to `state/log/pipefsd.log`, environment passed on. Two callers at once
    may start two; the second one finds the first and ends.

    Raises:
        PipefsError: it did not come up in `START_TIMEOUT_S`; the message quotes its log.
        TimedOut: the service did not come up.
    """
    client = SupervisorClient(home)
    try:
        client.ping()
        return client
    except NotRunning:
        pass
    if not config_file and installed_service.start(home):
        _wait_for_service(client)
        return client
    home.make()
    log = home.logs / "pipefsd.log"
    start_bytes = log.stat().st_size if log.exists() else 0
    child = _spawn(home, log, system=system, config_file=config_file)
    _wait_for_supervisor(client, child, log, start_bytes)
    return client


def _wait_for_service(client: SupervisorClient) -> None:
    began = time.monotonic()
    while True:
        try:
            client.ping()
            return
        except (NotRunning, TimedOut):
            waited_s = time.monotonic() - began
            # At first it may still be the failure of an earlier start.
            gave_up = waited_s > 2.0 and installed_service.has_failed(client.home)
            if gave_up or waited_s > SERVICE_START_S:
                raise TimedOut(
                    "pipefsd.service did not come up",
                    hint="See: journalctl -u pipefsd · in /etc/fstab a pipe needs _netdev",
                ) from None
        time.sleep(0.1)


def _spawn(
    home: Home, log: Path, *, system: bool, config_file: str | None
) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-m", "pipefsd.main", "--joined"]
    if system:
        arguments.append("--system")
    if home.profile:
        arguments += ["--profile", home.profile]
    if config_file:
        arguments += ["--config", os.path.abspath(config_file)]
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        return subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=fd,
            stderr=fd,
            start_new_session=True,
            # "/": a daemon must not keep the caller's folder (or a mount) busy.
            cwd="/",
            env=_absolute_pythonpath(),
        )
    finally:
        os.close(fd)


def _absolute_pythonpath() -> dict[str, str]:
    """The environment, with PYTHONPATH still meaning the same from another folder."""
    env = dict(os.environ)
    if path := env.get("PYTHONPATH"):
        env["PYTHONPATH"] = os.pathsep.join(
            os.path.abspath(part) if part else os.getcwd() for part in path.split(os.pathsep)
        )
    return env


def _wait_for_supervisor(
    client: SupervisorClient, child: subprocess.Popen[bytes], log: Path, start_bytes: int
) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    ended: float | None = None
    while True:
        try:
            client.ping(timeout_s=2.0)
            return
        except (NotRunning, TimedOut):
            pass
        now = time.monotonic()
        if ended is None and child.poll() is not None:
            ended = now
        # Two seconds more: it may have ended because another one is just coming up.
        if now > deadline or (ended is not None and now > ended + 2.0):
            break
        time.sleep(0.02)
    code = child.poll()
    what = f"does not answer after {START_TIMEOUT_S:.0f} s"
    if code is not None:
        what = f"could not start (exit code {code})"
    tail = _log_tail(log, start_bytes)
    raise PipefsError(
        f"the daemon {what}" + (f":\n{tail}" if tail else ""),
        hint=f"Its log: {log}",
    )


def _log_tail(log: Path, start_bytes: int, lines: int = 8) -> str:
    try:
        with open(log, "rb") as f:
            f.seek(start_bytes)
            text = f.read(1 << 16).decode(errors="replace")
    except OSError:
        return ""
    return "\n".join("  " + line for line in text.rstrip().splitlines()[-lines:])
