"""The catalogue of snapshots: which there are, what they are called, what may not go.

A snapshot is an object `.pipefs/snapshots/<id>.json`, never changed; its id is the SHA-256 of the
object's bytes. What changes about it (tags, protection, being forgotten) are entries of the commit
log, so every machine comes to the same catalogue. `.pipefs/refs.json` is the catalogue as of some
commit, so that nobody reads the whole log for it.

Values and rules only: `apply` says what an entry of the log does to the catalogue. No I/O.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from pipefs.commits import Change
from pipefs.errors import Conflict, Corrupt, NewerFormat, NotFound, UsageError

FORMAT = 1
PREFIX = ".pipefs/snapshots/"
REFS_KEY = ".pipefs/refs.json"
OPS = frozenset({"snapshot", "tag", "forget", "protect", "prune"})
"""Changes of the log that are about the catalogue and not about the tree."""

GRACE_NS = 24 * 3600 * 10**9
"""What was replaced or forgotten stays for so long at least, whatever a prune is told: whoever
takes a snapshot relies on it, and so does a machine that was away for the night."""
SHORT_DIGITS = 7
MIN_DIGITS = 6
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}\Z")
_HEX = re.compile(r"[0-9a-f]+\Z", re.IGNORECASE)
_RESERVED = ("latest", "live")
FOREIGN = ("dws-", "t4-", "quilt-", "dvc-")
"""Prefixes of snapshots that other systems made."""


class Body(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What a snapshot object says. Immutable: its bytes are its identity."""

    format: int
    name: str = ""
    """Tag it was made with."""
    time: str
    """When it was taken, UTC: 2026-11-28T12:00:00.123456Z."""
    author: str
    """user@host."""
    host: str
    program: str
    message: str = ""
    metrics: dict[str, str] = {}
    path: str = ""
    """The directory or file it is of, escaped like a key; "" is the whole pipe."""
    parent: str = ""
    """Id of the newest snapshot before it."""
    epoch: str
    """Of the commit log."""
    commit: int
    """It is the tree at this commit, exactly."""
    root: str
    """The manifest: `.pipefs/manifests/<root>.jsonl.gz`."""
    entries: int = 0
    files: int = 0
    bytes: int = 0
    open: list[str] = []
    """Files that were open for writing: they are here as they were last closed."""
    open_count: int = 0
    """How many those were; `open` names the first of them."""


