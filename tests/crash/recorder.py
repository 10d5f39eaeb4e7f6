"""A disk that remembers: ext4 on a loop device whose image records every write and flush.

The image is the one file of a small FUSE server in a process of its own. Its log is the order of
events: writes, flushes, and the promises that a workload notes down in the same file. From it,
`image_at` builds what a power loss at any event may leave: everything up to the last flush, and
any subset of the 4 KiB blocks written after it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

BLOCK_BYTES = 4096
SIZE_BYTES = 64 << 20
WRITE, FLUSH, PROMISE = b"W", b"F", b"P"

_EVENT = struct.Struct("<cQI")
_IN = struct.Struct("<IIQQIIII")
_OUT = struct.Struct("<IiQ")
_ATTR = struct.Struct("<6Q10I")
_IO = struct.Struct("<QQI")
_ROOT, _FILE = 1, 2
_READ_BYTES = (1 << 20) + 4096
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Event:
    """`number` is the offset of a write, or what was promised."""

    kind: bytes
    number: int
    data: bytes


class Recording:
    """A mounted ext4 at `disk`, made by `recording`."""

    def __init__(self, place: Path) -> None:
        self.base = place / "base"
        self.disk = place / "disk"
        self._log = place / "log"
        self._fd = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)

    def note(self, kind: bytes, number: int = 0, data: bytes = b"") -> None:
        """Add an event behind all that have happened; one write, so that processes can share."""
        os.write(self._fd, _EVENT.pack(kind, number, len(data)) + data)

    def promise(self, number: int) -> None:
        """Say that everything up to `number` is on disk."""
        self.note(PROMISE, number)

    def events(self) -> list[Event]:
        """All that has happened so far."""
        log, offset, events = self._log.read_bytes(), 0, []
        while offset < len(log):
            kind, number, length = _EVENT.unpack_from(log, offset)
            offset += _EVENT.size
            events.append(Event(kind, number, log[offset : offset + length]))
            offset += length
        return events

    def close(self) -> None:
        os.close(self._fd)


@contextlib.contextmanager
def recording(place: Path, options: str = "data=ordered") -> Iterator[Recording]:
    """Make, mount and at the end free everything in the empty folder `place`. Needs root.

    Args:
        options: mount options of the ext4.
    """
    with contextlib.ExitStack() as stack:
        tape = Recording(place)
        stack.callback(tape.close)
        with tape.base.open("wb") as file:
            file.truncate(SIZE_BYTES)
        at_once = "lazy_itable_init=0,lazy_journal_init=0"
        subprocess.run(["mkfs.ext4", "-q", "-E", at_once, tape.base], check=True, timeout=60)
        shutil.copyfile(tape.base, place / "live")
        stack.enter_context(_served(place / "fuse", place / "live", tape))
        stack.enter_context(mounted(place / "fuse" / "image", tape.disk, options))
        yield tape


@contextlib.contextmanager
def mounted(image: Path, at: Path, options: str = "data=ordered") -> Iterator[None]:
    """`image` loop-mounted at `at`; the loop device goes with the mount."""
    at.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", f"loop,{options}", image, at], check=True, timeout=60)
    try:
        yield
    finally:
        for _ in range(50):
            if subprocess.run(["umount", at], timeout=60, stderr=subprocess.DEVNULL).returncode:
                time.sleep(0.1)  # somebody looks at it: df, a monitor
            else:
                break
        else:
            subprocess.run(["umount", "-l", at], check=True, timeout=60)


def image_at(tape: Recording, events: list[Event], cut: int, chance: random.Random) -> Path:
    """An image after a power loss behind `events[:cut]`; the caller removes it."""
    path = tape.base.with_name(f"image-{cut}")
    shutil.copyfile(tape.base, path)
    done = max((n + 1 for n in range(cut) if events[n].kind == FLUSH), default=0)
    keep = chance.choice([0.0, 0.1, 0.5, 0.9])
    with path.open("r+b") as file:
        for n, event in enumerate(events[:cut]):
            if event.kind != WRITE:
                continue
            for start in range(0, len(event.data), BLOCK_BYTES):
                if n < done or chance.random() < keep:
                    file.seek(event.number + start)
                    file.write(event.data[start : start + BLOCK_BYTES])
    return path


def promised(events: list[Event], cut: int) -> int:
    """The last promise before the cut, -1 if there was none."""
    return max((e.number for e in events[:cut] if e.kind == PROMISE), default=-1)


# -- the FUSE server: one directory, one file -----------------------------------------------------


@contextlib.contextmanager
def _served(at: Path, backing: Path, tape: Recording) -> Iterator[None]:
    at.mkdir()
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            _Server(fd, backing, tape).run()
        os._exit(0)
    try:
        data = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
        target = os.fsencode(at)
        if _libc.mount(b"recorder", target, b"fuse.recorder", 0, data):
            raise OSError(ctypes.get_errno(), "mount of the recorder failed")
        connection = os.minor(os.stat(at).st_dev)
        try:
            yield
        finally:
            Path(f"/sys/fs/fuse/connections/{connection}/abort").write_text("1")
            _libc.umount2(target, 2)  # MNT_DETACH
    finally:
        os.close(fd)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


class _Server:
    def __init__(self, fd: int, backing: Path, tape: Recording) -> None:
        self._fd = fd
        self._file = os.open(backing, os.O_RDWR)
        self._tape = tape
        self._answers: dict[int, Callable[[int, bytes], bytes]] = {
            1: lambda node, body: struct.pack("<4QII", _FILE, 0, 9, 9, 0, 0) + _attr(_FILE),
            3: lambda node, body: struct.pack("<QII", 9, 0, 0) + _attr(node),
            4: lambda node, body: struct.pack("<QII", 9, 0, 0) + _attr(node),
            14: lambda node, body: struct.pack("<QIi", 1, 0, 0),
            15: self._read,
            16: self._write,
            17: lambda node, body: struct.pack("<5Q4I24x", 0, 0, 0, 9, 9, 4096, 255, 4096, 0),
            18: lambda node, body: b"",
            20: self._fsync,
            25: lambda node, body: b"",
            26: self._init,
        }

    def run(self) -> None:
        while True:
            try:
                request = os.read(self._fd, _READ_BYTES)
            except OSError as e:
                if e.errno == 19:  # ENODEV: unmounted
                    return
                continue
            _, opcode, unique, node, *_ = _IN.unpack_from(request)
            if opcode in (2, 36, 42):  # FORGET, INTERRUPT, BATCH_FORGET: no reply
                continue
            answer = self._answers.get(opcode)
            if answer is None:
                reply = _OUT.pack(_OUT.size, -38, unique)  # ENOSYS
            else:
                body = answer(node, request[_IN.size :])
                reply = _OUT.pack(_OUT.size + len(body), 0, unique) + body
            with contextlib.suppress(OSError):
                os.write(self._fd, reply)

    def _init(self, node: int, body: bytes) -> bytes:
        flags = 1 | 1 << 5 | 1 << 22  # ASYNC_READ, BIG_WRITES, MAX_PAGES; no writeback cache
        head = struct.pack("<4I2H2I2H", 7, 31, 1 << 20, flags, 12, 9, 1 << 20, 1, 256, 0)
        return head.ljust(64, b"\0")

    def _read(self, node: int, body: bytes) -> bytes:
        _, offset, size = _IO.unpack_from(body)
        return os.pread(self._file, size, offset)

    def _write(self, node: int, body: bytes) -> bytes:
        _, offset, size = _IO.unpack_from(body)
        data = body[40 : 40 + size]
        os.pwrite(self._file, data, offset)
        self._tape.note(WRITE, offset, data)
        return struct.pack("<II", size, 0)

    def _fsync(self, node: int, body: bytes) -> bytes:
        self._tape.note(FLUSH)
        return b""


def _attr(node: int) -> bytes:
    mode, size = (0o40755, 0) if node == _ROOT else (0o100600, SIZE_BYTES)
    blocks = size // 512
    return _ATTR.pack(node, size, blocks, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, BLOCK_BYTES, 0)
