"""The conflicts of a pipe, whether it is mounted or not: what is open, and ending one.

Beside a mount the worker is asked. Else the state that the last mount left is opened here, as long
as no other process has it; the store is asked only where a content is to go.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from pipefs import tree
from pipefs.beside import Beside
from pipefs.client import WorkerClient, call
from pipefs.conflictmessages import ConflictItem, Keep, Resolve, Resolved
from pipefs.conflicts import open_conflicts
from pipefs.db import StateDB
from pipefs.errors import NotFound
from pipefs.home import Home
from pipefs.registry import Pipe
from pipefs.session import Session
from pipefs.settling import conflict_items, find, forget, is_meant

_ANSWER_S = 120.0
"""Before a content goes, the worker waits a while for it to be in the store."""


class ConflictWork:
    """The conflicts of one pipe on this machine. Each call stands alone."""

    def __init__(self, home: Home, pipe: Pipe) -> None:
        self._home = home
        self._pipe = pipe
        self._beside = Beside(home, pipe.name)

    @property
    def is_mounted(self) -> bool:
        return self._beside.mount() is not None

    def open(self) -> list[ConflictItem]:
        """Those that nobody has settled. Asks no store.

        Raises:
            Busy: another process has the state.
        """
        if (item := self._beside.mount()) is not None:
            return WorkerClient(item.socket).status().conflict_list
        if not self._state.exists():
            return []
        with self._opened() as db, db.view() as v:
            return conflict_items(open_conflicts(v))

    def has(self, path: str) -> bool:
        """Whether a path is that of a file in conflict, or of the copy beside it. Errors as
        `open`."""
        return any(is_meant(path, item.path, item.kept_as) for item in self.open())

    def resolve(
        self, path: str, keep: Keep, *, dry_run: bool = False, force: bool = False
    ) -> Resolved:
        """End the conflict of a file, named by its path or by that of the copy beside it.

        Args:
            keep: `mine`: ours gets the name, and theirs stays in its history; `theirs`: the copy
                goes; `both`: both stay where they are.
            force: also where the content that goes is in no version of the store.
        Raises:
            NotFound: it is in no conflict. Refused: as `Resolve`. Store errors.
        """
        request = Resolve(path, keep, dry_run, force)
        if (item := self._beside.mount()) is not None:
            return call(item.socket, request, Resolved, timeout_s=_ANSWER_S)
        if not self._state.exists():
            raise NotFound(f"{path} is in no conflict here")
        with self._opened() as db:
            with db.view() as v:
                found, left = find(v, path, self._pipe.name)
            if keep == "both":
                if not dry_run:
                    with db.update() as t:
                        forget(t, found)
                return Resolved(found.original, found.ours, keep, left=left)
        with Session(self._home, self._pipe) as session:
            return session.resolve(request)

    @property
    def _state(self) -> Path:
        return self._home.pipe_state(self._pipe.name) / "tree"

    @contextlib.contextmanager
    def _opened(self) -> Iterator[StateDB]:
        db = StateDB(self._state, tree.TABLES)
        try:
            yield db
        finally:
            db.close()