class Snapshot(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A snapshot in the catalogue."""

    id: str
    body: Body
    tags: list[str] = []
    protected: bool = False
    forgotten: int = 0
    """When it was forgotten (ns); 0: it is kept."""
    dropped: bool = False
    """It was forgotten for longer than the grace period, and a prune said so: it cannot be brought
    back, its object is about to go. The next prune that finds the object gone ends this line."""
    number: int = 0
    """The entry of the log that announced it."""

    @property
    def short(self) -> str:
        return self.id[:SHORT_DIGITS]

    @property
    def label(self) -> str:
        """What it is called: its first tag, else its short id."""
        return self.tags[0] if self.tags else self.short


@dataclass(slots=True)
class Catalog:
    """All snapshots as of one entry of the log."""

    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    cutoff: int = 0
    """No snapshot may be made of a commit below this one: its versions may be pruned."""

    def kept(self) -> list[Snapshot]:
        """Those not forgotten, newest first."""
        found = [s for s in self.snapshots.values() if not s.forgotten]
        return sorted(found, key=lambda s: (s.body.time, s.number), reverse=True)

    def latest(self, path: str | None = None) -> Snapshot | None:
        """The newest; with `path`, of exactly that path."""
        return next((s for s in self.kept() if path is None or s.body.path == path), None)

    def tagged(self, tag: str) -> Snapshot | None:
        return next((s for s in self.snapshots.values() if tag in s.tags), None)

    def find(self, name: str, *, forgotten: bool = False) -> Snapshot:
        """The snapshot that a tag, an id of at least six digits, or `latest` means.

        Args:
            forgotten: those that were forgotten count too.
        Raises:
            NotFound: none. Conflict: several ids begin so.
        """
        if name == "latest":
            newest = self.latest()
            if newest is None:
                raise NotFound("there is no snapshot yet", hint="Make one: pipefs snapshot NAME")
            return newest
        found = self.tagged(name)
        if found is not None and (forgotten or not found.forgotten):
            return found
        if len(name) >= MIN_DIGITS and _HEX.match(name):
            near = [s for s in self.snapshots.values() if s.id.startswith(name.lower())]
            near = [s for s in near if not s.dropped and (forgotten or not s.forgotten)]
            if len(near) > 1:
                ids = ", ".join(s.id[:12] for s in near[:4])
                raise Conflict(f"{name} is the beginning of {len(near)} snapshots: {ids}")
            if near:
                return near[0]
        raise NotFound(f"there is no snapshot {name!r}", hint=self._near(name))

    def _near(self, name: str) -> str:
        import difflib

        tags = [t for s in self.kept() for t in s.tags]
        near = difflib.get_close_matches(name, tags, n=3)
        return f"Did you mean {' or '.join(near)}?" if near else "All: pipefs snapshots NAME"

    def covering(self, path: str) -> list[Snapshot]:
        """Those kept that hold this path, newest first."""
        return [s for s in self.kept() if covers(s.body.path, path)]

    def apply(self, change: Change, number: int, time_ns: int) -> Snapshot | None:
        """Do what an entry of the log says; the snapshot that changed, if any.

        The log decides between machines: a tag that another snapshot got first stays there.
        """
        if change.op == "prune":
            return self._prune(change)
        if change.op == "snapshot":
            return self._add(change, number)
        found = self.snapshots.get(change.snapshot)
        if change.op == "tag":
            return self._tag(change, found)
        if found is None or found.dropped:
            return None
        if change.op == "protect" and not found.forgotten:
            found.protected = not change.off
        elif change.op == "forget" and not (found.protected and not change.off):
            found.forgotten = 0 if change.off else found.forgotten or time_ns
        return found

    def _prune(self, change: Change) -> Snapshot | None:
        self.cutoff = max(self.cutoff, change.cutoff)
        found = self.snapshots.get(change.snapshot)
        if found is None or not found.forgotten:
            return None
        if change.off and found.dropped:
            del self.snapshots[found.id]
        elif not change.off:
            found.dropped, found.tags = True, []
        return found

    def _add(self, change: Change, number: int) -> Snapshot:
        data = object_bytes(change.data)
        body = decode_body(data, change.data[:60])
        made = Snapshot(id=id_of(data), body=body, number=number)
        known = self.snapshots.get(made.id)
        if known is not None:
            known.number = known.number or number
            return known
        if body.name and self._is_free(body.name):
            made.tags = [body.name]
        self.snapshots[made.id] = made
        return made

    def _is_free(self, tag: str) -> bool:
        """Whether nothing that is kept has the tag; what was forgotten loses it."""
        holder = self.tagged(tag)
        if holder is not None and holder.forgotten:
            holder.tags = [t for t in holder.tags if t != tag]
            return True
        return holder is None

    def _tag(self, change: Change, found: Snapshot | None) -> Snapshot | None:
        holder = None if self._is_free(change.tag) else self.tagged(change.tag)
        if found is not None and found.dropped:
            found = None
        if not change.off:
            if found is None or holder is found or (holder is not None and not change.force):
                return found
            found.tags = [*found.tags, change.tag]
        if holder is not None:
            holder.tags = [t for t in holder.tags if t != change.tag]
        return found or holder


def covers(path: str, below: str) -> bool:
    """Whether a snapshot of `path` holds `below` (both in the catalogue's form)."""
    return not path or below == path or below.startswith(path + "/")


def check_tag(tag: str) -> str:
    """A tag that a user chose.

    Raises:
        UsageError: it is none.
    """
    rules = "letters, digits and . _ - +, at most 128, not only hex digits"
    if not _TAG.match(tag) or (_HEX.match(tag) and len(tag) >= MIN_DIGITS):
        raise UsageError(f"{tag!r} cannot be a tag", hint=f"A tag has {rules}")
    if tag in _RESERVED or tag.startswith(FOREIGN):
        raise UsageError(f"{tag!r} is a name of pipefs' own", hint="Choose another tag")
    return tag


# --- objects ----------------------------------------------------------------------------------

_encode = msgspec.json.Encoder(order="deterministic").encode
_decode_body = msgspec.json.Decoder(Body).decode


class Refs(msgspec.Struct, omit_defaults=True, kw_only=True):
    """`.pipefs/refs.json`: the catalogue as of a commit."""

    format: int
    epoch: str
    commit: int
    cutoff: int = 0
    snapshots: list[Snapshot]


def encode_body(body: Body) -> str:
    """The text of a snapshot object, without its line feed; as it stands in the log too."""
    return _encode(body).decode()


def object_bytes(text: str) -> bytes:
    return text.encode() + b"\n"


def id_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def id_in(change: Change) -> str:
    """Id of the snapshot that a change of the log is about; "" for none."""
    return id_of(object_bytes(change.data)) if change.op == "snapshot" else change.snapshot


def object_key(snapshot_id: str) -> str:
    return f"{PREFIX}{snapshot_id}.json"


def decode_body(data: bytes, what: str) -> Body:
    """
    Raises:
        NewerFormat: a newer pipefs wrote it. Corrupt: it is no snapshot.
    """
    try:
        body = _decode_body(data)
    except msgspec.MsgspecError as e:
        raise Corrupt(f"{what} is not a snapshot: {e}") from e
    if body.format > FORMAT:
        raise NewerFormat(
            f"{what} was written by a newer pipefs (format {body.format})",
            hint="upgrade pipefs on this machine",
        )
    return body


def encode_refs(catalog: Catalog, epoch: str, commit: int) -> bytes:
    found = sorted(catalog.snapshots.values(), key=lambda s: (s.body.time, s.id))
    refs = Refs(format=FORMAT, epoch=epoch, commit=commit, cutoff=catalog.cutoff, snapshots=found)
    return msgspec.json.format(_encode(refs), indent=1) + b"\n"


def decode_refs(data: bytes) -> Refs:
    """
    Raises:
        Corrupt: it is not the catalogue, or a newer one: the log and the objects have all of it.
    """
    try:
        refs = msgspec.json.decode(data, type=Refs)
    except msgspec.MsgspecError as e:
        raise Corrupt(f"{REFS_KEY} is not a catalogue of snapshots: {e}") from e
    if refs.format > FORMAT:
        raise Corrupt(f"{REFS_KEY} was written by a newer pipefs (format {refs.format})")
    return refs


def catalog_of(snapshots: Iterable[Snapshot], cutoff: int = 0) -> Catalog:
    return Catalog({s.id: s for s in snapshots}, cutoff)
