"""Logging of the daemon: one line an event, for an operator's eye and for grep.

A line is `TIME LEVEL PIPE message key=value …` (UTC, `-` where no pipe is concerned). It goes to
stderr when somebody watches (systemd, `--foreground`), else to `HOME.state/log/pipefsd.log`, which
all processes of one home append to and whoever finds it too long rotates. The journal has times
and levels of its own: there a line is `PIPE message key=value …`. Logging never raises
into the caller and never writes below a mount.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

MAX_LOG_BYTES: Final = 8 << 20
"""A day of a busy debug log; with one older file kept, at most 16 MiB of disk."""

_pipe: str = "-"


def set_pipe(name: str) -> None:
    """Name the pipe that every further line of this process is about (a worker serves one)."""
    global _pipe
    _pipe = name


def event(
    logger: logging.Logger, level: int, message: str, *, pipe: str = "", **fields: object
) -> None:
    """Log `message` with `fields` as key=value; `pipe` overrides the one of the process."""
    logger.log(level, "%s", message, extra={"pipe": pipe, "fields": fields}, stacklevel=2)


class EventFormatter(logging.Formatter):
    """`TIME LEVEL PIPE message key=value …`; values with spaces are quoted, newlines escaped."""

    def head(self, record: logging.LogRecord) -> list[str]:
        """What comes before the pipe."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return [f"{seconds}.{int(record.msecs):03d}Z", record.levelname]

    def format(self, record: logging.LogRecord) -> str:
        pipe = getattr(record, "pipe", "") or _pipe
        message = record.getMessage().replace("\n", "\\n")
        parts = [*self.head(record), pipe, message]
        fields: dict[str, object] = getattr(record, "fields", {})
        parts += [f"{key}={_value(value)}" for key, value in fields.items()]
        line = " ".join(parts)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JournalFormatter(EventFormatter):
    """The same without time and level; the level is the priority that systemd reads, `<3>`."""

    def head(self, record: logging.LogRecord) -> list[str]:
        return []

    def format(self, record: logging.LogRecord) -> str:
        level = record.levelno
        error = 3 if level >= logging.ERROR else 4 if level >= logging.WARNING else 6
        priority = f"<{error if level >= logging.INFO else 7}>"
        return priority + super().format(record).replace("\n", f"\n{priority}")


def goes_to_journal(env: Mapping[str, str]) -> bool:
    """Whether stderr is systemd's journal (JOURNAL_STREAM names its device and inode)."""
    try:
        info = os.fstat(2)
    except OSError:
        return False
    return env.get("JOURNAL_STREAM") == f"{info.st_dev}:{info.st_ino}"


def _value(value: object) -> str:
    text = str(value)
    return repr(text) if not text or any(c.isspace() or c in "\"'" for c in text) else text


class SharedFileHandler(logging.Handler):
    """Appends to one file that several processes share; rotates it once it exceeds `max_bytes`.

    Each line is one write on an O_APPEND descriptor, so lines of two processes never mix. Before
    each line the path is compared with the descriptor: after a rotation by anybody (or by
    logrotate) the next line goes to the new file.
    """

    def __init__(self, path: Path, *, max_bytes: int = MAX_LOG_BYTES) -> None:
        super().__init__()
        self.path = path
        self.max_bytes = max_bytes
        self.descriptor = self._open()

    def _open(self) -> int:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record).encode(errors="backslashreplace") + b"\n"
            self._follow()
            os.write(self.descriptor, line)
        except OSError:
            # A full or vanished disk must not stop the daemon; there is nowhere left to say it.
            pass

    def _follow(self) -> None:
        """Reopen after a rotation; rotate when the file is too long."""
        ours = os.fstat(self.descriptor)
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            return self._reopen()
        if (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            return self._reopen()
        if there.st_size >= self.max_bytes:
            self._rotate(ours.st_ino)
        return None

    def _reopen(self) -> None:
        fresh = self._open()
        # dup2 keeps the number, which forked workers were told to keep open.
        os.dup2(fresh, self.descriptor, inheritable=False)
        os.close(fresh)

    def _rotate(self, inode: int) -> None:
        # The lock lies on the old file itself: who waited for it finds another inode at the path.
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)
        try:
            if os.stat(self.path).st_ino == inode:
                os.replace(self.path, self.path.with_suffix(".log.1"))
        finally:
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        self._reopen()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.descriptor)
        super().close()


def configure(path: Path | None, *, level: int = logging.INFO, journal: bool = False) -> None:
    """Send the log of this process and its forked workers to `path`, or to stderr with None; in
    the journal's words if that is where stderr goes."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    # A terminal that was closed gives EIO on stderr: not worth a traceback on that same stderr.
    logging.raiseExceptions = False
    target: logging.Handler
    target = logging.StreamHandler(sys.stderr) if path is None else SharedFileHandler(path)
    target.setFormatter(JournalFormatter() if journal else EventFormatter())
    root.addHandler(target)
    root.setLevel(level)
    # Their INFO is about connection pools, and their DEBUG prints signed headers.
    for noisy in ("boto3", "botocore", "s3transfer", "urllib3", "watchdog", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def descriptors() -> set[int]:
    """Descriptors a forked worker must keep open so that it can go on logging."""
    handlers = logging.getLogger().handlers
    return {h.descriptor for h in handlers if isinstance(h, SharedFileHandler)}
