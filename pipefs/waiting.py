"""How many changes of an unmounted pipe wait on this machine.

Looks into the pipe's state and changes nothing in it. For commands that must not throw away the
only copy of something; a mounted pipe is asked through its worker instead.
"""

from __future__ import annotations

from pipefs.errors import Busy, PipefsError, Refused
from pipefs.home import Home


def waiting_changes(home: Home, name: str) -> int:
    """Changes that are not in the store yet, 0 when the pipe was never mounted here.

    Raises:
        Busy: a process has the pipe open. Refused: the state cannot be read, so nobody knows.
    """
    folder = home.pipe_state(name)
    databases = sorted(path.parent for path in folder.glob("**/data.mdb"))
    try:
        return sum(_count(str(database)) for database in databases)
    except Busy:
        raise
    except PipefsError as e:
        raise Refused(
            f'the local state of "{name}" cannot be read, so it may hold changes that are '
            f"nowhere else: {e.message}",
            hint=f"It is in {folder}; move it away if nothing in it matters",
        ) from e


def _count(folder: str) -> int:
    # Here: most commands never look, and LMDB takes its time to load.
    from pathlib import Path

    from pipefs import tree
    from pipefs.db import StateDB

    db = StateDB(Path(folder), tree.TABLES)
    try:
        with db.view() as view:
            files = sum(1 for _ in tree.overlay_inos(view))
            return files + sum(1 for _ in view.scan("gone"))
    finally:
        db.close()
