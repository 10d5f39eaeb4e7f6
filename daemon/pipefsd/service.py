"""One pipe, served: builds its rooms, starts its threads, and answers for its state.

Start order: state, cache, store, volume, first look at the bucket, then the threads (uploader,
watcher, syncer, keeper). Stop order is the reverse. Where the store does not answer and the tree
is known, the pipe starts offline.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import msgspec

from pipefs import tree
from pipefs.blocks import BlockCache
from pipefs.buckets import open_place
from pipefs.cachemessages import CacheRequest
from pipefs.conditional import ConditionalStore
from pipefs.config import Settings, cache_limit_for
from pipefs.conflictmessages import Resolve
from pipefs.conflicts import Effects
from pipefs.content import ContentReader
from pipefs.descriptor import create_descriptor, who
from pipefs.errors import NotFound, PipefsError, StoreUnavailable, TimedOut
from pipefs.follow import Follower
from pipefs.foreign.found import Foreign
from pipefs.home import Home
from pipefs.keys import prefix_bytes_of
from pipefs.passable import may_pass
from pipefs.past.checkpoint import start_from_snapshot
from pipefs.past.keeper import Keeper
from pipefs.past.lifecycle import dangerous_rules
from pipefs.past.manifests import ManifestStore
from pipefs.past.refusals import check_may_take
from pipefs.pastmessages import PastRequest
from pipefs.protocol import MountStatus
from pipefs.registry import Pipe
from pipefs.relocation import Relocator
from pipefs.staging import StagingArea
from pipefs.stores.base import Capabilities
from pipefs.stores.wrap import RetryPolicy, RetryStore, innermost
from pipefs.transfers import Transfers
from pipefs.volume import Volume
from pipefsd import report
from pipefsd.control import Progress, Result
from pipefsd.filesystem import Filesystem
from pipefsd.history import History, build_timeline
from pipefsd.openers import ForeignLooks
from pipefsd.outboxes import Outbox
from pipefsd.ownership import Ownership
from pipefsd.pinning import Pinning
from pipefsd.settlements import Settlements
from pipefsd.states import open_state
from pipefsd.syncer import NOTICED_AFTER_S, Health, Syncer
from pipefsd.timeline import Timeline
from pipefsd.uploader import Uploader
from pipefsd.watcher import Watcher

log = logging.getLogger(__name__)

FETCHERS = 16
OFFLINE_AFTER_S = 5.0
"""How long a mount of a known pipe waits for its store."""
PATIENCE_S = 15.0
"""How long one of an unknown pipe does: less than the supervisor gives a worker to start."""

KEEPER_S = 1.0


class PipeService:
    """See `pipefsd.handoff.Service`."""

    def __init__(self, *, home: Home, pipe: Pipe, settings: Settings, read_only: bool) -> None:
        self._home = home
        self._pipe = pipe
        self._settings = settings
        self._wanted_read_only = read_only
        self._health = Health()
        self._capabilities = report.UNKNOWN
        self._stopping = threading.Event()
        self._warnings: list[str] = []
        self._closing = ExitStack()

    # --- start and stop -----------------------------------------------------------------------

    def start(self, *, same_mount: bool = False) -> None:
        """Build everything and start the threads.

        Raises:
            PipefsError: the state is in use or newer, the bucket is missing or forbidden, or the
            store does not answer and nothing of the pipe is known here.
        """
        self._build()
        try:
            self._volume.recover(same_mount=same_mount)
            if same_mount:
                # Programs wait for this worker: no request to the store before it serves.
                self._recall_capabilities()
            else:
                self._first_look()
        except BaseException:
            self._volume.close()
            self._cache.close()
            raise
        self.filesystem = Filesystem(
            self._volume,
            Ownership(self._settings.owner, self._settings.umask, uid=os.getuid(), gid=os.getgid()),
            read_only=self._why_read_only,
            same_mount=same_mount,
            filters=self._transfers.policy.filters,
        )
        self.filesystem.xattrs.virtual.failed = self._uploader.refused
        self._build_past()
        self.passthrough = may_pass(self._volume.files.staging, self._settings.passthrough)
        self._uploader.start()
        self._watcher.start()
        self._syncer.start()
        self._pinning.start()
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._keeper.start()

    def _build(self) -> None:
        settings, home = self._settings, self._home
        state = home.pipe_state(self._pipe.name)
        self._db = open_state(state / "tree", self._warnings)
        self._cache = BlockCache(
            home.cache / "blocks", limit_bytes=cache_limit_for(settings, home.cache)
        )
        self._store = self._pipe.open_store()
        self._manifests = ManifestStore(self._store, home.cache / "manifests")
        self._fetchers = ThreadPoolExecutor(FETCHERS, thread_name_prefix="fetch")
        reader = ContentReader(
            self._store,
            self._cache,
            self._pipe.pipe_id,
            executor=self._fetchers,
            memory_limit_bytes=settings.memory_limit_bytes or 128 << 20,
        )
        staging = StagingArea(state / "staging", limit_bytes=settings.staging_limit_bytes or 0)
        self._volume = Volume(
            self._db,
            staging,
            self._store,
            self._cache,
            reader,
            prefix_bytes=prefix_bytes_of(self._pipe.url),
        )
        self._build_threads(reader)

    def _build_threads(self, reader: ContentReader) -> None:
        settings, policy = self._settings, self._settings.policy()
        store = ConditionalStore(self._store, lambda: self._capabilities)
        files, cache = self._volume.files, self._cache
        self._transfers = Transfers(self._db, files, store, reader, cache, policy)
        relocator = Relocator(self._db, store, reader, policy)
        # The log is asked each second anyway: tell soon that the store is away.
        prompt = RetryStore(innermost(self._store), RetryPolicy(deadline_s=NOTICED_AFTER_S))
        self._follower = Follower(
            self._db,
            prompt,
            self._volume.inos,
            author=who(),
            writable=self._may_write,
            conditional=lambda: self._capabilities.conditional_put,
            policy=policy,
        )
        self._syncer = Syncer(
            self._volume,
            self._follower,
            self._health,
            on_effects=self._apply_effects,
            on_new_log=self._describe_again,
            refresh_interval_s=settings.refresh_interval_s,
            may_write=self._may_write,
        )
        self._uploader = Uploader(
            self._transfers,
            relocator,
            files,
            on_conflict=self._syncer.look_at,
            on_landed=self._syncer.poke,
            on_trouble=self._health.transfer,
            may_write=self._may_write,
            requests=lambda: self.filesystem.requests,
        )
        self._watcher = Watcher(files.staging.directory, self._uploader.notice)

    def _build_past(self) -> None:
        """The past beside the live tree: both are what the mount serves."""
        volume = self._volume
        self._outbox = Outbox(
            self._pipe.name,
            volume,
            self._transfers.policy,
            self._uploader,
            self._syncer,
            self._health,
            self._may_write,
        )
        keeper = Keeper(volume, self._follower, self._manifests, author=who())
        self._history = History(
            self._pipe.name,
            keeper,
            self._syncer,
            self._health,
            outbox=self._outbox,
            check_may_take=self._check_may_take,
            orphaned=self.filesystem.orphaned,
            foreign=self._foreign_looks(),
        )
        self._pinning = Pinning(
            self._pipe,
            self._home.pipe_state(self._pipe.name),
            volume,
            version=self._follower.position,
            history=self._history,
        )
        visible = self._settings.snapdir == "visible"
        self._timeline = build_timeline(self._history, self.filesystem, volume, visible=visible)

    def _foreign_looks(self) -> ForeignLooks | None:
        """Snapshots of other systems: only a bucket has them."""
        if not self._pipe.url.startswith("s3://"):
            return None
        place = self._closing.enter_context(open_place(self._pipe, patience_s=OFFLINE_AFTER_S))
        return ForeignLooks(Foreign(place), lambda: self._health.offline_since_ns != 0)

    def _first_look(self) -> None:
        """Capabilities, and the tree: from the bucket if it is not known yet.

        A pipe that is known here waits only a moment for its store, and starts offline.
        """
        known = not self._follower.must_relist()
        try:
            self._probe(OFFLINE_AFTER_S if known else PATIENCE_S)
            if not known:
                volume, manifests = self._volume, self._manifests
                known = start_from_snapshot(self._db, volume.inos, self._store, manifests)
            if known:
                self._follower.check_log()
                self._follower.follow()
            if self._follower.must_relist():
                self._follower.reconcile()
        except (StoreUnavailable, TimedOut) as e:
            if not known:
                raise
            self._recall_capabilities()
            self._health.report(e)
            self._warnings.append(f"OFFLINE: {e}. Cached files can be read; changes wait here.")
            return
        self._warnings += report.warnings_of(self._capabilities, self._pipe.name)
        self._warnings += dangerous_rules(self._store)
        with self._db.update() as t:
            tree.set_fact(t, "capabilities", msgspec.json.encode(self._capabilities))

    def _probe(self, patience_s: float) -> None:
        store = self._pipe.open_store(patience_s=patience_s)
        try:
            self._capabilities = store.probe()
        finally:
            store.close()

    def _recall_capabilities(self) -> None:
        with self._db.view() as v:
            raw = tree.fact(v, "capabilities")
        if raw:
            self._capabilities = msgspec.json.decode(raw, type=Capabilities)

    def _describe_again(self) -> None:
        pipe = self._pipe
        create_descriptor(self._store, pipe.name, pipe.options, pipe_id=pipe.pipe_id)

    def _may_write(self) -> bool:
        return not self._wanted_read_only and self._capabilities.writable

    def _why_read_only(self) -> str:
        if self._wanted_read_only:
            return "mounted read-only"
        return "" if self._capabilities.writable else "your credentials may not write"

    def _keep(self) -> None:
        """Each second: the journal on disk, a checkpoint when due, recent reads recorded."""
        ticks = 0
        while not self._stopping.wait(KEEPER_S):
            ticks += 1
            try:
                self._db.sync()
                if self._db.checkpoint_due:
                    self._db.checkpoint()
                if ticks % 10 == 0:
                    self._cache.flush_touches()
            except (PipefsError, OSError) as e:
                self._health.last_error = str(e)
                log.error("keeping the state: %s", e)

    def stop(self) -> None:
        self._stopping.set()
        self._pinning.stop()
        self._watcher.stop()
        self._uploader.stop()
        self._syncer.stop()
        self._keeper.join(5)
        self._fetchers.shutdown(wait=False, cancel_futures=True)
        self._volume.close()
        self._cache.close()
        self._store.close()
        self._closing.close()

    # --- what the frame and the command line ask ----------------------------------------------

    def _apply_effects(self, effects: Effects) -> None:
        self.filesystem.apply_effects(effects)
        if effects.catalog:
            self._history.changed()

    def _check_may_take(self, force: bool) -> None:
        name, reason = self._pipe.name, self._why_read_only()
        check_may_take(name, self._capabilities, self._store, read_only=reason, force=force)

    def past(self, request: PastRequest, progress: Progress) -> Result:
        """Answer a request about the past (`pipefsd.history`)."""
        return self._history.handle(request, progress)

    def cache(self, request: CacheRequest, progress: Progress) -> Result:
        """Answer a request about the cache (`pipefsd.pinning`)."""
        return self._pinning.handle(request, progress)

    def resolve(self, request: Resolve, progress: Progress) -> Result:
        """End a conflict (`pipefsd.settlements`)."""
        settlements = Settlements(self._pipe.name, self._volume, self._outbox, self._syncer)
        orphaned, versioned = self.filesystem.orphaned, self._capabilities.versioning
        return settlements.resolve(
            request, progress, self._why_read_only(), orphaned=orphaned, versioned=versioned
        )

    @property
    def operations(self) -> Timeline:
        return self._timeline

    @property
    def warnings(self) -> list[str]:
        return self._warnings

    def _names_of(self, path: str | None) -> int:
        try:
            return self._volume.resolve(os.fsencode(path or ""))
        except FileNotFoundError:
            raise NotFound(f"{self._pipe.name} has no file or folder {path!r}") from None

    def flush(
        self,
        path: str | None,
        timeout_s: float | None,
        progress: Callable[[Mapping[str, object]], None],
    ) -> Mapping[str, object]:
        """Wait until everything closed is in the store and announced.

        Raises:
            TimedOut: `timeout_s` ran out. NotFound: no such path.
        """
        self._names_of(path)
        started = time.monotonic()
        files, size = self._outbox.flush(timeout_s, progress)
        return {"files": files, "bytes": size, "seconds": time.monotonic() - started}

    def drain(self, timeout_s: float) -> tuple[int, int]:
        return self._outbox.drain(timeout_s)

    def refresh(self, full: bool) -> Mapping[str, object]:
        started = time.monotonic()
        changed = self._syncer.refresh(full=full)
        return {
            "changed": changed,
            "commit": self._follower.position().number,
            "seconds": time.monotonic() - started,
        }

    def status(self) -> MountStatus:
        return report.status(
            self._pipe.name,
            self._volume,
            self._volume.outbox(self._transfers.policy.stays_local),
            sending=self._uploader.sending(),
            refused=self._uploader.refusals(),
            cache=self._cache.stats(),
            pinned=self._pinning.figures(),
            place=self._follower.position(),
            health=self._health,
            capabilities=self._capabilities,
            read_only=bool(self._why_read_only()),
            checked_out=self._history.shown(),
            # Whether the store answers now is `state`, not what was seen at the mount.
            warnings=[w for w in self._warnings if not w.startswith("OFFLINE")],
        )
