"""A TCP proxy in front of the S3 server: slow, cut off and back again, when a test says so."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from tests.seaweed import free_ports

CHUNK = 16 << 10


class SlowProxy:
    """Listens on a loopback port of its own and passes bytes on.

    `bytes_per_s` (0: no limit) bounds what clients send, all connections together. While it is
    `down` connections are refused and those that were open are cut.
    """

    def __init__(self, endpoint_url: str) -> None:
        parts = urlsplit(endpoint_url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._port = free_ports(1)[0]
        self.endpoint_url = f"http://127.0.0.1:{self._port}"
        self.bytes_per_s = 0
        self.sent = 0
        """Bytes that clients have sent."""
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.up()

    def up(self) -> None:
        if self._listener is not None:
            return
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._port))
        listener.listen(128)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def down(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._lock:
            cut, self._open = self._open, set()
        for sock in cut:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
                server = socket.create_connection(self._target)
            except OSError:
                return
            with self._lock:
                self._open |= {client, server}
            for source, sink, slow in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pump, args=(source, sink, slow), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, slow: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                if slow:
                    self.sent += len(data)
                    if self.bytes_per_s:
                        time.sleep(len(data) / self.bytes_per_s)
                sink.sendall(data)
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        with self._lock:
            gone = self._open & {source, sink}
            self._open -= gone
        for sock in gone:
            sock.close()


@contextlib.contextmanager
def slow_proxy(endpoint_url: str) -> Iterator[SlowProxy]:
    proxy = SlowProxy(endpoint_url)
    try:
        yield proxy
    finally:
        proxy.down()
