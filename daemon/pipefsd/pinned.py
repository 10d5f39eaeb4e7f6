"""A snapshot as a mount of its own: `mount NAME@SNAP`, read-only and for ever the same.

Needs neither the state of the pipe nor its lock, so any number stand beside the live mount. What a
name means is decided once, when it is mounted: a tag that moves later moves no mount. Offline it is
served from what this machine has of it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import xxhash
from msgspec import Struct

from pipefs import shelf, tree
from pipefs.blocks import BlockCache
from pipefs.cachemessages import CacheRequest
from pipefs.catalog import Catalog
from pipefs.config import Settings, cache_limit_for
from pipefs.conflictmessages import Resolve
from pipefs.content import ContentReader
from pipefs.descriptor import who
from pipefs.errors import NotFound, Refused, StoreUnavailable, TimedOut
from pipefs.home import Home
from pipefs.moments import is_moment, parse_moment, show_moment
from pipefs.past.manifests import ManifestStore
from pipefs.past.opened import Past as OpenedPast
from pipefs.pastmessages import PastRequest
from pipefs.protocol import MountStatus
from pipefs.registry import Pipe
from pipefs.units import utc_text
from pipefsd.openers import register
from pipefsd.ownership import Ownership
from pipefsd.past import Past
from pipefsd.states import open_state
from pipefsd.syncer import Health
from pipefsd.views import Views

log = logging.getLogger(__name__)

FETCHERS = 16
PATIENCE_S = 15.0
"""For the store, at the mount: less than the supervisor gives a worker to start."""
KNOWN_PATIENCE_S = 5.0
"""The same where this machine has mounted that snapshot before."""


class PinnedService:
    """See `pipefsd.handoff.Service`."""

    passthrough = False

    def __init__(self, *, home: Home, pipe: Pipe, settings: Settings, snapshot: str) -> None:
        self._home = home
        self._pipe = pipe
        self._settings = settings
        self._snapshot = snapshot
        self._health = Health()
        self.warnings: list[str] = []

    # --- start and stop -----------------------------------------------------------------------

    def start(self, *, same_mount: bool = False) -> None:
        """
        Raises:
            NotFound, Conflict: no such snapshot, or several. StoreUnavailable: the store does not
            answer, and this machine has not mounted the snapshot before.
        """
        home = self._home
        self._db = open_state(self._state(), self.warnings)
        self._views = Views(self._db)
        with self._db.view() as v:
            known = tree.fact(v, "pinned").decode()
        self._store = self._pipe.open_store(patience_s=KNOWN_PATIENCE_S if known else PATIENCE_S)
        manifests = ManifestStore(self._store, home.cache / "manifests")
        register(self._views, self._db, self._store, manifests, self._catalog)
        try:
            identity = known if same_mount and known else self._resolve(known)
            root = self._views.number(identity)
            self._label = self._views.view(root, wait=True).label
        except BaseException:
            self._db.close()
            self._store.close()
            raise
        self._serve(root)

    def _state(self) -> Path:
        label = xxhash.xxh3_64_hexdigest(self._snapshot.encode())
        return self._home.pipe_state(self._pipe.name) / "pinned" / label

    def _resolve(self, known: str) -> str:
        """What the name means now, remembered; where the store is away, what it meant last."""
        if is_moment(self._snapshot):
            return self._moment()
        past = OpenedPast(
            self._store, author=who(), writer="", folder=self._home.cache / "manifests"
        )
        try:
            found = past.refresh().find(self._snapshot)
            identity = f"snapshot:{found.id}"
            catalog = Catalog({found.id: found})
        except (StoreUnavailable, TimedOut) as e:
            if not known:
                raise
            self._health.report(e)
            self.warnings.append(f"OFFLINE: {e}. Cached files can be read.")
            return known
        with self._db.update() as t:
            shelf.store(t, catalog)
            tree.set_fact(t, "pinned", identity.encode())
        return identity

    def _moment(self) -> str:
        now_ns = time.time_ns()
        moment_ns = parse_moment(self._snapshot, now_ns)
        if moment_ns > now_ns:
            raise NotFound(f"{self._snapshot} is still to come: {show_moment(moment_ns)}")
        identity = f"moment:{moment_ns}"
        with self._db.update() as t:
            tree.set_fact(t, "pinned", identity.encode())
        return identity

    def _catalog(self) -> Catalog:
        with self._db.view() as v:
            return shelf.load(v)

    def _serve(self, root: int) -> None:
        home, settings = self._home, self._settings
        self._cache = BlockCache(
            home.cache / "blocks", limit_bytes=cache_limit_for(settings, home.cache)
        )
        self._fetchers = ThreadPoolExecutor(FETCHERS, thread_name_prefix="fetch")
        self._reader = ContentReader(
            self._store,
            self._cache,
            self._pipe.pipe_id,
            executor=self._fetchers,
            memory_limit_bytes=settings.memory_limit_bytes or 128 << 20,
        )
        owner = Ownership(settings.owner, settings.umask, uid=os.getuid(), gid=os.getgid())
        self.operations = Past(self._views, self._reader, owner, None, None, root=root)

    def stop(self) -> None:
        self._fetchers.shutdown(wait=False, cancel_futures=True)
        self._reader.close()
        self._cache.flush_touches()
        self._cache.close()
        self._db.close()
        self._store.close()

    # --- what the frame and the command line ask ----------------------------------------------

    def status(self) -> MountStatus:
        cache, health = self._cache.stats(), self._health
        return MountStatus(
            name=self._pipe.name,
            path="",
            pid=os.getpid(),
            transport="kernel",
            state="offline" if health.offline_since_ns else "snapshot",
            snapshot=self._label,
            cache_bytes=cache.used_bytes,
            cache_hit_ratio=cache.hits / max(1, cache.hits + cache.misses),
            last_error=health.last_error,
            read_only=True,
            offline_since=utc_text(health.offline_since_ns) if health.offline_since_ns else None,
            warnings=[w for w in self.warnings if not w.startswith("OFFLINE")],
            cache_limit_bytes=cache.limit_bytes,
        )

    def flush(
        self,
        path: str | None,
        timeout_s: float | None,
        progress: Callable[[Mapping[str, object]], None],
    ) -> Mapping[str, object]:
        return {"files": 0, "bytes": 0, "seconds": 0.0}

    def refresh(self, full: bool) -> Mapping[str, object]:
        return {"changed": 0, "commit": 0, "seconds": 0.0}

    def past(
        self, request: PastRequest, progress: Callable[[Struct | dict[str, object]], None]
    ) -> Struct | dict[str, object]:
        raise Refused(f"{self._pipe.name}@{self._snapshot} is the past: it cannot be changed")

    def cache(
        self, request: CacheRequest, progress: Callable[[Struct | dict[str, object]], None]
    ) -> Struct | dict[str, object]:
        raise Refused(f"{self._pipe.name}@{self._snapshot} keeps no list of what is pinned")

    def resolve(
        self, request: Resolve, progress: Callable[[Struct | dict[str, object]], None]
    ) -> Struct | dict[str, object]:
        raise Refused(f"{self._pipe.name}@{self._snapshot} is the past: it has no conflicts")

    def drain(self, timeout_s: float) -> tuple[int, int]:
        return 0, 0
