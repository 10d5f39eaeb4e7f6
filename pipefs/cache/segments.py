"""Segments: the LMDB files that hold the bytes of cached blocks, and leases into their maps.

A segment is filled once by appending and goes as a whole: its folder is renamed and unlinked. So
there is no free list to search, a reader holds back no more than its own segment, and a full disk
really gets space back (docs/design/002-block-cache.md has the figures).

Promises that a view handed out stays mapped until its lease is released, whatever other threads
and processes drop meanwhile. Never decides what is kept; that is `eviction.py`.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import xxhash

from pipefs.cache.cachehome import DEAD_PREFIX, SEGMENT_PREFIX
from pipefs.errors import PipefsError
from pipefs.lmdbenv import Environment, LmdbError, Transaction, open_env
from pipefs.types import BlockId

log = logging.getLogger(__name__)

PAGE_BYTES = 4096
SPARE_READERS = 32
MIN_SEGMENT_BYTES = 8 << 20
SEGMENTS_PER_LIMIT = 32
"""A drop takes about 3 % of the cache at once; two files are open a segment and process."""


def block_id(data: bytes | memoryview) -> BlockId:
    """The id of a block: xxh3-128 of its bytes."""
    return BlockId(xxhash.xxh3_128_digest(data))


def footprint(length: int) -> int:
    """Bytes a value of `length` takes in a segment: its own pages above half a page."""
    if length > PAGE_BYTES // 2 - 64:
        return (length + 16 + PAGE_BYTES - 1) // PAGE_BYTES * PAGE_BYTES + 64
    return length + 64


def segment_key(place: int, block: bytes) -> bytes:
    """Key of a block in its segment: in order of writing, so that pages are filled to the end
    (random keys leave them half empty, which counts for blocks of a few hundred bytes)."""
    return place.to_bytes(4, "big") + block


def map_bytes(capacity: int) -> int:
    """Map size of a segment: B-tree pages and overwritten blocks fit above its capacity."""
    return 2 * capacity + (64 << 20)


class Lease:
    """Bytes in LMDB's map, readable until `release`. Hold it for milliseconds: send and release.

    Release it exactly once or use it as a context manager; a second release does nothing.
    """

    __slots__ = ("_release", "data")

    def __init__(self, data: memoryview, release: Callable[[], None] | None = None) -> None:
        self.data = data
        self._release = release

    def slice(self, start: int, stop: int) -> None:
        """Narrow `data` to [start, stop) of what it is now."""
        self.data = self.data[start:stop]

    def release(self) -> None:
        """End the read transaction; `data` is not usable afterwards."""
        release, self._release = self._release, None
        if release is not None:
            self.data.release()
            release()

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.release()


class Segment:
    """One open segment of this process. `users` and `dropped` are guarded by `Segments`."""

    __slots__ = ("dropped", "env", "path", "serial", "users")

    def __init__(self, serial: int, path: Path, env: Environment) -> None:
        self.serial = serial
        self.path = path
        self.env = env
        self.users = 0
        self.dropped = False

    def size_bytes(self) -> int:
        """Length of the file's used part, as of the last commit."""
        return (int(self.env.info()["last_pgno"]) + 1) * PAGE_BYTES


class Segments:
    """The segments this process has open. Thread-safe; each `acquire` needs its `release`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        # Guards the dict and the counts in it. Held while opening, never while reading or writing
        # blocks. Innermost: nothing else is taken under it.
        self._lock = threading.Lock()
        self._open: dict[int, Segment] = {}
        self._closed = False

    def path(self, serial: int) -> Path:
        return self.directory / f"{SEGMENT_PREFIX}{serial:08d}"

    def acquire(self, serial: int, capacity: int, *, create: bool = False) -> Segment | None:
        """The segment, kept open until `release`; None when it is gone or not readable."""
        with self._lock:
            segment = self._open.get(serial)
            if self._closed:
                return None
            if segment is None:
                segment = self._open_segment(serial, capacity, create)
                if segment is None:
                    return None
                self._open[serial] = segment
            segment.users += 1
            return segment

    def release(self, segment: Segment) -> None:
        with self._lock:
            segment.users -= 1
            if segment.dropped and segment.users == 0:
                segment.env.close()

    def opened(self) -> list[int]:
        with self._lock:
            return list(self._open)

    def forget(self, serial: int) -> None:
        """Close a segment that was dropped; with leases out, the last of them closes it."""
        with self._lock:
            segment = self._open.pop(serial, None)
            if segment is not None:
                segment.dropped = True
                if segment.users == 0:
                    segment.env.close()

    def remove(self, serial: int) -> None:
        """Close a segment and give its space back to the disk. Idempotent."""
        self.forget(serial)
        path = self.path(serial)
        dead = self.directory / f"{DEAD_PREFIX}{serial:08d}-{os.getpid()}"
        # Renamed first: a process that opens it now gets "no such file" and not a new empty
        # environment in a half-removed folder.
        try:
            os.rename(path, dead)
        except FileNotFoundError:
            return
        shutil.rmtree(dead, ignore_errors=True)

    def lease(self, segment: Segment, key: bytes) -> Lease | None:
        """The value under `key`, or None. Takes over the caller's hold on `segment`."""
        txn: Transaction | None = None
        try:
            txn = segment.env.begin(buffers=True)
            data = txn.get(key)
        except LmdbError as e:
            log.warning("block cache: segment %d is not readable: %s", segment.serial, e)
            data = None
        if data is not None and txn is not None:
            ended = txn

            def release() -> None:
                ended.abort()
                self.release(segment)

            return Lease(data, release)
        if txn is not None:
            txn.abort()
        self.release(segment)
        return None

    def close(self) -> None:
        """Close all; those with leases out stay mapped until the leases end."""
        with self._lock:
            self._closed = True
        for serial in self.opened():
            self.forget(serial)

    def _open_segment(self, serial: int, capacity: int, create: bool) -> Segment | None:
        path = self.path(serial)
        try:
            env, _ = open_env(
                path,
                (),
                map_size_bytes=map_bytes(capacity),
                sync=False,
                create=create,
                spare_readers=SPARE_READERS,
            )
        except PipefsError as e:
            if create:
                raise
            if path.exists():
                log.warning("block cache: segment %d is not usable: %s", serial, e)
            return None
        segment = Segment(serial, path, env)
        if (path / "data.mdb").stat().st_size + PAGE_BYTES * 16 < segment.size_bytes():
            # Reading past the end of the file would be SIGBUS. The last pages of a good file may
            # be missing: LMDB does not write pages that were taken and given back.
            log.warning("block cache: segment %d is cut short, not used", serial)
            env.close()
            return None
        return segment
