"""The threads of one mount: one reads requests, the others wait for what takes long.

Whoever reads a request serves it, and reads on, so that requests that are at hand cost no change
of threads. Before an operation waits for the network it hands the reading to another thread
(`step_back`). libfuse may wait as well, for a path that another request holds, and tells nobody:
so reading is taken from a thread that serves one request for long.

Python's own threads, not libfuse's: those lose their Python state between two requests, and are
cancelled at the end. Never serves by itself: that is `serve`'s.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

MAX_THREADS: Final = 32
LONG_S: Final = 0.2


class Loop:
    """`serve` waits for one request and serves it; False when there will be no more."""

    def __init__(self, serve: Callable[[], bool]) -> None:
        self._serve = serve
        # Protects what follows; a leaf.
        self._changed = threading.Condition()
        self._reader: int | None = None
        """Thread that reads requests, or serves the one it has just read."""
        self._began = 0.0
        """When the reader began to serve; 0 while it waits for a request."""
        self._threads = 0
        self._idle = 0
        self._serving = 0
        self._ended = False
        self._failure: Exception | None = None
        self._stopping = False

    def stop(self) -> None:
        """Make `run` return False. From any thread or signal handler, any time."""
        # No lock: `run` looks again by itself, and a handler may interrupt one that holds it.
        self._stopping = True

    def run(self, drain_s: float) -> bool:
        """Read and serve until `serve` says False (then True) or `stop` was called (then False:
        requests under way got `drain_s` to finish, later ones stay unanswered). Raises what
        `serve` raised: a mount that nobody reads must not look as if it were served."""
        with self._changed:
            self._start_thread()
            while not self._ended and not self._stopping:
                self._changed.wait(LONG_S)
                if self._began and time.monotonic() - self._began > LONG_S:
                    self._pass_on()
            if not self._ended:
                self._changed.wait_for(lambda: not self._serving, drain_s)
            if self._failure is not None:
                raise self._failure
            return self._ended

    def begin(self) -> None:
        """`serve` has a request. Does not return when the loop is to stop: whoever asks then is
        not answered by a file system that is about to close."""
        with self._changed:
            if self._stopping:
                self._changed.wait_for(lambda: False)
            self._serving += 1
            self._began = time.monotonic()

    def finish(self) -> None:
        """The request was answered."""
        with self._changed:
            self._serving -= 1
            if self._reader == threading.get_ident():
                self._began = 0.0
            if not self._serving and self._stopping:
                self._changed.notify_all()

    def alone(self) -> bool:
        """No other request is being served; nor will one be before this thread lets others run."""
        return self._serving == 1

    def step_back(self) -> None:
        """The request that this thread serves will take long: let another read meanwhile."""
        with self._changed:
            if self._reader == threading.get_ident():
                self._pass_on()

    def _pass_on(self) -> None:
        self._reader, self._began = None, 0.0
        if self._idle:
            self._changed.notify_all()
        elif self._threads < MAX_THREADS:
            self._start_thread()
        # Otherwise the first that has done its request goes on reading.

    def _start_thread(self) -> None:
        self._threads += 1
        name = f"libfuse-{self._threads}"
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        try:
            while self._become_reader():
                while self._serve():
                    if self._reader != threading.get_ident():
                        break
                else:
                    break
        except Exception as error:  # A thread's top; `run` raises it.
            self._failure = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _become_reader(self) -> bool:
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._reader is None or self._ended)
            self._idle -= 1
            self._reader = threading.get_ident()
            return not self._ended
