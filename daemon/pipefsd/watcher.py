"""Watching the staging folder: a close after writing is what starts an upload.

With kernel passthrough the daemon sees no writes, so the dirty signal is inotify's, through
watchdog. Events are hints: the uploader's audit of the durable marks finds what a lost event or an
overflowing queue missed. Where inotify cannot be had (its limits are used up) a polling observer
takes its place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from watchdog.events import FileClosedEvent, FileModifiedEvent, FileSystemEvent
from watchdog.events import FileSystemEventHandler as Handler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver
from watchdog.observers.polling import PollingObserver

from pipefs.staging import StagingArea

log = logging.getLogger(__name__)


class _Closes(Handler):
    def __init__(self, on_close: Callable[[int], None]) -> None:
        self._on_close = on_close

    def on_any_event(self, event: FileSystemEvent) -> None:
        # `modified` comes for write(2) only and many times; `closed` also after writes by mmap.
        ino = StagingArea.ino_of_event(str(event.src_path))
        if ino is not None:
            self._on_close(ino)


class Watcher:
    """Calls `on_close` with the inode of a staging file that was closed after writing."""

    def __init__(self, directory: Path, on_close: Callable[[int], None]) -> None:
        self._directory = directory
        self._handler = _Closes(on_close)
        self._observer: BaseObserver | None = None

    def start(self) -> None:
        try:
            self._observer = self._watch(Observer(), [FileClosedEvent])
        except OSError as e:
            log.warning(
                "inotify is not available (%s); polling %s instead. "
                "Raise fs.inotify.max_user_instances and max_user_watches.",
                e,
                self._directory,
            )
            self._observer = self._watch(PollingObserver(timeout=1.0), [FileModifiedEvent])

    def _watch(self, observer: BaseObserver, kinds: list[type[FileSystemEvent]]) -> BaseObserver:
        observer.schedule(self._handler, str(self._directory), event_filter=kinds)
        observer.start()
        return observer

    def stop(self) -> None:
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(5)
            self._observer = None
