"""Changes to a pipe's present from any process: publish, delete, copy inside the store, folders.

Everything that is asked for in one call is announced by one commit. When a call returns, it is in
the store, and shows in a mount of this machine.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from stat import S_IFDIR, S_IFREG

from pipefs import tree
from pipefs.commits import Change
from pipefs.conditional import TRIES, ConditionalStore
from pipefs.errors import (
    AlreadyExists,
    Conflict,
    NotFound,
    PipefsError,
    PreconditionFailed,
    Refused,
)
from pipefs.objects.metadata import headers_for, is_said, xattrs_for
from pipefs.outbox import wire_xattrs
from pipefs.publishing import Deletion, Publication, Published, Publisher
from pipefs.reaching import PIECE_BYTES, Reach
from pipefs.records import Content
from pipefs.replicated import Item, Now, Place, to_names
from pipefs.sending import Progress
from pipefs.whereto import folder_problem, refuse_tangled

_NOTHING_SAID = {b"user.pipefs-meta": b"{}"}
"""So that what the object's own metadata say does not count."""

Planner = Callable[[Now], list[Change]]

_AT_ONCE = 16
_FOLDER_MODE, _PLAIN_MODE = 0o755, 0o644
_IN_MEMORY_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Copying:
    """A file that is to be copied: of this pipe or another, of now or then."""

    source: Reach
    item: Item
    path: str


