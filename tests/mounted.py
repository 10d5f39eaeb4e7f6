"""Homes for end-to-end tests: the real command line, daemon, kernel mount and store.

A `Home` is a machine: a `PIPEFS_HOME` of its own in a fresh folder. Everything is done through
`python -m pipefs.cli.main` in a process of its own. `close` works after any failure: connections
are aborted (a process waiting in one cannot be killed before), mounts detached, then every process
that carries this home in its environment is killed by its pid.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipefs.mountinfo import PIPEFS_TYPE, read_mounts

PROGRAM = (sys.executable, "-m", "pipefs.cli.main")
SOURCE = Path(__file__).parent.parent
NOBODY = 65534


def eventually(condition: Callable[[], object], what: str, within_s: float = 60.0) -> None:
    """Wait until `condition` holds; the bound only turns a hang into a failure."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.05)


def tree_of(root: Path) -> dict[str, bytes | None]:
    """Relative path → bytes (a link's target, None for a directory) of what is below a folder."""
    found: dict[str, bytes | None] = {}
    for folder, folders, files in os.walk(root):
        for name in folders:
            found[str(Path(folder, name).relative_to(root))] = None
        for name in files:
            path = Path(folder, name)
            content = os.fsencode(os.readlink(path)) if path.is_symlink() else path.read_bytes()
            found[str(path.relative_to(root))] = content
    return found


def processes_of(home: str | Path, variable: str = "PIPEFS_HOME") -> list[int]:
    """Every process that has this home in its environment, as it was started."""
    mark = f"{variable}={home}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def abort_mounts(base: Path) -> None:
    """Take away our mounts below a folder, whatever their daemons do."""
    for entry in read_mounts():
        if entry.fstype == PIPEFS_TYPE and entry.path.startswith(f"{base}/"):
            with contextlib.suppress(OSError):
                Path(f"/sys/fs/fuse/connections/{entry.connection}/abort").write_text("1")
            subprocess.run(["umount", "-l", entry.path], check=False)


class Home:
    """One machine: its folders, its daemon, its mounts."""

    def __init__(self, env: Mapping[str, str] | None = None, *, transport: str = "auto") -> None:
        """`transport`: how `mount` mounts."""
        self.transport = transport
        self.base = Path(tempfile.mkdtemp(prefix="pipefs-e2e-"))
        self.home = self.base / "home"
        self.env = {
            **os.environ,
            "PIPEFS_HOME": str(self.home),
            "PYTHONPATH": f"{SOURCE}{os.pathsep}{SOURCE / 'daemon'}",
            **(env or {}),
        }

    # --- the command line ---------------------------------------------------------------------

    def run(
        self, *words: str, code: int | None = 0, timeout_s: float = 60.0, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """`pipefs WORDS…`; the exit code must be `code` (None: any)."""
        done = subprocess.run(
            [*PROGRAM, *words],
            env={**self.env, **env},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        if code is not None:
            assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def start(self, *words: str) -> subprocess.Popen[str]:
        """`pipefs WORDS…` in the background."""
        return subprocess.Popen(
            [*PROGRAM, *words],
            env=self.env,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def create(self, name: str, url: str = "", *options: str) -> None:
        self.run("create", name, *([url] if url else []), *_settings(options))

    def mount(self, name: str, *words: str) -> Path:
        self.run("mount", name, "--transport", self.transport, *words)
        return self.path(name)

    def path(self, name: str) -> Path:
        """The default mount point."""
        return self.home / "mnt" / name

    def flush(self, name: str) -> None:
        self.run("flush", name, "--timeout", "50")

    def umount(self, name: str) -> str:
        return self.run("umount", name).stdout

    def status(self, name: str) -> dict[str, Any]:
        (found,) = json.loads(self.run("status", name, "--json").stdout)["mounts"]
        assert isinstance(found, dict)
        return found

    # --- its inside ---------------------------------------------------------------------------

    def state(self, name: str) -> Path:
        return self.home / "state" / "pipes" / name

    def log(self) -> str:
        path = self.home / "state" / "log" / "pipefsd.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def processes(self) -> list[int]:
        """Every process of this home, whoever its parent is by now."""
        return processes_of(self.home)

    def kill_all(self) -> None:
        """kill -9 of supervisor and workers at once; returns when they are gone."""
        # Held first: a worker that outlives its supervisor for a moment would send what waits.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        eventually(lambda: not self.processes(), "the daemon's processes are gone")

    def supervisor(self) -> int:
        """Pid of the supervisor: the parent of the workers."""
        pids = set(self.processes())
        parents = {pid: _parent_of(pid) for pid in pids}
        (found,) = [pid for pid in pids if parents[pid] not in pids]
        return found

    def mounts(self) -> list[str]:
        inside = f"{self.base}/"
        return [
            e.path for e in read_mounts() if e.fstype == PIPEFS_TYPE and e.path.startswith(inside)
        ]

    def close(self) -> None:
        abort_mounts(self.base)
        self.kill_all()
        for entry in reversed(read_mounts()):
            if entry.path.startswith(f"{self.base}/"):
                subprocess.run(["umount", "-l", entry.path], check=False)
        if not any(e.path.startswith(f"{self.base}/") for e in read_mounts()):
            shutil.rmtree(self.base, ignore_errors=True)


def _settings(options: Sequence[str]) -> list[str]:
    return [word for option in options for word in ("-o", option)]


def _parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Any:
    """A tmpfs of that size on a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=False)
