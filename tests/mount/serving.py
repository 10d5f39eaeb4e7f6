"""Mounts for tests of the transports: a folder of its own each, a session in a thread.

Whatever goes wrong, the connection is aborted and the mount taken away at the end. Where a test
serves from a thread of its own process, no child may be started while a file of the mount is open
here: the child's close would wait for a FLUSH that this process cannot answer while it forks.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipefsd.transports.base import Operations
from pipefsd.transports.kernel import mount as mounting
from pipefsd.transports.kernel.session import KernelSession
from pipefsd.transports.libfuse.session import LibfuseSession
from tests.mount.memfs import MemFs

MIB = 1 << 20
WAIT_S = 20.0


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)


@contextmanager
def folder() -> Iterator[Path]:
    """An empty directory, freed of any mount and removed at the end."""
    path = Path(tempfile.mkdtemp(prefix="pipefs test "))
    try:
        yield path
    finally:
        while mounting.is_mounted(path) is not None:
            mounting.abort(mounting.connection_id(path))
            mounting.unmount(path, lazy=True)
        path.rmdir()


@contextmanager
def bare_mount() -> Iterator[tuple[Path, int]]:
    with folder() as path:
        fd = mounting.mount(path, fsname="a, pipe", allow_other=True)
        try:
            assert mounting.set_readahead(path)
            yield path, fd
        finally:
            if mounting.is_mounted(path) is not None:
                mounting.abort(mounting.connection_id(path))
            os.close(fd)


class Serving:
    """A session in a thread."""

    def __init__(self, session: KernelSession) -> None:
        self.session = session
        self.reason = ""
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.reason = self.session.run()

    def join(self) -> str:
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "run() did not return"
        return self.reason


@contextmanager
def served(fs: Operations, *, pool_threads: int = 8) -> Iterator[Path]:
    with bare_mount() as (path, fd):
        serving = Serving(KernelSession(fd, fs, pool_threads=pool_threads))
        try:
            yield path
        finally:
            _end(fs, path)
            serving.join()


@contextmanager
def served_by_libfuse(fs: Operations) -> Iterator[Path]:
    with folder() as path:
        session = LibfuseSession(fs, fsname="a, pipe", allow_other=True)
        session.mount(str(path))
        reasons: list[str] = []
        thread = threading.Thread(target=lambda: reasons.append(session.run()))
        thread.start()
        try:
            yield path
        finally:
            _end(fs, path)
            thread.join(WAIT_S)
            assert reasons == ["unmounted"]


def _end(fs: Operations, path: Path) -> None:
    """Let go what waits, and end the session if the mount is still there."""
    if isinstance(fs, MemFs):
        fs.gate = None
    if mounting.is_mounted(path) is not None:
        mounting.abort(mounting.connection_id(path))


def in_thread(call: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    results: list[object] = []

    def work() -> None:
        try:
            results.append(call())
        except OSError as e:
            results.append(e)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread, results
