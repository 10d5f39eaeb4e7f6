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

import msgspec

from pipefs import tree
from pipefs.blocks import BlockCache
from pipefs.conditional import ConditionalStore
from pipefs.config import Settings, cache_limit_for
from pipefs.content import ContentReader
from pipefs.db import StateDB, quarantine
from pipefs.descriptor import create_descriptor, who
from pipefs.errors import (
    Corrupt,
    NotFound,
    PipefsError,
    StoreUnavailable,
    TimedOut,
    Unsupported,
)
from pipefs.follow import Follower
from pipefs.home import Home
from pipefs.keys import prefix_bytes_of
from pipefs.passable import may_pass
from pipefs.policy import Policy
from pipefs.protocol import MountStatus
from pipefs.registry import Pipe
from pipefs.relocation import Relocator
from pipefs.staging import StagingArea
from pipefs.stores.base import Capabilities
from pipefs.stores.wrap import RetryPolicy, RetryStore, innermost
from pipefs.transfers import Transfers
from pipefs.units import show_count, show_size
from pipefs.volume import Volume
from pipefsd import report
from pipefsd.filesystem import Filesystem
from pipefsd.ownership import Ownership
from pipefsd.syncer import NOTICED_AFTER_S, Health, Syncer
from pipefsd.uploader import Uploader
from pipefsd.watcher import Watcher

log = logging.getLogger(__name__)

FETCHERS = 16
OFFLINE_AFTER_S = 5.0
"""How long a mount of a known pipe waits for its store."""
PATIENCE_S = 15.0
"""How long one of an unknown pipe does: less than the supervisor gives a worker to start."""

KEEPER_S = 1.0
CHECKPOINT_BYTES = 4 << 20
"""Of journal: a checkpoint holds the state's lock, and a small one holds it for milliseconds."""
UNKNOWN = Capabilities(
    versioning=True,
    conditional_put=True,
    conditional_multipart=True,
    conditional_delete=False,
    checksums=True,
    writable=True,
    versioning_state="unknown",
)


class PipeService:
    """See `pipefsd.handoff.Service`."""

    def __init__(
        self, *, home: Home, pipe: Pipe, settings: Settings, read_only: bool, snapshot: str | None
    ) -> None:
        if snapshot:
            raise Unsupported("mounting a snapshot is not available in this version")
        self._home = home
        self._pipe = pipe
        self._settings = settings
        self._wanted_read_only = read_only
        self._health = Health()
        self._capabilities = UNKNOWN
        self._stopping = threading.Event()
        self._warnings: list[str] = []

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
        )
        self.filesystem.xattrs.virtual.failed = self._uploader.refused
        self.passthrough = may_pass(self._volume.files.staging, self._settings.passthrough)
        self._uploader.start()
        self._watcher.start()
        self._syncer.start()
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._keeper.start()

    def _build(self) -> None:
        settings, home = self._settings, self._home
        state = home.pipe_state(self._pipe.name)
        self._db = self._open_state(state / "tree")
        self._cache = BlockCache(
            home.cache / "blocks", limit_bytes=cache_limit_for(settings, home.cache)
        )
        self._store = self._pipe.open_store()
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
        settings = self._settings
        policy = Policy(
            settings.quiet_period_s, settings.min_version_interval_s, settings.local_only
        )
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
            on_effects=lambda effects: self.filesystem.apply_effects(effects),
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
            on_trouble=self._health.report,
            may_write=self._may_write,
            requests=lambda: self.filesystem.requests,
        )
        self._watcher = Watcher(files.staging.directory, self._uploader.notice)

    def _open_state(self, directory: os.PathLike[str]) -> StateDB:
        from pathlib import Path

        path = Path(directory)
        try:
            return StateDB(path, tree.TABLES, checkpoint_bytes=CHECKPOINT_BYTES)
        except Corrupt as e:
            aside = quarantine(path)
            self._warnings.append(
                f"the local state was damaged and is kept in {aside}; it was rebuilt from the "
                f"bucket and the staging files"
            )
            log.error("%s; set aside as %s", e, aside)
            return StateDB(path, tree.TABLES, checkpoint_bytes=CHECKPOINT_BYTES)

    def _first_look(self) -> None:
        """Capabilities, and the tree: from the bucket if it is not known yet.

        A pipe that is known here waits only a moment for its store, and starts offline.
        """
        known = not self._follower.must_relist()
        try:
            self._probe(OFFLINE_AFTER_S if known else PATIENCE_S)
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
        self._warn_of_capabilities()
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

    def _warn_of_capabilities(self) -> None:
        can, name = self._capabilities, self._pipe.name
        if not can.writable:
            reason = (can.detail or {}).get("writable", "your credentials may not write")
            self._warnings.append(f"READ-ONLY: {reason}")
        if not can.versioning:
            self._warnings.append(
                "the bucket keeps no versions, so there will be no snapshots and no history; "
                f"turn versioning on: pipefs doctor {name} --fix"
            )
        if can.writable and not can.conditional_put:
            self._warnings.append(
                "the store has no conditional puts: let one machine at a time write this pipe"
            )

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
        self._watcher.stop()
        self._uploader.stop()
        self._syncer.stop()
        self._keeper.join(5)
        self._fetchers.shutdown(wait=False, cancel_futures=True)
        self._volume.close()
        self._cache.close()
        self._store.close()

    # --- what the frame and the command line ask ----------------------------------------------

    @property
    def operations(self) -> Filesystem:
        return self.filesystem

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
        if not self._may_write():
            return {"files": 0, "bytes": 0, "seconds": 0.0}
        started = time.monotonic()
        first = self._remaining()
        self._uploader.hurry(True)
        try:
            while True:
                files, size = self._remaining()
                if not files:
                    return {
                        "files": first[0],
                        "bytes": first[1],
                        "seconds": time.monotonic() - started,
                    }
                progress({"files": files, "bytes": size})
                if timeout_s is not None and time.monotonic() - started >= timeout_s:
                    raise TimedOut(
                        f"{show_count(files, 'change')} ({show_size(size)}) of {self._pipe.name} "
                        f"{'is' if files == 1 else 'are'} still going up after {timeout_s:g} s",
                        hint=self._health.last_error and f"last error: {self._health.last_error}",
                    )
                self._syncer.poke()
                time.sleep(0.1)
        finally:
            self._uploader.hurry(False)

    def _remaining(self) -> tuple[int, int]:
        """(changes, bytes) that are closed and not in the store and announced yet."""
        out = self._volume.outbox(self._transfers.policy.stays_local)
        return out.waiting, out.bytes

    def drain(self, timeout_s: float) -> tuple[int, int]:
        if not self._may_write():
            return 0, 0
        if timeout_s <= 0:
            return self._remaining()  # not asked to bring anything up, so nothing is hurried
        deadline = time.monotonic() + timeout_s
        self._uploader.hurry(True)
        try:
            while True:
                self._syncer.poke()
                files, size = self._remaining()
                if not files or time.monotonic() >= deadline:
                    return files, size
                time.sleep(min(0.05, max(0.0, deadline - time.monotonic())))
        finally:
            self._uploader.hurry(False)

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
            cache=self._cache.stats(),
            place=self._follower.position(),
            health=self._health,
            capabilities=self._capabilities,
            read_only=bool(self._why_read_only()),
            # Whether the store answers now is `state`, not what was seen at the mount.
            warnings=[w for w in self._warnings if not w.startswith("OFFLINE")],
        )
