"""One path of a publication: what is asked for, its bytes to the store, the change that tells it.

Works on the caller's thread, several at once; nothing is announced here.
"""

from __future__ import annotations

import enum
import logging
import re
import stat
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipefs import bodies, tree
from pipefs.attributes import content_type_of, metadata_of
from pipefs.bodies import Body, Opened
from pipefs.commits import Change
from pipefs.conditional import TRIES, ConditionalStore
from pipefs.errors import Busy, Conflict, PipefsError, PreconditionFailed, UsageError
from pipefs.outbox import wire_xattrs
from pipefs.records import NO_MODE, Content, Inode
from pipefs.replicated import USER, Item, Place, to_names
from pipefs.stores.base import MULTIPART_THRESHOLD_BYTES, WRITE_ID_KEY
from pipefs.types import ObjectVersion
from pipefs.unfinished import Note, Notes

log = logging.getLogger(__name__)


class Expected(enum.Enum):
    """What a caller may expect at a path beside a version that it saw."""

    ANY = "any"
    """Whatever is there: it is replaced."""
    ABSENT = "absent"
    """Nothing."""


ANY, ABSENT = Expected.ANY, Expected.ABSENT

Progress = Callable[[str, int], None]
"""Called with a path and bytes sent since the last call, from several threads."""

MAX_VALUE_BYTES = 64 << 10
MAX_METADATA_BYTES = 128 << 10
_OBJECT_METADATA_BYTES = 1200
"""S3 takes 2 KiB of an object's metadata, ours included; what does not fit is in the log only."""
_OBJECT_KEY = re.compile(r"[a-z0-9!#$&'*+.^_`|~-]{1,128}\Z")
_RESERVED = frozenset({"mtime", "mode", "uid", "gid", WRITE_ID_KEY})


@dataclass(frozen=True, slots=True)
class Publication:
    """A file to be put."""

    path: str
    body: Body
    metadata: Mapping[str, str] | None = None
    """Attributes `user.NAME` of the file, and metadata of its object as far as that goes. None:
    those that the path has stay."""
    mtime_ns: int | None = None
    """None: the file's, where the body is one; else now."""
    mode: int | None = None
    """Permission bits. None: the file's, where the body is one; else those that the path has."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Metadata of the object that is no attribute of the file, such as its format: of these bytes
    only."""
    expected: str | Expected = ANY
    """Version (`Item.version`) that the caller saw there. The same bytes are never a conflict."""


@dataclass(frozen=True, slots=True)
class Deletion:
    """A file, link or empty directory to be removed. A version that the store keeps stays."""

    path: str
    expected: str | Expected = ANY


class Outcome(enum.Enum):
    """What became of a path."""

    SENT = "sent"
    SAME = "same"
    """The store had these very bytes: nothing was sent. Attributes may have changed."""
    DELETED = "deleted"
    ABSENT = "absent"
    """To be deleted, but nothing was there."""
    FAILED = "failed"
    """See the error; a `Conflict` where somebody else changed it."""


@dataclass(slots=True)
class Job:
    """One path under way."""

    wanted: Publication | Deletion
    path: str
    before: Item | None
    place: Place
    parked: str = ""
    """Key at which the bytes wait until they are announced; "": their own."""
    links: list[str] = field(default_factory=list)
    """Further names of the file that is there."""
    change: Change | None = None
    outcome: Outcome = Outcome.FAILED
    content: Content | None = None
    sent_bytes: int = 0
    gone: Content | None = None
    """To be deleted when it was announced."""
    follows: str = ""
    """Path whose object is to move to its own key when it was announced."""
    error: PipefsError | None = None


