"""What a publication does after its commit, and for one that was killed before it could.

Objects follow to their own keys, deletions that waited for the commit are done, and what nobody
announced is announced or put away. Every step looks at the tree first and can be done again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from pipefs import tree
from pipefs.commits import MAX_CHANGES, Change
from pipefs.conditional import ConditionalStore
from pipefs.errors import NotFound, PipefsError, PreconditionFailed
from pipefs.keys import names_of
from pipefs.outbox import wire_xattrs
from pipefs.records import Content
from pipefs.replica import Replica
from pipefs.replicated import Item, Now, to_names, to_path
from pipefs.types import ObjectVersion
from pipefs.unfinished import Note, Notes, left_behind

log = logging.getLogger(__name__)

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class Follow:
    """A path whose object is to be copied to the key that is the path's own."""

    path: str
    there: Content | None
    """What is at that key and may be replaced; None: nothing, or what the tree knows there."""


class Finisher:
    """Finishes publications into one pipe. On the caller's thread, with a pool in each call."""

    def __init__(
        self, replica: Replica, store: ConditionalStore, notes: Notes, workers: int
    ) -> None:
        self._replica = replica
        self._store = store
        self._notes = notes
        self._workers = workers

    def _each(self, call: Callable[[A], B], items: Sequence[A]) -> list[B]:
        if len(items) < 2:
            return [call(item) for item in items]
        with ThreadPoolExecutor(min(self._workers, len(items))) as pool:
            return list(pool.map(call, items))

    # --- after a commit -----------------------------------------------------------------------

    def expect(self, follows: Sequence[Follow], gone: Sequence[Content]) -> None:
        """Note what is to be done once the commit is there."""
        notes = [Note(natural=f.path, there=f.there) for f in follows]
        self._notes.add(*notes, *(Note(gone=content) for content in gone))

    def follow(self, follows: Sequence[Follow]) -> None:
        """Copy objects to their paths' keys, tell it, and delete the old ones. What somebody else
        put at such a key stays: then the file keeps its old key."""
        if not follows:
            return
        moves: list[tuple[Item, Follow, str]] = []
        with self._replica.opened(listing=False) as now:
            for follow in follows:
                item, place = now.entry(follow.path), now.place(follow.path)
                if item is None or not item.is_file or item.link_of or item.key == place.key:
                    continue
                if place.taken and not self._replica.capabilities.versioning:
                    continue  # else the bytes of another file would be overwritten
                moves.append((item, Follow(item.path, follow.there or place.there), place.key))
        copied = self._each(self._copy, moves)
        told = [(item, new) for (item, _, _), new in zip(moves, copied, strict=True) if new]
        for first in range(0, len(told), MAX_CHANGES):
            self._tell(told[first : first + MAX_CHANGES])

    def _tell(self, moved: Sequence[tuple[Item, Content]]) -> None:
        kept: list[tuple[Item, Content]] = []

        def planned() -> list[Change]:
            kept[:] = [(item, new) for item, new in moved if _is_still(now, item, new)]
            return [_followed(item, new) for item, new in kept]

        with self._replica.opened(listing=False) as now:
            now.commit(planned)
        paths = {item.path for item, _ in kept}
        # Changed or renamed meanwhile: then the copy is nobody's.
        self.remove([item.content() if item.path in paths else new for item, new in moved])

    def _copy(self, move: tuple[Item, Follow, str]) -> Content | None:
        item, follow, key = move
        try:
            done = self._store.copy(item.content(), key, follow.there)
        except (PreconditionFailed, NotFound) as e:
            found = self._store.current(key)
            if found is None or found.etag != item.etag or found.size != item.size:
                log.warning("%s keeps its bytes at %s: %s", item.path, item.key, e)
                return None
            done = found  # copied before, by a call that was killed
        return Content(key, done.version_id, done.etag, item.size, item.checksum)

    def remove(self, contents: Sequence[Content]) -> None:
        """Delete objects that no path has any more, each while it is what it was."""

        def one(content: Content) -> None:
            try:
                self._store.delete(content)
            except PreconditionFailed:
                log.info("%s: changed by somebody else, not deleted", content.key)

        self._each(one, contents)

    def drop(self, parked: Sequence[str]) -> None:
        """Put away what waited for a commit that will not come."""
        try:
            self.remove([Content(key, None, "", 0) for key in parked])
        except PipefsError as e:
            log.warning("what waited for a commit stays in the store for now: %s", e)

    # --- of others ----------------------------------------------------------------------------

    def finish_others(self) -> None:
        """Finish the publications of this machine that were killed."""
        for path, notes in left_behind(self._replica.folder / "unfinished"):
            if notes:
                self._announce([n.landed for n in notes if n.landed is not None])
                self.follow([Follow(n.natural, n.there) for n in notes if n.natural])
                self._put_away(notes)
            path.unlink(missing_ok=True)

    def _announce(self, changes: Sequence[Change]) -> None:
        with self._replica.opened(listing=False) as now:
            owed = [c for c in changes if not _is_known(now, c)]
            keys = [_key_of(now, c) for c in owed]
        there = self._each(self._store.current, keys)
        owed = [c for c, found in zip(owed, there, strict=True) if _is_as_said(c, found)]
        with self._replica.opened(listing=False) as now:
            for first in range(0, len(owed), MAX_CHANGES):
                part = owed[first : first + MAX_CHANGES]
                now.commit([c for c in part if not _is_known(now, c)])

    def _put_away(self, notes: Sequence[Note]) -> None:
        with self._replica.opened(listing=False) as now:
            parked = [n.parked for n in notes if n.parked and not now.has_key(n.parked)]
            gone = [n.gone for n in notes if n.gone is not None and not _has(now, n.gone)]
        self.drop(parked)
        self.remove(gone)


