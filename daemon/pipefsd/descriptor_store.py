"""Mounts in the service manager's descriptor store, for the supervisor after this one.

As long as some process holds the /dev/fuse descriptor, the kernel keeps the mount: with a copy in
the store it outlives a restart, a crash and a kill -9 of all of us. Next to it, under the same
name, lies a memory file with what else the next supervisor must know (`Record`): unlike a file on
disk it can neither be stale nor be lost without the descriptor. A mount that nobody can go on with
(libfuse) has the record alone, and is mounted again.

Never touches a path inside a mount. Knows nothing of workers.
"""

from __future__ import annotations

import logging
import os
import select
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from pipefs.mountinfo import PIPEFS_TYPE, read_mounts
from pipefs.protocol import Mount
from pipefsd import logs
from pipefsd.handoff import Negotiated
from pipefsd.mountpoint import MountPlan
from pipefsd.notify_socket import NotifySocket

log = logging.getLogger(__name__)

_FUSE_DEVICE: Final = os.makedev(10, 229)


class Record(msgspec.Struct, frozen=True):
    """A mount, for whoever goes on with it. New fields need a default: another version reads it."""

    request: Mount
    """What was asked for, resolved anew by the next supervisor: changed settings count then."""
    plan: MountPlan
    directory: str
    """Links resolved, as the kernel lists it."""
    connection: int
    automatic: bool
    """Mounted because of its automount setting."""
    negotiated: Negotiated | None = None
    """None: to be mounted again."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A mount that came back from the store: one that is still there, or one to mount again."""

    descriptor: int
    """-1 of one to mount again."""
    record: Record


class DescriptorStore:
    """What this supervisor has in the store, by the mounts' labels."""

    def __init__(self, notify: NotifySocket) -> None:
        self._notify = notify
        self._counts: dict[str, int] = {}

    @property
    def descriptors(self) -> int:
        """How many there are in the store."""
        return sum(self._counts.values())

    def keep(self, descriptor: int, record: Record) -> None:
        """Put a mount into the store (`descriptor` -1: its record alone); whatever there was under
        that label goes first."""
        if not self._notify.is_open:
            return
        label = record.plan.label
        self.drop(label)
        memory = os.memfd_create(f"pipefs {label}", os.MFD_CLOEXEC)
        try:
            os.write(memory, msgspec.json.encode(record))
            both = (descriptor, memory) if descriptor >= 0 else (memory,)
            self._notify.keep(label, both)
        finally:
            os.close(memory)
        self._counts[label] = len(both)

    def drop(self, label: str) -> None:
        """Let go of a mount that is over."""
        if self._counts.pop(label, 0):
            self._notify.drop(label)

    def take(self, stored: Mapping[str, list[int]]) -> list[Stored]:
        """The mounts among the descriptors that came back. Those still there are still in the
        store; everything else is closed and dropped."""
        found = []
        for label, descriptors in stored.items():
            self._counts[label] = len(descriptors)
            one = _read(descriptors)
            again = one is not None and one.descriptor < 0
            there = one is not None and not again and _is_mounted(one)
            kept = one.descriptor if one is not None and there else -1
            for descriptor in descriptors:
                if descriptor != kept:
                    os.close(descriptor)
            if one is not None and (again or there):
                found.append(one)
            else:
                why = "no mount" if one is None else "not mounted any more"
                logs.event(log, logging.WARNING, "stored descriptor dropped", pipe=label, why=why)
            if not there:
                self.drop(label)
        return found


def _read(descriptors: list[int]) -> Stored | None:
    device, record = -1, None
    for descriptor in descriptors:
        info = os.fstat(descriptor)
        if stat.S_ISCHR(info.st_mode) and info.st_rdev == _FUSE_DEVICE:
            device = descriptor
        elif stat.S_ISREG(info.st_mode):
            try:
                record = msgspec.json.decode(os.pread(descriptor, info.st_size, 0), type=Record)
            except msgspec.MsgspecError as error:
                log.error("the record of a stored mount is not understood: %s", error)
    if record is None or (device < 0) != (record.negotiated is None):
        return None
    return Stored(device, record)


def _is_mounted(one: Stored) -> bool:
    """The connection lives and lies where it was."""
    poll = select.poll()
    poll.register(one.descriptor, 0)
    if poll.poll(0):
        return False  # The kernel reports an error: this connection is over.
    record = one.record
    return any(
        entry.path == record.directory
        and entry.fstype == PIPEFS_TYPE
        and entry.connection == record.connection
        for entry in read_mounts()
    )
