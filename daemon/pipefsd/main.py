"""`pipefsd`: builds the supervisor of one home and runs it.

Start order: arguments, home, log, lock, imports, loop. Reads the environment and the command
line for everybody else; the rooms get values. Ends with the exit codes of the command line.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import faulthandler
import gc
import importlib
import logging
import os
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from pipefs.client import NotRunning, SupervisorClient
from pipefs.errors import PipefsError, TimedOut
from pipefs.home import Home, resolve_home
from pipefs.protocol import Mount
from pipefs.registry import Registry
from pipefsd import logs
from pipefsd.bounds import Bounds
from pipefsd.lock import AlreadyRunning, acquire_lock
from pipefsd.notify_socket import Surroundings, take_surroundings
from pipefsd.pipes import build_service
from pipefsd.supervisor import Factory, Supervisor

log = logging.getLogger(__name__)

PRELOAD: Final = ("lmdb", "msgspec", "watchdog.observers", "pipefsd.service")
PRELOAD_S3: Final = ("boto3", "obstore")
"""Imported before the first fork (0.1 s, and 0.15 s more for S3), so that a worker starts in
milliseconds. None of them starts a thread on import; `preload` checks that."""

LOCK_WAIT_S: Final = 10.0
"""A joined supervisor waits so long for one that is just ending."""


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="pipefsd",
        description="The pipefs daemon: mounts pipes and keeps them mounted.",
    )
    parser.add_argument("--config", metavar="FILE", help="main configuration file")
    parser.add_argument("--system", action="store_true", help="serve /etc/pipefs, not a user")
    parser.add_argument("--profile", metavar="P", help="serve the pipes of this profile")
    parser.add_argument(
        "--joined",
        action="store_true",
        help="started by a mount command: log to a file, end when nothing is mounted any more",
    )
    parser.add_argument(
        "--foreground",
        nargs=2,
        metavar=("NAME", "DIR"),
        help="mount this pipe, log here, end when it is unmounted",
    )
    parser.add_argument("--unit", metavar="NAME", default="", help="the unit we are, for systemd")
    parser.add_argument("-v", "--verbose", action="store_true", help="log details")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `pipefsd`."""
    arguments = parse_arguments(argv)
    # First, for a service manager's descriptors must not be taken for our own.
    surroundings = take_surroundings(os.environ, unit=arguments.unit, of_user=not arguments.system)
    if arguments.joined:
        # Started by a mount command, whose own service manager is not ours to talk to.
        surroundings = Surroundings()
    try:
        home = resolve_home(
            system=arguments.system, profile=arguments.profile, config_file=arguments.config
        )
        home.make()
        return run(home, arguments, surroundings=surroundings)
    except PipefsError as error:
        print(f"pipefsd: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"         {error.hint}", file=sys.stderr)
        return error.exit_code


def run(
    home: Home,
    arguments: argparse.Namespace,
    *,
    factory: Factory = build_service,
    bounds: Bounds | None = None,
    surroundings: Surroundings | None = None,
) -> int:
    """Serve `home` until told to end; the exit code.

    Raises:
        AlreadyRunning: another supervisor serves it (with `--joined` that is success).
    """
    detached = arguments.joined and not arguments.foreground
    if detached:
        _detach()
    lock = _lock(home, patient=detached)
    if lock is None:
        return 0
    logs.configure(
        home.logs / "pipefsd.log" if detached else None,
        level=logging.DEBUG if arguments.verbose else logging.INFO,
        journal=not detached and logs.goes_to_journal(os.environ),
    )
    # A starved watchdog ends us with SIGABRT: the log then says where we were.
    faulthandler.enable()
    try:
        preload(s3=_has_s3(home))
        bounds = bounds or Bounds()
        first = []
        if arguments.foreground:
            name, directory = arguments.foreground
            first.append(Mount(name, os.path.abspath(directory)))
            bounds = replace(bounds, idle_exit_s=0.5)
        # A folder to stand in would be kept busy, and might be one of our own mounts.
        os.chdir("/")
        _raise_descriptor_limit()
        joined = detached or bool(first)
        supervisor = Supervisor(
            home, factory=factory, joined=joined, bounds=bounds, surroundings=surroundings
        )
        return asyncio.run(supervisor.run(first))
    finally:
        os.close(lock)


def _raise_descriptor_limit() -> None:
    """Each file open for writing costs a worker a descriptor; the usual soft limit of 1024 is
    for programs that use select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _detach() -> None:
    """Leave the terminal's session: closing the terminal must not end the mounts."""
    # Already a session leader when the command line started us so.
    with contextlib.suppress(PermissionError):
        os.setsid()


def _lock(home: Home, *, patient: bool) -> int | None:
    """The lock; None when a supervisor that answers makes us superfluous (only `patient`)."""
    # With the state, which it protects: the folder of the sockets depends on the login session.
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            return acquire_lock(home.state / "supervisor.lock")
        except AlreadyRunning:
            if not patient:
                raise
            with contextlib.suppress(NotRunning, TimedOut):
                SupervisorClient(home).ping(timeout_s=2.0)
                return None
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _has_s3(home: Home) -> bool:
    """Whether a pipe of this home may be on S3. The worker of one that is made later imports what
    it needs by itself."""
    try:
        return any(not pipe.url.startswith("file:") for pipe in Registry(home).list())
    except PipefsError:
        return True


def preload(*, s3: bool = True) -> None:
    """Import what workers need, and see that this started no thread: a fork copies only the
    calling one, and a lock held by another would stay locked for ever."""
    for name in (*PRELOAD, *(PRELOAD_S3 if s3 else ())):
        try:
            importlib.import_module(name)
        except ImportError as error:
            # obstore is optional; anything else fails in the worker, where a user hears of it.
            log.debug("not preloaded: %s", error)
    # What is loaded now lives for ever: keep the collector from copying its pages in each fork.
    gc.collect()
    gc.freeze()
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        log.warning("%d threads run before the first fork", threads)


if __name__ == "__main__":
    sys.exit(main())
