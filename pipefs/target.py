"""TARGET of the command line: `NAME[@SNAP][/PATH]`, or a path inside a mount.

Parses and looks up; opens nothing. A path is recognised by its shape (`.`, `./x`, `../x`, `/x`,
`~/x`), so a file in the current folder never changes what a pipe's name means.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from pipefs.errors import NotFound, UsageError
from pipefs.home import check_name
from pipefs.mountinfo import MountEntry, pipefs_mount_of
from pipefs.protocol import MountItem

SNAPDIR = ".snapshots"


@dataclass(frozen=True, slots=True)
class Target:
    """A pipe, or a file or folder in it, now (`snapshot` None) or at a moment."""

    name: str
    snapshot: str | None = None
    """tag, id, `latest` or `@TIME`; `live` is None."""
    path: str = ""
    """In the pipe, without leading or trailing "/"; "" is the root."""

    def __str__(self) -> str:
        at = f"@{self.snapshot}" if self.snapshot else ""
        return f"{self.name}{at}/{self.path}" if self.path else f"{self.name}{at}"


def is_path(text: str) -> bool:
    """Whether a word means a place in the file system rather than a pipe."""
    return text in (".", "..", "~") or text.startswith(("/", "./", "../", "~/"))


def split_snapshot(text: str) -> tuple[str, str | None]:
    """`NAME[@SNAP]` → name and snapshot (`live` is None). Raises `UsageError`."""
    name, at, snapshot = text.partition("@")
    check_name(name)
    if at and not snapshot:
        raise UsageError(f"{text!r} names no snapshot after the @", hint=f"Try {name}@latest")
    return name, snapshot if snapshot and snapshot != "live" else None


def parse_target(
    text: str,
    mounts: Sequence[MountItem] = (),
    *,
    cwd: str | None = None,
    mountinfo: list[MountEntry] | None = None,
) -> Target:
    """Resolve a TARGET.

    Args:
        mounts: what the supervisor serves, to know whose mount a path lies in.
    Raises:
        UsageError: no pipe's name; NotFound: a path that is in none of our mounts.
    """
    if is_path(text):
        return _from_path(text, mounts, cwd, mountinfo)
    head, _, path = text.partition("/")
    name, snapshot = split_snapshot(head)
    return Target(name, snapshot, _clean(path))


def _clean(path: str) -> str:
    normal = os.path.normpath("/" + path).strip("/")
    if ".." in path.split("/"):
        raise UsageError(f"{path!r} leads out of the pipe")
    return normal


def _from_path(
    text: str,
    mounts: Sequence[MountItem],
    cwd: str | None,
    mountinfo: list[MountEntry] | None,
) -> Target:
    plain = os.path.normpath(os.path.join(cwd or os.getcwd(), os.path.expanduser(text)))
    entry = pipefs_mount_of(plain, mountinfo)
    if entry is None:
        # Perhaps a link that leads into a mount. Only now: resolving touches the file system.
        plain = os.path.realpath(plain)
        entry = pipefs_mount_of(plain, mountinfo)
    if entry is None:
        raise NotFound(
            f"{text} is not inside a mounted pipe",
            hint=f"Mounted pipes: pipefs status · a pipe by its name: {os.path.basename(plain)}",
        )
    item = next((m for m in mounts if m.path == entry.path), None)
    if item is None:
        raise NotFound(
            f"{text} lies in the mount {entry.path}, which no daemon of yours serves",
            hint="Mounted by another user or profile, or its daemon is gone: pipefs doctor --fix",
        )
    name, snapshot = split_snapshot(item.name)
    snapshot = item.snapshot or snapshot
    inside = plain[len(entry.path.rstrip("/")) :].strip("/")
    parts = inside.split("/") if inside else []
    if SNAPDIR in parts:
        at = parts.index(SNAPDIR)
        if at + 1 < len(parts):
            snapshot = parts[at + 1]
        parts = parts[:at] + parts[at + 2 :]
    return Target(name, snapshot, "/".join(parts))
