"""What a service manager is told, and what it gave us: the protocol of sd_notify(3).

Messages are datagrams on the socket that NOTIFY_SOCKET names (a path, or "@" and an abstract
name); descriptors travel with them into the manager's store and come back after a restart as
LISTEN_FDS. Without a service manager every message goes nowhere. A message that cannot be sent
is logged and never raises: a daemon must not fail because nobody listens.
"""

from __future__ import annotations

import array
import logging
import os
import socket
import time
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Final

log = logging.getLogger(__name__)

SEND_TIMEOUT_S: Final = 2.0
"""The manager reads at once, or the machine is in trouble that waiting does not cure."""

FIRST_DESCRIPTOR: Final = 3
"""Inherited descriptors begin here: SD_LISTEN_FDS_START."""


class NotifySocket:
    """The way to the service manager; every call returns within `SEND_TIMEOUT_S`."""

    def __init__(self, address: str = "") -> None:
        """`address` as NOTIFY_SOCKET has it; "" when there is no service manager."""
        self._address = f"\0{address[1:]}" if address.startswith("@") else address

    @property
    def is_open(self) -> bool:
        """Whether there is a service manager to talk to."""
        return bool(self._address)

    def send(self, *lines: str, descriptors: Sequence[int] = ()) -> None:
        """One datagram of `KEY=value` lines, with descriptors."""
        if not self._address:
            return
        data = "\n".join(line.replace("\n", " ") for line in lines).encode()
        rights = array.array("i", descriptors)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if descriptors else []
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.settimeout(SEND_TIMEOUT_S)
                channel.sendmsg([data], ancillary, socket.MSG_NOSIGNAL, self._address)
        except OSError as error:
            log.error("the service manager was not told %s: %s", lines[0], error)

    def ready(self) -> None:
        """Started, or done with reloading."""
        self.send("READY=1")

    def status(self, text: str) -> None:
        """The line that `systemctl status` shows."""
        self.send(f"STATUS={text}")

    def reloading(self) -> None:
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self.send("RELOADING=1", f"MONOTONIC_USEC={microseconds}")

    def stopping(self) -> None:
        self.send("STOPPING=1")

    def alive(self) -> None:
        """Feed the watchdog."""
        self.send("WATCHDOG=1")

    def extend(self, seconds: float) -> None:
        """Starting or stopping goes on; ask for so much time from now."""
        self.send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def keep(self, name: str, descriptors: Sequence[int]) -> None:
        """Put copies into the manager's store, all under one name. It must not poll them: a
        descriptor of /dev/fuse is readable whenever a request waits."""
        self.send("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", descriptors=descriptors)

    def drop(self, name: str) -> None:
        """Take everything of that name out of the store."""
        self.send("FDSTOREREMOVE=1", f"FDNAME={name}")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a service manager gave this process. The default is none of it."""

    notify: NotifySocket = field(default_factory=NotifySocket)
    stored: dict[str, list[int]] = field(default_factory=dict)
    """Descriptors that an earlier process put into the store, by name."""
    watchdog_s: float | None = None
    """Unless told within so long that we live, the manager kills us."""
    unit: str = ""
    """Name of our unit, by which its manager can be asked about us; "" when not known."""
    of_user: bool = False
    """The manager is the one of a user, not the machine's."""


def take_surroundings(
    env: MutableMapping[str, str], *, unit: str = "", of_user: bool = False
) -> Surroundings:
    """Read the variables of the protocol and remove them: no child is meant by them."""
    names = ("NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    address, pid, count, labels = (env.pop(name, "") for name in names)
    stored: dict[str, list[int]] = {}
    if pid == str(os.getpid()) and count.isdigit():
        for offset in range(int(count)):
            descriptor = FIRST_DESCRIPTOR + offset
            os.set_inheritable(descriptor, False)
            words = labels.split(":")
            name = words[offset] if offset < len(words) else ""
            stored.setdefault(name, []).append(descriptor)
    period, of_pid = env.pop("WATCHDOG_USEC", ""), env.pop("WATCHDOG_PID", "")
    meant = not of_pid or of_pid == str(os.getpid())
    return Surroundings(
        notify=NotifySocket(address),
        stored=stored,
        watchdog_s=int(period) / 1e6 if period.isdigit() and int(period) and meant else None,
        unit=unit if address else "",
        of_user=of_user,
    )
