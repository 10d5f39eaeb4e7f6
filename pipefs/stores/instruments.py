"""Stores that measure or disturb the store inside them: latency, a bound, faults, counts.

Counting and the bound serve the daemon (`pipefs top`); latency and faults serve tests and trials.
"""

from __future__ import annotations

import builtins
import fnmatch
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from pipefs.errors import PipefsError, StoreUnavailable
from pipefs.stores.base import FileBody, Store
from pipefs.stores.wrapper import WrapperStore
from pipefs.types import ObjectVersion

T = TypeVar("T")


class LatencyStore(WrapperStore):
    """Waits before each request, as a distant store would."""

    def __init__(self, inner: Store, latency_s: float) -> None:
        super().__init__(inner)
        self.latency_s = latency_s

    def _around(self, operation: str, key: str, call: Callable[[], T]) -> T:
        time.sleep(self.latency_s)
        return call()


class LimitStore(WrapperStore):
    """At most `requests` at the same time; the others wait."""

    def __init__(self, inner: Store, requests: int) -> None:
        super().__init__(inner)
        self._slots = threading.BoundedSemaphore(requests)

    def _around(self, operation: str, key: str, call: Callable[[], T]) -> T:
        with self._slots:
            return call()


@dataclass(slots=True)
class Fault:
    """What is to fail, and how."""

    operation: str
    """A method's name, or "*"."""
    error: Callable[[], Exception]
    key: str = "*"
    """A pattern of `fnmatch`."""
    skip: int = 0
    """Let that many matching requests pass first."""
    times: int = 1
    lands: bool = False
    """The request is carried out and only its answer is lost."""


class FaultStore(WrapperStore):
    """Fails by rule. `fail` may be called at any time, from any thread."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self._lock = threading.Lock()
        """Protects `_faults` and the counts in them; taken alone."""
        self._faults: builtins.list[Fault] = []

    def fail(
        self,
        operation: str,
        error: Callable[[], Exception] | None = None,
        *,
        key: str = "*",
        skip: int = 0,
        times: int = 1,
        lands: bool = False,
    ) -> None:
        """Add a rule; the first rule that matches a request decides.

        Args:
            error: makes the error; a `StoreUnavailable` without it.
        """
        make = error or (lambda: StoreUnavailable(f"injected fault in {operation}"))
        with self._lock:
            self._faults.append(Fault(operation, make, key, skip, times, lands))

    def _around(self, operation: str, key: str, call: Callable[[], T]) -> T:
        fault = self._due(operation, key)
        if fault is None:
            return call()
        if fault.lands:
            call()
        raise fault.error()

    def _due(self, operation: str, key: str) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.operation not in ("*", operation) or fault.times <= 0:
                    continue
                if not fnmatch.fnmatchcase(key, fault.key):
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                    return None
                fault.times -= 1
                return fault
        return None


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one operation since the store was made."""

    requests: int = 0
    errors: int = 0
    bytes_in: int = 0
    """Received from the store (`get`)."""
    bytes_out: int = 0
    """Sent to the store (`put`)."""
    seconds: float = 0.0
    """Spent waiting, over all threads."""


@dataclass(slots=True)
class _Tally:
    counts: dict[str, Counts] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


class CountingStore(WrapperStore):
    """Counts requests, errors, bytes and time for each operation."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self._tally = _Tally()

    def counts(self) -> dict[str, Counts]:
        """A copy: operation → counts."""
        with self._tally.lock:
            return dict(self._tally.counts)

    def _around(self, operation: str, key: str, call: Callable[[], T]) -> T:
        return self._count(operation, call, 0)

    def _count(self, operation: str, call: Callable[[], T], bytes_out: int) -> T:
        started = time.monotonic()
        failed = True
        received = 0
        try:
            result = call()
            failed = False
            received = len(result) if isinstance(result, bytes) else 0
            return result
        except PipefsError:
            bytes_out = 0
            raise
        finally:
            took = time.monotonic() - started
            with self._tally.lock:
                old = self._tally.counts.get(operation, Counts())
                self._tally.counts[operation] = Counts(
                    old.requests + 1,
                    old.errors + failed,
                    old.bytes_in + received,
                    old.bytes_out + bytes_out,
                    old.seconds + took,
                )

    def put(
        self,
        key: str,
        body: bytes | FileBody,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str = "",
        if_match: str = "",
        if_none_match: bool = False,
    ) -> ObjectVersion:
        def call() -> ObjectVersion:
            return self.inner.put(
                key,
                body,
                metadata=metadata,
                content_type=content_type,
                if_match=if_match,
                if_none_match=if_none_match,
            )

        size = body.size if isinstance(body, FileBody) else len(body)
        return self._count("put", call, size)
