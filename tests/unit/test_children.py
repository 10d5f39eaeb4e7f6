"""Errands and what a forked child keeps: answers, errors, time limits, descriptors."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from pipefs.errors import NotFound, PipefsError, TimedOut
from pipefsd.children import Answer, Work, fork_child, run_errand


def run(work: Work, timeout_s: float = 20.0) -> tuple[Answer, int | None]:
    return asyncio.run(run_errand(work, timeout_s=timeout_s, what="a test"))


def test_an_errand_brings_its_answer_from_another_process() -> None:
    answer, descriptor = run(lambda: (Answer(path="/x", connection=os.getpid()), None))
    assert (answer.path, descriptor) == ("/x", None)
    assert answer.connection != os.getpid()


def test_an_errand_hands_over_a_descriptor(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    _answer, descriptor = run(lambda: (Answer(), os.open(tmp_path / "file", os.O_RDONLY)))
    assert descriptor is not None
    assert os.read(descriptor, 100) == b"content"
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)


def test_an_error_of_an_errand_is_raised_again_with_its_class_and_hint() -> None:
    def fail() -> tuple[Answer, int | None]:
        raise NotFound("no such place", hint="look elsewhere")

    with pytest.raises(NotFound, match="no such place") as caught:
        run(fail)
    assert caught.value.hint == "look elsewhere"


def test_an_errand_that_dies_is_an_error_and_not_a_hang() -> None:
    def die() -> tuple[Answer, int | None]:
        os._exit(1)

    with pytest.raises(PipefsError, match="helper process"):
        run(die)


def test_an_errand_that_takes_too_long_is_killed_and_collected() -> None:
    def sleep() -> tuple[Answer, int | None]:
        time.sleep(60)
        return Answer(), None

    async def one() -> None:
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        before = set(children.read_text().split())
        with pytest.raises(TimedOut, match=r"a test: no answer within 0\.2 s"):
            await run_errand(sleep, timeout_s=0.2, what="a test")
        async with asyncio.timeout(20):
            while set(children.read_text().split()) - before:
                await asyncio.sleep(0.01)

    asyncio.run(one())


def test_a_child_keeps_only_the_descriptors_it_is_given() -> None:
    kept_read, kept_write = os.pipe()
    other_read, other_write = os.pipe()

    def look() -> int:
        still_open = {int(name) for name in os.listdir("/proc/self/fd")}
        return 0 if kept_write in still_open and not {other_read, kept_read} & still_open else 1

    pid = fork_child(look, keep={kept_write}, ignore_signals=True)
    _pid, status = os.waitpid(pid, 0)
    for descriptor in (kept_read, kept_write, other_read, other_write):
        os.close(descriptor)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_bug_in_a_child_ends_the_child_only() -> None:
    def broken() -> int:
        raise ZeroDivisionError

    pid = fork_child(broken, keep=(), ignore_signals=False)
    _pid, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 70
