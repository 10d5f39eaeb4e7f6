"""Versions of the store as files of the folder, many at once.

Small files are one request each. A large one is fetched in pieces, some of them ahead, that are
appended to its part in order: so the part's size says how far it is, and what an interruption
leaves is taken up again. Threads end with the call; the callbacks run in the caller's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import xxhash

from pipefs.errors import (
    FAULTS_IN_A_ROW,
    Corrupt,
    NoSpace,
    NotAccepted,
    PipefsError,
    ServerFault,
    StoreUnavailable,
)
from pipefs.folder.deciding import Folder
from pipefs.folder.landing import land
from pipefs.folder.plan import Step
from pipefs.folder.reports import Progress
from pipefs.folder.scan import PART
from pipefs.folder.states import Local, Remote
from pipefs.jobs import taken
from pipefs.stores.base import Store
from pipefs.stores.etags import etag_is_md5
from pipefs.sums import Sums

PIECE_BYTES = 8 << 20
_SMALL_AT_ONCE = 32
_LARGE_AT_ONCE = 2
_AHEAD = 4
"""Pieces of one file in flight: with two files at once 64 MiB of memory."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that is in the folder now."""

    step: Step
    remote: Remote
    local: Local


_Answer = tuple[Step, Fetched | Exception]


class Fetcher:
    """Fetches steps of one pull."""

    def __init__(self, store: Store, folder: Folder, progress: Progress) -> None:
        self._store = store
        self._folder = folder
        self._progress = progress
        self._stop = threading.Event()
        self._umask = _umask()

    def fetch(
        self,
        steps: Sequence[Step],
        take: Callable[[Fetched], None],
        fail: Callable[[Step, str], None],
    ) -> None:
        """Fetch all of them, in no order.

        Raises:
            StoreUnavailable, NotAccepted, NoSpace: the rest would fare no better; `take` was told
                what was done.
        """
        answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
        large = deque(s for s in steps if _remote(s).size > PIECE_BYTES)
        small = deque(s for s in steps if _remote(s).size <= PIECE_BYTES)
        ended: Exception | None = None
        judge = _Judge(self._folder.path)
        with ThreadPoolExecutor(_SMALL_AT_ONCE + _LARGE_AT_ONCE) as pool:
            for jobs, count in ((large, _LARGE_AT_ONCE), (small, _SMALL_AT_ONCE)):
                for _ in range(min(count, len(jobs))):
                    pool.submit(self._work, jobs, answers)
            try:
                for _ in steps:
                    step, answer = answers.get()
                    if (ended := judge.ends(answer)) is not None:
                        raise ended
                    if isinstance(answer, Fetched):
                        take(answer)
                    else:
                        fail(step, _reason(answer))
                if judge.faults and not judge.answers:
                    raise judge.faults[-1]
            finally:
                self._stop.set()
                large.clear()
                small.clear()
                pool.shutdown(wait=True)
                _drain(answers, take)

    def _work(self, jobs: deque[Step], answers: queue.SimpleQueue[_Answer]) -> None:
        for step in taken(jobs, self._stop):
            try:
                answers.put((step, self._one(step)))
            except Exception as e:
                answers.put((step, e))

    # --- one file -----------------------------------------------------------------------------

    def _one(self, step: Step) -> Fetched:
        remote = _remote(step)
        place = self._folder.place(step.path)
        if step.local is not None and os.path.islink(place):
            place = os.path.realpath(place)  # what it leads to is the file
        part = os.path.join(os.path.dirname(place), _part_name(step.path, remote))
        fetch = self._whole if remote.size <= PIECE_BYTES else self._in_pieces
        for resume in (True, False):
            fd = _open(part, resume and remote.size > PIECE_BYTES)
            try:
                good = fetch(fd, remote)
                if good:
                    os.fchmod(fd, self._mode(remote))
                    os.utime(fd, ns=(remote.mtime_ns, remote.mtime_ns))
            finally:
                os.close(fd)
            if good:
                return Fetched(step, remote, land(part, place, step.local))
        os.unlink(part)
        raise Corrupt(f"what the store sends are not the bytes of {remote.key}, twice")

    def _mode(self, remote: Remote) -> int:
        return remote.mode & 0o777 if remote.mode is not None else 0o666 & ~self._umask

    def _whole(self, fd: int, remote: Remote) -> bool:
        data = self._store.get(remote.key, remote.version, 0, remote.size) if remote.size else b""
        if len(data) != remote.size:
            return False
        _write(fd, data)
        self._progress.add(len(data))
        sums = _sums(remote)
        sums.add(data)
        return self._is_right(remote, sums)

    def _in_pieces(self, fd: int, remote: Remote) -> bool:
        sums, at = _sums(remote), 0
        for piece in _pieces_of(fd, remote.size):
            sums.add(piece)
            at += len(piece)
        self._progress.add(at)
        with ThreadPoolExecutor(_AHEAD) as pool:
            ahead: deque[tuple[int, Future[bytes]]] = deque()
            try:
                asked = at
                while at < remote.size:
                    while asked < remote.size and len(ahead) < _AHEAD:
                        length = min(PIECE_BYTES, remote.size - asked)
                        get = pool.submit(
                            self._store.get, remote.key, remote.version, asked, length
                        )
                        ahead.append((length, get))
                        asked += length
                    length, get = ahead.popleft()
                    piece = get.result()
                    if self._stop.is_set():
                        raise StoreUnavailable("stopped")
                    if len(piece) != length:
                        return False
                    _write(fd, piece)
                    sums.add(piece)
                    at += length
                    self._progress.add(length)
            finally:
                pool.shutdown(cancel_futures=True)
        return self._is_right(remote, sums)

    def _is_right(self, remote: Remote, sums: Sums) -> bool:
        if remote.checksum:
            return not sums.sha256_differs()
        if not sums.md5_differs():
            return True
        return not etag_is_md5(self._store, remote.key, remote.version)


