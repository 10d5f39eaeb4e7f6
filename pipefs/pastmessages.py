"""Requests to a worker about snapshots, and their results: a part of `pipefs.protocol`."""

from __future__ import annotations

from msgspec import Struct, field

from pipefs.version import PROTOCOL_VERSION


class TakeSnapshot(Struct, tag_field="op", tag="snapshot", frozen=True):
    """Take a snapshot of `path` (`SnapshotTaken`); progress lines are `FlushProgress`.

    `Refused` where the pipe is read-only, the store keeps no versions, or (without `force`) a
    lifecycle rule would destroy it; `Conflict` for a tag of another snapshot.
    """

    path: str = ""
    """In the pipe, as the user types it; "" is all of it."""
    tag: str = ""
    message: str = ""
    metrics: dict[str, str] = field(default_factory=dict)
    wait: bool = True
    """First bring up what waits; False: `Refused` where something does."""
    wait_open: bool = False
    """Also wait until nobody has a file below `path` open for writing."""
    timeout_s: float | None = None
    force: bool = False
    """Also where a lifecycle rule destroys old versions; takes the tag from another snapshot."""
    v: int = PROTOCOL_VERSION


class Restore(Struct, tag_field="op", tag="restore", frozen=True):
    """Bring `paths` of a snapshot forward (`RestoreDone`); progress lines are `FlushProgress`."""

    snapshot: str
    """tag, id, `latest` or `@TIME`."""
    paths: list[str] = field(default_factory=list)
    """In the pipe; none: all of it."""
    keep_extra: bool = False
    dry_run: bool = False
    v: int = PROTOCOL_VERSION


class Checkout(Struct, tag_field="op", tag="checkout", frozen=True):
    """Let the mount show a snapshot in place of the present; None: the present (`CheckedOut`)."""

    snapshot: str | None = None
    v: int = PROTOCOL_VERSION


class GetPresent(Struct, tag_field="op", tag="present", frozen=True):
    """The live tree as a manifest (`PresentTree`); progress lines are `PresentPart`, the parts
    that no manifest in the bucket has."""

    v: int = PROTOCOL_VERSION


PastRequest = TakeSnapshot | Restore | Checkout | GetPresent


class SnapshotTaken(Struct, frozen=True):
    id: str
    tags: list[str] = field(default_factory=list)
    path: str = ""
    """As the mount shows it."""
    files: int = 0
    bytes: int = 0
    unchanged: bool = False
    """Nothing changed since this one was taken: it only got the tag."""
    open: list[str] = field(default_factory=list)
    """Files that were open for writing: they are in it as they were last closed."""
    open_count: int = 0
    uploads: int = 0
    """Changes that it waited for."""
    seconds: float = 0.0


class RestoreDone(Struct, frozen=True):
    snapshot: str
    """What was restored: tag, short id or @TIME."""
    files: list[str] = field(default_factory=list)
    """The first thousand of them."""
    files_count: int = 0
    removed: list[str] = field(default_factory=list)
    removed_count: int = 0
    left: list[str] = field(default_factory=list)
    """Files that stay as they are, because they are open for writing."""
    bytes: int = 0
    before: str = ""
    """Tag of the snapshot that was made before; "" for a dry run."""


class CheckedOut(Struct, frozen=True):
    snapshot: str | None = None


class PresentPart(Struct, frozen=True):
    name: str
    lines: str


class PresentTree(Struct, frozen=True):
    root: str
    """The root of the manifest, as text."""
