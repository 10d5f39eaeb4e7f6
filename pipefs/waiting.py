"""How many changes of an unmounted pipe wait on this machine.

Looks into the pipe's state and changes nothing in it. For commands that must not throw away the
only copy of something; a mounted pipe is asked through its worker instead.
"""

from __future__ import annotations

from pathlib import Path

from pipefs.errors import Busy, PipefsError, Refused
from pipefs.home import Home


def waiting_changes(home: Home, name: str) -> int:
    """Changes that are not in the store yet, 0 when the pipe was never mounted here. Files that
    stay local by `local_only` count: they are nowhere else.

    Raises:
        Busy: a process has the pipe open. Refused: the state cannot be read, so nobody knows.
    """
    folder = home.pipe_state(name)
    if not (folder / "tree" / "data.mdb").exists():
        # Without the tree the outbox is rebuilt from the staging files, so each may count.
        return sum(1 for _ in (folder / "staging").glob("*.data"))
    try:
        return _count(folder / "tree")
    except Busy:
        raise
    except PipefsError as e:
        raise Refused(
            f'the local state of "{name}" cannot be read, so it may hold changes that are '
            f"nowhere else: {e.message}",
            hint=f"It is in {folder}; move it away if nothing in it matters",
        ) from e


def _count(folder: Path) -> int:
    # Here: most commands never look, and LMDB takes its time to load.
    from pipefs import tree
    from pipefs.db import StateDB
    from pipefs.records import decode_staging

    db = StateDB(folder, tree.TABLES)
    try:
        with db.view() as view:
            marks = [decode_staging(raw) for _, raw in view.scan("staging")]
            files = sum(bool(mark.changed or mark.writers) for mark in marks)
            changes = files + view.count("gone") + view.count("relocate")
            # Names and attributes only: the times of a folder go up with the files in it.
            return changes or min(1, view.count("ready") + view.count("sent"))
    finally:
        db.close()
