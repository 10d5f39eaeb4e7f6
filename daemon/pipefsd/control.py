"""The worker's control socket: `status`, `flush`, `refresh` for the command line.

One thread accepts, one thread serves each connection (a command line holds one for the length of
a command, so they are few, and `MAX_CONNECTIONS` bounds them). Only the user that runs the daemon
and root get an answer. What is written on the socket is defined in `pipefs.protocol`; this room
adds no rules of its own and never touches the mount.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from pipefs.errors import Busy, PipefsError, Refused
from pipefs.protocol import (
    MAX_LINE_BYTES,
    WorkerRequest,
    decode_worker_request,
    encode_error,
    encode_progress,
    encode_result,
)

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 32
"""Commands at the same time for one pipe; a loop of `status` in a hundred shells is a mistake."""

_SEND_TIMEOUT_S: Final = 30.0
"""A client that does not read its answer for so long is gone for us."""

Result = msgspec.Struct | dict[str, object]
Progress = Callable[[Result], None]
Handler = Callable[[WorkerRequest, Progress], Result]
"""Does one request, reports progress as often as it likes, returns the result or raises."""


class ClientGone(Exception):
    """The client hung up: progress has no reader any more, so the work may stop."""


def listen(path: str | os.PathLike[str]) -> socket.socket:
    """A listening Unix socket at `path`, mode 0600; a leftover of a dead process is replaced.

    The caller makes sure that no living process serves `path` (the supervisor's lock does).
    """
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        server.bind(os.fspath(path))
        # The folder is 0700 already, so nobody else gets in between bind and chmod. No umask:
        # it belongs to the whole process, and another thread may be creating a file.
        os.chmod(path, 0o600)
        server.listen(MAX_CONNECTIONS)
    except OSError:
        server.close()
        raise
    return server


def identity(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Which socket is at `path`; no other one has the same while ours is open."""
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def remove(path: str | os.PathLike[str], made: tuple[int, int]) -> None:
    """Remove our socket, and not that of a later daemon: who deletes a home beside a daemon that
    is about to end, and makes it again, has one at the same path."""
    with contextlib.suppress(OSError):
        if identity(path) == made:
            os.unlink(path)


def check_peer(connection: socket.socket) -> None:
    """Raises `Refused` unless the other side runs as our user or as root."""
    size = struct.calcsize("3i")
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _pid, uid, _gid = struct.unpack("3i", raw)
    if uid not in (os.geteuid(), 0):
        raise Refused(f"this daemon belongs to uid {os.geteuid()}, you are uid {uid}")


class ControlServer:
    """Serves `handler` at `path` from `start` to `stop`."""

    def __init__(self, path: str | os.PathLike[str], handler: Handler) -> None:
        self.path = Path(path)
        self._handler = handler
        self._server: socket.socket | None = None
        self._made = (0, 0)
        self._acceptor: threading.Thread | None = None
        # Protects the set below; a leaf: nothing is called with it held.
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()

    def start(self) -> None:
        """Listen; raises OSError when the socket cannot be made."""
        self._server = listen(self.path)
        self._made = identity(self.path)
        self._acceptor = threading.Thread(target=self._accept, name="control", daemon=True)
        self._acceptor.start()

    def stop(self) -> None:
        """Hang up on everybody and remove the socket; requests under way go on unheard."""
        if self._server is None:
            return
        remove(self.path, self._made)
        # shutdown, not close: it wakes the accept that waits in the other thread.
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        if self._acceptor is not None:
            self._acceptor.join(timeout=5.0)
        self._server.close()
        with self._lock:
            open_now = list(self._connections)
        for connection in open_now:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        assert self._server is not None
        while True:
            try:
                connection, _address = self._server.accept()
            except OSError:
                return  # `stop` shut it down.
            connection.settimeout(_SEND_TIMEOUT_S)
            with self._lock:
                crowded = len(self._connections) >= MAX_CONNECTIONS
                if not crowded:
                    self._connections.add(connection)
            if crowded:
                _say(connection, encode_error(Busy("too many commands at once for this pipe")))
                connection.close()
                continue
            threading.Thread(
                target=self._serve, args=(connection,), name="control-client", daemon=True
            ).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            check_peer(connection)
            for line in _lines(connection):
                self._answer(connection, line)
        except Refused as error:
            _say(connection, encode_error(error))
        except (ClientGone, OSError):
            pass  # A user pressed Ctrl-C; nothing to tell to nobody.
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.close()

    def _answer(self, connection: socket.socket, line: bytes) -> None:
        def progress(value: Result) -> None:
            try:
                connection.sendall(encode_progress(value))
            except OSError as error:
                raise ClientGone from error

        try:
            reply = encode_result(self._handler(decode_worker_request(line), progress))
        except ClientGone:
            raise
        except PipefsError as error:
            reply = encode_error(error)
        except Exception as error:  # A thread's top: a bug must reach the client as an answer.
            log.exception("control request failed")
            reply = encode_error(error)
        connection.sendall(reply)


def _lines(connection: socket.socket) -> Iterator[bytes]:
    """Lines until the client hangs up; waiting for the next request has no bound."""
    pending = bytearray()
    while True:
        end = pending.find(b"\n")
        if end >= 0:
            line = bytes(pending[:end])
            del pending[: end + 1]
            yield line
            continue
        if len(pending) > MAX_LINE_BYTES:
            raise Refused(f"a control request is longer than {MAX_LINE_BYTES} bytes")
        connection.settimeout(None)
        data = connection.recv(1 << 16)
        connection.settimeout(_SEND_TIMEOUT_S)
        if not data:
            return
        pending += data


def _say(connection: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(data)
