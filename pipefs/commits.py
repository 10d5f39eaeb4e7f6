"""The commit log: announcements of changes, in one total order, in the bucket.

A commit is `.pipefs/commits/<20 digits>.json`, created only if absent; its number is its place.
It names the log's epoch and the SHA-256 of its predecessor, so a log that somebody deleted or
replaced is noticed. docs/FORMAT.md specifies every field.

Order inside a commit: `move` and `delete` name paths as they were before it; all these names are
detached at once; then directories, symbolic links, versions and moved names are attached at their
paths as they are after it, parents first; then hard links; `attr` comes last.

Formats are pure; `CommitLog` is the sequence over a store. No thread, no tree.
"""

from __future__ import annotations

import hashlib
import stat
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from pipefs.errors import Busy, Conflict, Corrupt, NewerFormat, NotFound, PreconditionFailed
from pipefs.lease import WriterLease
from pipefs.stores.base import WRITE_ID_KEY, Store
from pipefs.times import bounded_ns
from pipefs.version import VERSION

FORMAT = 3
"""2 added hard links (`link`), 3 the catalogue of snapshots. A commit says the lowest format that
has all it needs, so an older pipefs reads on until it meets what it does not know."""
_SINCE = {"link": 2, "snapshot": 3, "tag": 3, "forget": 3, "protect": 3, "prune": 3}
PROGRAM = f"pipefs {VERSION}"
PREFIX = ".pipefs/commits/"
DIGEST_KEY = "pipefs-sha256"
"""Metadata key of a commit object: the SHA-256 of its bytes, so that one HEAD tells which it is."""
MAX_CHANGES = 10_000
"""Changes in one commit: a follower holds one commit in memory (about 300 bytes a change)."""


class Change(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One change. `op` decides which fields count; paths are escaped like keys."""

    op: str
    """put | mkdir | symlink | special | link | move | delete | attr, about the tree; and about
    the catalogue (`pipefs.catalog`): snapshot | tag | forget | protect | prune"""
    path: str
    """Where it is after the commit (`delete`: before it)."""
    source: str = ""
    """move: where it was before the commit. link: a path of the file after the commit."""
    key: str = ""
    """put: the object's key where that is not the path."""
    version: str | None = None
    etag: str = ""
    size: int = 0
    checksum: str = ""
    """put: `sha256:<hex>` of the content, where known."""
    replaces: str | None = None
    """put: version (without versioning: ETag) that this one took the place of."""
    same: bool = False
    """put: the bytes are those of the replaced version (a copy to another key)."""
    target: str = ""
    """symlink: the target, escaped like a key component."""
    mode: int | None = None
    """With the file type bits."""
    uid: int | None = None
    gid: int | None = None
    mtime: int | None = None
    """ns since the epoch, like ctime and atime."""
    ctime: int | None = None
    atime: int | None = None
    """Only where it is not mtime: somebody set it."""
    rdev: int = 0
    xattrs: dict[str, str] | None = None
    """Names escaped like key components, values in base64."""
    data: str = ""
    """snapshot: the text of its object, without the line feed."""
    snapshot: str = ""
    """tag, forget, protect: id of the snapshot. prune: a forgotten one that is dropped for good."""
    tag: str = ""
    off: bool = False
    """tag, forget, protect: undo it. prune: the dropped snapshot's object is gone."""
    later: bool = False
    """delete: its object goes after the commit, as all was to be seen at once."""
    force: bool = False
    """tag: also where another snapshot has it."""
    cutoff: int = 0
    """prune: versions that no commit from this one on shows may go; no snapshot may be made of
    an earlier commit from now on."""


class Commit(msgspec.Struct, omit_defaults=True, kw_only=True):
    format: int
    epoch: str
    number: int
    previous: str = ""
    """SHA-256 of the predecessor's bytes, hex; empty for the first."""
    time: int
    """Writer's clock, ns; the store's own time is the object's LastModified."""
    author: str
    """user@host."""
    program: str
    writer: str
    """Random id of the writer's local state; the same from restart to restart."""
    external: bool = False
    """Found by a listing: made by another tool."""
    changes: list[Change]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Commit).decode


class _Header(msgspec.Struct):
    format: int


def encode_commit(commit: Commit) -> bytes:
    _bound(commit)
    return _encode(commit) + b"\n"


def decode_commit(data: bytes, key: str) -> Commit:
    """
    Raises:
        NewerFormat: a newer pipefs wrote it. Corrupt: it is no commit.
    """
    try:
        newer = msgspec.json.decode(data, type=_Header).format
        if newer > FORMAT:
            raise NewerFormat(
                f"{key} was written by a newer pipefs (format {newer}; this one knows {FORMAT})",
                hint="upgrade pipefs on this machine",
            )
        found = _decode(data)
    except msgspec.MsgspecError as e:
        raise Corrupt(f"{key} is not a commit: {e}") from e
    _bound(found)
    return found


_END = 1 << 63


_KINDS = {"put": stat.S_IFREG, "mkdir": stat.S_IFDIR, "symlink": stat.S_IFLNK}
_SPECIAL = (stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)


