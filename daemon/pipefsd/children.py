"""Forked children of the supervisor: long-lived workers and short errands.

The supervisor never blocks and never touches its own mounts; whatever might wait for a disk, for
a mount or for fusermount3 is an *errand*, done by a forked child with a time limit. A child keeps
only the descriptors it is given: a stray copy of another mount's descriptor would keep that mount
half alive, a stray copy of the lock would refuse the next supervisor.

Needs a process without threads. Nothing here is imported by the library.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Collection
from typing import Final

import msgspec

from pipefs.errors import PipefsError, TimedOut
from pipefs.protocol import WireError, error_from_wire, error_to_wire
from pipefsd import logs

log = logging.getLogger(__name__)

_MAX_ANSWER_BYTES: Final = 64 << 10


class Answer(msgspec.Struct, frozen=True):
    """What an errand brings back; each errand fills what it is about."""

    error: WireError | None = None
    path: str = ""
    """The directory, links resolved, as the kernel lists it."""
    connection: int = 0
    """Number of the kernel's FUSE connection."""
    holders: list[str] = msgspec.field(default_factory=list)
    """Processes that keep the mount busy, `name (pid)`."""
    text: str = ""
    """What another program said."""


Work = Callable[[], tuple[Answer, int | None]]


def fork_child(main: Callable[[], int], *, keep: Collection[int], ignore_signals: bool) -> int:
    """Fork; the child runs `main`, then exits with what it returned. Returns the child's pid.

    With `ignore_signals` SIGINT, SIGTERM and SIGHUP do nothing in the child: a terminal or a
    service manager sends them to all, and the supervisor decides what they mean.
    """
    everything = set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}
    # Blocked across fork: a signal in between would reach the parent through the shared wakeup.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, everything)
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return pid
    code = 70
    try:
        _become_child(keep, ignore_signals)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        code = main()
    except BaseException:
        log.exception("child ended by a bug")
    finally:
        # _exit: the parent's exit handlers and buffers are not ours to run.
        os._exit(code)


def _become_child(keep: Collection[int], ignore_signals: bool) -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN if ignore_signals else signal.SIG_DFL)
    # The parent's sockets exist here as Python objects whose descriptors are closed below; the
    # collector must never finalise them, for their numbers get used again.
    gc.freeze()
    low = 3
    for descriptor in sorted({fd for fd in keep if fd > 2} | logs.descriptors()):
        os.closerange(low, descriptor)
        low = descriptor + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))


def _run(work: Work, answer_to: socket.socket) -> int:
    descriptor: int | None = None
    try:
        answer, descriptor = work()
    except (PipefsError, OSError) as error:
        answer = Answer(error=error_to_wire(error))
    data = msgspec.json.encode(answer)
    with contextlib.suppress(BrokenPipeError):
        socket.send_fds(answer_to, [data], [] if descriptor is None else [descriptor])
    return 0


def _take(inbox: socket.socket) -> tuple[Answer, int | None]:
    data, descriptors, _flags, _address = socket.recv_fds(inbox, _MAX_ANSWER_BYTES, 1)
    if not data:
        raise PipefsError("a helper process of the supervisor died", hint="See the daemon's log")
    answer = msgspec.json.decode(data, type=Answer)
    if answer.error is not None:
        raise error_from_wire(answer.error)
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return answer, descriptors[0] if descriptors else None


async def run_errand(work: Work, *, timeout_s: float, what: str) -> tuple[Answer, int | None]:
    """Run `work` in a child; returns its answer and the descriptor it hands over, if any.

    Raises:
        PipefsError: what `work` raised.
        TimedOut: no answer within `timeout_s`. The child is killed (it may live on while the
            kernel holds it, which hurts nobody: it owns nothing).
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = fork_child(lambda: _run(work, theirs), keep={theirs.fileno()}, ignore_signals=False)
    theirs.close()
    ours.setblocking(False)
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()
    loop.add_reader(ours, arrived.set)
    try:
        async with asyncio.timeout(timeout_s):
            await arrived.wait()
        return _take(ours)
    except TimeoutError as error:
        raise TimedOut(f"{what}: no answer within {timeout_s:g} s") from error
    finally:
        loop.remove_reader(ours)
        ours.close()
        _reap_later(pid)


def _reap_later(pid: int) -> None:
    """Kill the errand if it still runs, and collect it whenever it ends."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    watch_exit(asyncio.get_running_loop(), pid, lambda _status: None)


def watch_exit(loop: asyncio.AbstractEventLoop, pid: int, on_exit: Callable[[int], None]) -> None:
    """Call `on_exit` with the wait status once the child `pid` has ended."""
    pidfd = os.pidfd_open(pid)

    def ended() -> None:
        loop.remove_reader(pidfd)
        os.close(pidfd)
        _pid, status = os.waitpid(pid, 0)
        on_exit(status)

    loop.add_reader(pidfd, ended)
