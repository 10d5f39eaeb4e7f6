"""A filesystem of fixed files, and the daemon run with it: what the supervisor's tests mount.

The same in every worker without any state, so that what a test sees depends on the supervisor
alone. `outbox` (a file next to the home) holds how many changes "wait"; `broken` makes every new
worker die or refuse as it says.
"""

from __future__ import annotations

import codecs
import ctypes
import errno
import importlib
import os
import stat
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import cast

from pipefs.errors import StoreUnavailable
from pipefs.home import Home, resolve_home
from pipefsd import main as daemon
from pipefsd.bounds import Bounds
from pipefsd.pipes import Target
from pipefsd.transports.base import (
    Attr,
    Caller,
    DirEntry,
    Entry,
    Features,
    Notifier,
    Opened,
    Operations,
    ReadReply,
    Statfs,
    WouldBlock,
)

BIG_BYTES = 24 << 20
NAMES = (b"big", b"slow", b"stuck", b"deadly")
"""big: a pattern. slow: the same, 20 ms a read. stuck: a read never ends. deadly: kills."""


def pattern(offset: int, size: int) -> bytes:
    """Bytes of `big`: each 8-byte word is its own number, so a wrong offset shows."""
    first, last = offset // 8, (offset + size + 7) // 8
    words = b"".join(n.to_bytes(8, "big") for n in range(first, last))
    return words[offset - first * 8 :][:size]


class FixedOperations:
    def start(self, notifier: Notifier, features: Features) -> None:
        pass

    def stop(self) -> None:
        pass

    def _attr(self, node: int) -> Attr:
        mode = stat.S_IFDIR | 0o755 if node == 1 else stat.S_IFREG | 0o644
        size = 0 if node == 1 else BIG_BYTES
        return Attr(node, mode, 1, os.geteuid(), os.getegid(), size, 0, 0, 0)

    def lookup(self, caller: Caller, parent: int, name: bytes) -> Entry:
        if parent != 1 or name not in NAMES:
            raise FileNotFoundError(errno.ENOENT, "no such file")
        node = NAMES.index(name) + 2
        return Entry(node, self._attr(node), 60.0, 60.0)

    def forget(self, node: int, nlookup: int) -> None:
        pass

    def looked_up(self, node: int) -> None:
        pass

    def getattr(self, caller: Caller, node: int, fh: int | None) -> tuple[Attr, float]:
        return self._attr(node), 60.0

    def open(self, caller: Caller, node: int, flags: int) -> Opened:
        return Opened(fh=node, direct_io=node > 2)

    def read(self, caller: Caller, node: int, fh: int, offset: int, size: int) -> ReadReply:
        if node > 2 and not caller.may_block:
            raise WouldBlock
        if NAMES[node - 2] == b"deadly":
            os._exit(9)
        if NAMES[node - 2] == b"slow":
            time.sleep(0.02)
        while NAMES[node - 2] == b"stuck":
            time.sleep(0.05)
            if caller.interrupted():
                raise InterruptedError(errno.EINTR, "interrupted")
        return ReadReply([pattern(offset, max(0, min(size, BIG_BYTES - offset)))])

    def flush(self, caller: Caller, node: int, fh: int) -> None:
        pass

    def release(self, caller: Caller, node: int, fh: int, flags: int) -> None:
        pass

    def opendir(self, caller: Caller, node: int, flags: int) -> Opened:
        return Opened(fh=1)

    def releasedir(self, caller: Caller, node: int, fh: int) -> None:
        pass

    def readdir(
        self, caller: Caller, node: int, fh: int, offset: int, plus: bool
    ) -> Iterable[DirEntry]:
        for number, name in enumerate(NAMES[offset:], offset + 1):
            entry = Entry(number + 1, self._attr(number + 1), 60.0, 60.0)
            yield DirEntry(name, number + 1, stat.S_IFREG, number, entry)

    def statfs(self, caller: Caller, node: int) -> Statfs:
        return Statfs(1000, 500, 500, 1000, 500)

    def access(self, caller: Caller, node: int, mask: int) -> None:
        pass

    def getxattr(self, caller: Caller, node: int, name: bytes) -> bytes:
        raise OSError(errno.ENODATA, "no such attribute")

    def listxattr(self, caller: Caller, node: int) -> list[bytes]:
        return []


class FixedService:
    passthrough = False

    def __init__(self, home: Home, target: Target) -> None:
        self.home = home
        # Only what the tests use; a wrong call would be a logged AttributeError and EIO.
        self.operations = cast(Operations, FixedOperations())
        self.warnings = ["READ-ONLY"] if target.settings.read_only else []

    def _say(self, name: str) -> str:
        path = self.home.state / name
        return path.read_text() if path.exists() else ""

    def start(self, *, same_mount: bool = False) -> None:
        broken = self._say("broken")
        while broken == "hang":
            time.sleep(1)
        if broken == "die":
            os._exit(7)
        if broken:
            raise StoreUnavailable(broken, hint="wait")

    def status(self) -> Mapping[str, object]:
        return {"state": "live", "dirty_files": self._outbox()}

    def _outbox(self) -> int:
        return int(self._say("outbox") or 0)

    def flush(
        self,
        path: str | None,
        timeout_s: float | None,
        progress: Callable[[Mapping[str, object]], None],
    ) -> Mapping[str, object]:
        files = self._outbox()
        progress({"files": files, "bytes": files * 100})
        return {"files": files}

    def refresh(self, full: bool) -> Mapping[str, object]:
        return {"changed": 3 if full else 1}

    def drain(self, timeout_s: float) -> tuple[int, int]:
        deadline = time.monotonic() + timeout_s
        while (files := self._outbox()) and time.monotonic() < deadline:
            time.sleep(0.01)
        return files, files * 100

    def stop(self) -> None:
        (self.home.state / "stopped").write_text(str(os.getpid()))


def drop_privileges(uid: int) -> None:
    """Go on as an ordinary user. After the imports, because the interpreter of a test machine may
    lie in root's home; dumpable again, as a process is that an ordinary user starts."""
    daemon.preload()
    importlib.import_module("pipefsd.transports.libfuse.session")
    resolve_home()
    for codec in ("latin-1", "ascii", "idna"):
        codecs.lookup(codec)
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    set_dumpable = 4
    ctypes.CDLL(None).prctl(set_dumpable, 1, 0, 0, 0)


def run(argv: list[str]) -> int:
    """As `pipefsd`, with the user and the bounds that come first in `argv` as `name=value`."""
    changes: dict[str, float] = {}
    if argv and argv[0].startswith("uid="):
        drop_privileges(int(argv.pop(0).partition("=")[2]))
    while argv and "=" in argv[0]:
        name, _, value = argv.pop(0).partition("=")
        changes[name] = float(value)
    crashes = int(changes.pop("crashes", Bounds().crashes))
    bounds = replace(Bounds(), crashes=crashes, **changes)
    home = resolve_home()
    home.make()
    arguments = daemon.parse_arguments(argv)
    return daemon.run(home, arguments, factory=FixedService, bounds=bounds)


if __name__ == "__main__":
    from pipefs.errors import PipefsError

    try:
        sys.exit(run(sys.argv[1:]))
    except PipefsError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
