"""Group commit: the changes of threads that wait at the same time share one synced transaction.

A commit costs a disk's sync however much is in it. The first thread commits alone; those that
come meanwhile are taken together by the next. A change that fails takes only itself back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from pipefs.errors import StoreUnavailable
from pipefs.lmdbenv import Environment, Transaction

T = TypeVar("T")
_MAX_GROUP = 64


@dataclass(slots=True)
class _Job(Generic[T]):
    change: Callable[[Transaction], T]
    result: T | None = None
    error: BaseException | None = None
    done: bool = False


class GroupCommit:
    """For one environment of one process."""

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._queue_lock = threading.Lock()
        """Protects `_queue`; taken last."""
        self._queue: list[_Job[object]] = []
        self._leader = threading.Lock()
        """Held while a group is committed; taken before `_queue_lock`."""

    def run(self, change: Callable[[Transaction], T]) -> T:
        """The change's result once it is durable; whatever it raised, or the commit did.

        The change runs in any thread, inside the write lock: it must be short and must not call
        `run`.
        """
        job = _Job(change)
        with self._queue_lock:
            self._queue.append(cast("_Job[object]", job))
        try:
            with self._leader:
                while not job.done:
                    with self._queue_lock:
                        group, self._queue = self._queue[:_MAX_GROUP], self._queue[_MAX_GROUP:]
                    self._commit(group)
        except BaseException:
            self._withdraw(cast("_Job[object]", job))
            raise
        if job.error is not None:
            raise job.error
        return cast("T", job.result)

    def _withdraw(self, job: _Job[object]) -> None:
        """After an interrupt: the change is not done later; it may have been done already."""
        with self._queue_lock:
            self._queue = [other for other in self._queue if other is not job]
        with self._leader:
            pass  # a group that has it is through now

    def _commit(self, group: list[_Job[object]]) -> None:
        try:
            with self._env.begin(write=True) as txn:
                for job in group:
                    self._apply(txn, job)
        except Exception as e:
            for job in group:
                job.error = job.error or e
        except BaseException:
            # An interrupt of this thread: the others' changes are taken back with ours.
            for job in group:
                job.error = job.error or StoreUnavailable("the group's writer was interrupted")
            raise
        finally:
            for job in group:
                job.done = True

    def _apply(self, parent: Transaction, job: _Job[object]) -> None:
        try:
            with self._env.begin(write=True, parent=parent) as txn:
                job.result = job.change(txn)
        except Exception as e:
            job.error = e