class Sender:
    """Sends jobs. Thread-safe."""

    def __init__(
        self, store: ConditionalStore, notes: Notes, progress: Progress, stop: threading.Event
    ) -> None:
        self._store = store
        self._notes = notes
        self._progress = progress
        self._stop = stop

    def send(self, job: Job) -> None:
        """Do what can be done before it is announced. Errors as of the store, `Conflict`."""
        if isinstance(job.wanted, Deletion):
            self._delete(job, job.wanted)
        else:
            self._put(job, job.wanted)

    # --- bodies -------------------------------------------------------------------------------

    def _put(self, job: Job, wanted: Publication) -> None:
        there = job.place.there
        for _ in range(TRIES):
            with bodies.opened(wanted.body) as found:
                if self._is_there(job, found):
                    job.outcome = Outcome.SAME
                    job.change = _attributes(job, wanted, found)
                    return
                _check(job)
                checksum = f"sha256:{found.digest('sha256')}"
                done, there = self._put_once(job, wanted, found, there)
                if found.has_changed():
                    there = self._take_back(done, there)
                    continue
                job.content = Content(done.key, done.version_id, done.etag, found.size, checksum)
                job.change = _put_change(job, wanted, found, job.content, there)
                self._note(job)
                job.outcome, job.sent_bytes = Outcome.SENT, found.size
                return
        raise Conflict(f"{job.path} changes while it is sent", hint="Try again when it is finished")

    def _note(self, job: Job) -> None:
        if job.parked:
            job.follows = job.path
        else:
            self._notes.add(Note(landed=job.change))

    def _is_there(self, job: Job, found: Opened) -> bool:
        """Whether the path has these very bytes already, as far as what is known of them tells."""
        before = job.before
        if before is None or not before.is_file or before.size != found.size:
            return False
        if before.checksum.startswith("sha256:"):
            return before.checksum == f"sha256:{found.digest('sha256')}"
        return before.etag == found.digest("md5")

    def _put_once(
        self, job: Job, wanted: Publication, found: Opened, there: Content | None
    ) -> tuple[ObjectVersion, Content | None]:
        """(what was put, in the place of which version)."""
        metadata = _object_metadata(job, wanted, found)
        if job.parked:
            there = self._there_now(job)
            job.place = Place(job.place.key, there, job.place.taken)
            self._notes.add(Note(parked=job.parked))
        elif job.place.taken and not self._store.capabilities().versioning:
            raise Busy(f"the bytes of a renamed file are still at {job.place.key}: try again")
        body = found.to_send(self._stop.is_set, lambda n: self._progress(job.path, n))
        kind = content_type_of(to_names(job.path)[-1])
        for _ in range(TRIES):
            try:
                key, place = (job.parked, None) if job.parked else (job.place.key, there)
                done = self._store.put(key, body, metadata, kind, place)
                if found.is_in_memory:
                    self._progress(job.path, found.size)
                return done, there
            except PreconditionFailed as e:
                if wanted.expected is not ANY:
                    raise _conflict(job.path) from e
                there = self._current(job.place.key)
        raise _conflict(job.path)

    def _there_now(self, job: Job) -> Content | None:
        """What is at the path's own key, which nothing is put to before the commit."""
        known, found = job.place.there, self._current(job.place.key)
        same = found is None or (known is not None and found.etag == known.etag)
        if job.wanted.expected is not ANY and not same:
            raise _conflict(job.path)
        return found

    def _current(self, key: str) -> Content | None:
        found = self._store.current(key)
        return None if found is None else Content(key, found.version_id, found.etag, found.size)

    def _take_back(self, done: ObjectVersion, there: Content | None) -> Content | None:
        """The file was written while it was read: what went up is nobody's content. Returns what
        is at the key now."""
        if done.version_id is not None:
            try:
                self._store.remove(done)
                return there
            except PipefsError as e:
                log.warning("%s: a half written version stays in the store: %s", done.key, e)
        return Content(done.key, done.version_id, done.etag, done.size)

    # --- deletions ----------------------------------------------------------------------------

    def _delete(self, job: Job, wanted: Deletion) -> None:
        before = job.before
        if before is None:
            job.outcome = Outcome.ABSENT
            return
        _check(job)
        path = tree.path_text(to_names(job.path))
        job.outcome, job.change = Outcome.DELETED, Change(op="delete", path=path)
        if before.kind == "dir":
            job.gone = Content(f"{job.place.key}/", None, "", 0)
        elif before.is_file and not before.link_of:
            if job.links:  # it lives on under its oldest other name
                survivor = tree.path_text(to_names(job.links[0]))
                job.change = Change(op="move", path=survivor, source=path)
                job.follows = job.links[0]
                return
            job.gone = before.content()
        job.change.later = bool(job.parked and job.gone)
        if job.gone is not None and not job.parked:
            self._delete_object(job, job.gone, wanted)
            job.gone = None

    def _delete_object(self, job: Job, content: Content, wanted: Deletion) -> None:
        try:
            self._store.delete(content)
        except PreconditionFailed as e:
            if wanted.expected is not ANY:
                raise _conflict(job.path) from e
            self._store.delete(Content(content.key, None, "", 0))
        assert job.change is not None
        self._notes.add(Note(landed=job.change))


def is_large(body: Body) -> bool:
    """Whether a body goes in parts, as far as can be told before it is opened."""
    try:
        if isinstance(body, Path):
            return body.stat().st_size > MULTIPART_THRESHOLD_BYTES
        return not isinstance(body, bytes | bytearray | memoryview)
    except OSError:
        return False


def _check(job: Job) -> None:
    """Raises `Conflict` where the tree shows another version than the caller saw."""
    expected, before = job.wanted.expected, job.before
    if expected is ANY:
        return
    found = before.version if before is not None else ""
    if expected is ABSENT:
        if before is not None:
            raise _conflict(job.path)
    elif found != expected:
        raise _conflict(job.path)


