"""Our place in a pipe's commit log: following it, and putting the next commit.

The base of `pipefs.follow.Follower`, which also says what to announce and finds what others wrote.
Requests to the store are never made inside a transaction.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from pipefs import buried, rebase, refs, shelf, tree
from pipefs.catalog import Catalog
from pipefs.commits import Change, Commit, CommitLog, LogReplaced, Position, Read
from pipefs.conflicts import Effects
from pipefs.db import StateDB, Txn
from pipefs.errors import Busy, Corrupt, NotFound
from pipefs.inodes import InoSource
from pipefs.policy import EVERYTHING, Policy
from pipefs.stores.base import Store
from pipefs.types import ObjectVersion

log = logging.getLogger(__name__)

HEADS_AT_ONCE = 16
_TRIES = 50
"""Races for the next number of the log that one commit may lose."""


class LogFollower:
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
            buried.record(t, commit)
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

    def catalog(self) -> Catalog:
        """The snapshots as of our place in the log."""
        with self._db.view() as v:
            return shelf.load(v)

    # --- commits of ours ----------------------------------------------------------------------

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