class Alterer:
    """Changes one pipe. Thread-safe.

    Args:
        progress: told of each path's bytes as they go.
    """

    def __init__(self, reach: Reach, progress: Progress = lambda _path, _bytes: None) -> None:
        self._reach = reach
        self._replica = reach.replica
        self._publisher = Publisher(reach.replica, progress=progress)

    def publish(
        self, items: Sequence[Publication | Deletion], *, atomic: bool = False
    ) -> list[Published]:
        """As `Publisher.publish`, but the first failure is raised, when the rest is done."""
        done = self._publisher.publish(items, atomic=atomic)
        self._reach.look_again()
        for one in done:
            if one.error is not None:
                raise one.error
        return done

    def make_folders(self, paths: Sequence[str], *, parents: bool, exist_ok: bool) -> None:
        """
        Raises:
            AlreadyExists: something is there (a folder, unless `exist_ok`). NotFound: the folder
            above is not, and `parents` is False. Refused: one above is a file.
        """

        def plan(now: Now) -> list[Change]:
            made: dict[str, Change] = {}
            for path in paths:
                found = now.entry(path)
                if found is not None and not (found.kind == "dir" and exist_ok):
                    raise AlreadyExists(f"{path} is there already")
                fresh = [p for p in _above(path) if not _is_folder(now, p) and p not in made]
                if len(fresh) > 1 and not parents:
                    raise NotFound(f"the folder of {path} is not there")
                made |= {p: _mkdir(p) for p in fresh}
            return list(made.values())

        self._commit(plan)

    def touch(self, path: str) -> None:
        """Make now the time of what is there. NotFound: nothing is."""

        def plan(now: Now) -> list[Change]:
            if now.entry(path) is None:
                raise NotFound(f"{path} is not there")
            at = time.time_ns()
            return [Change(op="attr", path=_text(path), mtime=at, ctime=at)]

        self._commit(plan)

    def describe(self, path: str, meta: Mapping[str, object]) -> None:
        """Say this of what is there, and nothing else. NotFound: nothing is. UsageError: as
        `metadata.headers_for`."""
        said = xattrs_for(headers_for(meta))

        def plan(now: Now) -> list[Change]:
            found = now.entry(path)
            if found is None:
                raise NotFound(f"{path} is not there")
            # What was said before goes; a mark of the format, and others' attributes, stay.
            kept = {os.fsencode(k): v for k, v in found.xattrs.items()}
            kept = {k: v for k, v in kept.items() if not is_said(k)} | (said or _NOTHING_SAID)
            return [Change(op="attr", path=_text(path), xattrs=wire_xattrs(kept) or {})]

        self._commit(plan)

    def copy(self, copies: Sequence[Copying]) -> None:
        """Copy files, inside the store where it has them, with mode, times and attributes. What is
        at a path is replaced.

        Raises:
            NotFound, Conflict: the version of a source is gone, or replaced. Refused: a path is a
            folder's. Store errors. Nothing is announced then.
        """
        here = [c for c in copies if c.source.pipe.url == self._reach.pipe.url]
        others = [c for c in copies if c.source.pipe.url != self._reach.pipe.url]
        if others:
            self._carry_over(others)
        if not here:
            return
        self._publisher.may_write()
        self._publisher.beside.bring_up()
        places = self._places(here)
        with ThreadPoolExecutor(min(_AT_ONCE, len(here))) as pool:
            changes = list(pool.map(self._copy_one, here, places))
        with self._replica.opened(listing=False) as now:
            now.commit(changes)
        self._done()

    # --- inside -------------------------------------------------------------------------------

    def _commit(self, plan: Planner) -> None:
        self._publisher.may_write()
        self._publisher.beside.bring_up()
        with self._replica.opened(listing=False) as now:
            now.commit(lambda: plan(now))
        self._done()

    def _done(self) -> None:
        self._publisher.beside.show()
        self._reach.look_again()

    def _places(self, copies: Sequence[Copying]) -> list[Place]:
        refuse_tangled(one.path for one in copies)
        folders: dict[str, PipefsError | None] = {}
        with self._replica.opened(listing=False) as now:
            for one in copies:
                if why := folder_problem(now, one.path.rpartition("/")[0], folders):
                    raise why
                found = now.entry(one.path)
                if found is not None and not found.is_file:
                    raise Refused(f"{one.path} is a {found.kind}")
            return [now.place(one.path) for one in copies]

    def _copy_one(self, copying: Copying, place: Place) -> Change:
        store = ConditionalStore(self._replica.store, lambda: self._replica.capabilities)
        expected = place.there
        for _ in range(TRIES):
            try:
                done = store.copy(copying.item.content(), place.key, expected)
                break
            except PreconditionFailed:
                expected = _current(store, place.key)
        else:
            raise Conflict(f"{copying.path} is being changed by somebody else; try again")
        item, at = copying.item, time.time_ns()
        return Change(
            op="put",
            path=_text(copying.path),
            key="" if place.key == _text(copying.path) else place.key,
            version=done.version_id,
            etag=done.etag,
            size=item.size,
            checksum=item.checksum,
            replaces=(expected.version_id or expected.etag) if expected else None,
            mode=None if item.mode is None else S_IFREG | item.mode,
            mtime=item.mtime_ns,
            ctime=at,
            xattrs=wire_xattrs({os.fsencode(name): v for name, v in item.xattrs.items()}),
        )

    def _carry_over(self, copies: Sequence[Copying]) -> None:
        """From another store: through this machine."""
        for one in copies:
            with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES) as body:
                for piece in _pieces(one):
                    body.write(piece)
                body.seek(0)
                self.publish(
                    [
                        Publication(
                            one.path,
                            body,
                            metadata=one.item.metadata,
                            mtime_ns=one.item.mtime_ns,
                            mode=_PLAIN_MODE if one.item.mode is None else one.item.mode,
                        )
                    ]
                )


def _pieces(copying: Copying) -> Iterator[bytes]:
    for start in range(0, copying.item.size, PIECE_BYTES):
        yield copying.source.read(copying.item, start, start + PIECE_BYTES)


def _current(store: ConditionalStore, key: str) -> Content | None:
    found = store.current(key)
    return Content(found.key, found.version_id, found.etag, found.size) if found else None


def _above(path: str) -> Iterator[str]:
    """The folders that a path goes through, and itself."""
    return itertools.accumulate(path.split("/"), lambda above, name: f"{above}/{name}")


def _is_folder(now: Now, path: str) -> bool:
    found = now.entry(path)
    if found is not None and found.kind != "dir":
        raise Refused(f"{path} is no folder")
    return found is not None


def _text(path: str) -> str:
    """A path as commits have it."""
    return tree.path_text(to_names(path))


def _mkdir(path: str) -> Change:
    at = time.time_ns()
    return Change(op="mkdir", path=_text(path), mode=S_IFDIR | _FOLDER_MODE, mtime=at, ctime=at)
