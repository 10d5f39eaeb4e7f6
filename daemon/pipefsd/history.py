"""The past of a mounted pipe: the views that the mount shows, and what is asked of the past.

Taking, restoring and checking out, for the command line and for `mkdir` in `.snapshots`. While a
snapshot is taken the syncer stands still, so it is exactly one commit.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Sequence

from pipefs import manifest, shelf, tree
from pipefs.catalog import Catalog
from pipefs.commits import Change
from pipefs.errors import Conflict, PipefsError, Refused, TimedOut, UsageError
from pipefs.moments import is_moment, parse_moment
from pipefs.past.keeper import Keeper
from pipefs.past.taking import Wanted
from pipefs.past.views import PastView
from pipefs.past.wording import before_restore, restored_message, taken_message
from pipefs.pastmessages import (
    CheckedOut,
    Checkout,
    PastRequest,
    PresentPart,
    PresentTree,
    Restore,
    RestoreDone,
    SnapshotTaken,
    TakeSnapshot,
)
from pipefs.protocol import FlushProgress
from pipefs.records import Inode
from pipefs.units import show_count
from pipefs.volume import Volume
from pipefsd.control import Progress, Result
from pipefsd.filesystem import Filesystem
from pipefsd.openers import ForeignLooks, register
from pipefsd.outboxes import Outbox
from pipefsd.past import Past
from pipefsd.snapdirs import SnapshotDirs
from pipefsd.syncer import Health, Syncer
from pipefsd.timeline import Timeline
from pipefsd.views import Views

log = logging.getLogger(__name__)

_OPEN_POLL_S = 0.1


class History:
    """One mounted pipe's past.

    Args:
        check_may_take: raises `Refused` where no snapshot can be taken now (asked with True: even
            by force).
        orphaned: told of each inode that lost its last name.
    """

    def __init__(
        self,
        name: str,
        keeper: Keeper,
        syncer: Syncer,
        health: Health,
        *,
        outbox: Outbox,
        check_may_take: Callable[[bool], None],
        orphaned: Callable[[Inode], None],
        foreign: ForeignLooks | None = None,
    ) -> None:
        self._name = name
        self._keeper = keeper
        self._syncer = syncer
        self._health = health
        self._outbox = outbox
        self._check_may_take = check_may_take
        self._orphaned = orphaned
        self._catalog: Catalog | None = None
        volume = keeper.volume
        self.views = Views(volume.db)
        self._foreign = foreign
        store, manifests = volume.store, keeper.manifests
        register(self.views, volume.db, store, manifests, self.catalog, foreign)
        self.snapdirs = SnapshotDirs(volume, self.views, self.catalog, self._labels, volume.now_ns)
        self.timeline: Timeline | None = None

    def _labels(self, wait: bool) -> Sequence[str]:
        return self._foreign.labels(wait=wait) if self._foreign is not None else ()

    # --- what there is ------------------------------------------------------------------------

    def catalog(self) -> Catalog:
        """The snapshots as they are known here now; cheap."""
        found = self._catalog
        if found is None:
            with self._keeper.volume.db.view() as v:
                found = self._catalog = shelf.load(v)
        return found

    def changed(self) -> None:
        """The catalogue changed, here or elsewhere."""
        self._catalog = None
        if self.timeline is not None:
            self.timeline.catalog_changed()

    def identity(self, name: str) -> str:
        """What a snapshot's name stands for, for `Views`. Raises `NotFound`, `Conflict`."""
        if is_moment(name):
            return f"moment:{parse_moment(name, self._keeper.volume.now_ns())}"
        if self._foreign is not None and name in self._foreign.labels(wait=True):
            return f"foreign:{name}"
        return f"snapshot:{self.catalog().find(name).id}"

    def _view(self, name: str) -> PastView:
        return self.view_of(self.identity(name))

    def view_of(self, identity: str) -> PastView:
        """The tree that an `identity` stands for. Waits for the store."""
        return self.views.view(self.views.number(identity), wait=True)

    # --- the mount's own requests -------------------------------------------------------------

    def make(self, path: list[bytes], tag: str, interrupted: Callable[[], bool]) -> None:
        """See `pipefsd.past.Snapshots`."""

        def progress(_: object) -> None:
            if interrupted():
                raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))

        try:
            self._take(TakeSnapshot(path=manifest.path_of(path), tag=tag), path, progress)
        except UsageError as e:
            log.warning("%s", e)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from e
        except PipefsError as e:
            self._health.last_error = f"no snapshot {tag!r}: {e}"
            log.error("no snapshot %r: %s", tag, e)
            if isinstance(e, Conflict):
                raise OSError(errno.EEXIST, os.strerror(errno.EEXIST)) from e  # the tag is taken
            raise

    def forget(self, path: list[bytes], name: bytes) -> None:
        """See `pipefsd.past.Snapshots`."""
        found = self.snapdirs.snapshot_at(path, name)

        def plan(catalog: Catalog) -> list[Change]:
            # Asked of the log as it is now: it may have been protected a moment ago.
            return _forgetting(catalog, found.id, manifest.path_of(path), os.fsdecode(name))

        try:
            with self._syncer.still():
                effects, _ = self._keeper.follower.amend(plan)
        except Refused as e:
            self._health.last_error = e.message
            log.warning("%s", e.message)
            raise OSError(errno.EPERM, os.strerror(errno.EPERM)) from e
        finally:
            self.changed()
        self._syncer.tell(effects)

    # --- the command line ---------------------------------------------------------------------

    def handle(self, request: PastRequest, progress: Progress) -> Result:
        """Do one request of the command line; errors as its docstring says."""
        if isinstance(request, TakeSnapshot):
            names = self._names(request.path)
            return self._take(request, names, progress)
        if isinstance(request, Restore):
            return self._restore(request, progress)
        if isinstance(request, Checkout):
            return self._checkout(request.snapshot)
        root, parts = self._present()
        for name, data in parts.items():
            progress(PresentPart(name, data.decode()))
        return PresentTree(manifest.encode_root(root).decode())

    @staticmethod
    def _names(path: str) -> list[bytes]:
        return [n for n in os.fsencode(path).split(b"/") if n]

    def _take(self, request: TakeSnapshot, names: list[bytes], progress: Progress) -> SnapshotTaken:
        began = time.monotonic()
        self._check_may_take(request.force)
        uploads = self._bring_up(request, names, began, progress)
        still_open = self._keeper.open_files(names)
        wanted = Wanted(
            path=manifest.path_of(names),
            tag=request.tag,
            message=request.message,
            metrics=request.metrics,
            open=still_open,
            move_tag=request.force,
        )
        with self._syncer.still():
            taken = self._keeper.take(wanted)
        self.changed()
        self._syncer.tell(taken.effects)
        return taken_message(taken, still_open, uploads, time.monotonic() - began)

    def _bring_up(
        self, request: TakeSnapshot, names: list[bytes], began: float, progress: Progress
    ) -> int:
        """Wait for what the snapshot is to have in it; how many changes that were."""
        if not request.wait:
            waits, _ = self._outbox.remaining()
            if waits:
                raise Refused(
                    f"{show_count(waits, 'change')} of {self._name} "
                    f"{'is' if waits == 1 else 'are'} not in the store yet",
                    hint="Without --no-wait the snapshot waits for them",
                )
            return 0
        if request.wait_open:
            self._wait_for_closed(names, request.timeout_s, progress)
        left = None
        if request.timeout_s is not None:
            left = max(0.0, request.timeout_s - (time.monotonic() - began))
        files, _ = self._outbox.flush(left, lambda p: progress(dict(p)))
        return files

    def _wait_for_closed(
        self, names: list[bytes], timeout_s: float | None, progress: Progress
    ) -> None:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while found := self._keeper.open_files(names):
            if deadline is not None and time.monotonic() >= deadline:
                raise TimedOut(
                    f"{found[0]} and {len(found) - 1} more are still open for writing"
                    if len(found) > 1
                    else f"{found[0]} is still open for writing",
                    hint="Without --wait the snapshot has it as it was last closed",
                )
            progress(FlushProgress(len(found), 0))  # ends it where nobody waits any more
            time.sleep(_OPEN_POLL_S)

    def _restore(self, request: Restore, progress: Progress) -> RestoreDone:
        view = self._view(request.snapshot)
        if not request.dry_run:
            self._check_may_take(True)
        before = "" if request.dry_run else self._before(view, progress)
        done = self._keeper.restore(
            view,
            [self._names(p) for p in request.paths] or [[]],
            keep_extra=request.keep_extra,
            dry_run=request.dry_run,
            orphaned=self._orphaned,
            stays_local=self._outbox.stays_local,
            progress=lambda n: progress(FlushProgress(n, 0)),
            tell=self._syncer.tell,
        )
        return restored_message(done, view.label, before)

    def _before(self, view: PastView, progress: Progress) -> str:
        """A snapshot of what a restore is about to replace; its name."""
        tag = before_restore(self._keeper.volume.now_ns(), self.catalog())
        request = TakeSnapshot(tag=tag, message=f"before restoring {view.label}", force=True)
        self._take(request, [], progress)
        return tag

    # --- what the root shows ------------------------------------------------------------------

    def _checkout(self, name: str | None) -> CheckedOut:
        assert self.timeline is not None
        if name is None:
            self._remember("")
            self.timeline.show(None)
            return CheckedOut(None)
        identity = self.identity(name)
        number = self.views.number(identity)
        view = self.views.view(number, wait=True)
        self._remember(identity)
        self.timeline.show(number)
        return CheckedOut(view.label)

    def _remember(self, identity: str) -> None:
        with self._keeper.volume.db.update() as t:
            tree.set_fact(t, "checkout", identity.encode())

    def recall(self) -> None:
        """What was checked out before the last restart is again."""
        with self._keeper.volume.db.view() as v:
            identity = tree.fact(v, "checkout").decode()
        if identity and self.timeline is not None:
            self.timeline.past.root = self.views.number(identity)

    def shown(self) -> str | None:
        """Label of what is checked out."""
        root = self.timeline.past.root if self.timeline is not None else None
        if root is None:
            return None
        try:
            return self.views.view(root, wait=True).label
        except (OSError, PipefsError):
            return self.views.identity(root).partition(":")[2][:12]

    def _present(self) -> tuple[manifest.Root, dict[str, bytes]]:
        with self._syncer.still():
            return self._keeper.present()


def _forgetting(catalog: Catalog, snapshot_id: str, path: str, name: str) -> list[Change]:
    """What `rmdir` of a name in the `.snapshots` of a directory does. Raises `Refused`."""
    found = catalog.snapshots.get(snapshot_id)
    if found is None or found.forgotten:
        return []
    if found.protected:
        raise Refused(f"the snapshot {found.label} is protected and stays")
    if found.body.path != path:
        # Who may write a directory decides about its snapshots, not about those of all.
        whole = found.body.path or "the whole pipe"
        raise Refused(f"the snapshot {found.label} is one of {whole} and is forgotten there only")
    if name in found.tags and len(found.tags) > 1:
        return [Change(op="tag", path="", tag=name, snapshot=found.id, off=True)]
    return [Change(op="forget", path="", snapshot=found.id)]


def build_timeline(
    history: History, filesystem: Filesystem, volume: Volume, *, visible: bool
) -> Timeline:
    """The live file system with its past inside. `visible`: the root lists `.snapshots`."""
    past = Past(history.views, volume.reader, filesystem.ownership, history.snapdirs, history)
    history.timeline = Timeline(filesystem, past, volume, visible=visible)
    history.recall()
    return history.timeline
