"""A pipe reached from any process: its present and its past by paths, its bytes, no mount.

What it takes to reach one is small and travels: URL and settings (`Reach.known`), and what a
snapshot's name means (`Reach.meant`). So a worker of a cluster needs no registry and no daemon,
and means the same snapshot by `latest` as who sent it there. Reading the past takes no lock; the
present is a replica (`pipefs.replica`). Thread-safe; one `Reach` serves a process, and is made anew
after a fork.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from pipefs.catalog import FOREIGN
from pipefs.config import SPECS, Settings
from pipefs.descriptor import who
from pipefs.errors import Conflict, NotFound, Refused
from pipefs.home import Home
from pipefs.manifest import Entry, names_in
from pipefs.moments import is_moment, parse_moment, show_moment
from pipefs.past.browsing import at, names_below
from pipefs.past.entries import inode_of
from pipefs.past.nodes import MemoryNodes
from pipefs.past.opened import Past
from pipefs.past.resolving import view_at
from pipefs.past.views import PastView
from pipefs.registry import Pipe
from pipefs.replica import Item, Now, Replica
from pipefs.replicated import item_of, to_names, to_path
from pipefs.types import Credentials

Found = TypeVar("Found")

FRESH_S = 1.0
"""For so long the present, and what a tag or `latest` means, is not asked for again: `open` looks
at a path several times."""
_MOMENT_S = 60.0
"""For so long `@2h` is two hours before it was first said."""
_VIEWS = 16
"""Pasts kept at hand; each reads its directories once."""
PIECE_BYTES = 8 << 20
_KEPT = 50_000
"""Answers kept at hand."""
_AT_ONCE = 4
_LINKS = 40
_ID = re.compile(r"[0-9a-f]{64}\Z")

_TRAVELS = (
    *("endpoint_url", "region", "aws_profile", "storage_class", "sse", "kms_key"),
    *("requester_pays", "addressing", "checksum", "engine", "local_only"),
)
"""Settings that say how the store is reached."""


class Reach:
    """One pipe. A snapshot is named as everywhere, or by what `meant` gives."""

    def __init__(self, home: Home, pipe: Pipe, *, credentials: Credentials | None = None) -> None:
        """`credentials`: instead of those stored for the pipe."""
        self.pipe = pipe
        self.name = pipe.name
        self.replica = Replica(home, pipe, credentials=credentials)
        self._home = home
        self._lock = threading.RLock()  # protects what follows, and is held while it is asked for
        self._meant: dict[str, tuple[str, float]] = {}
        self._views: dict[str, PastView] = {}
        self._past: Past | None = None
        self._followed = 0.0
        self._kept: dict[tuple[str, str], Any] = {}
        """What was found in the present since it was followed; a new one each time."""

    # --- where things are ---------------------------------------------------------------------

    def known(self) -> dict[str, object]:
        """What another process needs to make the same `Reach`: `url`, `pipe_id` and settings."""
        plain, here = Settings(), self.pipe.settings
        chosen: dict[str, object] = {}
        for key in _TRAVELS:
            value = getattr(here, SPECS[key].field)
            if value != getattr(plain, SPECS[key].field):
                chosen[key] = list(value) if isinstance(value, tuple) else value
        return {"url": self.pipe.url, "pipe_id": self.pipe.pipe_id, **chosen}

    def meant(self, snapshot: str) -> str:
        """What a snapshot's name stands for, for good: its whole id, or `@` and a moment.

        Raises:
            NotFound, Conflict, UsageError: as `pipefs.past.resolving.open_view`.
        """
        if _ID.match(snapshot):
            return snapshot
        with self._lock:
            pin, until = self._meant.get(snapshot, ("", 0.0))
            if time.monotonic() >= until:
                pin = self._look_up(snapshot)
                fresh_s = _MOMENT_S if is_moment(snapshot) else FRESH_S
                self._meant[snapshot] = pin, time.monotonic() + fresh_s
            return pin

    def _look_up(self, snapshot: str) -> str:
        if snapshot.startswith(FOREIGN):
            return snapshot
        if is_moment(snapshot):
            return show_moment(parse_moment(snapshot, time.time_ns()))
        past = self._opened_past()
        past.refresh()
        return past.catalog.find(snapshot).id

    def _opened_past(self) -> Past:
        if self._past is None:
            self._past = Past(
                self.replica.store,
                author=who(),
                writer=uuid.uuid4().hex,
                folder=self._home.cache / "manifests",
            )
            self._past.refresh()
        return self._past

    def view(self, snapshot: str) -> PastView:
        """The tree of a snapshot or moment. Errors as `meant`; store errors."""
        pin = self.meant(snapshot)
        with self._lock:
            found = self._views.pop(pin, None) or self._open_view(pin)
            self._views[pin] = found
            while len(self._views) > _VIEWS:
                self._views.pop(next(iter(self._views)))
            return found

    def _open_view(self, pin: str) -> PastView:
        if pin.startswith(FOREIGN):
            from pipefs.buckets import open_place
            from pipefs.foreign.found import Foreign

            with open_place(self.pipe) as place:
                foreign = Foreign(place)
                foreign.refresh()
                return foreign.view(pin)
        if is_moment(pin):
            return view_at(self.replica.store, pin, MemoryNodes())
        past = self._opened_past()
        try:
            return past.view(pin)
        except NotFound:
            past.refresh()
            return past.view(pin)

    @contextlib.contextmanager
    def present(self) -> Iterator[Now]:
        """The present, at most `FRESH_S` old. Nothing of a file moves meanwhile."""
        fresh = self._is_fresh()
        with self.replica.opened(offline=fresh) as now:
            if not fresh:
                self._kept, self._followed = {}, time.monotonic()
            yield now

    def look_again(self) -> None:
        """Ask anew for everything: it was changed just now."""
        with self._lock:
            self._followed = 0.0
            self._meant.clear()

    def _is_fresh(self) -> bool:
        return time.monotonic() - self._followed < FRESH_S

    def _found(self, what: str, path: str, look: Callable[[Now], Found]) -> Found:
        """What `look` finds in the present, which it is not asked twice while that is fresh."""
        if self._is_fresh():
            # One look: another thread may follow, and begin a new one, at any time.
            known: Found | None = self._kept.get((what, path))
            if known is not None:
                return known
        with self.present() as now:
            kept = self._kept
            if len(kept) > _KEPT:
                kept = self._kept = {}
            found = kept[what, path] = look(now)
            return found

    # --- what is there ------------------------------------------------------------------------

    def item(self, snapshot: str | None, path: str) -> Item:
        """What is at a path, or where the symbolic links there lead.

        Raises:
            OSError: ENOENT, ENOTDIR, ELOOP, EXDEV (out of the pipe). Store errors.
        """
        names = to_names(path)
        if snapshot is not None:
            return item_of(at(self.view(snapshot), names, follow=True), path)
        found = self._found("item", path, lambda now: _looked_up(now, path))
        if isinstance(found, int):
            raise _fail(found, path)
        return found

    def children(self, snapshot: str | None, path: str) -> list[Item]:
        """What is in a directory, by the bytes of its names. Errors as `item`; ENOTDIR."""
        above = f"{path}/" if path else ""
        if snapshot is not None:
            view = self.view(snapshot)
            node = at(view, to_names(path), follow=True)
            if not node.is_dir:
                raise _fail(errno.ENOTDIR, path)
            return [
                item_of(n, above + os.fsdecode(name)) for name, n in names_below(view, node.ino)
            ]
        found = self._found("children", path, lambda now: _children(now, path))
        if isinstance(found, int):
            raise _fail(found, path)
        return found

    def walk(self, snapshot: str | None, path: str) -> list[Item]:
        """All that is at and below a path, without the root; links are not followed."""
        names = to_names(path)
        if snapshot is None:
            return self._found("walk", path, lambda now: list(now.walk(path)))
        view = self.view(snapshot)
        found: dict[str, Item] = {}
        for entry in view.entries(names):
            below = names_in(entry.path)
            if below[: len(names)] == names:
                where = to_path(below)
                found[where] = _entry_item(view, entry, where)
        return list(found.values())

    # --- bytes --------------------------------------------------------------------------------

    def read(self, item: Item, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of a file, fewer only where it ends; large ranges in pieces, several
        at once. Of exactly the version that was found.

        Raises:
            Refused: no file. Conflict: replaced, on a store without versions. Store errors.
        """
        if not item.is_file:
            raise Refused(f"{item.path} is no file")
        stop = min(stop, item.size)
        if start >= stop:
            return b""
        starts = range(start, stop, PIECE_BYTES)
        if len(starts) == 1:
            return self._piece(item, start, stop)
        with ThreadPoolExecutor(min(_AT_ONCE, len(starts))) as pool:
            found = pool.map(lambda s: self._piece(item, s, min(s + PIECE_BYTES, stop)), starts)
            return b"".join(found)

    def _piece(self, item: Item, start: int, stop: int) -> bytes:
        data = self.replica.store.get(item.key, item.version_id, start, stop - start)
        if len(data) != stop - start:
            raise Conflict(f"{item.path} was replaced in the store meanwhile; try again")
        return data


