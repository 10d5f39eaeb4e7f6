"""How `Pipe` finds what a path means, now and at any moment, and its bytes."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipefs.api.base import Base
from pipefs.errors import Conflict, NotFound, Refused, Unsupported, UsageError
from pipefs.folder.scan import look_at
from pipefs.replicated import Item, Now

if TYPE_CHECKING:
    from pipefs.past.views import PastView
    from pipefs.types import ObjectVersion

LIVE = "live"
"""The present, wherever a moment is named."""
MIN_VERSION = 6
"""Characters of a version's id that are enough where only one begins so."""

_LINKS = 40


class Moments(Base):
    """Paths, versions and moments."""

    def _moment(self, snapshot: str | None) -> str | None:
        """What a call reads from: a snapshot's name, or None for the present."""
        chosen = snapshot if snapshot is not None else self.snapshot_name
        if chosen is None or chosen == LIVE:
            return None
        if chosen == self.snapshot_name:
            # The same tree for as long as this object lives, whoever moves the tag.
            self.snapshot_name = chosen = self._reach.meant(chosen)
        return chosen

    def _view(self, moment: str | None) -> PastView:
        """The tree of a snapshot or an @TIME; for `live` and None the present."""
        from pipefs.past.listed import ListedView

        at = self._moment(moment)
        if at is not None:
            return self._reach.view(at)
        with self._present() as now:
            return ListedView(now.entries(), LIVE)

    # --- paths --------------------------------------------------------------------------------

    def _item(self, path: str, version: str | None, snapshot: str | None) -> Item:
        """The file at a path. `NotFound`; `UsageError` for a folder."""
        found = self._find(path, version, snapshot)
        if found is None:
            at = snapshot or self.snapshot_name
            where = f"{self.name}@{at}" if at and at != LIVE else self.name
            raise NotFound(f"there is no {path} in {where}", hint=f"What is: pipefs ls {where}")
        if not found.is_file:
            raise UsageError(f"{path} is no file of {self.name}, but a {found.kind}")
        return found

    def _find(self, path: str, version: str | None, snapshot: str | None) -> Item | None:
        """What is at a path, links followed; None: nothing."""
        if version is not None and snapshot is not None:
            raise UsageError("a version and a snapshot", hint="Name one of them")
        if version is not None:
            return self._version(path, version)
        at = self._moment(snapshot)
        if at is not None:
            try:
                return self._reach.item(at, path.strip("/"))
            except (FileNotFoundError, NotADirectoryError):
                return None
        with self._present() as now:
            found = _followed(now, path)
            key = "" if found is not None else now.place(path).key
        # Another tool may have put it since the pipe was last listed.
        return found if found is not None or self.offline else self._just_put(path, key)

    def _just_put(self, path: str, key: str) -> Item | None:
        try:
            return _item_of_version(path, self._replica.store.head(key))
        except NotFound:
            return None

    def _version(self, path: str, version: str) -> Item:
        """The version of a file whose id begins so. `NotFound`, `Conflict`."""
        with self._present() as now:
            item = now.entry(path)
        if item is not None and version in (item.version_id, item.etag):
            return item
        found = [v for v in self._versions(path) if not v.is_delete_marker]
        fits = [v for v in found if v.version_id == version]
        if not fits and len(version) >= MIN_VERSION:
            fits = [v for v in found if (v.version_id or "").startswith(version)]
        if len(fits) > 1:
            raise Conflict(f"{len(fits)} versions of {path} begin with {version}")
        if not fits:
            raise NotFound(
                f"{path} has no version {version}",
                hint=f"Which it has: pipefs ls --versions {self.name}/{path}",
            )
        return _item_of_version(path, fits[0])

    def _versions(self, path: str) -> list[ObjectVersion]:
        """Every version and delete marker of a file, newest first; [] on stores without any."""
        from pipefs.past.levels import versions_of

        with self._present() as now:
            item = now.entry(path)
            key = item.key if item is not None and item.key else now.place(path).key
        try:
            return versions_of(self._replica.store, key)
        except Unsupported:
            return []

    def _walk(self, prefix: str, snapshot: str | None, *, cached: bool = True) -> Iterator[Item]:
        """What is at and below a path, depth first, without the root."""
        at = self._moment(snapshot)
        if at is not None:
            yield from self._reach.walk(at, prefix.strip("/"))
            return
        with self._present(cached=cached) as now:
            found = list(now.walk(prefix))
        yield from found

    # --- bytes --------------------------------------------------------------------------------

    def _bytes(self, item: Item) -> bytes:
        if self.offline:
            return self._bytes_here(item)
        return self._reach.read(item, 0, item.size)

    def _bytes_here(self, item: Item) -> bytes:
        place = self.dirpath / item.path
        local = look_at(os.fspath(place))
        if local is None or local.size != item.size:
            raise Refused(
                f"{item.path} is not on this machine", hint=f"Online: pipefs pull {self.name}"
            )
        return place.read_bytes()

    def _headers(self, item: Item) -> dict[str, str]:
        """Metadata of a version's object."""
        if self.offline or not item.key:
            return {}
        return dict(self._replica.store.head(item.key, item.version_id).metadata)


def _followed(now: Now, path: str) -> Item | None:
    """What is at a path, and where a link there leads; `NotFound` out of the pipe."""
    found = now.entry(path)
    for _ in range(_LINKS):
        if found is None or found.kind != "symlink":
            return found
        led = posixpath.normpath(posixpath.join(posixpath.dirname(found.path), found.target))
        if led.startswith(("/", "..")):
            raise NotFound(f"{found.path} leads out of the pipe, to {found.target}")
        found = now.entry(led)
    raise NotFound(f"{path} is a link that leads round in a circle")


def _item_of_version(path: str, found: ObjectVersion) -> Item:
    return Item(
        path=path,
        kind="file",
        size=found.size,
        mtime_ns=found.last_modified_ns,
        key=found.key,
        version_id=found.version_id,
        etag=found.etag,
    )