def _is_still(now: Now, item: Item, new: Content) -> bool:
    """Whether a path has the bytes that were copied; a listing may have found the copy already,
    without what only the log knows of it."""
    found = now.entry(item.path)
    if found is None or not found.is_file:
        return False
    return found.version == item.version or found.content().same_version(new)


def _followed(item: Item, new: Content) -> Change:
    """The `put` that tells where a file's bytes are now; attributes are said again with it."""
    path = tree.path_text(to_names(item.path))
    xattrs = {k.encode("utf-8", "surrogateescape"): v for k, v in item.xattrs.items()}
    return Change(
        op="put",
        path=path,
        key="" if new.key == path else new.key,
        version=new.version_id,
        etag=new.etag,
        size=new.size,
        checksum=new.checksum,
        replaces=item.version,
        same=True,
        mode=None if item.mode is None else 0o100000 | item.mode,
        uid=item.uid,
        gid=item.gid,
        mtime=item.mtime_ns,
        ctime=item.ctime_ns,
        xattrs=wire_xattrs(xattrs),
    )


def _path_of(change: Change) -> str:
    return to_path(names_of(change.path))


def _is_known(now: Now, change: Change) -> bool:
    """Whether the tree shows what a change says already."""
    found = now.entry(_path_of(change))
    if change.op != "put":
        return found is None
    return found is not None and found.version == (change.version or change.etag)


def _key_of(now: Now, change: Change) -> str:
    found = now.entry(_path_of(change))
    if change.op == "put" or found is None:
        return change.key or change.path
    return found.key or f"{change.path}/"


def _is_as_said(change: Change, found: ObjectVersion | None) -> bool:
    """Whether the store still has what a change was about to tell."""
    if change.op != "put":
        return found is None
    return found is not None and (found.version_id, found.etag) == (change.version, change.etag)


def _has(now: Now, content: Content) -> bool:
    """Whether a path of the tree needs an object."""
    found = now.entry(to_path(names_of(content.key)))
    if found is None:
        return now.has_key(content.key)
    return found.kind == "dir" or found.content().same_version(content)
