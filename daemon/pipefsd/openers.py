"""How each kind of past view is opened: snapshots, moments, versions, foreign snapshots."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence

from pipefs import manifest
from pipefs.catalog import Catalog
from pipefs.db import StateDB
from pipefs.errors import PipefsError, WouldBlock
from pipefs.foreign.found import Foreign
from pipefs.moments import show_moment
from pipefs.past.fileversions import VersionsView, prefix_of
from pipefs.past.manifests import ManifestStore
from pipefs.past.moment import MomentView
from pipefs.past.nodes import StateNodes
from pipefs.past.opened import view_of
from pipefs.past.views import PastView
from pipefs.stores.base import Store
from pipefsd.views import Views

log = logging.getLogger(__name__)

FOREIGN_S = 30.0
"""How old a look for foreign snapshots may be."""


def register(
    views: Views,
    db: StateDB,
    store: Store,
    manifests: ManifestStore,
    catalog: Callable[[], Catalog],
    foreign: ForeignLooks | None = None,
) -> None:
    """Let a mount's views be opened."""
    table = StateNodes(db)

    def snapshot(identity: str, _number: int, wait: bool) -> PastView:
        found = catalog().snapshots.get(identity)
        if found is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return view_of(manifests, found, wait=wait)

    def moment(identity: str, _number: int, _wait: bool) -> PastView:
        return MomentView(store, table, int(identity), show_moment(int(identity)))

    def versions(identity: str, _number: int, wait: bool) -> PastView:
        names = manifest.names_in(identity)
        if not wait and any(b"%2" in name for name in names):
            raise WouldBlock
        return VersionsView(store, table, prefix_of(store, names))

    def of_others(identity: str, _number: int, wait: bool) -> PastView:
        if foreign is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        if not wait:
            raise WouldBlock
        return foreign.view(identity)

    views.register("snapshot", snapshot)
    views.register("moment", moment)
    views.register("versions", versions)
    views.register("foreign", of_others)


class ForeignLooks:
    """Foreign snapshots, looked for at most every `FOREIGN_S`. Thread-safe."""

    def __init__(self, foreign: Foreign, away: Callable[[], bool]) -> None:
        """`away`: the store does not answer at present."""
        self._foreign = foreign
        self._away = away
        self._lock = threading.Lock()  # held while one thread looks
        self._looked = -FOREIGN_S

    def labels(self, *, wait: bool) -> Sequence[str]:
        """What there is. Without `wait`, WouldBlock where a look is due."""
        if time.monotonic() - self._looked >= FOREIGN_S and not self._away():
            if not wait:
                raise WouldBlock
            with self._lock:
                self._look()
        return [s.label for s in self._foreign.snapshots()]

    def _look(self) -> None:
        if time.monotonic() - self._looked < FOREIGN_S:
            return
        try:
            self._foreign.refresh()
        except PipefsError as e:
            log.warning("foreign snapshots could not be looked for: %s", e)
        self._looked = time.monotonic()

    def view(self, label: str) -> PastView:
        self.labels(wait=True)
        return self._foreign.view(label)
