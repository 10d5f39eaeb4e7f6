"""The folders and files of a project: `data/`, `config/`, the lines in `.gitignore`.

Nothing that is there is replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipefs.project.settings import CONFIG, DATA, write_json

KEEP = ".gitkeep"
"""Lets git keep the empty folder. It is git's: no push takes it, no pull brings it."""

_IGNORING = frozenset(("data", "data/*", "data/**"))
"""Lines that keep git from taking `data/`, without slashes at their ends."""


def lay_out(root: Path, content: Mapping[str, object], *, write: bool) -> list[str]:
    """Make what is missing; the names of what was made, or got a line.

    Args:
        content: of `config/datakit-data.json`.
        write: it is new.
    Raises:
        OSError, UsageError: something is in the way.
    """
    made = []
    data = root / DATA
    if not data.is_dir():
        data.mkdir(parents=True)
        made.append(f"{DATA}/")
    if not any(data.iterdir()):
        (data / KEEP).touch()
    if write:
        write_json(root / CONFIG, content)
        made.append(CONFIG)
    location = str(content.get("sync_status_location") or "")
    if ignore(root / ".gitignore", location):
        made.append(".gitignore")
    return made


def ignore(file: Path, markers: str = "") -> bool:
    """Keep `data/` out of git, and datakit's markers; whether a line was needed."""
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    known = {line.strip().strip("/") for line in text.splitlines()}
    lines = []
    if not known & _IGNORING:
        # Not `data/`: of a folder that is left out git can keep no file.
        lines += [f"/{DATA}/*", f"!/{DATA}/{KEEP}"]
    place = markers.strip().strip("/")
    if place and place != DATA and place not in known:
        lines.append(f"{place}/")
    if not lines:
        return False
    with open(file, "a", encoding="utf-8") as out:
        out.write("\n" if text and not text.endswith("\n") else "")
        out.write("".join(f"{line}\n" for line in lines))
    return True
