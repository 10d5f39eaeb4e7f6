"""What is done with the past of a pipe whose state is at hand: taken, restored, compared.

Used by the daemon and, where none runs, by whoever holds the lock on the state. The caller keeps
the base still (see `Taker`) and hands the effects on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipefs import manifest, touched
from pipefs.catalog import Catalog
from pipefs.conflicts import Effects
from pipefs.errors import Corrupt, NotFound
from pipefs.follow import Follower
from pipefs.manifest import Root
from pipefs.past.manifests import ManifestStore
from pipefs.past.present import Present
from pipefs.past.restoring import Restored, Restorer
from pipefs.past.taking import Taken, Taker, Wanted
from pipefs.past.views import PastView
from pipefs.records import Inode
from pipefs.volume import Volume


class Keeper:
    """One pipe's past, beside its present. One call at a time."""

    def __init__(
        self, volume: Volume, follower: Follower, manifests: ManifestStore, *, author: str
    ) -> None:
        self.volume = volume
        self.follower = follower
        self.manifests = manifests
        self._taker = Taker(volume.db, volume.store, follower, manifests, author=author)

    def catalog(self) -> Catalog:
        """The snapshots as of our place in the log."""
        return self.follower.catalog()

    def take(self, wanted: Wanted) -> Taken:
        """See `Taker.take`; what is finished here is announced before."""
        effects, _ = self.follower.announce()
        taken = self._taker.take(wanted)
        effects.merge(taken.effects)
        return Taken(taken.snapshot, taken.unchanged, effects)

    def restore(
        self,
        view: PastView,
        paths: Sequence[Sequence[bytes]],
        *,
        keep_extra: bool = False,
        dry_run: bool = False,
        orphaned: Callable[[Inode], None],
        stays_local: Callable[[list[bytes]], bool] = lambda _names: False,
        progress: Callable[[int], None] = lambda _n: None,
        tell: Callable[[Effects], None] = lambda _effects: None,
    ) -> Restored:
        """Make each path what it was in a view; see `Restorer`.

        Args:
            tell: gets what changed, also when it ends half-way.
        """
        restorer = Restorer(
            self.volume,
            view,
            keep_extra=keep_extra,
            dry_run=dry_run,
            orphaned=orphaned,
            stays_local=stays_local,
            progress=progress,
        )
        try:
            for names in paths:
                restorer.restore(names)
        finally:
            tell(restorer.done.effects)
        return restorer.done

    def present(self) -> tuple[Root, dict[str, bytes]]:
        """The live tree as a manifest, and those of its parts that are not in the bucket."""
        with self.volume.db.view() as v:
            known = touched.baseline(v)
        old: Root | None = None
        if known:
            try:
                old = self.manifests.root(known)
            except (NotFound, Corrupt):
                old = None  # somebody deleted it: all is walked
        present = Present()
        root = present.take(self.volume, old)
        kept = {p.part for p in root.parts}
        return root, {name: data for name, data in present.parts.items() if name in kept}

    def open_files(self, names: Sequence[bytes]) -> list[str]:
        """Paths at and below a directory that somebody has open for writing, in the catalogue's
        form."""
        top, out = manifest.path_of(names), []
        for ino in self.volume.files.inos():
            local = self.volume.files.get(ino)
            mark = local.mark if local is not None else None
            if mark is None or not mark.writers:
                continue
            path = self.volume.path_of(ino)
            if path and (not top or path == top or path.startswith(top + "/")):
                out.append(path)
        return sorted(out)
