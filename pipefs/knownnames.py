"""Names of a pipe's snapshots as this machine saw them last, for who types them.

Shell completion must answer in a blink and asks no network, so each command that reads a catalogue
leaves its names here. Disposable; never used for anything but suggestions.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from pipefs.home import Home, make_private
from pipefs.tomlfile import write_file

_LIMIT = 5000
"""More names help nobody who types."""


def remember(home: Home, name: str, found: Iterable[str], *, add: bool = False) -> None:
    """Keep names of snapshots, newest last; with `add` besides those that are known."""
    before = recall(home, name)
    names = list(dict.fromkeys([*(before if add else ()), *found]))[-_LIMIT:]
    if names == before:
        return
    with contextlib.suppress(OSError):
        file = _file(home, name)
        make_private(file.parent)
        write_file(file, json.dumps(names).encode())


def forget(home: Home, name: str) -> None:
    """Another pipe may get this name."""
    _file(home, name).unlink(missing_ok=True)


def recall(home: Home, name: str) -> list[str]:
    """What was kept; nothing where nobody looked yet."""
    try:
        found = json.loads(_file(home, name).read_bytes())
    except (OSError, ValueError):
        return []
    return [n for n in found if isinstance(n, str)] if isinstance(found, list) else []


def _file(home: Home, name: str) -> Path:
    return home.cache / "names" / f"{home.profile}@{os.path.basename(name)}.json"
