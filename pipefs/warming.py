"""Bringing versions into the block cache before anybody asks for them, and keeping them there.

`warm` fetches what is missing, several requests at a time. `settle` also pins: after it, what was
asked for is in the cache and stays, and what this owner pinned before and does not want any more
is let go. Threads end with the call.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice

from pipefs.blocks import BlockCache
from pipefs.content import ContentReader, release_all
from pipefs.errors import Conflict, Corrupt, NoSpace, NotFound, Refused
from pipefs.types import ContentRef
from pipefs.units import show_size

THREADS = 16
REQUEST_BYTES = 8 << 20
TOLD_EVERY_S = 0.1
_SPARE = 64 << 20
"""Bytes that a disk keeps free."""


@dataclass(frozen=True, slots=True)
class File:
    """A path and the version it has."""

    path: str
    ref: ContentRef


@dataclass(slots=True)
class Warmed:
    """What was asked for, and what of it had to be fetched."""

    files: int = 0
    bytes: int = 0
    fetched_files: int = 0
    fetched_bytes: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    """Path → why it could not be had: its version is gone, or its bytes are damaged."""


Progress = Callable[[int, int], None]
"""(files, bytes) that are still to come; may raise to end it."""


def warm(
    files: Sequence[File],
    reader: ContentReader,
    cache: BlockCache,
    *,
    progress: Progress | None = None,
    pinned: bool = False,
) -> Warmed:
    """Fetch what is missing of these versions.

    Args:
        pinned: they are kept whatever the limit; else more than fits is refused.
    Raises:
        Refused: the cache's limit is too small, so that the first would be gone at the end.
        NoSpace: the disk is too small. StoreUnavailable, AccessDenied: what came is kept.
    """
    done = Warmed(len(files), sum(f.ref.size for f in files))
    missing = [f for f in files if f.ref.size and reader.percent(f.ref) < 100.0]
    need = sum(f.ref.size for f in missing)
    if not pinned and done.bytes > cache.limit_bytes:
        raise Refused(
            f"{show_size(done.bytes)} do not fit into the cache's {show_size(cache.limit_bytes)}",
            hint="Keep them all the same: pipefs pin · or a larger cache: set NAME cache_limit=…",
        )
    disk = os.statvfs(cache.directory)
    free = disk.f_bavail * disk.f_frsize - _SPARE
    if need > free:
        raise NoSpace(
            f"{show_size(need)} are missing, and the cache's disk has {show_size(max(0, free))}",
            hint=f"Make room on the disk of {cache.directory}",
        )
    _Fetch(missing, need, reader, progress, done).run()
    return done


class _Fetch:
    """One call of `warm`."""

    def __init__(
        self,
        files: Sequence[File],
        size: int,
        reader: ContentReader,
        progress: Progress | None,
        done: Warmed,
    ) -> None:
        self._files = files
        self._reader = reader
        self._progress = progress
        self._done = done
        self._left_files, self._left_bytes = len(files), size
        self._told = 0.0

    def run(self) -> None:
        todo = self._requests()
        self._tell()
        with ThreadPoolExecutor(THREADS, thread_name_prefix="warm") as pool:
            under_way: dict[Future[int], File] = {}
            try:
                while True:
                    for file, offset in islice(todo, 2 * THREADS - len(under_way)):
                        under_way[pool.submit(self._request, file.ref, offset)] = file
                    if not under_way:
                        return
                    finished, _ = wait(under_way, timeout=1.0, return_when=FIRST_COMPLETED)
                    for future in finished:
                        self._landed(under_way.pop(future), future)
                    self._tell()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _requests(self) -> Iterator[tuple[File, int]]:
        for file in self._files:
            self._left_files -= 1
            self._done.fetched_files += 1
            for offset in range(0, file.ref.size, REQUEST_BYTES):
                if file.path not in self._done.failed:
                    yield file, offset

    def _request(self, ref: ContentRef, offset: int) -> int:
        release_all(self._reader.read(ref, offset, REQUEST_BYTES))
        return min(REQUEST_BYTES, ref.size - offset)

    def _landed(self, file: File, future: Future[int]) -> None:
        try:
            size = future.result()
        except (NotFound, Conflict, Corrupt) as e:
            if file.path not in self._done.failed:
                self._done.fetched_files -= 1
            self._done.failed[file.path] = e.message
            return
        self._left_bytes -= size
        self._done.fetched_bytes += size

    def _tell(self) -> None:
        now = time.monotonic()
        if self._progress is not None and now - self._told >= TOLD_EVERY_S:
            self._told = now
            self._progress(self._left_files, max(0, self._left_bytes))


def settle(
    files: Sequence[File],
    reader: ContentReader,
    cache: BlockCache,
    owner: bytes,
    *,
    progress: Progress | None = None,
) -> Warmed:
    """Let the pins of `owner` be exactly these versions, all of them in the cache.

    What was pinned before stays until everything that takes its place is there.

    Raises:
        As `warm`; then both what was pinned before and what has come are pinned.
    """
    wanted = {reader.identity(f.ref) for f in files if f.ref.size}
    held = cache.pinned_by(owner)
    # Before the bytes come: a block of a pinned version is pinned when it is inserted.
    for some in _batches(wanted - held):
        cache.pin(*some, owner=owner)
    done = warm(files, reader, cache, progress=progress, pinned=True)
    if not done.failed:
        release(cache, held - wanted)
    return done


def release(cache: BlockCache, versions: set[bytes]) -> None:
    """Let versions go: they age like any other from now on."""
    for some in _batches(versions):
        cache.unpin(*some)


def _batches(versions: set[bytes]) -> Iterator[list[bytes]]:
    """A thousand in one transaction: a few milliseconds."""
    todo = iter(versions)
    while some := list(islice(todo, 1000)):
        yield some
