"""The past of a pipe straight from its bucket: no mount, no local state, no lock.

    past = Past(store, author="anna@lab7", writer="…", folder=None)
    view = past.view("v1")            # PastView of a snapshot
    past.amend(lambda catalog: [Change(op="tag", path="", tag="best", snapshot=catalog…)])

`refresh` reads the catalogue (`.pipefs/refs.json`) and what the log has since; `amend` puts the
next commit of the log, as any machine does, so mounts hear of it within a second. Not thread-safe.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pipefs import catalog as cat
from pipefs import refs
from pipefs.catalog import Catalog, Snapshot
from pipefs.commits import Change, CommitLog, LogReplaced, Position, Read
from pipefs.errors import Busy
from pipefs.manifest import names_in
from pipefs.past.manifests import ManifestStore, ManifestView
from pipefs.stores.base import Store

_TRIES = 20
"""Races for the next number of the log that one `amend` may lose."""


class Past:
    """One pipe's snapshots.

    Args:
        folder: where manifests are kept on this machine (`ManifestStore`).
        conditional: whether the store has conditional puts.
    """

    def __init__(
        self,
        store: Store,
        *,
        author: str,
        writer: str,
        folder: Path | None = None,
        conditional: Callable[[], bool] = lambda: True,
    ) -> None:
        self.store = store
        self.manifests = ManifestStore(store, folder)
        self.catalog = Catalog()
        self.position = Position()
        self._log = CommitLog(store, author=author, writer=writer, conditional=conditional)

    def refresh(self) -> Catalog:
        """The catalogue as it is now: one GET, and one for each commit since it was written."""
        if self.position.number == 0:
            self._start()
        while found := self._next():
            self._apply(found)
        return self.catalog

    def _start(self) -> None:
        self.catalog, self.position = refs.load(self.store)

    def _next(self) -> Read | None:
        try:
            return self._log.after(self.position)
        except LogReplaced:
            # Somebody deleted `.pipefs/commits/`: the snapshots' own objects are what is left.
            self.catalog = refs.from_objects(self.store, self.catalog)
            self.position = Position()
            return self._log.after(self.position)

    def _apply(self, found: Read) -> None:
        commit = found.commit
        for change in commit.changes:
            if change.op in cat.OPS:
                self.catalog.apply(change, commit.number, commit.time)
        self.position = Position(commit.epoch, commit.number, found.digest)

    def view(self, name: str, *, forgotten: bool = False) -> ManifestView:
        """The tree of a snapshot, by tag, id or `latest` (call `refresh` first).

        Raises:
            NotFound, Conflict: as `Catalog.find`.
        """
        return view_of(self.manifests, self.catalog.find(name, forgotten=forgotten))

    def amend(self, plan: Callable[[Catalog], Sequence[Change]]) -> list[Snapshot]:
        """Put catalogue changes into the log; the snapshots that changed.

        Args:
            plan: says what to change, from the catalogue as it is; called again when another
                machine was faster, and may raise to refuse. Nothing is put for an empty plan.
        """
        for _ in range(_TRIES):
            self.refresh()
            changes = list(plan(self.catalog))
            if not changes:
                return []
            done = self._log.append(self.position, changes, time_ns=time.time_ns())
            if done is None:
                continue
            before = [self.catalog.apply(c, done.commit.number, done.commit.time) for c in changes]
            self.position = Position(done.commit.epoch, done.commit.number, done.digest)
            refs.save(self.store, self.catalog, self.position)
            return [s for s in before if s is not None]
        raise Busy("other machines write this pipe so fast that no change gets in; try again")


def view_of(manifests: ManifestStore, found: Snapshot, *, wait: bool = True) -> ManifestView:
    """The tree of a snapshot. Errors as `ManifestStore.root`."""
    root = manifests.root(found.body.root, wait=wait)
    return ManifestView(manifests, root, found.label, names_in(found.body.path))
