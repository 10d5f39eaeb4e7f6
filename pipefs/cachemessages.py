"""Requests to a worker about its cache, and their results: a part of `pipefs.protocol`."""

from __future__ import annotations

from msgspec import Struct, field

from pipefs.version import PROTOCOL_VERSION


class Warm(Struct, tag_field="op", tag="warm", frozen=True):
    """Fetch what is at and below `path` (`CacheFilled`); progress lines are `FlushProgress`.

    `Refused` where it does not fit into the cache's limit, `NoSpace` where the disk is too small.
    """

    path: str = ""
    """In the pipe, as the user types it; "" is all of it."""
    snapshot: str | None = None
    """tag, id, `latest` or `@TIME`; None: the present."""
    v: int = PROTOCOL_VERSION


class PinPath(Struct, tag_field="op", tag="pin", frozen=True):
    """As `Warm`, and keep it whatever the limit (`CacheFilled`). What was pinned in the present
    follows its new versions."""

    path: str = ""
    snapshot: str | None = None
    v: int = PROTOCOL_VERSION


class UnpinPath(Struct, tag_field="op", tag="unpin", frozen=True):
    """Undo `PinPath` (`CacheFilled`, whose files and bytes are what is still pinned). `NotFound`
    where that path is not pinned."""

    path: str = ""
    snapshot: str | None = None
    all: bool = False
    """Every pin of the pipe."""
    v: int = PROTOCOL_VERSION


CacheRequest = Warm | PinPath | UnpinPath


class CacheFilled(Struct, frozen=True):
    files: int = 0
    """What was asked for, or with a pin what is pinned now of the pipe."""
    bytes: int = 0
    fetched_files: int = 0
    fetched_bytes: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    """Path → why it could not be had; the first hundred."""
    failed_count: int = 0
    seconds: float = 0.0
