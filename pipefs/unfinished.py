"""What a publication has done and not yet told: written down as it goes, in case it is killed.

Each publication has a file of its own beside the replica, locked while it runs and deleted when it
is done. One that nobody holds is of a process that died: the next one finishes its work, so that
no byte that is in the store is sent twice, and nothing that was half done stays so.

Lines of JSON:
    landed   a change whose object is at its own key, to be announced
    parked   an object below `.pipefs/moving/`: a file of the pipe has it, or it is to be deleted
    natural  a path whose object is to follow to its own key
    gone     an object to be deleted once the tree has no use for it
"""

from __future__ import annotations

import fcntl
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec

from pipefs.commits import Change
from pipefs.home import make_private
from pipefs.records import Content

_SUFFIX = ".jsonl"


class Note(msgspec.Struct, omit_defaults=True):
    """One line."""

    landed: Change | None = None
    parked: str = ""
    natural: str = ""
    there: Content | None = None
    """natural: what is at the path's key until then."""
    gone: Content | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Note).decode


class Notes:
    """The file of one publication, made at its first note. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._path = folder / f"{uuid.uuid4().hex}{_SUFFIX}"

    def add(self, *notes: Note) -> None:
        """Survives the death of this process, not that of the machine: the store's listing tells
        then what is there."""
        data = b"".join(_encode(n) + b"\n" for n in notes)
        with self._lock:
            if self._fd is None:
                self._fd = self._make()
            os.write(self._fd, data)

    def _make(self) -> int:
        make_private(self._folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        made = self._path.with_suffix(".new")
        fd = os.open(made, flags, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        made.rename(self._path)  # seen by others only when it is locked
        return fd

    def done(self) -> None:
        """Everything is told."""
        with self._lock:
            if self._fd is not None:
                self._path.unlink(missing_ok=True)
        self.leave()

    def leave(self) -> None:
        """Let the next publication finish it."""
        with self._lock:
            if self._fd is not None:
                fcntl.flock(self._fd, fcntl.LOCK_UN)
                os.close(self._fd)
            self._fd = None


def left_behind(folder: Path) -> Iterator[tuple[Path, list[Note]]]:
    """Files that nobody holds any more, with their notes; the caller deletes each."""
    try:
        found = sorted(folder.glob(f"*{_SUFFIX}"))
    except OSError:
        return
    for path in found:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield path, _read(path)
        except BlockingIOError:
            continue  # its publication runs
        finally:
            os.close(fd)


def _read(path: Path) -> list[Note]:
    notes = []
    for line in path.read_bytes().splitlines():
        try:
            notes.append(_decode(line))
        except msgspec.MsgspecError:
            break  # cut by the crash
    return notes
