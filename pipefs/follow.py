"""The tree and the bucket: follow the commit log, announce our changes, find what others wrote.

    follow      apply the commits of other machines, in order
    announce    put what the overlay has finished as the next commit
    check_keys  look at single objects (after a lost condition) and commit what is there
    reconcile   list the whole pipe and commit what other tools did

Each returns `Effects`, what this machine's kernel must forget. One thread at a time: the caller
serialises (the daemon has one thread for it). Requests to the store are never made inside a
transaction.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TypeVar

from pipefs import buried, outbox, refs, tree
from pipefs.catalog import Catalog, Snapshot, id_in
from pipefs.commits import MAX_CHANGES, Change, LogReplaced
from pipefs.conflicts import Effects
from pipefs.following import LogFollower
from pipefs.keys import names_of
from pipefs.provenance import file_of, is_own_key, made_elsewhere
from pipefs.records import key_id
from pipefs.types import ObjectVersion

T = TypeVar("T")

_LOOK_BATCH = 1000


class Follower(LogFollower):
    """One pipe's place in its commit log, and what this machine says there."""

    # --- our commits --------------------------------------------------------------------------

    def announce(self) -> tuple[Effects, int]:
        """Put what is finished as the next commit; returns effects and the number of changes.

        Commits of others that came first are applied before, so ours always follows them.
        """
        effects = Effects()
        while True:
            with self._db.view() as v:
                batch = outbox.collect(v, stays_local=self._policy.stays_local)
            if not batch.changes:
                if batch.settled:
                    with self._db.update() as t:
                        outbox.settle(t, batch)
                return effects, 0
            try:
                done = self._log.append(self.position(), batch.changes, time_ns=self._clock())
            except LogReplaced as e:
                self._start_over(e)
                continue
            if done is not None:
                with self._db.update() as t:
                    outbox.land(t, batch, done.commit.number)
                    self._advance(t, done.commit, done.digest)
                return effects, len(batch.changes)
            effects.merge(self.follow())

    # --- the catalogue of snapshots -----------------------------------------------------------

    def amend(self, plan: Callable[[Catalog], list[Change]]) -> tuple[Effects, list[Snapshot]]:
        """Put changes of the catalogue as the next commit; the snapshots they name, as they are
        then.

        Args:
            plan: says what to change, from the catalogue as it is; called again when another
                machine was faster, and may raise to refuse. Nothing is put for an empty plan.
        """
        changes: list[Change] = []

        def planned() -> list[Change]:
            changes[:] = plan(self.catalog())
            return changes

        effects, number = self.commit(planned)
        if not number:
            return effects, []
        catalog = self.catalog()
        refs.save(self._store, catalog, self.position())
        ids = [id_in(c) for c in changes]
        return effects, [catalog.snapshots[i] for i in ids if i in catalog.snapshots]

    # --- what other tools wrote ---------------------------------------------------------------

    def check_keys(self, keys: Iterable[str]) -> Effects:
        """Look at single objects and commit what is there, if it is not what we know. They are
        looked at again where another machine's commit came first: it may tell of them."""
        keys = list(keys)
        return self._commit_external(lambda: self._found_at(keys))

    def _found_at(self, keys: list[str]) -> list[Change]:
        moving = self._is_moving()
        current = self._look(keys)
        changes = self._differences(current)
        if changes and (moving or self._is_moving()):
            # What we saw may have been ours, and have gone another way before we judged it: only
            # what is still there afterwards was somebody else's then.
            again = self._look(changes)
            changes = {k: c for k, c in changes.items() if _same_object(current[k], again[k])}
        return list(changes.values())

    def _is_moving(self) -> bool:
        """Whether objects of ours are under way, or landed and are not announced yet."""
        with self._db.view() as v:
            return any(v.count(table) for table in ("sent", "relocate", "gone", "ready"))

    def _differences(self, current: Mapping[str, ObjectVersion | None]) -> dict[str, Change]:
        with self._db.view() as v:
            return made_elsewhere(v, current, self._clock())

    def _commit_external(self, plan: Callable[[], list[Change]]) -> Effects:
        effects = Effects()
        while changes := plan():
            here = self.position()
            if not (self._writable() and self._log.may_append()):
                found = self._log.untold(here, changes, time_ns=self._clock())
                return self._apply_commit(found, {}, "")
            try:
                done = self._log.append(here, changes, time_ns=self._clock(), external=True)
            except LogReplaced as e:
                self._start_over(e)
                continue
            if done is not None:
                effects.merge(self._apply_commit(done.commit, {}, done.digest))
                return effects
            effects.merge(self.follow())
        return effects

    def reconcile(self) -> Effects:
        """List the whole pipe; commit objects that other tools wrote or deleted.

        Memory: one bit an inode, and a thousand names at a time.
        """
        effects = self.follow()
        with self._db.view() as v:
            seen = bytearray(tree.number(v, "next_ino", 2) // 8 + 1)
            watch = buried.Watch(v)
        markers: list[str] = []
        total = 0
        for batch in _batches(self._store.list(""), _LOOK_BATCH):
            unknown = []
            with self._db.view() as v:
                for found in batch:
                    if is_own_key(found.key, self._store.url):
                        continue
                    total += found.size
                    watch.see(v, found)
                    if found.key.endswith("/"):
                        markers.append(found.key)
                        continue
                    ino, same = file_of(v, found)
                    if ino and ino // 8 < len(seen):
                        seen[ino // 8] |= 1 << (ino % 8)
                    if not same:
                        unknown.append(found.key)
            if unknown:
                effects.merge(self.check_keys(unknown))
        effects.merge(self._external_directories(markers))
        effects.merge(self._vanished(seen))
        with self._db.update() as t:
            watch.forget(t)
            tree.set_fact(t, "relist", b"0")
            tree.set_fact(t, "bytes", b"%d" % total)
            tree.set_fact(t, "listed", b"%d" % self._clock())
        return effects

    def _external_directories(self, markers: list[str]) -> Effects:
        effects = Effects()
        for part in _batches(iter(markers), MAX_CHANGES):
            effects.merge(self._commit_external(partial(self._unknown_dirs, part)))
        return effects

    def _unknown_dirs(self, markers: list[str]) -> list[Change]:
        changes = []
        with self._db.view() as v:
            for key in markers:
                gone = v.has("gone", key_id(key))
                if not gone and tree.base_walk(v, names_of(key)) is None:
                    live = tree.walk(v, names_of(key))
                    if live is None:
                        changes.append(Change(op="mkdir", path=tree.path_text(names_of(key))))
        return changes

    def _vanished(self, seen: bytearray) -> Effects:
        """Base files the listing did not show: look at each, and commit those that are gone."""
        gone: list[str] = []
        with self._db.view() as v:
            for node in tree.files_of_base(v):
                shown = node.ino // 8 < len(seen) and seen[node.ino // 8] >> (node.ino % 8) & 1
                if shown or node.content is None or v.has("gone", key_id(node.content.key)):
                    continue
                gone.append(node.content.key)
        effects = Effects()
        for first in range(0, len(gone), _LOOK_BATCH):
            effects.merge(self.check_keys(gone[first : first + _LOOK_BATCH]))
        return effects


def _same_object(one: ObjectVersion | None, other: ObjectVersion | None) -> bool:
    if one is None or other is None:
        return one is other
    return (one.version_id, one.etag) == (other.version_id, other.etag)


def _batches(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while batch := list(itertools.islice(items, size)):
        yield batch
