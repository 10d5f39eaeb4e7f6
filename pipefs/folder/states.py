"""Values that travel between the rooms of a folder: frozen, no behaviour beyond comparing.

Paths are text as in the folder: names joined by "/", bytes that are no UTF-8 as surrogates.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Local:
    """A regular file of the folder, as `stat` told it."""

    size: int
    mtime_ns: int
    ctime_ns: int = 0
    mode: int = 0o644
    """Permission bits only."""
    ino: int = 0

    def is_same_file(self, other: Local) -> bool:
        """Whether nobody wrote to it or replaced it between the two looks."""
        return (self.ino, self.size, self.mtime_ns, self.ctime_ns) == (
            other.ino,
            other.size,
            other.mtime_ns,
            other.ctime_ns,
        )


@dataclass(frozen=True, slots=True)
class Remote:
    """A file of the pipe: the version that its path stands for now."""

    size: int
    mtime_ns: int
    key: str = ""
    version: str | None = None
    etag: str = ""
    checksum: str = ""
    """`sha256:<hex>` where known."""
    mode: int | None = None
    """Permission bits; None: nobody set them."""


@dataclass(frozen=True, slots=True)
class Known:
    """A file as it was on both sides when it was last in step."""

    size: int
    mtime_ns: int
    """Of the local file; -1: so young that a later write may not show in it."""
    ctime_ns: int
    version: str | None
    etag: str
    checksum: str = ""
    synced_ns: int = 0
    """When that was."""

    def local_is_same(self, local: Local) -> bool:
        """By what `stat` tells. False does not mean that the bytes differ."""
        return (self.size, self.mtime_ns, self.ctime_ns) == (
            local.size,
            local.mtime_ns,
            local.ctime_ns,
        )

    def remote_is_same(self, remote: Remote) -> bool:
        """The same version, or one with the same ETag (a copy after a rename)."""
        if self.version is not None and self.version == remote.version:
            return True
        return bool(self.etag) and (self.etag, self.size) == (remote.etag, remote.size)


_TICK_NS = 50_000_000
"""Longer than the clock of any file system's times stands still."""


def in_step(local: Local, remote: Remote, now_ns: int, *, read_ns: int = 0) -> Known:
    """The record of a file that is equal on both sides.

    Args:
        read_ns: when its bytes were read; a write within the same tick of the clock would not
            show in its times. 0: its bytes are known to be of `local`.
    """
    young = read_ns and max(local.mtime_ns, local.ctime_ns) > read_ns - _TICK_NS
    return Known(
        local.size,
        -1 if young else local.mtime_ns,
        local.ctime_ns,
        remote.version,
        remote.etag,
        remote.checksum,
        now_ns,
    )


@dataclass(frozen=True, slots=True)
class Scan:
    """What a folder has."""

    files: dict[str, Local] = field(default_factory=dict)
    parts: dict[str, int] = field(default_factory=dict)
    """Paths of unfinished downloads and their mtime_ns."""
    left_out: dict[str, str] = field(default_factory=dict)
    """What cannot be pushed, and why."""
    hidden: set[str] = field(default_factory=set)
    """Where no file could be looked at, whatever the filters say: links that lead nowhere, what
    went away meanwhile. Neither these nor what would be below them counts as deleted."""
    mounts: set[str] = field(default_factory=set)
    """Folders that another disk is mounted on."""
    away: set[str] = field(default_factory=set)
    """Folders whose disk was mounted once and is not now: hidden as well, and nothing is put where
    it would hide below the disk."""

    def is_away(self, path: str) -> bool:
        """Whether a path is below a folder whose disk is not mounted."""
        return any(path.startswith(f"{place}/") for place in self.away)

    def hides(self, path: str) -> bool:
        """Whether it cannot be told if a file is there: it, or a folder above it, is left out."""
        while path:
            if path in self.hidden or path in self.left_out or path in self.away:
                return True
            path = path.rpartition("/")[0]
        return False
