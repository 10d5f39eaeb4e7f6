"""What the service manager says of our own unit: are we being stopped, or started again?

SIGTERM comes for both. Only the manager knows, so it is asked with its own program, `systemctl`,
in an errand with a time limit. Whatever goes wrong counts as "stopped": then the mounts go, which
is always safe.
"""

from __future__ import annotations

import logging
import subprocess
from functools import partial
from typing import Final

from pipefs.errors import PipefsError
from pipefsd.children import Answer, run_errand

log = logging.getLogger(__name__)

ASK_S: Final = 5.0
"""For systemctl to answer; it takes some hundredths of a second."""


async def restarts_with_store(unit: str, *, of_user: bool, descriptors: int) -> bool:
    """Whether `unit` is being restarted and its store holds so many descriptors (or more)."""
    work = partial(_ask, unit, of_user)
    try:
        answer, _ = await run_errand(work, timeout_s=ASK_S, what="ask systemctl")
    except PipefsError as error:
        log.warning("taken for a stop: %s", error)
        return False
    kind, _, stored = answer.text.partition(" ")
    if kind != "restart":
        return False
    if int(stored or 0) < descriptors:
        log.warning("the store holds %s of our %d descriptors", stored or "none", descriptors)
        return False
    return True


def _ask(unit: str, of_user: bool) -> tuple[Answer, int | None]:
    """The type of the job that runs for `unit` and the size of its store, `restart 2`."""
    manager = ["systemctl", *(["--user"] if of_user else [])]
    shown = _run([*manager, "show", "--property=NFileDescriptorStore", "--value", unit])
    jobs = _run([*manager, "list-jobs", "--plain", "--no-legend", "--full"])
    for line in jobs.splitlines():
        words = line.split()
        if len(words) >= 3 and words[1] == unit:
            return Answer(text=f"{words[2]} {shown.strip()}"), None
    return Answer(text=f"none {shown.strip()}"), None


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ASK_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PipefsError(f"{command[0]} could not be asked: {error}") from error
    if done.returncode:
        raise PipefsError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
