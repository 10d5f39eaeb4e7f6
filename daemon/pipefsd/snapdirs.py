"""`.snapshots`: what stands in it, and what each name means.

It is in every live directory and shows the past of that directory's path: tags, short ids of
snapshots without a tag, snapshots that other programs made, and `latest`. Any id of six digits
or more and any `@TIME` can be looked up without being listed. A name that says a moment in
words (`@2h`) is a link to the moment's own name, and `latest` one to the newest snapshot, so a path
that was resolved once goes on meaning the same.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipefs import moments, tree
from pipefs.catalog import FOREIGN, Catalog, Snapshot
from pipefs.errors import Conflict, NotFound, PipefsError, UsageError, WouldBlock
from pipefs.past.views import ROOT, PastView
from pipefs.records import Inode
from pipefs.volume import Volume
from pipefsd.nodes import Kind
from pipefsd.views import Views

NAME = b".snapshots"
LATEST = b"latest"
SOON_S = 1.0
"""A tag may be moved or forgotten, also on another machine."""
MINUTE_S = 60.0


_BEGAN_NS = time.time_ns()
"""Time of the links, which have none of their own."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a name in `.snapshots` stands for."""

    kind: Kind
    index: int
    node: Inode
    """Of the view; of an alias, the link."""
    ttl_s: float
    """How long the kernel may take the name to mean this."""


def fail(code: int) -> OSError:
    return OSError(code, os.strerror(code))


class SnapshotDirs:
    """The `.snapshots` of one mount. Thread-safe.

    Args:
        catalog: the snapshots as they are known now; cheap.
        foreign: labels of snapshots that other programs made; asked with False it must not wait
            (`WouldBlock`).
        clock: now, ns.
    """

    def __init__(
        self,
        volume: Volume,
        views: Views,
        catalog: Callable[[], Catalog],
        foreign: Callable[[bool], Sequence[str]],
        clock: Callable[[], int],
    ) -> None:
        self._volume = volume
        self._views = views
        self._catalog = catalog
        self._foreign = foreign
        self._clock = clock

    def directory(self, ino: int) -> Inode:
        """The live directory. OSError ESTALE, ENOTDIR."""
        found = self._volume.inode(ino)
        if not found.is_dir:
            raise fail(errno.ENOTDIR)
        return found

    def path(self, ino: int) -> list[bytes]:
        """Names of the live directory. OSError ENOENT: it has been removed."""
        with self._volume.db.view() as v:
            names = tree.names_to(v, ino)
        if names is None:
            raise fail(errno.ENOENT)
        return names

    def names(self, ino: int, *, wait: bool) -> list[tuple[bytes, bool]]:
        """(name, is a link) of all that is listed, sorted. A snapshot of which nobody here knows
        whether it has this directory is listed."""
        names = self.path(ino)
        covering = self._catalog().covering(tree.path_text(names))
        found = [s for s in covering if self._may_have(f"snapshot:{s.id}", names)]
        out = [(tag.encode(), False) for s in found for tag in s.tags or [s.short]]
        out += [
            (label.encode(), False)
            for label in self._foreign(wait)
            if self._may_have(f"foreign:{label}", names)
        ]
        if found:
            out.append((LATEST, True))
        return sorted(out)

    def _may_have(self, identity: str, names: list[bytes]) -> bool:
        try:
            _at(self._views.view(self._views.number(identity), wait=False), names, wait=False)
        except WouldBlock:
            return True
        except (OSError, PipefsError):
            return False
        return True

    def lookup(self, ino: int, name: bytes, *, wait: bool) -> Found:
        """What a name means.

        Raises:
            OSError: ENOENT. WouldBlock: the store must be asked, and `wait` is False.
        """
        text, names = os.fsdecode(name), self.path(ino)
        if name == LATEST:
            return self._alias(self._newest(names).label, SOON_S)
        if moments.is_moment(text):
            return self._moment(text, names, wait)
        if text.startswith(FOREIGN) and text in self._foreign(wait):
            return self._in_view(f"foreign:{text}", names, wait)
        found = self._snapshot(text, names)
        return self._in_view(f"snapshot:{found.id}", names, wait)

    def snapshot_at(self, names: list[bytes], name: bytes) -> Snapshot:
        """The snapshot of pipefs that a name means for a directory. OSError ENOENT."""
        return self._newest(names) if name == LATEST else self._snapshot(os.fsdecode(name), names)

    def _newest(self, names: list[bytes]) -> Snapshot:
        covering = self._catalog().covering(tree.path_text(names))
        if not covering:
            raise fail(errno.ENOENT)
        return covering[0]

    def _snapshot(self, text: str, names: list[bytes]) -> Snapshot:
        try:
            found = self._catalog().find(text)
        except (NotFound, Conflict) as e:
            raise fail(errno.ENOENT) from e
        if found not in self._catalog().covering(tree.path_text(names)):
            raise fail(errno.ENOENT)
        return found

    def _moment(self, text: str, names: list[bytes], wait: bool) -> Found:
        try:
            at_ns = moments.parse_moment(text, self._clock())
        except UsageError as e:
            raise fail(errno.ENOENT) from e
        if at_ns > self._clock():
            raise fail(errno.ENOENT)
        own = moments.show_moment(at_ns)
        if text != own:
            return self._alias(own, MINUTE_S)
        return self._in_view(f"moment:{at_ns}", names, wait, ttl_s=MINUTE_S)

    def _alias(self, target: str, ttl_s: float) -> Found:
        index = self._views.number(f"alias:{target}")
        return Found(Kind.ALIAS, index, _link(target), ttl_s)

    def _in_view(
        self, identity: str, names: list[bytes], wait: bool, *, ttl_s: float = SOON_S
    ) -> Found:
        index = self._views.number(identity)
        node = _at(self._views.view(index, wait=wait), names, wait=wait)
        if not node.is_dir:
            raise fail(errno.ENOENT)
        return Found(Kind.VIEW, index, node, ttl_s)


def link_to(views: Views, index: int) -> Inode:
    """The link that an alias is. OSError ESTALE."""
    word, _, target = views.identity(index).partition(":")
    if word != "alias":
        raise fail(errno.ESTALE)
    return _link(target)


def _link(target: str) -> Inode:
    data = target.encode()
    mode = stat.S_IFLNK | 0o777
    return Inode(ino=ROOT, mode=mode, size=len(data), target=data, mtime_ns=_BEGAN_NS)


def _at(view: PastView, names: Sequence[bytes], *, wait: bool) -> Inode:
    """The inode at a path of a view. OSError ENOENT, ENOTDIR."""
    node = view.node(ROOT, wait=wait)
    for name in names:
        node = view.lookup(node.ino, name, wait=wait)
    return node
