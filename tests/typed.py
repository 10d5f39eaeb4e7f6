"""Lines as people type them, in a real shell, with a `pipefs` that starts at once.

What stands in a help text or in the guide is shell: pipes, redirections, `$(…)`. Python's start and
the imports would cost most of a second a command, so one process imports everything once and forks
for each command; a small program on PATH hands it its words, folder, environment and descriptors.
Only that start is other than a user's: the child runs `pipefs.cli.main` as it is. `python-at-once
FILE` runs a script in the same way.

with Desk() as desk:                 # a machine: its own HOME, without settings and mounts
    desk.type("pipefs create notes")
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pipefs.mountinfo import read_mounts
from tests.mounted import abort_mounts, processes_of

SOURCE = Path(__file__).parent.parent
_CLIENT = """\
#!{python} -IS
import array, json, os, signal, socket, sys
there = socket.socket(socket.AF_UNIX)
there.connect({address!r})
try:
    cwd = os.getcwd()
except OSError:
    cwd = "/"
body = json.dumps([sys.argv, cwd, dict(os.environ)]).encode()
fds = array.array("i", [0, 1, 2])
there.sendmsg([len(body).to_bytes(4, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
there.sendall(body)
pid = int.from_bytes(there.recv(4), "big")
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: os.kill(pid, number))
code = there.recv(1)
os._exit(code[0] if code else 1)
"""


class Starter:
    """The process that forks, and the folder with the `pipefs` that asks it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pipefs-typed-"))
        address = str(self.folder / "socket")
        self.bin = self.folder / "bin"
        self.bin.mkdir()
        for name in ("pipefs", "python-at-once"):
            program = self.bin / name
            program.write_text(_CLIENT.format(python=sys.executable, address=address))
            program.chmod(0o755)
        env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(SOURCE), str(SOURCE / "daemon")))}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.typed", address],
            cwd=SOURCE, env=env, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while not Path(address).exists():
            assert self.process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)

    def close(self) -> None:
        # With commands that hang: their environment in /proc is that of their start.
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self.folder)


def _serve(address: str) -> None:
    """Fork for every command that is asked for."""
    import pandas  # noqa: F401  # once here, and not in each command

    from pipefs.cli.main import cli

    context = cli.make_context("pipefs", [], resilient_parsing=True)
    for name in cli.list_commands(context):
        cli.get_command(context, name)
    import pipefs.api
    import pipefs.session  # noqa: F401  # once here too

    _read_service_models()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as here:
        here.bind(address + ".new")
        here.listen(64)
        os.rename(address + ".new", address)
        while True:
            there, _ = here.accept()
            if os.fork() == 0:
                here.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _answer(there)
            there.close()


def _read_service_models() -> None:
    """Parse boto3's description of S3 once: it is 0.2 s of every command that meets a bucket."""
    import boto3
    import botocore.loaders
    import botocore.session

    loader = botocore.loaders.create_loader()
    botocore.session.create_loader = lambda search_path_string=None: loader
    keys = {"aws_access_key_id": "none", "aws_secret_access_key": "none"}
    boto3.session.Session(region_name="us-east-1", **keys).client("s3")


def _answer(there: socket.socket) -> None:
    """One command in this (forked) process, which it ends."""
    from pipefs.cli.main import cli

    code = 1
    try:
        head, fds, _, _ = socket.recv_fds(there, 4, 3)
        body = b""
        while len(body) < int.from_bytes(head, "big"):
            body += there.recv(1 << 16)
        there.sendall(os.getpid().to_bytes(4, "big"))
        words, cwd, env = json.loads(body)
        for number, fd in enumerate(fds):
            os.dup2(fd, number)
            os.close(fd)
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  # till the end
        os.environ.clear()
        os.environ.update(env)
        os.chdir(cwd)
        sys.argv = words
        if words[0].endswith("/pipefs"):
            cli.main(words[1:])
        runpy.run_path(words[1], run_name="__main__")
        code = 0
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        with contextlib.suppress(OSError):
            there.sendall(bytes([code]))
        os._exit(code)


@dataclass(frozen=True, slots=True)
class Typed:
    """What a line said."""

    code: int
    out: str
    err: str


class Desk:
    """A machine at which somebody types: a HOME of its own, cleaned up after any failure."""

    def __init__(self, starter: Starter, env: Mapping[str, str] | None = None) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="pipefs-desk-"))
        self.home = self.base / "home"
        (self.home / "work").mkdir(parents=True)
        self.run_folder = self.base / "run"
        self.run_folder.mkdir(mode=0o700)
        ours = ("XDG_", "PIPEFS_", "AWS_")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
        self.env = {
            **kept,
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.run_folder),
            "PATH": f"{starter.bin}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}"
            + os.environ.get("PATH", ""),
            "PYTHONPATH": os.pathsep.join((str(SOURCE), str(SOURCE / "daemon"))),
            **(env or {}),
        }
        self.cwd = self.home / "work"

    def type(
        self, line: str, *, answers: str = "", input: str = "", timeout_s: float = 60
    ) -> Typed:
        """A line of shell; its last folder is where the next one starts. `answers` are typed on a
        terminal, `input` comes through a pipe."""
        where = self.base / "cwd"
        script = f"set -o pipefail; {line}\ncode=$?; pwd >{where}; exit $code"
        if answers:
            return self._on_a_terminal(script, answers, timeout_s)
        done = subprocess.run(
            ["bash", "-c", script], env=self.env, cwd=self.cwd, input=input,
            capture_output=True, text=True, timeout=timeout_s,
        )  # fmt: skip
        self._stay(where)
        return Typed(done.returncode, done.stdout, done.stderr)

    def _on_a_terminal(self, script: str, answers: str, timeout_s: float) -> Typed:
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            ["bash", "-c", script], env=self.env, cwd=self.cwd,
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        said, todo = b"", answers.splitlines(keepends=True)
        deadline = time.monotonic() + timeout_s
        while select.select([ours], [], [], max(0, deadline - time.monotonic()))[0]:
            try:
                said += os.read(ours, 4096)
            except OSError:  # the terminal's end
                break
            # Not ahead of the question: who asks for a secret drops what was typed before.
            if said.endswith(b": ") and todo:
                os.write(ours, todo.pop(0).encode())
        else:
            process.kill()
        code = process.wait()
        os.close(ours)
        self._stay(self.base / "cwd")
        return Typed(code, said.decode(errors="replace").replace("\r\n", "\n"), "")

    def _stay(self, where: Path) -> None:
        if where.exists():
            self.cwd = Path(where.read_text().rstrip("\n"))

    def processes(self) -> list[int]:
        """Whatever runs with this HOME: its daemons."""
        return processes_of(self.home, "HOME")

    def free(self) -> None:
        """Take away mounts and processes, whatever they do."""
        abort_mounts(self.base)
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        self.free()
        if not any(e.path.startswith(f"{self.base}/") for e in read_mounts()):
            shutil.rmtree(self.base, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def starting() -> Iterator[Starter]:
    starter = Starter()
    try:
        yield starter
    finally:
        starter.close()


if __name__ == "__main__":
    _serve(sys.argv[1])
