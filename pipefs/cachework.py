"""Filling and pinning the cache of a pipe, whether it is mounted or not.

Beside a mount the worker is asked, so that one process decides what is pinned; else the cache,
which all processes share, is used from here, and the replica or a snapshot says which versions.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from pipefs import pins, warming
from pipefs.blocks import BlockCache
from pipefs.cachemessages import CacheFilled, CacheRequest, PinPath, UnpinPath, Warm
from pipefs.client import SupervisorClient, call
from pipefs.config import cache_limit_for
from pipefs.content import ContentReader
from pipefs.descriptor import who
from pipefs.errors import NotFound
from pipefs.home import Home
from pipefs.moments import is_moment, parse_moment, show_moment
from pipefs.past.moment import MomentView
from pipefs.past.nodes import MemoryNodes
from pipefs.past.opened import Past, view_of
from pipefs.past.views import PastView
from pipefs.pins import Pin
from pipefs.protocol import FlushProgress
from pipefs.registry import Pipe
from pipefs.replica import Replica
from pipefs.types import ContentRef
from pipefs.warming import File, Warmed

Progress = Callable[[FlushProgress], None]


class CacheWork:
    """What can be asked of one pipe's cache. Each call stands alone; no thread outlives it.

    Args:
        progress: told the files and bytes that are still to come.
    """

    def __init__(self, home: Home, pipe: Pipe, *, progress: Progress | None = None) -> None:
        self._home = home
        self._pipe = pipe
        self._progress = progress

    def warm(self, path: str = "", snapshot: str | None = None) -> CacheFilled:
        """Fetch what is at and below a path into the cache.

        Raises:
            NotFound: no such path or snapshot. Refused: more than the cache's limit. NoSpace: the
            disk is too small. Store errors; what came is kept.
        """
        return self._do(Warm(path, snapshot))

    def pin(self, path: str = "", snapshot: str | None = None) -> CacheFilled:
        """Keep it in the cache whatever the limit; of the present also new versions, while it is
        mounted or the next time this is called. Survives restarts. Errors as `warm`."""
        return self._do(PinPath(path, snapshot))

    def unpin(self, path: str = "", snapshot: str | None = None, *, all: bool = False) -> None:
        """Let go of it; it ages like anything else. `NotFound` where it was not pinned."""
        self._do(UnpinPath(path, snapshot, all))

    def pins(self) -> list[Pin]:
        """What is pinned of the pipe."""
        return pins.load(self._home.pipe_state(self._pipe.name))

    def forget(self) -> None:
        """Let go of everything, without asking anybody: the pipe is about to be removed."""
        if self.pins():
            with self._cache() as cache:
                warming.release(cache, cache.pinned_by(pins.owner_of(self._pipe.pipe_id)))

    # --- one call -----------------------------------------------------------------------------

    def _do(self, request: CacheRequest) -> CacheFilled:
        name = self._pipe.name
        items = SupervisorClient(self._home).mounts_or_none()
        item = next((m for m in items if m.name == name and m.snapshot is None), None)
        if item is not None:
            # No bound: it takes as long as the bytes take, and progress shows that it goes on.
            return call(item.socket, request, CacheFilled, timeout_s=None, progress=self._progress)
        began = time.monotonic()
        with self._cache() as cache, contextlib.closing(_Tree(self._home, self._pipe)) as tree:
            done = self._here(request, tree, cache)
        return pins.filled(done, time.monotonic() - began)

    def _here(self, request: CacheRequest, tree: _Tree, cache: BlockCache) -> Warmed:
        state = self._home.pipe_state(self._pipe.name)
        files: list[File] = []
        if isinstance(request, UnpinPath):
            gone = request
            pins.change(state, lambda known: pins.without(known, gone, self._pipe.name))
        else:
            one = tree.as_pin(request.path, request.snapshot)
            files = tree.files_of(one)
        if isinstance(request, PinPath):
            pins.change(state, lambda known: pins.with_pin(known, one))
        with ThreadPoolExecutor(warming.THREADS, thread_name_prefix="fetch") as pool:
            reader = ContentReader(tree.store, cache, self._pipe.pipe_id, executor=pool)
            try:
                if isinstance(request, Warm):
                    return warming.warm(files, reader, cache, progress=self._tell)
                owner = pins.owner_of(self._pipe.pipe_id)
                files = pins.all_files(state, tree.files_of)
                return warming.settle(files, reader, cache, owner, progress=self._tell)
            finally:
                reader.close()

    def _tell(self, files: int, size: int) -> None:
        if self._progress is not None:
            self._progress(FlushProgress(files, size))

    @contextlib.contextmanager
    def _cache(self) -> Iterator[BlockCache]:
        limit = cache_limit_for(self._pipe.settings, self._home.cache)
        cache = BlockCache(self._home.cache / "blocks", limit_bytes=limit)
        try:
            yield cache
        finally:
            cache.close()


class _Tree:
    """Which versions a path has, without a mount."""

    def __init__(self, home: Home, pipe: Pipe) -> None:
        self._replica = Replica(home, pipe)
        self._pipe = pipe
        self._folder = home.cache / "manifests"
        self._past: Past | None = None
        self._table = MemoryNodes()
        self.store = self._replica.store

    def close(self) -> None:
        self._replica.close()

    def as_pin(self, path: str, snapshot: str | None) -> Pin:
        if snapshot is None:
            return Pin(path)
        if is_moment(snapshot):
            moment_ns = parse_moment(snapshot, time.time_ns())
            return Pin(path, f"moment:{moment_ns}", snapshot)
        return Pin(path, f"snapshot:{self._opened().catalog.find(snapshot).id}", snapshot)

    def _opened(self) -> Past:
        if self._past is None:
            self._past = Past(self.store, author=who(), writer="", folder=self._folder)
            self._past.refresh()
        return self._past

    def files_of(self, pin: Pin) -> list[File]:
        """Raises `NotFound`."""
        names = pins.names_of(pin.path)
        if not pin.snapshot:
            return self._live(pin.path)
        try:
            return list(pins.files_of_view(self._view(pin.snapshot), names))
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"{self._pipe.name} has no file or folder {pin.path!r}") from None

    def _live(self, path: str) -> list[File]:
        with self._replica.opened() as now:
            if path and now.entry(path) is None:
                raise NotFound(f"{self._pipe.name} has no file or folder {path!r}")
            return [
                File(item.path, ContentRef(item.key, item.version_id, item.etag, item.size))
                for item in now.walk(path)
                if item.is_file and not item.link_of
            ]

    def _view(self, identity: str) -> PastView:
        word, _, rest = identity.partition(":")
        if word == "moment":
            return MomentView(self.store, self._table, int(rest), show_moment(int(rest)))
        past = self._opened()
        return view_of(past.manifests, past.catalog.find(rest))
