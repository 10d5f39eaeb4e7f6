"""Processes that die: what they leave in the kernel is all that a later opening finds."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable

DIED = 9


def run_and_die(work: Callable[[], object]) -> None:
    """Run `work` in a forked process that then ends at once: nothing is closed or flushed."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = DIED
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert died(pid), "the work failed; its traceback is above"


def died(pid: int) -> bool:
    """Wait for the process; whether its work was done when it ended."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == DIED
