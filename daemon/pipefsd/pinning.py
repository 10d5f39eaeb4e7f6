"""The cache of a mounted pipe, as somebody asks for it: filled ahead, and kept.

One thread sees to it that what is pinned is in the cache, soon after a path that is pinned got
another version, here or elsewhere. Waits while the store is away: then the old versions stay.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pipefs import pins
from pipefs.cachemessages import CacheFilled, CacheRequest, PinPath, UnpinPath, Warm
from pipefs.errors import NotFound, PipefsError
from pipefs.pins import Pin
from pipefs.protocol import FlushProgress
from pipefs.registry import Pipe
from pipefs.volume import Volume
from pipefs.warming import File, Progress, Warmed, settle, warm
from pipefsd.control import Progress as Told
from pipefsd.history import History

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""How often is looked whether the tree has changed."""
REST = 10.0
"""A look through all that is pinned is followed by so many times its length of rest."""


class Pinning:
    """Pins of one mounted pipe.

    Args:
        state: folder of the pipe's local state.
        version: something that is another after each change of the live tree.
    """

    def __init__(
        self,
        pipe: Pipe,
        state: Path,
        volume: Volume,
        *,
        version: Callable[[], object],
        history: History,
    ) -> None:
        self._name = pipe.name
        self._state = state
        self._owner = pins.owner_of(pipe.pipe_id)
        self._volume = volume
        self._reader = volume.reader
        self._cache = volume.cache
        self._version = version
        self._history = history
        # One at a time: a command and the thread want the same.
        self._busy = threading.Lock()
        self._stopping = threading.Event()
        self._done: Warmed | None = None
        self._behind = 0
        self._thread = threading.Thread(target=self._run, name="pins", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(5)

    def figures(self) -> tuple[int, int, int]:
        """(files, bytes) pinned, and how many of the files are not here yet."""
        done = self._done
        return (done.files, done.bytes, self._behind) if done is not None else (0, 0, 0)

    # --- the command line ---------------------------------------------------------------------

    def handle(self, request: CacheRequest, progress: Told) -> CacheFilled:
        """Do one request; errors as its docstring says."""
        began = time.monotonic()

        def tell(files: int, size: int) -> None:
            progress(FlushProgress(files, size))

        if isinstance(request, Warm):
            files = self._files_of(self._as_pin(request.path, request.snapshot))
            done = warm(files, self._reader, self._cache, progress=tell)
        elif isinstance(request, PinPath):
            done = self._pin(request, tell)
        else:
            done = self._unpin(request, tell)
        return pins.filled(done, time.monotonic() - began)

    def _pin(self, request: PinPath, tell: Progress) -> Warmed:
        one = self._as_pin(request.path, request.snapshot)
        self._files_of(one)  # It must be there.
        pins.change(self._state, lambda known: pins.with_pin(known, one))
        return self._settle(tell)

    def _unpin(self, request: UnpinPath, tell: Progress) -> Warmed:
        pins.change(self._state, lambda known: pins.without(known, request, self._name))
        return self._settle(tell)

    def _as_pin(self, path: str, snapshot: str | None) -> Pin:
        if snapshot is None:
            return Pin(path)
        return Pin(path, self._history.identity(snapshot), snapshot)

    # --- which versions -----------------------------------------------------------------------

    def _files_of(self, pin: Pin) -> list[File]:
        names = pins.names_of(pin.path)
        try:
            if not pin.snapshot:
                return list(pins.files_of_volume(self._volume, names))
            return list(pins.files_of_view(self._history.view_of(pin.snapshot), names))
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"{self._name} has no file or folder {pin.path!r}") from None

    # --- keeping it so ------------------------------------------------------------------------

    def _settle(self, tell: Progress | None) -> Warmed:
        with self._busy:
            files = pins.all_files(self._state, self._files_of)
            self._behind = len(files)
            done = settle(files, self._reader, self._cache, self._owner, progress=tell)
            self._behind = len(done.failed)
            self._done = done
        return done

    def _run(self) -> None:
        seen: object = None
        while not self._stopping.wait(LOOK_S):
            began = time.monotonic()
            now = (self._version(), _changed(self._state))
            if now == seen:
                continue
            try:
                if pins.load(self._state) or self._cache.pinned_by(self._owner):
                    self._settle(self._go_on)
                seen = now
            except InterruptedError:
                return
            except (PipefsError, OSError) as e:
                log.info("what is pinned is not complete: %s", e)
            self._stopping.wait((time.monotonic() - began) * REST)

    def _go_on(self, files: int, size: int) -> None:
        self._behind = max(1, files)
        if self._stopping.is_set():
            raise InterruptedError


def _changed(state: Path) -> int:
    """When the list of pins was last written, by whomever."""
    try:
        return (state / pins.FILE).stat().st_mtime_ns
    except FileNotFoundError:
        return 0
