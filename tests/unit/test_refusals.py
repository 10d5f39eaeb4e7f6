"""A change that the store refuses, and a store that is away: what is told, and who waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipefs.cli.output import saved_text
from pipefs.errors import AccessDenied, PipefsError, ServerFault, StoreError, TimedOut
from pipefs.stores.local import LocalStore
from pipefs.stores.wrap import FaultStore
from tests.mounted import eventually
from tests.threaded import Daemon, running

ALWAYS = 1 << 30


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path / "here", FaultStore(LocalStore(tmp_path / "store"))) as made:
        yield made


def fault() -> PipefsError:
    return ServerFault("the server failed")


def denied() -> PipefsError:
    return AccessDenied("you may not")


@pytest.mark.parametrize("error", [fault, denied])
def test_a_flush_ends_with_the_reason_when_all_that_is_left_is_refused(
    daemon: Daemon, error: Callable[[], PipefsError]
) -> None:
    daemon.store.fail("put", error, key="bad", times=ALWAYS)
    daemon.machine.write("bad", b"never")
    daemon.machine.write("good", b"up")
    with pytest.raises(StoreError, match=f"1 change of p cannot go up.* bad: {error()}"):
        daemon.flush()
    assert daemon.store.get("good", None, 0, 9) == b"up"
    bad = daemon.machine.ino("bad")
    assert daemon.uploader.refused(bad)
    found = daemon.status()
    assert (found.state, found.dirty_files, found.refused_files) == ("live", 1, 1)
    assert saved_text(found) == f"1 file (5 B) waiting to go up · 1 refused · {error()}"


def test_it_is_forgotten_when_the_change_goes_up_or_away(daemon: Daemon) -> None:
    daemon.store.fail("put", fault, key="bad*", times=ALWAYS)
    for name in ("bad1", "bad2"):
        daemon.machine.write(name, b"never")
    with pytest.raises(StoreError, match="2 changes"):
        daemon.flush()
    daemon.machine.mv("bad1", "good")
    daemon.machine.rm("bad2")
    daemon.flush()
    assert daemon.store.get("good", None, 0, 9) == b"never"
    assert daemon.uploader.refusals() == {}
    eventually(lambda: saved_text(daemon.status()) == "all saved", "nothing is left")


def test_a_copy_that_is_refused_is_one_too(daemon: Daemon) -> None:
    daemon.machine.write("a", b"content")
    daemon.flush()
    daemon.store.fail("copy", fault, times=ALWAYS)
    daemon.machine.mv("a", "b")
    with pytest.raises(StoreError, match="1 change of p cannot go up"):
        daemon.flush()
    assert daemon.uploader.refused(daemon.machine.ino("b"))


def test_a_store_that_answers_nothing_is_away_and_refuses_nothing(daemon: Daemon) -> None:
    daemon.store.fail("*", fault, times=ALWAYS)
    daemon.machine.write("a", b"waits")
    eventually(lambda: daemon.status().state == "offline", "it is noticed")
    with pytest.raises(TimedOut):
        daemon.flush(1.0)
    assert daemon.uploader.refusals() == {}
    assert "OFFLINE since" in saved_text(daemon.status())


def test_nothing_is_called_saved_while_a_flush_would_wait(daemon: Daemon) -> None:
    daemon.flush()
    daemon.store.fail("put", fault, key=".pipefs/*", times=ALWAYS)
    daemon.machine.mkdir("d")
    found = daemon.status()
    assert (found.dirty_files, found.announcing) == (0, 1)
    assert "all saved" not in saved_text(found)
    with pytest.raises(TimedOut):
        daemon.flush(0.5)
