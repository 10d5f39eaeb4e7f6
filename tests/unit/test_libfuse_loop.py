"""Threads of the libfuse transport: who reads requests, and when another one does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

import pytest

from pipefsd.transports.libfuse.loop import MAX_THREADS, Loop

WAIT_S = 20.0
Job = Callable[[], None]


class Requests:
    """A loop whose requests are functions; None ends it."""

    def __init__(self) -> None:
        self.queue: SimpleQueue[Job | None] = SimpleQueue()
        self.loop = Loop(self._serve)
        self.threads: list[int] = []

    def _serve(self) -> bool:
        job = self.queue.get()
        if job is None:
            return False
        self.loop.begin()
        self.threads.append(threading.get_ident())
        try:
            job()
        finally:
            self.loop.finish()
        return True

    def run(self, drain_s: float = WAIT_S) -> tuple[threading.Thread, list[object]]:
        results: list[object] = []

        def work() -> None:
            try:
                results.append(self.loop.run(drain_s))
            except ValueError as e:
                results.append(e)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread, results


@pytest.fixture
def requests() -> Requests:
    return Requests()


def test_one_thread_serves_all_that_is_at_hand(requests: Requests) -> None:
    for _ in range(50):
        requests.queue.put(lambda: None)
    requests.queue.put(None)
    thread, results = requests.run()
    thread.join(WAIT_S)
    assert results == [True]
    assert len(requests.threads) == 50
    assert len(set(requests.threads)) == 1


def test_a_request_that_steps_back_or_takes_long_lets_others_be_served(requests: Requests) -> None:
    done = threading.Event()
    alone: list[bool] = []

    def waits() -> None:
        requests.loop.step_back()
        assert done.wait(WAIT_S)

    def hangs() -> None:
        assert done.wait(WAIT_S)

    def ends() -> None:
        alone.append(requests.loop.alone())
        done.set()

    for job in (lambda: alone.append(requests.loop.alone()), waits, waits, hangs, ends):
        requests.queue.put(job)
    thread, results = requests.run()
    assert done.wait(WAIT_S)
    requests.queue.put(None)
    thread.join(WAIT_S)
    assert results == [True]
    assert alone == [True, False]
    assert len(set(requests.threads)) == 4


def test_more_waiting_requests_than_threads_are_served_in_the_end(requests: Requests) -> None:
    free = threading.Semaphore(0)

    def waits() -> None:
        requests.loop.step_back()
        assert free.acquire(timeout=WAIT_S)

    for _ in range(MAX_THREADS + 5):
        requests.queue.put(waits)
    thread, results = requests.run()
    for _ in range(MAX_THREADS + 5):
        free.release()
    requests.queue.put(None)
    thread.join(WAIT_S)
    assert results == [True]
    assert len(requests.threads) == MAX_THREADS + 5
    assert len(set(requests.threads)) <= MAX_THREADS


def test_a_stop_waits_for_requests_under_way_and_leaves_later_ones(requests: Requests) -> None:
    begun, done = threading.Event(), threading.Event()
    served: list[str] = []

    def waits() -> None:
        requests.loop.step_back()
        begun.set()
        assert done.wait(WAIT_S)
        served.append("first")

    requests.queue.put(waits)
    thread, results = requests.run()
    assert begun.wait(WAIT_S)
    requests.loop.stop()
    requests.queue.put(lambda: served.append("second"))
    done.set()
    thread.join(WAIT_S)
    assert results == [False]
    assert served == ["first"]


def test_a_bug_in_serving_ends_the_loop_with_it(requests: Requests) -> None:
    def bug() -> None:
        raise ValueError("a bug")

    requests.queue.put(bug)
    thread, results = requests.run()
    thread.join(WAIT_S)
    (error,) = results
    assert isinstance(error, ValueError)
