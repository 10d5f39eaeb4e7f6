"""The folder of the block cache: who may use it, and whether what lies in it can be trusted.

The cache is written without fsync. The page cache keeps it through the death of any process, but
not of the machine, so `state.json` says which boot wrote it and whether the last user closed it
in order. A folder from another boot without a clean close is thrown away and made anew.

Promises that nobody reads an untrusted cache: it is judged, emptied and opened for the first time
under an exclusive flock on `lock`; users hold a shared one as long as they live.
Never deletes anything but entries it knows by name.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from pipefs.errors import Busy, Corrupt

log = logging.getLogger(__name__)

FORMAT = 1
"""Of index and segments together; another number means throw away, never migrate."""

INDEX_DIR = "index"
SEGMENT_PREFIX = "seg-"
DEAD_PREFIX = "dead-"
STATE_FILE = "state.json"
LOCK_FILE = "lock"
ENTER_DEADLINE_S = 30.0


class State(msgspec.Struct, frozen=True):
    format: int
    boot_id: str
    clean: bool
    """Everything was synced and nobody has opened it since."""


def read_boot_id() -> str:
    """Identity of this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


class CacheHome:
    """One process's use of the folder, from `enter` to `leave`."""

    def __init__(self, directory: Path, boot_id: str) -> None:
        self.directory = directory
        self._live = State(FORMAT, boot_id, clean=False)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._fd = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def enter(self, prepare: Callable[[], None]) -> None:
        """Take the shared lock on a trusted folder; the first user judges it and makes it ready.

        Args:
            prepare: opens and checks under the exclusive lock; `Corrupt` means throw all away
                and call it once more.
        """
        deadline = time.monotonic() + ENTER_DEADLINE_S
        while True:
            if self._try_exclusive():
                self._judge(prepare)
            # Converting drops the lock for a moment: another first user may come between and
            # judge again; it finds our state and keeps all. Hence the second look.
            fcntl.flock(self._fd, fcntl.LOCK_SH)
            if self._read_state() == self._live:
                return
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            if time.monotonic() > deadline:
                raise Busy(
                    f"the block cache in {self.directory} is held by processes of another boot",
                    hint="give each machine its own cache folder",
                )
            time.sleep(0.01)

    def leave(self, sync: Callable[[], None]) -> None:
        """Let go; the last user syncs and marks the folder clean. Takes as long as the sync.

        Where that fails (a full disk) the folder is as after a crash: kept until the next boot.
        """
        if self._try_exclusive():
            try:
                sync()
                self._write_state(msgspec.structs.replace(self._live, clean=True))
            except OSError as e:
                log.warning("block cache in %s: not marked clean: %s", self.directory, e)
        os.close(self._fd)

    def abandon(self) -> None:
        """Let go without judging the contents: after an error."""
        os.close(self._fd)

    def _try_exclusive(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _judge(self, prepare: Callable[[], None]) -> None:
        state = self._read_state()
        same_boot = state is not None and state.boot_id == self._live.boot_id
        if state is None or state.format != FORMAT or not (state.clean or same_boot):
            self.wipe("unclean stop of the machine" if state else "new")
        # On disk before the first unsynced write, else a power loss would find "clean".
        self._write_state(self._live)
        try:
            prepare()
        except Corrupt as e:
            log.warning("block cache in %s is made anew: %s", self.directory, e)
            self.wipe("corrupt")
            prepare()

    def wipe(self, why: str) -> None:
        """Delete index and segments. Only under the exclusive lock."""
        found = [p for p in self.directory.iterdir() if _is_ours(p.name)]
        if found:
            log.info("block cache in %s: thrown away (%s)", self.directory, why)
        for path in found:
            shutil.rmtree(path, ignore_errors=True)

    def remove_dead(self) -> None:
        """Delete segments whose removal was cut off by a crash."""
        for path in self.directory.glob(DEAD_PREFIX + "*"):
            shutil.rmtree(path, ignore_errors=True)

    def _read_state(self) -> State | None:
        try:
            raw = (self.directory / STATE_FILE).read_bytes()
            return msgspec.json.decode(raw, type=State)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def _write_state(self, state: State) -> None:
        temporary = self.directory / (STATE_FILE + ".new")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, msgspec.json.encode(state))
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, self.directory / STATE_FILE)
        folder = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def sync_file(path: Path) -> None:
    """fsync a file by name; none there is fine."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _is_ours(name: str) -> bool:
    return name == INDEX_DIR or name.startswith((SEGMENT_PREFIX, DEAD_PREFIX))
