"""A machine with a real systemd: Debian in a systemd-nspawn container, booted as process 1.

The tree is made once by debootstrap and kept in a cache folder; each machine runs on a copy. It
shares the loopback of this host, so an S3 server here is reachable, and nothing else of it. Needs
root, systemd-container and debootstrap.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[2]
SUITE = "bookworm"
PYTHON = (3, 11)
"""Its Python; wheels are built here for it."""
PACKAGES = "systemd,systemd-sysv,libpam-systemd,dbus,fuse3,python3,python3-venv,procps"
VENV = "/opt/pipefs"
BOOT_S = 60.0


def _run(*command: str | Path) -> None:
    """Silent unless it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")


def prepare(cache: Path) -> Path:
    """The tree with pipefs' dependencies, from the cache or made now; its path."""
    cache.mkdir(parents=True, exist_ok=True)
    base, wheels, stamp = cache / "base", cache / "wheels", cache / "ready"
    key = hashlib.sha256(f"{SUITE} {PACKAGES}".encode() + (SOURCE / "setup.py").read_bytes())
    if not (stamp.exists() and stamp.read_text() == key.hexdigest()):
        stamp.unlink(missing_ok=True)
        shutil.rmtree(base, ignore_errors=True)
        print(f"making {base} (a minute or two)", flush=True)
        _run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, base)
        _wheel(wheels, SOURCE)
        _inside(base, "python3", "-m", "venv", VENV)
        _pip(base, wheels, "pipefs")
        stamp.write_text(key.hexdigest())
    return base


def _wheel(folder: Path, *what: str | Path) -> None:
    """Built here, with this interpreter: the tree's is the same version of Python."""
    folder.mkdir(exist_ok=True)
    # Not in the source itself: setuptools leaves a build folder behind.
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch, "source")
        # What lies there, be it committed or not.
        listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listing, cwd=SOURCE, check=True, capture_output=True, text=True)
        for name in names.stdout.splitlines():
            if (SOURCE / name).is_file() and not name.startswith("tests/"):
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(SOURCE / name, copy / name)
        for old in folder.glob("pipefs-*.whl"):
            old.unlink()
        targets = [copy if w == SOURCE else w for w in what]
        _run(sys.executable, "-m", "pip", "wheel", "-q", "-w", folder, *targets)


def _pip(tree: Path, wheels: Path, *words: str) -> None:
    shutil.copytree(wheels, tree / "wheels", dirs_exist_ok=True)
    pip = (f"{VENV}/bin/pip", "install", "-q", "--no-index", "--find-links", "/wheels")
    _inside(tree, *pip, *words)
    shutil.rmtree(tree / "wheels")


def _inside(tree: Path, *command: str) -> None:
    nspawn = ("systemd-nspawn", "-q", "--register=no", "--keep-unit")
    _run(*nspawn, "-D", tree, *command)


class Machine:
    """One booted container."""

    def __init__(self, cache: Path) -> None:
        base = prepare(cache)
        self.folder = Path(tempfile.mkdtemp(prefix="machine-", dir=cache))
        self.tree = self.folder / "tree"
        _run("cp", "-a", "--reflink=auto", base, self.tree)
        _wheel(cache / "wheels", "--no-deps", SOURCE)
        _pip(self.tree, cache / "wheels", "--no-deps", "--force-reinstall", "pipefs")
        self.process: subprocess.Popen[bytes] | None = None
        self.pid = 0

    def boot(self) -> None:
        """Returns when systemd has started what it starts."""
        command = [
            *("systemd-nspawn", "-D", str(self.tree), "--register=no", "--keep-unit", "-b"),
            *("--bind=/dev/fuse", "--bind=/dev/autofs", "--capability=all"),
            "--property=DeviceAllow=/dev/fuse rwm",
        ]
        with open(self.folder / "console.log", "ab") as console:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        deadline = time.monotonic() + BOOT_S
        while not (self._first_process() and self._is_up()):
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError((self.folder / "console.log").read_text(errors="replace"))
            time.sleep(0.2)

    def _first_process(self) -> int:
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        with contextlib.suppress(OSError, ValueError, IndexError):
            self.pid = int(children.read_text().split()[0])
        return self.pid

    def _is_up(self) -> bool:
        done = self.run("systemctl is-system-running", check=False)
        return done.stdout.strip() in ("running", "degraded")

    def popen(self, script: str) -> subprocess.Popen[str]:
        """`script` in a shell inside, in the background."""
        return subprocess.Popen(
            self._enter(script),
            env=self._env(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(
        self, script: str, *, check: bool = True, timeout_s: float = 200.0
    ) -> subprocess.CompletedProcess[str]:
        """`script` in a shell inside; with `check` it must succeed."""
        done = subprocess.run(
            self._enter(script),
            env=self._env(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
        )
        assert not check or done.returncode == 0, f"{script}: {done.returncode}\n{done.stdout}"
        return done

    def _enter(self, script: str) -> list[str]:
        space = ["-m", "-u", "-i", "-n", "-p", "-C"]
        return ["nsenter", "-t", str(self.pid), *space, "--", "sh", "-c", script]

    def _env(self) -> dict[str, str]:
        path = f"{VENV}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return {"PATH": path, "HOME": "/root", "LANG": "C.UTF-8", "SYSTEMD_PAGER": "cat"}

    def write(self, path: str, content: str, mode: int = 0o644) -> None:
        file = self.tree / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        file.chmod(mode)

    def power_off(self) -> None:
        """An orderly shutdown, then the tree goes."""
        if self.process is not None:
            if self.process.poll() is None:
                self.run("systemctl poweroff", check=False)
            try:
                self.process.wait(timeout=180)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
                raise

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def booted(cache: Path) -> Iterator[Machine]:
    """A running machine, powered off and removed in the end."""
    machine = Machine(cache)
    try:
        machine.boot()
        yield machine
    finally:
        machine.power_off()
        machine.remove()