# --- paths ----------------------------------------------------------------------------------------


def _fail(code: int, path: str) -> OSError:
    return OSError(code, os.strerror(code), path)


def _followed(now: Now, path: str) -> Item:
    """What is at a path of the present, symbolic links followed."""
    todo, done = path.split("/")[::-1] if path else [], ""
    found = now.entry(path)
    if found is not None and found.kind != "symlink":
        return found
    found, links = now.entry(""), 0
    while todo:
        name = todo.pop()
        if name == "..":
            if not done:
                raise _fail(errno.EXDEV, path)
            done = done.rpartition("/")[0]
            continue
        here = f"{done}/{name}" if done else name
        found = now.entry(here) if name not in ("", ".") else now.entry(done)
        if found is None:
            above = now.entry(done)
            is_there = above is None or above.kind == "dir"
            raise _fail(errno.ENOENT if is_there else errno.ENOTDIR, path)
        if found.kind != "symlink":
            done = found.path
            continue
        links += 1
        if links > _LINKS:
            raise _fail(errno.ELOOP, path)
        if found.target.startswith("/"):
            raise _fail(errno.EXDEV, path)
        todo += found.target.split("/")[::-1]
    found = now.entry(done)
    if found is None:
        raise _fail(errno.ENOENT, path)
    return found


def _looked_up(now: Now, path: str) -> Item | int:
    """What is at a path, links followed; an errno where there is nothing."""
    try:
        return _of_path(_followed(now, path), path)
    except OSError as e:
        return e.errno or errno.EIO


def _children(now: Now, path: str) -> list[Item] | int:
    found = _looked_up(now, path)
    if isinstance(found, int):
        return found
    if found.kind != "dir":
        return errno.ENOTDIR
    true = _followed(now, path).path
    start, above = len(true) + 1 if true else 0, f"{path}/" if path else ""
    return [_of_path(i, above + i.path[start:]) for i in now.children(true)]


def _of_path(item: Item, path: str) -> Item:
    """The item under the name that it was asked for by."""
    return item if item.path == path else replace(item, path=path)


def _entry_item(view: PastView, entry: Entry, path: str) -> Item:
    if entry.kind == "link":
        return item_of(at(view, names_in(entry.path)), path)
    return item_of(inode_of(entry, 0), path)
