"""What is told of something that was done with the past. Pure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from pipefs.catalog import Catalog
from pipefs.past.restoring import Restored
from pipefs.past.taking import Taken, time_text
from pipefs.pastmessages import RestoreDone, SnapshotTaken

NAMED = 1000
"""Paths that an answer names; of more it says how many there are."""


def taken_message(
    taken: Taken, still_open: Sequence[str], uploads: int, seconds: float
) -> SnapshotTaken:
    """A snapshot that was taken. `uploads`: changes that it waited for."""
    body = taken.snapshot.body
    return SnapshotTaken(
        id=taken.snapshot.id,
        tags=taken.snapshot.tags,
        path=body.path,
        files=body.files,
        bytes=body.bytes,
        unchanged=taken.unchanged,
        open=list(still_open[:NAMED]),
        open_count=len(still_open),
        uploads=uploads,
        seconds=seconds,
    )


def restored_message(done: Restored, label: str, before: str) -> RestoreDone:
    """What a restore did. `before`: the snapshot that was made first."""
    return RestoreDone(
        snapshot=label,
        files=done.files[:NAMED],
        files_count=len(done.files),
        removed=done.removed[:NAMED],
        removed_count=len(done.removed),
        left=done.left[:NAMED],
        bytes=done.bytes,
        before=before,
    )


BEFORE_RESTORE = "before-restore-"
"""What the tag begins with of what a restore replaced."""


def before_restore(time_ns: int, catalog: Catalog) -> str:
    """Tag of the snapshot before a restore, which nobody has: `before-restore-20261128T120000Z`."""
    tag = BEFORE_RESTORE + re.sub(r"[-:]|\.\d+", "", time_text(time_ns))
    further = (f"{tag}.{n}" for n in itertools.count(2))
    return next(t for t in itertools.chain([tag], further) if catalog.tagged(t) is None)
