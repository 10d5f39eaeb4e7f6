"""A small service manager: reads a unit file and does for the real daemon what systemd would.

It honours what concerns the daemon: ExecStart, ExecReload, Environment, WatchdogSec,
FileDescriptorStoreMax, NotifyAccess=main, KillMode=mixed and TimeoutStopSec; it holds descriptors
across starts, and its `systemctl` says which job runs. Directories, capabilities and filters are
left to the real systemd (`make systemd-test`).
"""

from __future__ import annotations

import array
import os
import shlex
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Mapping

from pipefs.home import resolve_home
from pipefs.unitfiles import service_files, this_interpreter
from tests.mounted import Home, eventually

NAME = "pipefsd.service"
SYSTEMCTL = """#!/bin/sh
# What systemctl would say of our unit.
case "$*" in
*list-jobs*) cat "$(dirname "$0")/jobs" ;;
*NFileDescriptorStore*) cat "$(dirname "$0")/stored" ;;
*) exit 1 ;;
esac
"""


def machine_unit() -> str:
    """`pipefsd.service` as `pipefs --system service install` writes it here."""
    files = service_files(resolve_home(system=True, env={}), this_interpreter())
    return next(file.content for file in files if file.path.name == NAME)


def seconds(text: str) -> float:
    """A time span of a unit, of the forms that ours have."""
    for ending, factor in (("ms", 0.001), ("min", 60.0), ("s", 1.0)):
        if text.endswith(ending):
            return float(text.removesuffix(ending)) * factor
    return float(text)


class Unit:
    """The [Service] section; lists for what may come several times."""

    def __init__(self, text: str) -> None:
        self._lines: dict[str, list[str]] = {}
        section = ""
        for line in map(str.strip, text.splitlines()):
            if line.startswith("["):
                section = line
            elif section == "[Service]" and line and not line.startswith("#"):
                key, _, value = line.partition("=")
                self._lines.setdefault(key, []).append(value)

    def one(self, key: str) -> str:
        return self._lines[key][-1]

    def command(self, key: str, **specifiers: str) -> list[str]:
        words = shlex.split(self.one(key))
        for mark, value in {"%n": NAME, **specifiers}.items():
            words = [word.replace(mark, value) for word in words]
        return words

    def environment(self) -> dict[str, str]:
        words = [w for value in self._lines.get("Environment", []) for w in shlex.split(value)]
        return dict(word.split("=", 1) for word in words)