def _remote(step: Step) -> Remote:
    assert step.remote is not None  # a pull has nothing else
    return step.remote


def _sums(remote: Remote) -> Sums:
    return Sums(remote.size, "" if remote.checksum else remote.etag, remote.checksum)


def _part_name(path: str, remote: Remote) -> str:
    """The same for the same version of the same file, so that it is found again."""
    text = f"{path}\0{remote.version}\0{remote.etag}\0{remote.size}"
    return PART + xxhash.xxh3_64_hexdigest(os.fsencode(text))


def _open(part: str, resume: bool) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (0 if resume else os.O_TRUNC)
    try:
        return os.open(part, flags, 0o600)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(part), exist_ok=True)
        return os.open(part, flags, 0o600)


def _pieces_of(fd: int, limit: int) -> Iterator[bytes]:
    """What a part has already; what is beyond the version's size is cut off."""
    size = os.fstat(fd).st_size
    if size > limit:
        os.ftruncate(fd, 0)
        return
    while piece := os.read(fd, PIECE_BYTES):
        yield piece


def _write(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


class _Judge:
    """Whether what happened to one file would happen to the others."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.answers = 0
        self.faults: list[ServerFault] = []
        """Since the last answer."""

    def ends(self, answer: Fetched | Exception) -> Exception | None:
        """The error to end with."""
        if isinstance(answer, Fetched):
            self.answers += 1
            self.faults.clear()
        elif isinstance(answer, ServerFault):  # may be of this file alone
            self.faults.append(answer)
            return answer if len(self.faults) >= FAULTS_IN_A_ROW else None
        elif isinstance(answer, StoreUnavailable | NotAccepted | NoSpace):
            return answer
        elif isinstance(answer, OSError) and answer.errno in _FULL:
            return NoSpace(
                f"{answer.filename or self._folder}: {answer.strerror}",
                hint="What was pulled stays. Make room, then the same command goes on from there",
            )
        return None


def _reason(error: Exception) -> str:
    if isinstance(error, PipefsError):
        return error.message
    if isinstance(error, FileExistsError | NotADirectoryError):
        is_link = os.path.islink(error.filename or "")
        what = "a link that leads nowhere" if is_link else "a file"
        return f"{what} is where its folder has to be"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    raise error


def _drain(answers: queue.SimpleQueue[_Answer], take: Callable[[Fetched], None]) -> None:
    """Files that were finished after the end was decided are in the folder as well."""
    with contextlib.suppress(queue.Empty):
        while True:
            _, answer = answers.get_nowait()
            if isinstance(answer, Fetched):
                take(answer)


def _umask() -> int:
    """This process's mask."""
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    # Elsewhere it can only be read by setting it.
    found = os.umask(0o022)
    os.umask(found)
    return found
