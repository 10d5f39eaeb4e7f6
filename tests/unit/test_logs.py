"""The log: one line an event, one file for several processes, rotation that loses nothing."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipefsd import logs
from pipefsd.logs import EventFormatter, SharedFileHandler


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level, raising = list(root.handlers), root.level, logging.raiseExceptions
    for handler in handlers:
        root.removeHandler(handler)
    yield root
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    logging.raiseExceptions = raising


def record(message: str) -> logging.LogRecord:
    made = logging.LogRecord("x", logging.INFO, __file__, 1, message, (), None)
    made.created, made.msecs = 0.0, 5.0
    return made


def handler_at(path: Path, **more: int) -> SharedFileHandler:
    handler = SharedFileHandler(path, **more)
    handler.setFormatter(EventFormatter())
    return handler


def test_an_event_is_time_level_pipe_message_and_fields() -> None:
    made = record("worker died")
    made.pipe, made.fields = "sales", {"pid": 7, "how": "signal SIGKILL", "empty": ""}
    assert EventFormatter().format(made) == (
        "1970-01-01T00:00:00.005Z INFO sales worker died pid=7 how='signal SIGKILL' empty=''"
    )


def test_a_message_with_newlines_stays_one_line() -> None:
    assert EventFormatter().format(record("a\nb")).count("\n") == 0


def test_events_reach_the_file_with_the_pipe_of_the_process(
    root_logger: logging.Logger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log" / "pipefsd.log"
    logs.configure(path)
    monkeypatch.setattr(logs, "_pipe", "-")
    logs.set_pipe("sales")
    logs.event(logging.getLogger("a"), logging.INFO, "mounted", path="/x")
    logs.event(logging.getLogger("a"), logging.INFO, "other", pipe="prices")
    logging.getLogger("a").debug("not shown")
    first, second = path.read_text().splitlines()
    assert re.fullmatch(r"\S+Z INFO sales mounted path=/x", first)
    assert second.endswith("INFO prices other")
    assert len(logs.descriptors()) == 1
    assert path.stat().st_mode & 0o777 == 0o600


def test_several_writers_rotate_one_file_and_lose_no_line(tmp_path: Path) -> None:
    path = tmp_path / "pipefsd.log"
    writers = [handler_at(path, max_bytes=4000) for _ in range(3)]
    numbers = [writer.descriptor for writer in writers]
    for number in range(120):
        writers[number % 3].emit(record(f"line {number}"))
    text = path.with_suffix(".log.1").read_text() + path.read_text()
    assert re.findall(r"line (\d+)", text) == [str(n) for n in range(120)]
    assert path.stat().st_size < 4100
    assert [writer.descriptor for writer in writers] == numbers
    for writer in writers:
        writer.close()


def test_a_log_that_was_moved_away_is_followed_by_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "pipefsd.log"
    handler = handler_at(path)
    handler.emit(record("before"))
    os.rename(path, tmp_path / "old")
    handler.emit(record("after"))
    assert "after" in path.read_text() and "before" not in path.read_text()
    handler.close()


def test_a_log_that_cannot_be_written_disturbs_nobody(tmp_path: Path) -> None:
    handler = handler_at(tmp_path / "folder" / "pipefsd.log")
    handler.path = Path("/proc/no/such/place/pipefsd.log")
    handler.emit(record("lost"))
    handler.close()