class Manager:
    """One service in one home, started as often as the test likes."""

    def __init__(self, home: Home, **overrides: str) -> None:
        """`overrides`: lines of a drop-in, `WatchdogSec="2"`."""
        self.home = home
        drop_in = "\n".join(f"{key}={value}" for key, value in overrides.items())
        self.unit = Unit(f"{machine_unit()}\n[Service]\n{drop_in}")
        self.store: dict[str, list[int]] = {}
        self.messages: list[dict[str, str]] = []
        """Everything the service said since its last start, in order."""
        self.process: subprocess.Popen[bytes] | None = None
        # An abstract name, as systemd's user managers in containers have it.
        self.address = f"\0pipefs-test-{os.getpid()}-{id(self)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(self.address)
        self._tools = home.base / "tools"
        self._tools.mkdir(exist_ok=True)
        (self._tools / "systemctl").write_text(SYSTEMCTL)
        (self._tools / "systemctl").chmod(0o755)
        self._say_job("")
        threading.Thread(target=self._listen, daemon=True).start()

    # --- what the service says ----------------------------------------------------------------

    def _listen(self) -> None:
        while True:
            data, rights, pid = self._receive()
            message = dict(line.split("=", 1) for line in data.decode().splitlines())
            if "CLOSE" in message:
                return
            # NotifyAccess=main
            if self.process is None or pid != self.process.pid:
                message = {"REFUSED": str(pid)}
            name = message.get("FDNAME", "stored")
            if message.get("FDSTORE") == "1" and message.get("FDPOLL") == "0":
                held = sum(map(len, self.store.values()))
                if held + len(rights) <= int(self.unit.one("FileDescriptorStoreMax")):
                    self.store.setdefault(name, []).extend(rights)
                    rights = []
            elif message.get("FDSTOREREMOVE") == "1":
                for descriptor in self.store.pop(name, []):
                    os.close(descriptor)
            for descriptor in rights:
                os.close(descriptor)
            self._say_stored()
            self.messages.append(message)

    def _receive(self) -> tuple[bytes, list[int], int]:
        size = socket.CMSG_SPACE(64) + socket.CMSG_SPACE(struct.calcsize("3i"))
        data, ancillary, _, _ = self._socket.recvmsg(1 << 16, size)
        rights, pid = array.array("i"), 0
        for _, kind, payload in ancillary:
            if kind == socket.SCM_RIGHTS:
                rights.frombytes(payload)
            elif kind == socket.SCM_CREDENTIALS:
                pid = struct.unpack("3i", payload)[0]
        return data, list(rights), pid

    def said(self, key: str) -> list[str]:
        return [m[key] for m in list(self.messages) if key in m]

    def status(self) -> str:
        return (self.said("STATUS") or [""])[-1]

    def wait_for(self, key: str, count: int = 1) -> None:
        def came() -> bool:
            assert self.process is not None
            alive = self.process.poll() is None
            assert alive or len(self.said(key)) >= count, f"it ended without {key}: {self.log()}"
            return len(self.said(key)) >= count

        eventually(came, f"{key} comes: {self.messages}")

    # --- what the manager does ----------------------------------------------------------------

    def start(self) -> None:
        """Start with what is in the store; returns at READY=1."""
        self.messages.clear()
        descriptors = [(name, fd) for name, held in self.store.items() for fd in held]
        moves = " ".join(f"{3 + i}<&{fd}" for i, (_, fd) in enumerate(descriptors))
        script = f'exec {moves}; export LISTEN_PID=$$ WATCHDOG_PID=$$; exec "$@"'
        with open(self.home.base / "journal", "ab") as journal:
            self.process = subprocess.Popen(
                ["bash", "-c", script, "start", *self.unit.command("ExecStart")],
                env=self._environment([name for name, _ in descriptors]),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=journal,
                stderr=journal,
                pass_fds=[fd for _, fd in descriptors],
            )
        self.wait_for("READY")

    def _environment(self, names: list[str]) -> Mapping[str, str]:
        watchdog_us = int(seconds(self.unit.one("WatchdogSec")) * 1e6)
        return {
            **self.home.env,
            **self.unit.environment(),
            "PATH": f"{self._tools}:{os.environ['PATH']}",
            "NOTIFY_SOCKET": self.address.replace("\0", "@"),
            "WATCHDOG_USEC": str(watchdog_us),
            "LISTEN_FDS": str(len(names)),
            "LISTEN_FDNAMES": ":".join(names),
        }

    def reload(self) -> None:
        """Returns when the service is ready again."""
        assert self.process is not None
        before = len(self.said("READY"))
        pid = str(self.process.pid)
        subprocess.run(self.unit.command("ExecReload", **{"$MAINPID": pid}), check=True)
        self.wait_for("READY", before + 1)

    def stop(self, *, job: str = "stop") -> float:
        """SIGTERM, then what KillMode=mixed does; seconds it took, within TimeoutStopSec."""
        assert self.process is not None
        began = time.monotonic()
        self._say_job(job)
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(seconds(self.unit.one("TimeoutStopSec"))) == 0, self.log()
        self._end(keep_store=job == "restart")
        return time.monotonic() - began

    def restart(self) -> None:
        self.stop(job="restart")
        self.start()

    def kill(self) -> None:
        """`systemctl kill -s KILL`; Restart=on-failure keeps the store."""
        assert self.process is not None
        assert self.unit.one("Restart") == "on-failure"
        self.home.kill_all()
        self.process.wait()
        self._end(keep_store=True)

    def _end(self, *, keep_store: bool) -> None:
        self.home.kill_all()
        self._say_job("")
        for name in [] if keep_store else list(self.store):
            for descriptor in self.store.pop(name):
                os.close(descriptor)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._end(keep_store=False)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"CLOSE=1", self.address)

    def _say_job(self, kind: str) -> None:
        line = f"77 {NAME} {kind} running\n" if kind else ""
        self._say("jobs", f"12 other.service start waiting\n{line}")
        self._say_stored()

    def _say_stored(self) -> None:
        self._say("stored", f"{sum(map(len, self.store.values()))}\n")

    def _say(self, name: str, text: str) -> None:
        # Replaced, not rewritten: `systemctl` must not read half of it.
        fresh = self._tools / f"{name}.{threading.get_ident()}"
        fresh.write_text(text)
        fresh.replace(self._tools / name)

    def log(self) -> str:
        return (self.home.base / "journal").read_text(errors="replace")
