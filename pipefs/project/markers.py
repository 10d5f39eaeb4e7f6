"""What datakit-data noted when it last moved a file: `<sync_status_location>/PATH.synced`.

The marker's text is the object's ETag then, its time when that was. They are read and taken over
into the record of the folder (`pipefs.folder.record`), never written.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipefs.errors import UsageError
from pipefs.folder.deciding import Sides
from pipefs.folder.states import Known, Local, Remote
from pipefs.project.layout import KEEP
from pipefs.project.settings import DEFAULT_MARKERS, Project

SUFFIX = ".synced"


@dataclass(frozen=True, slots=True)
class Marker:
    """Of one file."""

    etag: str
    """"" in the markers of old datakit versions."""
    time_ns: int


_LIMIT_BYTES = 256
"""More than any ETag has."""


def folder_of_markers(project: Project) -> Path | None:
    """Where they are; None: nowhere.

    Raises:
        UsageError: outside of the project: a cloned one could have all of the disk looked through.
    """
    location = project.sync_status_location
    if not location:
        return None
    folder = project.root / location
    real = os.path.realpath(folder)
    tops = os.path.realpath(project.root), os.path.realpath(project.data)
    if all(os.path.commonpath((real, top)) != top for top in tops):
        raise UsageError(
            f"sync_status_location={location} in {project.config_file} is outside of the project",
            hint=f"pipefs project config sync_status_location={DEFAULT_MARKERS}\n"
            "Without markers of datakit: pipefs project config sync_status_location=",
        )
    return folder


def read_markers(project: Project) -> dict[str, Marker]:
    """Markers by the path of their file in `data/`."""
    folder = folder_of_markers(project)
    found: dict[str, Marker] = {}
    if folder is None or not folder.is_dir():
        return found
    for where, _, names in os.walk(folder):
        for name in names:
            if name.endswith(SUFFIX):
                file = Path(where, name)
                path = file.relative_to(folder).as_posix().removesuffix(SUFFIX)
                if (marker := _read(file)) is not None:
                    found[path] = marker
    return found


def _read(file: Path) -> Marker | None:
    """None for what no datakit made: in a clone it may be a link to anything."""
    status = file.lstat()
    if not stat.S_ISREG(status.st_mode):
        return None
    with open(file, "rb") as text:
        etag = text.read(_LIMIT_BYTES).decode(errors="replace")
    return Marker(etag.strip().strip('"'), status.st_mtime_ns)


def left_out(project: Project) -> tuple[str, ...]:
    """Patterns of what in `data/` is no data."""
    folder = folder_of_markers(project)
    if folder is None:
        return (KEEP,)
    inside = os.path.relpath(folder, project.data)
    if inside == ".":
        return (KEEP, f"*{SUFFIX}")
    return (KEEP,) if inside.startswith("..") else (KEEP, f"{inside}/*{SUFFIX}")


def taken_over(markers: Mapping[str, Marker], sides: Sides, now_ns: int) -> dict[str, Known]:
    """What the record learns from markers of files that it does not know yet."""
    return {
        path: known
        for path, marker in markers.items()
        if path not in sides.known
        and (known := _known(marker, sides.local.get(path), sides.remote.get(path))) is not None
    }


def _known(marker: Marker, local: Local | None, remote: Remote | None) -> Known | None:
    """A file that was in step when datakit moved it; None where a marker says too little."""
    if not marker.etag:
        return None
    same = remote if remote is not None and remote.etag == marker.etag else None
    version = same.version if same else None
    checksum = same.checksum if same else ""
    untouched = local is not None and local.mtime_ns <= marker.time_ns
    if local is None or not untouched or (same and same.size != local.size):
        return Known(-1, -1, -1, version, marker.etag, checksum, marker.time_ns)
    # -1: datakit goes by times alone, which a copied file keeps. Its bytes are read once.
    return Known(local.size, -1, local.ctime_ns, version, marker.etag, checksum, marker.time_ns)
