"""A mount that another process made for the daemon, and the descriptor on its way there.

The kernel lets only the process group of systemd onto an automount point while it waits to be
mounted: mount(8) and what it calls belong to it, the daemon does not. So `mount.pipefs` mounts
there and offers the descriptor on a socket of its own, which the daemon's errand asks.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pipefs.errors import PipefsError
from pipefsd.control import listen

WAIT_S: Final = 10.0
"""Both sides are there already when the one asks the other."""


@contextlib.contextmanager
def offered(descriptor: int, path: Path) -> Iterator[str]:
    """Give `descriptor` to whoever of our user asks first at the socket `path` (made here, and
    removed)."""
    server = listen(path)
    thread = threading.Thread(target=_give, args=(server, descriptor), daemon=True)
    thread.start()
    try:
        yield str(path)
    finally:
        # shutdown, not close: it wakes the accept that waits in the other thread.
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        thread.join(WAIT_S)
        server.close()
        path.unlink(missing_ok=True)


def _give(server: socket.socket, descriptor: int) -> None:
    with contextlib.suppress(OSError):
        asker, _ = server.accept()
        with asker:
            socket.send_fds(asker, [b"m"], [descriptor])


def taken(path: str) -> int:
    """The descriptor that is offered at `path`. Raises `PipefsError` when there is none."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as asker:
            asker.settimeout(WAIT_S)
            asker.connect(path)
            _, descriptors, _, _ = socket.recv_fds(asker, 1, 1)
    except OSError as error:
        raise PipefsError(f"no mount was given at {path}: {error}") from error
    if not descriptors:
        raise PipefsError(f"no mount was given at {path}")
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]
