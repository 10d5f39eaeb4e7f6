"""A change that the store refuses, and a store that is away: what is told, and who waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipefs.cli.output import saved_text
from pipefs.errors import AccessDenied, PipefsError, ServerFault, StoreError, TimedOut
from pipefs.protocol import MountStatus
from pipefs.stores.local import LocalStore
from pipefs.stores.wrap import FaultStore
from pipefsd import report
from pipefsd.outboxes import Outbox
from pipefsd.syncer import Health, Syncer
from pipefsd.uploader import Uploader
from tests.machines import Machine
from tests.mounted import eventually

ALWAYS = 1 << 30


@dataclass
class Daemon:
    """One pipe's threads, without a mount."""

    machine: Machine
    store: FaultStore
    uploader: Uploader
    syncer: Syncer
    health: Health
    outbox: Outbox

    def flush(self, timeout_s: float | None = None) -> None:
        self.outbox.flush(timeout_s, lambda _left: None)

    def status(self) -> MountStatus:
        return report.status(
            "p",
            self.machine.volume,
            self.machine.volume.outbox(),
            sending=self.uploader.sending(),
            refused=self.uploader.refusals(),
            cache=self.machine.cache.stats(),
            place=self.machine.follower.position(),
            health=self.health,
            capabilities=self.machine.capabilities,
            read_only=False,
            warnings=[],
            checked_out=None,
        )


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    store = FaultStore(LocalStore(tmp_path / "store"))
    machine, health = Machine(tmp_path / "here", store), Health()
    syncer = Syncer(
        machine.volume,
        machine.follower,
        health,
        on_effects=lambda _effects: None,
        on_new_log=lambda: None,
        refresh_interval_s=3600,
        may_write=lambda: True,
    )
    uploader = Uploader(
        machine.transfers,
        machine.relocator,
        machine.volume.files,
        on_conflict=syncer.look_at,
        on_landed=syncer.poke,
        on_trouble=health.transfer,
        may_write=lambda: True,
        requests=lambda: 0,
    )
    outbox = Outbox(
        "p", machine.volume, machine.transfers.policy, uploader, syncer, health, lambda: True
    )
    uploader.start()
    syncer.start()
    try:
        yield Daemon(machine, store, uploader, syncer, health, outbox)
    finally:
        uploader.stop()
        syncer.stop()
        machine.close()


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
