"""Which files of a folder changed, as the operating system tells it, through watchdog.

Hints only: an event that is lost costs a delay, never a change, as who waits here also looks at
the whole folder now and then. Its thread ends with the `with` block.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from types import TracebackType

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver
from watchdog.observers.polling import PollingObserver

from pipefs.folder.scan import is_ours, is_part

log = logging.getLogger(__name__)

_KINDS = frozenset({"created", "modified", "moved", "deleted", "closed"})
"""The others are of programs that only read."""
_POLL_S = 5.0


class Noticing:
    """Files of a folder that changed lately, by their paths in it. A context manager.

    Args:
        takes: which paths count.
        wake: called, from a thread, where something changed after a time in which nothing had.
    """

    def __init__(self, folder: str, takes: Callable[[str], bool], wake: Callable[[], None]) -> None:
        self._folder = folder
        self._takes = takes
        self._wake = wake
        self._lock = threading.Lock()  # protects _changed; a leaf
        self._changed: dict[str, tuple[float, float]] = {}
        """Path → first and last time it changed since it was taken; monotonic seconds."""
        self._observer: BaseObserver | None = None

    def __enter__(self) -> Noticing:
        try:
            self._observer = self._start(Observer())
        except OSError as e:
            log.warning(
                "changes in %s cannot be had from the system (%s), and are looked for every %g s. "
                "On Linux raise fs.inotify.max_user_watches and max_user_instances.",
                self._folder,
                e,
                _POLL_S,
            )
            self._observer = self._start(PollingObserver(timeout=_POLL_S))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._observer is not None:
            # It complains of events that come while it stops.
            logging.getLogger("watchdog").setLevel(logging.CRITICAL)
            self._observer.stop()
            self._observer.join(5)

    def _start(self, observer: BaseObserver) -> BaseObserver:
        observer.schedule(_Handler(self._notice), self._folder, recursive=True)
        observer.start()
        return observer

    def _notice(self, place: str) -> None:
        path = os.path.relpath(place, self._folder)
        if path.startswith("..") or is_part(path) or is_ours(path):
            return
        if path == "." or not self._takes(path):
            return
        now = time.monotonic()
        with self._lock:
            calm = not self._changed
            first, _ = self._changed.get(path, (now, now))
            self._changed[path] = first, now
        if calm:
            self._wake()

    # --- asked by who waits -------------------------------------------------------------------

    def busy(self, quiet_s: float, longest_s: float) -> list[str]:
        """Paths that changed within `quiet_s`; not those that change for `longest_s` already."""
        now = time.monotonic()
        with self._lock:
            return sorted(
                path
                for path, (first, last) in self._changed.items()
                if now - last < quiet_s and now - first < longest_s
            )

    def take(self, left: list[str]) -> None:
        """Forget all but these: they are about to be looked at."""
        kept = set(left)
        with self._lock:
            self._changed = {p: t for p, t in self._changed.items() if p in kept}

    def ready_in(self, quiet_s: float, longest_s: float) -> float | None:
        """Seconds until one of them is not `busy` any more; None: nothing changed."""
        with self._lock:
            if not self._changed:
                return None
            at = min(min(f + longest_s, last + quiet_s) for f, last in self._changed.values())
        return max(0.0, at - time.monotonic())


class _Handler(FileSystemEventHandler):
    def __init__(self, notice: Callable[[str], None]) -> None:
        self._notice = notice

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type not in _KINDS or (event.is_directory and event.event_type != "moved"):
            return
        for place in (event.src_path, event.dest_path):
            if place:
                self._notice(os.fsdecode(place))
