"""What supervisor and worker say to each other, and what a worker is started with.

A worker is forked, so its `WorkerSpec` needs no encoding; everything later travels as one JSON
packet a message over a socket pair. End of file on it means that the other side died. Messages
are small and few; nothing of the data path ever goes this way.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec
from msgspec import Raw, Struct

from pipefs.cachemessages import CacheRequest
from pipefs.conflictmessages import Resolve
from pipefs.pastmessages import PastRequest
from pipefs.protocol import MountStatus, WireError
from pipefsd.transports.base import Operations

MAX_PACKET_BYTES: Final = 128 << 10
"""Below the default send buffer of a socket (208 KiB), so that a packet always fits."""


# --- worker to supervisor ---------------------------------------------------------------------


class Negotiated(Struct, tag="negotiated", frozen=True):
    """Sent before INIT is answered; the worker waits for `Ack`, so a later one can go on."""

    negotiated: Raw
    features: list[str]
    connection: int = 0
    """Of a mount that the worker made itself and takes along when it ends (libfuse); nothing of
    what it negotiated is of use to a later one then."""


class Ready(Struct, tag="ready", frozen=True):
    """The service started and the kernel is about to be answered."""

    warnings: list[str]


class StartFailed(Struct, tag="failed", frozen=True):
    """The service cannot start; the worker ends after this."""

    error: WireError


class Draining(Struct, tag="draining", frozen=True):
    """What is still in the outbox; `done` when the drain ended, for whatever reason."""

    number: int
    """Of the `Drain` this answers: one that was cancelled may still be answered."""
    files: int
    bytes: int
    done: bool
    error: WireError | None = None
    """Why it ended early; the figures are then the last ones known."""


class Told(Struct, tag="told", frozen=True):
    """The answer to `Ask`: the figures of the service manager's status line."""

    number: int
    files: int = 0
    """Changed here and not yet in the store."""
    bytes: int = 0
    conflicts: int = 0
    cache_bytes: int = 0
    offline: bool = False


class Gone(Struct, tag="gone", frozen=True):
    """The kernel says that the mount no longer exists; the worker waits for `Drain` or `Stop`."""


# --- supervisor to worker ---------------------------------------------------------------------


class Ack(Struct, tag="ack", frozen=True):
    """`Negotiated` is remembered."""


class Drain(Struct, tag="drain", frozen=True):
    """Bring the outbox up within `timeout_s` (None: no bound); answered by `Draining`."""

    number: int
    timeout_s: float | None


class CancelDrain(Struct, tag="cancel", frozen=True):
    """Stop waiting for the outbox and go on serving."""

    number: int


class Ask(Struct, tag="ask", frozen=True):
    """How are you; answered by `Told`."""

    number: int


class Stop(Struct, tag="stop", frozen=True):
    """End now: stop the service within its bound and exit 0."""

    unmounted: bool
    """The kernel is about to end the session by itself."""


FromWorker = Negotiated | Ready | StartFailed | Draining | Told | Gone
ToWorker = Ack | Drain | CancelDrain | Ask | Stop

# A union is no `type` to mypy, hence the annotations.
_from_worker: msgspec.json.Decoder[FromWorker] = msgspec.json.Decoder(FromWorker)
_to_worker: msgspec.json.Decoder[ToWorker] = msgspec.json.Decoder(ToWorker)


def encode(message: FromWorker | ToWorker) -> bytes:
    return msgspec.json.encode(message)


def decode_from_worker(data: bytes) -> FromWorker:
    return _from_worker.decode(data)


def decode_to_worker(data: bytes) -> ToWorker:
    return _to_worker.decode(data)


def link() -> tuple[socket.socket, socket.socket]:
    """Both ends of a fresh link: packets keep their borders, both ends close on exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


# --- what a worker runs -----------------------------------------------------------------------


class Service(Protocol):
    """One pipe, served: what `pipefsd.service.PipeService` is to the worker's frame."""

    @property
    def operations(self) -> Operations: ...

    @property
    def warnings(self) -> list[str]:
        """For the user who mounts, one line each."""

    @property
    def passthrough(self) -> bool:
        """Whether the kernel may be asked to read and write staging files itself."""

    def start(self, *, same_mount: bool = False) -> None:
        """Open the state and start the threads. With `same_mount` the kernel still has the nodes
        and handles of the worker before this one. Raises `PipefsError` when it cannot."""

    def status(self) -> MountStatus | Mapping[str, object]: ...

    def flush(
        self,
        path: str | None,
        timeout_s: float | None,
        progress: Callable[[Mapping[str, object]], None],
    ) -> Mapping[str, object]: ...

    def refresh(self, full: bool) -> Mapping[str, object]: ...

    def past(
        self, request: PastRequest, progress: Callable[[Struct | dict[str, object]], None]
    ) -> Struct | dict[str, object]:
        """Answer a request about snapshots."""

    def cache(
        self, request: CacheRequest, progress: Callable[[Struct | dict[str, object]], None]
    ) -> Struct | dict[str, object]:
        """Answer a request about the cache."""

    def resolve(
        self, request: Resolve, progress: Callable[[Struct | dict[str, object]], None]
    ) -> Struct | dict[str, object]:
        """End a conflict."""

    def drain(self, timeout_s: float) -> tuple[int, int]:
        """Upload for at most `timeout_s`; returns files and bytes that remain."""

    def stop(self) -> None:
        """End the threads and close the state, within a bound of seconds."""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """All that a worker needs to serve one mount; the same again after a restart."""

    label: str
    """Name of the pipe, with `@SNAP` when a snapshot is mounted."""
    directory: str
    descriptor: int
    """The kernel's end of the mount, `/dev/fuse`."""
    socket_path: str
    factory: Callable[[], Service]
    """Builds the service of this pipe; called in the worker."""
    transport: str = "kernel"
    """kernel: serve `descriptor`. libfuse: mount on `directory`, then serve that."""
    allow_other: bool = False
    read_only: bool = False
    flags: tuple[str, ...] = ("nosuid", "nodev")
    """These three are for libfuse; a mount that is there has them already."""
    acl: bool = False
    """Let the kernel enforce access lists, where the mount is new."""
    negotiated: bytes | None = None
    """What INIT agreed on with an earlier worker, as JSON."""
    features: tuple[str, ...] = ()

    @property
    def takes_over(self) -> bool:
        """Whether the kernel has nodes and handles of an earlier worker."""
        return self.negotiated is not None

    @property
    def backing_path(self) -> str:
        """Where workers keep the kernel's passthrough ids for the next one."""
        return f"{self.socket_path}.backing"
