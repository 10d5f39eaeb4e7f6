"""Where `config move` put folders of a home: what else a link leads to is the user's."""

from __future__ import annotations

import json

from pipefs.home import Home
from pipefs.tomlfile import write_file

_NAME = "moved.json"


def moved_to(home: Home) -> set[str]:
    """The places, as real paths."""
    try:
        return set(json.loads((home.state / _NAME).read_bytes()))
    except (OSError, ValueError, TypeError):
        return set()


def note_moved(home: Home, place: str) -> None:
    """Remember one."""
    write_file(home.state / _NAME, json.dumps(sorted({*moved_to(home), place})).encode())
