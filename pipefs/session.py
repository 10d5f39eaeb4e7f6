"""A pipe opened by a command, where no daemon serves it: the lock, the state, and the store.

For what needs tree and outbox: taking and restoring snapshots, and the present as a manifest.
Everything happens in the calling thread, and what waited in the outbox goes up on the way.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from pipefs import manifest, tree
from pipefs.blocks import BlockCache
from pipefs.conditional import ConditionalStore
from pipefs.config import cache_limit_for
from pipefs.conflictmessages import Resolve, Resolved
from pipefs.conflicts import Effects
from pipefs.content import ContentReader
from pipefs.db import StateDB
from pipefs.descriptor import who
from pipefs.errors import NotFound, PreconditionFailed, ReadOnly, Refused, TimedOut
from pipefs.follow import Follower
from pipefs.home import Home
from pipefs.keys import prefix_bytes_of
from pipefs.past.checkpoint import start_from_snapshot
from pipefs.past.keeper import Keeper
from pipefs.past.manifests import ManifestStore
from pipefs.past.opened import view_of
from pipefs.past.refusals import check_may_take
from pipefs.past.taking import Wanted
from pipefs.past.views import PastView
from pipefs.past.wording import before_restore, restored_message, taken_message
from pipefs.pastmessages import Restore, RestoreDone, SnapshotTaken, TakeSnapshot
from pipefs.registry import PATIENCE_S, Pipe
from pipefs.relocation import Relocator
from pipefs.settling import Settler
from pipefs.staging import StagingArea
from pipefs.transfers import Transfers
from pipefs.units import show_count
from pipefs.volume import Volume

_ROUNDS = 50
"""Rounds without an end after which the outbox will not become empty."""


class Session:
    """One unmounted pipe, to be used in a `with` block.

    Raises:
        Busy: a daemon (or another command) has it. Store errors.
    """

    def __init__(self, home: Home, pipe: Pipe) -> None:
        self._home = home
        self._pipe = pipe
        self.name = pipe.name

    def __enter__(self) -> Session:
        home, pipe, settings = self._home, self._pipe, self._pipe.settings
        state = home.pipe_state(pipe.name)
        self._db = StateDB(state / "tree", tree.TABLES)
        try:
            self.store = pipe.open_store(patience_s=PATIENCE_S)
            self.capabilities = self.store.probe()
            limit = cache_limit_for(settings, home.cache)
            self._cache = BlockCache(home.cache / "blocks", limit_bytes=limit)
        except BaseException:
            self._db.close()
            raise
        self._build(state)
        try:
            self._volume.recover(same_mount=False)
            self._first_look()
        except BaseException:
            self._close()
            raise
        return self

    def _build(self, state: Path) -> None:
        pipe, settings = self._pipe, self._pipe.settings
        reader = ContentReader(self.store, self._cache, pipe.pipe_id)
        staging = StagingArea(state / "staging", limit_bytes=settings.staging_limit_bytes or 0)
        prefix = prefix_bytes_of(pipe.url)
        self._volume = Volume(
            self._db, staging, self.store, self._cache, reader, prefix_bytes=prefix
        )
        self._policy = settings.policy(waits=False)
        conditional = ConditionalStore(self.store, lambda: self.capabilities)
        files = self._volume.files
        self._transfers = Transfers(self._db, files, conditional, reader, self._cache, self._policy)
        self._relocator = Relocator(self._db, conditional, reader, self._policy)
        self._follower = Follower(
            self._db,
            self.store,
            self._volume.inos,
            author=who(),
            writable=lambda: self.capabilities.writable,
            conditional=lambda: self.capabilities.conditional_put,
            policy=self._policy,
        )
        manifests = ManifestStore(self.store, self._home.cache / "manifests")
        self.keeper = Keeper(self._volume, self._follower, manifests, author=who())

    def _first_look(self) -> None:
        manifests = self.keeper.manifests
        if self._follower.must_relist():
            start_from_snapshot(self._db, self._volume.inos, self.store, manifests)
        else:
            self._follower.check_log()
        self._follower.follow()
        if self._follower.must_relist():
            self._follower.reconcile()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        self._volume.close()
        self._cache.close()
        self.store.close()

    # --- the outbox ---------------------------------------------------------------------------

    def bring_up(self, timeout_s: float | None = None) -> int:
        """Everything that waits goes up and is announced; how many changes that were.

        Raises:
            TimedOut: `timeout_s` ran out, or it does not end. Store errors.
        """
        first = waits = self._waiting()
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        for _ in range(_ROUNDS):
            if not waits:
                return first
            if deadline is not None and time.monotonic() > deadline:
                break
            self._round()
            waits = self._waiting()
        raise TimedOut(f"{show_count(waits, 'change')} of {self.name} did not go up")

    def _waiting(self) -> int:
        return self._volume.outbox(self._policy.stays_local).waiting

    def _round(self) -> None:
        for ino in self._volume.files.inos():
            self._try(ino, lambda i: self._transfers.upload(i, force=True))
        for ino in self._relocator.due(force=True):
            self._try(ino, self._relocator.relocate)
        for ino in self._relocator.markers():
            self._try(ino, self._relocator.mark_directory)
        for sent in self._transfers.left_over():
            self._transfers.settle(sent)
        for content in self._transfers.deletions():
            self._transfers.delete(content)
        self._take(self._follower.follow())
        self._take(self._follower.announce()[0])

    def _try(self, ino: int, step: Callable[[int], object]) -> None:
        """A transfer; a lost condition is looked into, and the next round tries again."""
        try:
            step(ino)
        except (PreconditionFailed, NotFound):
            with self._db.view() as v:
                names = tree.names_to(v, ino)
                key = tree.key_for(v, names) if names else ""
            self._take(self._follower.follow())
            if key:
                self._take(self._follower.check_keys([key]))

    def _take(self, effects: Effects) -> None:
        for old, new in effects.same_bytes:
            self._volume.reader.share_blocks(old.ref(), new.ref())

    # --- conflicts ----------------------------------------------------------------------------

    def resolve(self, request: Resolve) -> Resolved:
        """As a worker does it; what waits goes up before, and what was done afterwards."""
        if not self.capabilities.writable and request.keep != "both":
            raise ReadOnly(f"{self.name} cannot be changed here: your credentials may not write")
        if not request.dry_run:
            self.bring_up()
        settler = Settler(
            self.name,
            self._volume,
            orphaned=lambda node: self._volume.forget_orphan(node.ino),
            versioned=self.capabilities.versioning,
        )
        done, _ = settler.settle(request)
        if not request.dry_run:
            self.bring_up()
        return done

    # --- the past -----------------------------------------------------------------------------

    def snapshot(self, request: TakeSnapshot) -> SnapshotTaken:
        """As a worker does it; `wait` False refuses where anything waits."""
        began = time.monotonic()
        reason = "" if self.capabilities.writable else "your credentials may not write"
        check_may_take(
            self.name, self.capabilities, self.store, read_only=reason, force=request.force
        )
        if not request.wait and (waits := self._waiting()):
            raise Refused(
                f"{show_count(waits, 'change')} of {self.name} "
                f"{'is' if waits == 1 else 'are'} not in the store yet",
                hint="Without --no-wait the snapshot waits for them",
            )
        uploads = self.bring_up(request.timeout_s)
        wanted = Wanted(
            path=manifest.path_of(_names(request.path)),
            tag=request.tag,
            message=request.message,
            metrics=request.metrics,
            move_tag=request.force,
        )
        taken = self.keeper.take(wanted)
        return taken_message(taken, [], uploads, time.monotonic() - began)

    def restore(self, request: Restore, view: PastView | None = None) -> RestoreDone:
        """As a worker does it, and what was restored is in the store afterwards."""
        if view is None:
            found = self.keeper.catalog().find(request.snapshot)
            view = view_of(self.keeper.manifests, found)
        before = ""
        if not request.dry_run:
            before = before_restore(self._volume.now_ns(), self.keeper.catalog())
            message = f"before restoring {view.label}"
            self.snapshot(TakeSnapshot(tag=before, message=message, force=True))
        done = self.keeper.restore(
            view,
            [_names(p) for p in request.paths] or [[]],
            keep_extra=request.keep_extra,
            dry_run=request.dry_run,
            orphaned=lambda node: self._volume.forget_orphan(node.ino),
            stays_local=self._policy.stays_local,
        )
        if not request.dry_run:
            self.bring_up()
        return restored_message(done, view.label, before)


def _names(path: str) -> Sequence[bytes]:
    return [n for n in os.fsencode(path).split(b"/") if n]
