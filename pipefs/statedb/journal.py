"""The journal of a pipe's state: append-only files of checksummed records, each one `write(2)`.

What it promises: a record whose `append` returned is in the kernel (killing the process loses
nothing), and after `sync` returned it is on the disk. A record is found whole or not at all. It
knows nothing of what the payloads mean, and it never repairs: reading stops where a crash cut the
file, and damage to what was once synced is an error, not an end.

A segment is a header, then records, all little-endian:

    header   magic 8 | version u32 | names length u32 | nonce 8 | names, NUL between | xxh3-64
    record   nonce[:4] | payload length u32 | sequence u64 | synced u64 | payload | xxh3-64

Every checksum is seeded with the segment's random nonce, so that bytes of an older segment which
a power loss left in a reused disk block never pass for records of this one. `synced` is the
highest sequence that was known to be on disk when the record was written. It tells the two kinds
of a bad record apart: if a later record says that the bad one had been synced, the disk has lost
what it promised (Corrupt); if none does, a power loss dropped pages that nobody had synced, and
the journal ends there.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xxhash import xxh3_64_digest

from pipefs.errors import Corrupt, NewerFormat, NoSpace, PipefsError

MAGIC = b"pipefsJL"
VERSION = 1
PREFIX = "journal-"
MAX_PAYLOAD_BYTES = 1 << 30
"""One `write(2)` takes 2 GiB at most; a record must stay well below."""

_HEADER = struct.Struct("<8sII8s")
_RECORD = struct.Struct("<4sIQQ")
_SUM_BYTES = 8
_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE: blocks behind the end of the file, which does not move
# Linux only; elsewhere there is no reserve, and a disk that others fill stops updates at once.
_fallocate = getattr(ctypes.CDLL(None), "fallocate", None)


@dataclass(slots=True)
class Segment:
    """One open file of the journal; `sequence` is the last record that its journal wrote."""

    path: Path
    fd: int
    seed: int
    mark: bytes
    size_bytes: int
    header_bytes: int
    sequence: int = 0


@dataclass(slots=True)
class Contents:
    """What a segment file holds up to its end or its torn tail."""

    tables: Sequence[str] = ()
    records: list[tuple[int, bytes]] = field(default_factory=list)


def fsync_directory(directory: Path) -> None:
    """Make the names in `directory` durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def release_reserves(directory: Path) -> None:
    """Give back the blocks behind the ends of the segments of a journal that nobody has open."""
    for path in segment_paths(directory):
        with contextlib.suppress(OSError):
            os.truncate(path, path.stat().st_size)


def segment_paths(directory: Path) -> list[Path]:
    """The segments in `directory`, oldest first."""
    return sorted(p for p in directory.iterdir() if p.name.startswith(PREFIX))


