"""What is mounted where, read from /proc/self/mountinfo.

Never touches the mount itself: a `stat` of a mount whose daemon hangs would hang as well. Only
the parent of a directory is resolved, unless the directory turns out not to be a mount.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_OCTAL = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class MountInfo:
    """One line of mountinfo."""

    mount_id: int
    major: int
    minor: int
    """Of the device; for FUSE it is also the number of the connection."""
    mount_point: Path
    fstype: str
    fsname: str
    options: tuple[str, ...]


def _text(field: bytes) -> str:
    return os.fsdecode(_OCTAL.sub(lambda m: bytes([int(m[1], 8)]), field))


def mounts() -> list[MountInfo]:
    """All mounts of this namespace; of several on one directory the last is the visible one."""
    found = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields = line.split(b" ")
        tail = fields.index(b"-", 6)
        major, _, minor = fields[2].partition(b":")
        found.append(
            MountInfo(
                mount_id=int(fields[0]),
                major=int(major),
                minor=int(minor),
                mount_point=Path(_text(fields[4])),
                fstype=_text(fields[tail + 1]),
                fsname=_text(fields[tail + 2]),
                options=tuple(
                    dict.fromkeys(_text(fields[5]).split(",") + _text(fields[-1]).split(","))
                ),
            )
        )
    return found


def is_mounted(directory: Path) -> MountInfo | None:
    """The mount whose root is `directory`, or None."""
    table = {m.mount_point: m for m in mounts()}
    absolute = Path(os.path.abspath(directory))
    candidate = Path(os.path.realpath(absolute.parent)) / absolute.name
    found = table.get(absolute) or table.get(candidate)
    if found is None and candidate.is_symlink():
        found = table.get(Path(os.path.realpath(candidate)))
    return found
