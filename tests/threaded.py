"""One pipe's threads without a mount: what a daemon does behind a machine of a test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipefs.protocol import MountStatus
from pipefs.stores.wrap import FaultStore
from pipefsd import report
from pipefsd.outboxes import Outbox
from pipefsd.syncer import Health, Syncer
from pipefsd.uploader import Uploader
from tests.machines import Machine


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
            pinned=(0, 0, 0),
        )


@contextlib.contextmanager
def running(directory: Path, store: FaultStore) -> Iterator[Daemon]:
    machine, health = Machine(directory, store), Health()
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
