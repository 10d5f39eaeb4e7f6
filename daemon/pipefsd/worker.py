"""The frame of a worker process: one pipe, one mount, from fork to exit.

Threads: the main thread is the session (it reads the kernel's requests); `link` listens to the
supervisor; `control` and its connections serve the command line; `drain` brings the outbox up
when told. The service brings threads of its own. The supervisor decides when this process ends;
should the supervisor die, the worker brings up what it can in a few seconds and leaves, because
nobody could replace it any more and two daemons must never serve one pipe.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Mapping
from typing import Final, Protocol

import msgspec
from msgspec import Raw

from pipefs.cachemessages import CacheRequest
from pipefs.conflictmessages import Resolve
from pipefs.errors import PipefsError
from pipefs.protocol import (
    Flush,
    GetStatus,
    MountStatus,
    Ping,
    Pong,
    Refresh,
    WorkerRequest,
    error_to_wire,
)
from pipefs.version import VERSION
from pipefsd import backing, handoff, logs, mountpoint
from pipefsd.control import ControlServer, Progress, Result
from pipefsd.handoff import Service, WorkerSpec
from pipefsd.transports.kernel.negotiate import Negotiated, features
from pipefsd.transports.kernel.session import KernelSession

log = logging.getLogger(__name__)

DRAIN_SLICE_S: Final = 0.25
"""A drain waits in slices, so that it can be cancelled."""

ORPHAN_DRAIN_S: Final = 15.0
"""What a worker without a supervisor still spends on its outbox; the rest goes up at the next
mount."""

SESSION_END_S: Final = 1.0
"""For the kernel to end the session after an unmount; after a lazy one, files keep it alive."""

LEAVE_WITHIN_S: Final = 20.0
"""A worker that has decided to end is gone after so long, whatever hangs."""


def worker_main(spec: WorkerSpec, link: socket.socket) -> int:
    """Serve until told to stop; the exit code of the process. Runs in a fresh fork."""
    logs.set_pipe(spec.label)
    _name_process(spec.label)
    return _Worker(spec, link).run()


def _name_process(label: str) -> None:
    """So that `ps` and `top` tell the workers apart (the kernel keeps 15 characters)."""
    try:
        with open("/proc/self/comm", "w") as comm:
            comm.write(f"pipefs {label}"[:15])
    except OSError:
        pass


class Session(Protocol):
    """What serves the mount, whichever transport it is."""

    def run(self) -> str:
        """Serve until unmounted or stopped, and say which."""

    def stop(self) -> None:
        """Make `run` return without unmounting; from any thread."""


class _Worker:
    def __init__(self, spec: WorkerSpec, link: socket.socket) -> None:
        self.spec = spec
        self.link = link
        self.features = list(spec.features)
        self.acked = threading.Event()
        self.stopping = threading.Event()
        """The session is to end, and this process with it."""
        self.ended = threading.Event()
        """The session has ended."""
        self.drains: dict[int, threading.Event] = {}
        """Drains under way, each with the event that cancels it; the link thread adds, and
        nobody removes: they are few in a worker's life."""
        self.session: Session | None = None
        # One packet is one send, so lines of two threads never mix; no lock is needed.

    def send(self, message: handoff.FromWorker) -> None:
        try:
            self.link.send(handoff.encode(message))
        except OSError:
            self._supervisor_died()

    # --- life ---------------------------------------------------------------------------------

    def run(self) -> int:
        try:
            service = self.spec.factory()
            service.start(same_mount=self.spec.takes_over)
            self.session = self._open_session(service)
        except Exception as error:
            if not isinstance(error, PipefsError):
                log.exception("the service failed to start")
            self.send(handoff.StartFailed(error_to_wire(error)))
            # Threads of a service that did start end with the process: nothing was served yet.
            return 1
        control = ControlServer(self.spec.socket_path, lambda r, p: self._handle(service, r, p))
        control.start()
        threading.Thread(target=self._listen, args=(service,), name="link", daemon=True).start()
        self.send(handoff.Ready(list(service.warnings)))
        try:
            self._serve()
        finally:
            threading.Timer(LEAVE_WITHIN_S, os._exit, [1]).start()
            control.stop()
            service.stop()
            log.info("worker ended")
        # Not a return into the interpreter's shutdown, which would join the timer above.
        logging.shutdown()
        os._exit(0)

    def _open_session(self, service: Service) -> Session:
        if self.spec.transport == "libfuse":
            return self._mount_libfuse(service)
        raw = self.spec.negotiated
        record = None
        if raw is not None or service.passthrough:
            record = backing.open_record(self.spec.backing_path, fresh=raw is None)
        return KernelSession(
            self.spec.descriptor,
            service.operations,
            negotiated=None if raw is None else msgspec.json.decode(raw, type=Negotiated),
            on_negotiated=self._on_negotiated,
            acls=self.spec.acl,
            record=record,
            passthrough=record is not None,
        )

    def _mount_libfuse(self, service: Service) -> Session:
        """libfuse mounts by itself. What an earlier worker left on the directory is dead, and
        stays there until now: better an error than files written below the mount."""
        # Imported here: it loads the library, which most machines have no use for.
        from pipefsd.transports.libfuse.session import LibfuseSession

        session = LibfuseSession(
            service.operations,
            fsname=self.spec.label,
            allow_other=self.spec.allow_other,
            read_only=self.spec.read_only,
            flags=self.spec.flags,
        )
        mountpoint.clear_dead_mounts(self.spec.directory)
        self.features = session.mount(self.spec.directory).names
        connection = mountpoint.connection_on(self.spec.directory)
        self.send(handoff.Negotiated(Raw(b"null"), self.features, connection))
        return session

    def _serve(self) -> None:
        """Run the session; then, when the kernel ended it, wait for the supervisor's word."""
        assert self.session is not None
        outcome = self.session.run()
        self.ended.set()
        log.info("session ended: %s", outcome)
        if not self.stopping.is_set():
            self.send(handoff.Gone())
            self.stopping.wait()

    def _on_negotiated(self, negotiated: Negotiated) -> None:
        """The kernel gets its INIT reply only after the supervisor remembers what was agreed:
        otherwise a worker that dies in between leaves a mount nobody can take over."""
        self.features = features(negotiated).names
        self.send(handoff.Negotiated(Raw(msgspec.json.encode(negotiated)), self.features))
        self.acked.wait()

    # --- the supervisor's word ----------------------------------------------------------------

    def _listen(self, service: Service) -> None:
        while True:
            try:
                data = self.link.recv(handoff.MAX_PACKET_BYTES)
            except OSError:
                data = b""
            if not data:
                break
            message = handoff.decode_to_worker(data)
            if isinstance(message, handoff.Ack):
                self.acked.set()
            elif isinstance(message, handoff.Drain):
                cancelled = self.drains.setdefault(message.number, threading.Event())
                threading.Thread(
                    target=self._drain,
                    args=(service, message, cancelled),
                    name="drain",
                    daemon=True,
                ).start()
            elif isinstance(message, handoff.CancelDrain):
                if message.number in self.drains:
                    self.drains[message.number].set()
            elif isinstance(message, handoff.Ask):
                # A thread: figures may wait for the disk, and the supervisor's word must not.
                threading.Thread(
                    target=self._tell, args=(service, message.number), name="tell", daemon=True
                ).start()
            else:
                self._leave(unmounted=message.unmounted)
        self._supervisor_died()
        if not self.stopping.is_set():
            log.error("the supervisor died; bringing up what is possible, then leaving")
            self._drain(service, handoff.Drain(0, ORPHAN_DRAIN_S), threading.Event())
            self._leave(unmounted=False)

    def _supervisor_died(self) -> None:
        # Who waits for an acknowledgement would wait for ever.
        self.acked.set()

    def _leave(self, *, unmounted: bool) -> None:
        for cancelled in list(self.drains.values()):
            cancelled.set()
        self.stopping.set()
        # After an unmount the session ends by itself; stopping one that has ended is an error.
        if self.session is not None and not self.ended.wait(SESSION_END_S if unmounted else 0.0):
            self.session.stop()

    def _drain(self, service: Service, order: handoff.Drain, cancelled: threading.Event) -> None:
        deadline = None if order.timeout_s is None else time.monotonic() + order.timeout_s
        files, size = 0, 0
        try:
            while True:
                left = DRAIN_SLICE_S if deadline is None else deadline - time.monotonic()
                files, size = service.drain(max(0.0, min(DRAIN_SLICE_S, left)))
                if not files or left <= 0 or cancelled.is_set():
                    break
                self.send(handoff.Draining(order.number, files, size, done=False))
        except Exception as error:  # A thread's top: whoever waits must hear of it.
            log.exception("bringing the outbox up failed")
            failed = error_to_wire(error)
            self.send(handoff.Draining(order.number, files, size, done=True, error=failed))
            return
        self.send(handoff.Draining(order.number, files, size, done=True))

    def _tell(self, service: Service, number: int) -> None:
        try:
            status = msgspec.convert(self._status(service), MountStatus)
        except Exception:  # A thread's top: without an answer the status line says so.
            log.exception("no figures for the status line")
            return
        told = handoff.Told(
            number=number,
            files=status.dirty_files,
            bytes=status.dirty_bytes,
            conflicts=status.conflicts,
            cache_bytes=status.cache_bytes,
            offline=status.state == "offline",
        )
        self.send(told)

    # --- the command line ---------------------------------------------------------------------

    def _handle(self, service: Service, request: WorkerRequest, progress: Progress) -> Result:
        if isinstance(request, Ping):
            return Pong(os.getpid(), VERSION)
        if isinstance(request, GetStatus):
            return self._status(service)
        if isinstance(request, Flush):
            return dict(service.flush(request.path, request.timeout_s, lambda p: progress(dict(p))))
        if isinstance(request, Refresh):
            return dict(service.refresh(request.full))
        if isinstance(request, CacheRequest):
            return service.cache(request, progress)
        if isinstance(request, Resolve):
            return service.resolve(request, progress)
        return service.past(request, progress)

    def _status(self, service: Service) -> dict[str, object]:
        status = service.status()
        own: dict[str, object] = {
            "name": self.spec.label,
            "path": self.spec.directory,
            "pid": os.getpid(),
            "transport": self.spec.transport,
            "features": self.features,
        }
        rest = status if isinstance(status, Mapping) else msgspec.structs.asdict(status)
        # The service knows its pipe; the frame knows the mount, and its word counts.
        return {**rest, **own}
