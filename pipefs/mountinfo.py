"""What is mounted where, as /proc/self/mountinfo tells it.

Reads that file and compares strings only: it never touches the paths themselves, because a stat
on a mount whose daemon is gone would hang or fail.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

PIPEFS_TYPE = "fuse.pipefs"

_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of mountinfo. `device` is "major:minor"; the minor is the FUSE connection."""

    path: str
    fstype: str
    source: str
    device: str
    options: str

    @property
    def connection(self) -> int:
        """Number under /sys/fs/fuse/connections."""
        return int(self.device.partition(":")[2])


def _unescape(text: str) -> str:
    return os.fsdecode(_OCTAL.sub(lambda m: chr(int(m[1], 8)), text).encode("latin-1"))


def parse_mountinfo(text: str) -> list[MountEntry]:
    """Entries in mount order (a later one hides an earlier one on the same path)."""
    entries = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        if len(fields) < 6 or len(tail) < 2:
            continue
        entries.append(
            MountEntry(_unescape(fields[4]), tail[0], _unescape(tail[1]), fields[2], fields[5])
        )
    return entries


def read_mounts() -> list[MountEntry]:
    """All mounts this process sees; empty where there is no /proc (macOS)."""
    try:
        # Latin-1 keeps every byte of a path as one character; `_unescape` turns them back.
        text = Path("/proc/self/mountinfo").read_text(encoding="latin-1")
    except FileNotFoundError:
        return []
    return parse_mountinfo(text)


def mount_of(path: str, mounts: list[MountEntry] | None = None) -> MountEntry | None:
    """The mount that an absolute, normalised path lies on."""
    best: MountEntry | None = None
    for entry in read_mounts() if mounts is None else mounts:
        root = entry.path.rstrip("/")
        inside = path == entry.path or path.startswith(root + "/")
        # ">=": of several mounts on one path the last one is what a lookup reaches.
        if inside and (best is None or len(entry.path) >= len(best.path)):
            best = entry
    return best


def pipefs_mount_of(path: str, mounts: list[MountEntry] | None = None) -> MountEntry | None:
    """The pipefs mount that a path lies in, if it lies in one."""
    entry = mount_of(path, mounts)
    return entry if entry is not None and entry.fstype == PIPEFS_TYPE else None