def _conflict(path: str) -> Conflict:
    return Conflict(
        f"{path} was changed by somebody else",
        hint="Look at theirs first, then put yours again",
    )


# --- what is announced --------------------------------------------------------------------------


def _put_change(
    job: Job, wanted: Publication, found: Opened, content: Content, there: Content | None
) -> Change:
    path = tree.path_text(to_names(job.path))
    before = job.before if job.before is not None and job.before.is_file else None
    replaced = (there.version_id or there.etag) if there is not None else None
    if before is not None and not before.link_of and before.key != job.place.key:
        replaced = before.version  # its bytes are still where a rename left them
    change = Change(
        op="put",
        path=path,
        key="" if content.key == path else content.key,
        version=content.version_id,
        etag=content.etag,
        size=content.size,
        checksum=content.checksum,
        replaces=replaced,
    )
    mode = _mode(job, wanted, found)
    change.mode = stat.S_IFREG | mode if mode is not None else None
    if before is not None:
        change.uid, change.gid = before.uid, before.gid
    change.mtime = _mtime_ns(wanted, found) or time.time_ns()
    change.ctime = time.time_ns()
    change.xattrs = wire_xattrs(_xattrs(job, wanted))
    return change


def _attributes(job: Job, wanted: Publication, found: Opened) -> Change | None:
    """What the path has to learn although its bytes are the same; None: nothing."""
    before = job.before
    assert before is not None
    change = Change(op="attr", path=tree.path_text(to_names(job.path)))
    mode, mtime_ns = _mode(job, wanted, found), _mtime_ns(wanted, found)
    if mode is not None and mode != before.mode:
        change.mode = stat.S_IFREG | mode
    if mtime_ns is not None and mtime_ns != before.mtime_ns:
        change.mtime = mtime_ns
    if wanted.metadata is not None and dict(wanted.metadata) != before.metadata:
        change.xattrs = wire_xattrs(_xattrs(job, wanted)) or {}
    if (change.mode, change.mtime, change.xattrs) == (None, None, None):
        return None
    change.ctime = time.time_ns()
    return change


def _mode(job: Job, wanted: Publication, found: Opened) -> int | None:
    if wanted.mode is not None:
        return stat.S_IMODE(wanted.mode)
    if found.mode is not None:
        return found.mode
    return job.before.mode if job.before is not None and job.before.is_file else None


def _mtime_ns(wanted: Publication, found: Opened) -> int | None:
    return wanted.mtime_ns if wanted.mtime_ns is not None else found.mtime_ns


def _xattrs(job: Job, wanted: Publication) -> dict[bytes, bytes]:
    known = job.before.xattrs if job.before is not None and job.before.is_file else {}
    replaced = job.before.metadata if job.before is not None and wanted.metadata is not None else {}
    found = {
        name.encode("utf-8", "surrogateescape"): value
        for name, value in known.items()
        if name.removeprefix(USER) not in replaced
    }
    for name, text in (wanted.metadata or {}).items():
        found[f"{USER}{name}".encode()] = text.encode("utf-8", "surrogatepass")
    return found


def check_metadata(path: str, metadata: Mapping[str, str]) -> None:
    """Raises `UsageError` for what no file can have as attributes."""
    total = 0
    for name, text in metadata.items():
        size = len(name.encode()) + len(text.encode("utf-8", "surrogatepass"))
        total += size
        if not 0 < len(name.encode()) <= 250 or "\0" in name or name.startswith("pipefs."):
            raise UsageError(
                f"{path}: {name!r} cannot name metadata", hint="1 to 250 bytes of text"
            )
        if size > MAX_VALUE_BYTES:
            raise UsageError(f"{path}: metadata {name!r} is larger than 64 KiB")
    if total > MAX_METADATA_BYTES:
        raise UsageError(f"{path}: its metadata is larger than 128 KiB")


def _object_metadata(job: Job, wanted: Publication, found: Opened) -> dict[str, str]:
    mode = _mode(job, wanted, found)
    node = Inode(ino=0, mode=stat.S_IFREG | (mode if mode is not None else NO_MODE))
    out = metadata_of(node, _mtime_ns(wanted, found) or time.time_ns())
    metadata = wanted.metadata
    if metadata is None:
        metadata = job.before.metadata if job.before is not None else {}
    room = _OBJECT_METADATA_BYTES
    for name, text in {**wanted.headers, **metadata}.items():
        # Counted as if it had to travel in base64.
        room -= len(name) + 4 * len(text.encode("utf-8", "surrogatepass")) // 3 + 16
        if room >= 0 and _OBJECT_KEY.match(name) and name not in _RESERVED:
            out[name] = text
    return out | {WRITE_ID_KEY: uuid.uuid4().hex}
