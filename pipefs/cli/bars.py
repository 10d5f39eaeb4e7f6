"""One bar for all the bytes of a transfer: on a terminal; nothing on a pipe, with -q and --json."""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING

from pipefs.cli.app import App
from pipefs.units import show_count, show_size

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_LEAST_FILES, _LEAST_BYTES = 2, 8 << 20
"""Less than both of them is done before anybody has read it."""


class Bar:
    """A bar that is gone when its block ends; a `Progress` of pull and push. Thread-safe.

    Args:
        verb: what is done to the files, such as `pulling`.
    """

    def __init__(self, app: App, verb: str) -> None:
        self._live = not (app.quiet or app.json) and sys.stderr.isatty()
        self._verb = verb
        self._lock = threading.Lock()  # protects what is below
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._files = self._done = 0

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def start(self, files: int, size: int) -> None:
        """What there is to do, in bytes."""
        if not self._live or (files < _LEAST_FILES and size < _LEAST_BYTES):
            return
        with self._lock:
            self._files = files
            self._bar = _made()
            self._task = self._bar.add_task(self._verb, total=size, of=self._text())
            self._bar.start()

    def add(self, count: int) -> None:
        """So many bytes more went over the wire."""
        with self._lock:
            if self._bar is not None and self._task is not None:
                self._bar.advance(self._task, count)

    def done(self, path: str) -> None:
        """A file is done with."""
        with self._lock:
            self._done += 1
            if self._bar is not None and self._task is not None:
                self._bar.update(self._task, of=self._text())

    def _text(self) -> str:
        # Who puts all in one go says when all of it is done.
        done = f"{min(self._done, self._files):,} of " if self._done else ""
        return done + show_count(self._files, "file")


def _made() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.text import Text

    from pipefs.units import show_seconds

    class Sizes(ProgressColumn):
        """`12 MB of 38 MB · 9 MB/s · 3 s`."""

        def render(self, task: Task) -> Text:
            parts = [f"{show_size(int(task.completed))} of {show_size(int(task.total or 0))}"]
            if task.speed:
                parts.append(f"{show_size(int(task.speed))}/s")
            if task.time_remaining:
                parts.append(show_seconds(task.time_remaining))
            return Text(" · ".join(parts))

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[of]}"),
        Sizes(),
        console=Console(stderr=True),
        transient=True,
        expand=True,
    )