class Journal:
    """The open end of the journal of one directory; `append` is called under the owner's lock."""

    def __init__(
        self, directory: Path, tables: Sequence[str], sequence: int, *, reserve_bytes: int
    ) -> None:
        """Start a new segment after record `sequence`, which is on disk elsewhere.

        Args:
            reserve_bytes: disk space to hold for records, so that when others have filled the
                disk the changes that make room (an upload is done) can still be written.
        """
        self._reserve_bytes = reserve_bytes
        self._directory = directory
        self._tables = tuple(tables)
        self._generation = _last_generation(directory)
        # Protects `synced` and the life of the current descriptor; the last in the lock order
        # (checkpoint, state, sync): whoever holds it takes no other.
        self._sync_lock = threading.Lock()
        self._failure: str | None = None
        self._segment = self.prepare()
        self._segment.sequence = sequence
        self.synced = sequence
        self._settle()

    @property
    def sequence(self) -> int:
        """Number of the last record written, 0 before the first of all."""
        return self._segment.sequence

    @property
    def size_bytes(self) -> int:
        """Bytes of records in the current segment."""
        return self._segment.size_bytes - self._segment.header_bytes

    @property
    def path(self) -> Path:
        """The current segment's file."""
        return self._segment.path

    def append(self, payload: bytes) -> None:
        """Write one record; if this raises, the journal is as before.

        Raises:
            NoSpace: the disk is full. Corrupt: an earlier failure left the file unusable.
        """
        if self._failure is not None:
            raise Corrupt(self._failure, hint="check the disk, then start again")
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise ValueError(f"an update of {len(payload)} bytes is too large: split it")
        segment = self._segment
        size, sequence = segment.size_bytes, segment.sequence + 1
        body = _RECORD.pack(segment.mark, len(payload), sequence, self.synced) + payload
        record = body + xxh3_64_digest(body, segment.seed)
        try:
            written = os.write(segment.fd, record)
            if written != len(record):
                _write_all(segment.fd, memoryview(record)[written:])
            segment.size_bytes = size + len(record)
            segment.sequence = sequence  # last: from here on the record counts
        except BaseException as e:
            if segment.sequence != sequence:
                self._cut(segment, size)
            if isinstance(e, OSError):
                raise _translate(e, segment.path, "write") from e
            raise

    def sync(self) -> None:
        """Every record written before this call is on disk afterwards.

        Concurrent callers share one fdatasync. After a failed one the kernel may have dropped the
        pages, so nothing is promised any more and the journal refuses to go on.
        """
        target = self._segment.sequence
        if self.synced >= target:
            return
        with self._sync_lock:
            if self.synced >= target:
                return
            if self._failure is not None:
                raise Corrupt(self._failure, hint="check the disk, then start again")
            segment = self._segment
            covered = segment.sequence
            try:
                os.fdatasync(segment.fd)
            except OSError as e:
                self._failure = f"fdatasync of {segment.path} failed: {e.strerror}"
                raise _translate(e, segment.path, "fdatasync") from e
            self.synced = covered

    def prepare(self) -> Segment:
        """Make the next segment, durable and empty, without using it yet.

        Its header and its name are synced here, so that a segment that has records always has a
        good header. Raises NoSpace.
        """
        self._generation += 1
        path = self._directory / f"{PREFIX}{self._generation:020d}"
        nonce = secrets.token_bytes(8)
        names = "\0".join(self._tables).encode()
        head = _HEADER.pack(MAGIC, VERSION, len(names), nonce) + names
        head += xxh3_64_digest(head)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = -1
        try:
            fd = os.open(path, flags, 0o600)
            _write_all(fd, memoryview(head))
            os.fdatasync(fd)
            fsync_directory(self._directory)
        except BaseException as e:
            if fd >= 0:
                os.close(fd)
                path.unlink(missing_ok=True)
            if isinstance(e, OSError):
                raise _translate(e, path, "make") from e
            raise
        return Segment(path, fd, int.from_bytes(nonce, "little"), nonce[:4], len(head), len(head))

    def switch(self, following: Segment) -> None:
        """Go on in `following`; all records so far are on disk elsewhere. Removes the old."""
        old = self._segment
        following.sequence = old.sequence
        self._segment = following
        with self._sync_lock:  # a sync may be running on the old descriptor
            self.synced = max(self.synced, old.sequence)
            self._failure = None
            os.close(old.fd)
        self._settle()

    def release(self) -> None:
        """Give back the reserve. Called like `append`, under the owner's lock."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._segment.fd, self._segment.size_bytes)

    def discard(self, segment: Segment) -> None:
        """Drop a prepared segment that will not be used."""
        os.close(segment.fd)
        segment.path.unlink(missing_ok=True)

    def _settle(self) -> None:
        """Remove all segments but the current one, then reserve space for it."""
        for path in segment_paths(self._directory):
            if path < self._segment.path:
                # What cannot be removed holds nothing that is not in the database: a replay
                # skips it, and the next checkpoint tries again.
                with contextlib.suppress(OSError):
                    path.unlink()
        disk = os.statvfs(self._directory)
        # At most a quarter of what is left: a small disk is not ours alone.
        size = min(self._reserve_bytes, disk.f_bavail * disk.f_frsize // 4)
        fd, end = self._segment.fd, self._segment.size_bytes
        if (
            _fallocate is not None
            and size > 0
            and _fallocate(fd, _KEEP_SIZE, ctypes.c_int64(end), ctypes.c_int64(size)) != 0
        ):
            self.release()  # a failed call may leave part of it

    def close(self) -> None:
        """Close the file; says nothing about durability."""
        with self._sync_lock:
            os.close(self._segment.fd)
            self._failure = f"the journal in {self._directory} is closed"

    def _cut(self, segment: Segment, size: int) -> None:
        """Take back a record that was written in part, or not at all."""
        segment.size_bytes = size
        try:
            os.ftruncate(segment.fd, size)
        except OSError as e:
            self._failure = f"cannot cut {segment.path} to {size} bytes: {e.strerror}"


def read_segment(path: Path, applied: int) -> Contents:
    """The records of a segment file, in sequence, up to its end or its torn tail.

    Args:
        applied: the last sequence that is safe elsewhere; damage below it does not matter.

    Raises:
        Corrupt: a record that had been synced is damaged. NewerFormat: a newer pipefs wrote this.
    """
    data = path.read_bytes()
    header = _read_header(path, data)
    if header is None:
        return Contents()
    offset, mark, seed, tables = header
    found = Contents(tables)
    expected: int | None = None
    while offset < len(data):
        record = _record_at(data, offset, mark, seed)
        if record is None or (expected is not None and record[0] != expected):
            break
        sequence, _, payload, offset = record
        expected = sequence + 1
        found.records.append((sequence, payload))
    if offset < len(data):
        lost = max(applied + 1, expected or 0)
        for sequence, synced in _records_after(data, offset + 1, mark, seed):
            if sequence > lost and synced >= lost:
                raise Corrupt(
                    f"record {lost} in {path} is damaged at byte {offset}, but it had been synced",
                    hint="the disk lost data it had accepted: check it",
                )
    return found


def _read_header(path: Path, data: bytes) -> tuple[int, bytes, int, list[str]] | None:
    """Where records start, their mark and seed, the tables; None if a crash cut its making."""
    if len(data) >= 12 and data.startswith(MAGIC):
        version = int.from_bytes(data[8:12], "little")
        if version > VERSION:
            raise NewerFormat(
                f"state in {path.parent} was written by a newer pipefs "
                f"(journal format {version}; this one knows up to {VERSION})",
                hint="upgrade pipefs on this machine",
            )
    if len(data) >= _HEADER.size:
        _, _, names_bytes, nonce = _HEADER.unpack_from(data)
        end = _HEADER.size + names_bytes
        if data[end : end + _SUM_BYTES] == xxh3_64_digest(data[:end]):
            names = data[_HEADER.size : end].decode().split("\0")
            return end + _SUM_BYTES, nonce[:4], int.from_bytes(nonce, "little"), names
        # `prepare` syncs a header before the first record, so a torn header has none behind it.
        if len(data) > end + _SUM_BYTES or (not data.startswith(MAGIC) and any(data)):
            raise Corrupt(f"the header of {path} is damaged")
    return None


def _record_at(
    data: bytes, offset: int, mark: bytes, seed: int
) -> tuple[int, int, bytes, int] | None:
    """(sequence, synced, payload, next offset) of the record at `offset` if it is whole."""
    start = offset + _RECORD.size
    if start + _SUM_BYTES > len(data):
        return None
    found, length, sequence, synced = _RECORD.unpack_from(data, offset)
    stop = start + length
    if found != mark or stop + _SUM_BYTES > len(data):
        return None
    if data[stop : stop + _SUM_BYTES] != xxh3_64_digest(memoryview(data)[offset:stop], seed):
        return None
    return sequence, synced, data[start:stop], stop + _SUM_BYTES


def _records_after(data: bytes, offset: int, mark: bytes, seed: int) -> Iterator[tuple[int, int]]:
    """(sequence, synced) of whole records anywhere behind a bad one."""
    while (offset := data.find(mark, offset)) >= 0:
        record = _record_at(data, offset, mark, seed)
        if record is None:
            offset += 1
        else:
            yield record[0], record[1]
            offset = record[3]


def _last_generation(directory: Path) -> int:
    paths = segment_paths(directory)
    return int(paths[-1].name.removeprefix(PREFIX)) if paths else 0


def _write_all(fd: int, rest: memoryview) -> None:
    while rest:
        rest = rest[os.write(fd, rest) :]


def _translate(e: OSError, path: Path, doing: str) -> PipefsError:
    if e.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"no space left to {doing} {path}", hint="free space on this disk")
    return Corrupt(f"cannot {doing} {path}: {e.strerror}", hint="check the disk")
