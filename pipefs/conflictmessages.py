"""Requests to a worker about conflicts, and their results: a part of `pipefs.protocol`."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from pipefs.version import PROTOCOL_VERSION

Keep = Literal["mine", "theirs", "both"]
"""Which of two contents has the name afterwards: ours, theirs, or theirs with ours beside it."""


class Resolve(Struct, tag_field="op", tag="resolve", frozen=True):
    """End a conflict (`Resolved`).

    `NotFound` where `path` is in none; `Refused` where it has several copies, is open for writing,
    or (without `force`) a content that goes would be nowhere any more.
    """

    path: str
    """In the pipe, as the user types it: of the file or of the copy beside it."""
    keep: Keep
    dry_run: bool = False
    force: bool = False
    """Also where the content that goes is in no version of the store."""
    v: int = PROTOCOL_VERSION


class Resolved(Struct, frozen=True):
    path: str
    """The name that both wanted."""
    copy: str
    """Where the other content lies beside it, or lay."""
    keep: Keep
    replaced: str = ""
    """What lost its name: `path` or `copy`; "" where both stay."""
    left: int = 0
    """Conflicts of the same name that are still open."""


class ConflictItem(Struct, frozen=True):
    """Two contents of one path; both are kept."""

    path: str
    kept_as: str
    """Where this machine's content went; with `theirs_aside` the other one."""
    other: str = ""
    """Who wrote the other one, `user@host` where known."""
    time: str = ""
    theirs_aside: bool = False
    """A folder of this machine kept the name."""
