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
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from pipefs import outbox, rebase, refs, shelf, tree
from pipefs.catalog import Catalog, Snapshot, id_in
from pipefs.commits import MAX_CHANGES, Change, Commit, CommitLog, LogReplaced, Position, Read
from pipefs.conflicts import Effects
from pipefs.db import StateDB, Txn
from pipefs.errors import Busy, Corrupt, NotFound
from pipefs.inodes import InoSource
from pipefs.keys import names_of
from pipefs.policy import EVERYTHING, Policy
from pipefs.provenance import file_of, is_own_key, made_elsewhere
from pipefs.records import key_id
from pipefs.stores.base import Store
from pipefs.types import ObjectVersion

log = logging.getLogger(__name__)

HEADS_AT_ONCE = 16
_LOOK_BATCH = 1000
_TRIES = 50
"""Races for the next number of the log that one change of the catalogue may lose."""


class Follower:
    """One pipe's place in its commit log.

    Args:
        author: `user@host`. writable: whether this machine may put commits; without that, what
        a listing finds is applied here only.
    """

    def __init__(
        self,
        db: StateDB,
        store: Store,
        inos: InoSource,
        *,
        author: str,
        writable: Callable[[], bool],
        conditional: Callable[[], bool] = lambda: True,
        policy: Policy = EVERYTHING,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._db = db
        self._policy = policy
        self._store = store
        self._inos = inos
        self._writable = writable
        self._clock = clock
        self._host = author.rpartition("@")[2]
        with db.view() as v:
            writer = tree.fact(v, "writer").decode()
        if not writer:  # else nothing is written: a copy that is only looked at stays as it is
            writer = uuid.uuid4().hex
            with db.update() as t:
                tree.set_fact(t, "writer", writer.encode())
        self._writer = writer
        self._log = CommitLog(store, author=author, writer=writer, conditional=conditional)

    def position(self) -> Position:
        with self._db.view() as v:
            return Position(
                tree.fact(v, "epoch").decode(),
                tree.number(v, "commit"),
                tree.fact(v, "digest").decode(),
            )

    # --- commits of others --------------------------------------------------------------------

    def follow(self, limit: int = 1 << 30) -> Effects:
        """Apply the commits that are there, at most `limit`.

        A replaced log (somebody deleted `.pipefs/`) is survived: all that was committed becomes
        ours to announce again, and the caller should `reconcile` (`must_relist` says so).
        """
        effects = Effects()
        restarted = False
        for _ in range(limit):
            try:
                found = self._log.after(self.position())
            except LogReplaced as e:
                if restarted:
                    raise Corrupt(
                        f"the commit log in the bucket is broken: {e}",
                        hint="delete .pipefs/commits/ in the bucket: a new log is started, and "
                        "no file is lost",
                    ) from e
                self._start_over(e)
                restarted = True
                continue
            if found is None:
                break
            effects.merge(self._apply(found))
        return effects

    def check_log(self) -> bool:
        """Whether our place in the log is still there; if not, start over. One HEAD."""
        try:
            self._log.require(self.position())
        except LogReplaced as e:
            self._start_over(e)
            return False
        return True

    def _start_over(self, why: LogReplaced) -> None:
        log.warning("the commit log was deleted or replaced (%s): starting a new epoch", why)
        kept = refs.from_objects(self._store, self.catalog())
        with self._db.update() as t:
            shelf.adopt(t, kept, 0)
            rebase.clear_base(t)
            tree.set_fact(t, "epoch", b"")
            tree.set_fact(t, "commit", b"0")
            tree.set_fact(t, "digest", b"")
            tree.set_fact(t, "relist", b"1")

    def must_relist(self) -> bool:
        """Whether a listing is due before the tree can be trusted (new state, replaced log)."""
        with self._db.view() as v:
            return tree.fact(v, "relist", b"1") == b"1"

    def _apply(self, found: Read) -> Effects:
        with self._db.view() as v:
            doubtful = rebase.unknown_ancestry(v, found.commit)
        current = self._look(doubtful) if doubtful else {}
        return self._apply_commit(found.commit, current, found.digest)

    def _apply_commit(
        self, commit: Commit, current: dict[str, ObjectVersion | None], digest: str
    ) -> Effects:
        with self._inos.update(self._db) as t:
            effects = rebase.Rebase(t, self._inos, commit, current, host=self._host).apply()
            if digest:
                effects.catalog = shelf.apply(t, commit)
                self._advance(t, commit, digest)
        return effects

    @staticmethod
    def _advance(t: Txn, commit: Commit, digest: str) -> None:
        tree.set_fact(t, "epoch", commit.epoch.encode())
        tree.set_fact(t, "commit", b"%d" % commit.number)
        tree.set_fact(t, "digest", digest.encode())

    def _look(self, keys: Iterable[str]) -> dict[str, ObjectVersion | None]:
        """What the store has at these keys now; None: nothing."""

        def head(key: str) -> ObjectVersion | None:
            try:
                return self._store.head(key)
            except NotFound:
                return None

        keys = list(keys)
        if len(keys) == 1:
            return {keys[0]: head(keys[0])}
        with ThreadPoolExecutor(HEADS_AT_ONCE) as pool:
            return dict(zip(keys, pool.map(head, keys), strict=True))

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

    def commit(self, plan: Callable[[], Sequence[Change]]) -> tuple[Effects, int]:
        """Put changes of a tree without overlay as the next commit; its number, 0: none.

        Args:
            plan: says what to change, from the tree as it is; called again when another machine
                was faster, and may raise to refuse.
        """
        effects = Effects()
        for _ in range(_TRIES):
            effects.merge(self.follow())
            changes = plan()
            if not changes:
                return effects, 0
            try:
                done = self._log.append(self.position(), changes, time_ns=self._clock())
            except LogReplaced as e:
                self._start_over(e)
                continue
            if done is not None:
                effects.merge(self._apply(done))
                return effects, done.commit.number
        raise Busy("other machines write this pipe so fast that no change gets in; try again")

    # --- the catalogue of snapshots -----------------------------------------------------------

    def catalog(self) -> Catalog:
        """The snapshots as of our place in the log."""
        with self._db.view() as v:
            return shelf.load(v)

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
        """Look at single objects and commit what is there, if it is not what we know."""
        moving = self._is_moving()
        current = self._look(keys)
        changes = self._differences(current)
        if changes and (moving or self._is_moving()):
            # What we saw may have been ours, and have gone another way before we judged it: only
            # what is still there afterwards was somebody else's then.
            again = self._look(changes)
            changes = {k: c for k, c in changes.items() if _same_object(current[k], again[k])}
        return self._commit_external(list(changes.values()))

    def _is_moving(self) -> bool:
        """Whether objects of ours are under way, or landed and are not announced yet."""
        with self._db.view() as v:
            return any(v.count(table) for table in ("sent", "relocate", "gone", "ready"))

    def _differences(self, current: Mapping[str, ObjectVersion | None]) -> dict[str, Change]:
        with self._db.view() as v:
            return made_elsewhere(v, current, self._clock())

    def _commit_external(self, changes: list[Change]) -> Effects:
        effects = Effects()
        for first in range(0, len(changes), MAX_CHANGES):
            part = changes[first : first + MAX_CHANGES]
            effects.merge(self._commit_part(part))
        return effects

    def _commit_part(self, changes: list[Change]) -> Effects:
        effects = Effects()
        if not (self._writable() and self._log.may_append()):
            here = self.position()
            found = self._log.untold(here, changes, time_ns=self._clock())
            return self._apply_commit(found, {}, "")
        while True:
            try:
                done = self._log.append(
                    self.position(), changes, time_ns=self._clock(), external=True
                )
            except LogReplaced as e:
                self._start_over(e)
                continue
            if done is not None:
                effects.merge(self._apply_commit(done.commit, {}, done.digest))
                return effects
            effects.merge(self.follow())

    def reconcile(self) -> Effects:
        """List the whole pipe; commit objects that other tools wrote or deleted.

        Memory: one bit an inode, and a thousand names at a time.
        """
        effects = self.follow()
        with self._db.view() as v:
            seen = bytearray(tree.number(v, "next_ino", 2) // 8 + 1)
        markers: list[str] = []
        total = 0
        for batch in _batches(self._store.list(""), _LOOK_BATCH):
            unknown = []
            with self._db.view() as v:
                for found in batch:
                    if is_own_key(found.key, self._store.url):
                        continue
                    total += found.size
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
            tree.set_fact(t, "relist", b"0")
            tree.set_fact(t, "bytes", b"%d" % total)
            tree.set_fact(t, "listed", b"%d" % self._clock())
        return effects

    def _external_directories(self, markers: list[str]) -> Effects:
        changes = []
        with self._db.view() as v:
            for key in markers:
                gone = v.has("gone", key_id(key))
                if not gone and tree.base_walk(v, names_of(key)) is None:
                    live = tree.walk(v, names_of(key))
                    if live is None:
                        changes.append(Change(op="mkdir", path=tree.path_text(names_of(key))))
        return self._commit_external(changes)

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


def _batches(items: Iterator[ObjectVersion], size: int) -> Iterator[list[ObjectVersion]]:
    while batch := list(itertools.islice(items, size)):
        yield batch
