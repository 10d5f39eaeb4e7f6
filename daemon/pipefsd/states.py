"""Opening a pipe's durable state: what is damaged is set aside and made anew."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from pipefs import tree
from pipefs.db import StateDB, quarantine
from pipefs.errors import Corrupt

log = logging.getLogger(__name__)

CHECKPOINT_BYTES: Final = 4 << 20
"""Of journal: a checkpoint holds the state's lock, and a small one holds it for milliseconds."""


def open_state(directory: Path, warnings: list[str]) -> StateDB:
    """The state in a folder; where it is damaged a new one, and a warning that says so.

    Raises:
        Busy: another process has it. NewerFormat: a newer pipefs wrote it.
    """
    try:
        return StateDB(directory, tree.TABLES, checkpoint_bytes=CHECKPOINT_BYTES)
    except Corrupt as e:
        aside = quarantine(directory)
        warnings.append(
            f"the local state was damaged and is kept in {aside}; it was rebuilt from the "
            f"bucket and the staging files"
        )
        log.error("%s; set aside as %s", e, aside)
        return StateDB(directory, tree.TABLES, checkpoint_bytes=CHECKPOINT_BYTES)