def _bound(commit: Commit) -> None:
    """No number of one commit may keep everybody from reading the log: files have times of any
    year, and other programs write what they like."""
    commit.time = bounded_ns(commit.time)
    for change in commit.changes:
        for times in ("mtime", "ctime", "atime"):
            if (at_ns := getattr(change, times)) is not None:
                setattr(change, times, bounded_ns(at_ns))
        for small in ("mode", "uid", "gid"):
            if (value := getattr(change, small)) is not None and not 0 <= value < 1 << 32:
                setattr(change, small, None)
        if change.mode is not None and change.op in _KINDS:
            change.mode = stat.S_IMODE(change.mode) | _KINDS[change.op]
        elif change.op == "special" and stat.S_IFMT(change.mode or 0) not in _SPECIAL:
            change.mode = stat.S_IMODE(change.mode or 0) | stat.S_IFIFO
        change.size = max(0, min(change.size, _END - 1))
        change.rdev = max(0, min(change.rdev, _END - 1))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def commit_key(number: int) -> str:
    return f"{PREFIX}{number:020d}.json"


@dataclass(frozen=True, slots=True)
class Position:
    """How far a follower has read: `number` 0 is before the first commit."""

    epoch: str = ""
    number: int = 0
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Read:
    """A commit as it lies in the store."""

    commit: Commit
    digest: str


class LogReplaced(Conflict):
    """The log in the bucket is not the one we followed: relist everything, start a new epoch."""


class CommitLog:
    """The sequence of commits under one pipe's prefix.

    Args:
        conditional: whether the store has conditional puts; else a lease decides who may commit.
    """

    def __init__(
        self,
        store: Store,
        *,
        author: str,
        writer: str,
        conditional: Callable[[], bool] = lambda: True,
    ) -> None:
        self._store = store
        self._author = author
        self._writer = writer
        self._conditional = conditional
        self._lease = WriterLease(store, author=author, writer=writer)

    def may_append(self) -> bool:
        """Whether this machine may commit now."""
        return self._conditional() or self._lease.hold()

    def read(self, number: int) -> Read | None:
        """The commit with this number, or None if there is none (yet)."""
        key = commit_key(number)
        try:
            data = self._store.get(key, None, 0, 1 << 30)
        except NotFound:
            return None
        return Read(decode_commit(data, key), digest(data))

    def after(self, position: Position) -> Read | None:
        """The commit that follows `position`, checked to be of the same log.

        Raises:
            LogReplaced: epoch or chain do not fit: `.pipefs/` was deleted or replaced.
        """
        found = self.read(position.number + 1)
        if found is None:
            return None
        commit = found.commit
        fits = commit.previous == position.digest and commit.number == position.number + 1
        if position.number and (commit.epoch != position.epoch or not fits):
            raise LogReplaced(f"commit {commit.number} does not follow the one this machine knows")
        return found

    def require(self, position: Position) -> None:
        """Check that the commit this position stands for is still in the bucket. One HEAD; a GET
        where its metadata was lost.

        Raises:
            LogReplaced: it is gone, or another one has its number: somebody deleted `.pipefs/`.
        """
        if position.number == 0:
            return
        key = commit_key(position.number)
        try:
            found = self._store.head(key).metadata.get(DIGEST_KEY)
            if found is None:
                found = digest(self._store.get(key, None, 0, 1 << 30))
        except NotFound as e:
            raise LogReplaced(f"{key} is gone from the store") from e
        if found != position.digest:
            raise LogReplaced(f"{key} is not the commit that this machine knows")

    def last_number(self) -> int:
        """Number of the newest commit; 0 for an empty log. One listing."""
        last = 0
        for o in self._store.list(PREFIX):
            stem = o.key.removeprefix(PREFIX).removesuffix(".json")
            if stem.isdigit():
                last = max(last, int(stem))
        return last

    def untold(self, position: Position, changes: Sequence[Change], *, time_ns: int) -> Commit:
        """What a listing found, where no commit can be put: for the tree of this machine only."""
        return Commit(
            format=FORMAT,
            program=PROGRAM,
            epoch=position.epoch,
            number=position.number,
            time=time_ns,
            author=self._author,
            writer=self._writer,
            external=True,
            changes=list(changes),
        )

    def append(
        self, position: Position, changes: Sequence[Change], *, time_ns: int, external: bool = False
    ) -> Read | None:
        """Put the next commit; None if another writer took the number (follow, then try again).

        The first commit of a log (position 0) opens a new epoch.

        Raises:
            LogReplaced: the commit at `position` is gone.
            Busy: another machine holds the lease.
        """
        if not self.may_append():
            raise Busy(
                f"{self._lease.holder} writes this pipe, and the store has no conditional puts: "
                f"one machine at a time; changes wait here"
            )
        self.require(position)
        epoch = position.epoch if position.number else str(uuid.uuid4())
        commit = Commit(
            format=max((_SINCE.get(c.op, 1) for c in changes), default=1),
            program=PROGRAM,
            epoch=epoch,
            number=position.number + 1,
            previous=position.digest if position.number else "",
            time=time_ns,
            author=self._author,
            writer=self._writer,
            external=external,
            changes=list(changes),
        )
        data = encode_commit(commit)
        conditional = self._conditional()
        if not conditional and self.read(commit.number) is not None:
            return None
        try:
            self._store.put(
                commit_key(commit.number),
                data,
                metadata={WRITE_ID_KEY: uuid.uuid4().hex, DIGEST_KEY: digest(data)},
                content_type="application/json",
                if_none_match=conditional,
            )
        except PreconditionFailed:
            return None
        return Read(commit, digest(data))
