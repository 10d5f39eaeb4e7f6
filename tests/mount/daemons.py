"""Runs real daemons for the mount tests, each with a home of its own, and always cleans up.

The cleanup must work after any failure: first every FUSE connection below the folder is aborted
(a process waiting in one cannot be killed before), then the mounts are detached, then whatever
still carries the home in its environment is killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipefs import protocol
from pipefs.client import NotRunning, SupervisorClient, WorkerClient
from pipefs.errors import NotFound
from pipefs.home import Home, resolve_home
from pipefs.mountinfo import PIPEFS_TYPE, read_mounts
from pipefs.registry import Registry
from pipefsd.transports.kernel import mount as kernel
from tests.mounted import processes_of

FIXED = Path(__file__).with_name("fixedfs.py")
NOBODY = 65534

UNSHARE = ("unshare", "--mount", "--propagation", "private", "sh", "-ec")
ORDINARY_FUSE = """
mkdir -p "$0/dev" && mount -t tmpfs none "$0/dev"
mknod "$0/dev/fuse" c 10 229 && chmod 666 "$0/dev/fuse" && mount --bind "$0/dev/fuse" /dev/fuse
exec "$@"
"""
"""/dev/fuse with the mode 0666 that udev gives it, in a mount namespace of its own: a machine
without udev has 0600, and a test does not change the machine."""


def eventually(condition: Callable[[], object], what: str, within_s: float = 20.0) -> None:
    """Wait until `condition` holds; the bound only turns a hang into a failure."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.02)


class Daemon:
    """One home and its supervisor, serving `fixedfs`."""

    def __init__(self, folder: Path, *, uid: int = 0) -> None:
        self.folder = folder
        self.uid = uid
        self.env = {
            **os.environ,
            "PIPEFS_HOME": str(folder / "home"),
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        }
        self.home: Home = resolve_home(env=self.env)
        self.home.make()
        for name in ("sales", "prices"):
            Registry(self.home).add(name, f"file://{folder}/store", "0" * 16, {})
        if uid:
            os.chmod(folder, 0o755)
            subprocess.run(["chown", "-R", f"{uid}:{uid}", folder], check=True)
        self.process: subprocess.Popen[bytes] | None = None
        self.client = SupervisorClient(self.home)

    def spawn(self, *arguments: str, pipe: bool = False) -> subprocess.Popen[bytes]:
        out = subprocess.PIPE if pipe else subprocess.DEVNULL
        command = [sys.executable, str(FIXED), *arguments]
        if self.uid:
            command[2:2] = [f"uid={self.uid}"]
            command = [*UNSHARE, ORDINARY_FUSE, str(self.folder), *command]
        return subprocess.Popen(
            command,
            env=self.env,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )

    def start(self, *arguments: str) -> None:
        """Start a supervisor; `name=seconds` change its bounds."""
        self.process = self.spawn(*arguments, "--joined")

        def answers() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log()
            with contextlib.suppress(NotRunning):
                return self.client.ping().pid > 0
            return False

        eventually(answers, "the supervisor answers")

    def mount(self, name: str = "sales", directory: Path | str = "", **more: object) -> Path:
        request = protocol.Mount(name, str(directory), **more)  # type: ignore[arg-type]  # keywords of Mount
        return Path(self.client.mount(request).path)

    def umount(self, name: str | None = "sales", **more: object) -> protocol.Unmounted:
        return self.client.umount(protocol.Umount(name, **more))  # type: ignore[arg-type]  # as above

    def item(self, name: str = "sales") -> protocol.MountItem:
        return next(m for m in self.client.mounts() if m.name == name)

    def worker(self, name: str = "sales") -> WorkerClient:
        return WorkerClient(self.item(name).socket)

    def say(self, name: str, text: str) -> None:
        """Tell the workers how to behave: see `fixedfs`."""
        # Replaced, not rewritten: a worker must not read half of it.
        path = self.home.state / name
        path.with_suffix(".new").write_text(text)
        path.with_suffix(".new").replace(path)

    def inside(self, *command: str | Path) -> subprocess.Popen[bytes]:
        """Run a command as the daemon's user, where its mounts are visible."""
        pid, uid = str(self.client.ping().pid), str(self.uid)
        enter = ["nsenter", "-t", pid, "--mount", "-S", uid, "-G", uid, "--"] if self.uid else []
        return subprocess.Popen([*enter, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def log(self) -> str:
        path = self.home.logs / "pipefsd.log"
        return path.read_text() if path.exists() else ""

    def processes(self) -> list[int]:
        """Every process of this home, whoever its parent is by now."""
        return processes_of(self.env["PIPEFS_HOME"])

    def mounts(self) -> list[str]:
        inside = f"{self.folder}/"
        found = [e for e in read_mounts() if e.fstype == PIPEFS_TYPE]
        return [e.path for e in found if e.path.startswith(inside)]

    def clean(self) -> None:
        for entry in read_mounts():
            if entry.fstype == PIPEFS_TYPE and entry.path.startswith(f"{self.folder}/"):
                kernel.abort(entry.connection)
                with contextlib.suppress(NotFound):  # its worker took it away meanwhile
                    kernel.unmount(Path(entry.path), lazy=True)
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait(timeout=10)
        if not self.mounts():
            shutil.rmtree(self.folder)


@contextlib.contextmanager
def fresh_daemon(*, uid: int = 0) -> Iterator[Daemon]:
    daemon = Daemon(Path(tempfile.mkdtemp(prefix="pipefs-daemon-")), uid=uid)
    try:
        yield daemon
    finally:
        daemon.clean()


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with fresh_daemon() as found:
        yield found
