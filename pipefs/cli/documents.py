"""README and LICENSE of a pipe, shown when they come for the first time and when they changed."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import stat
import threading

from pipefs.cli.app import App
from pipefs.cli.output import printable, tilde
from pipefs.home import Home

DOCUMENTS = ("README.md", "LICENSE.md")

_LINES = 40
_WAIT_S = 3.0
"""A mount is ready before its store answers; nobody waits longer for a text."""


def show_document(app: App, place: str, *, lines: list[str] | None = None) -> None:
    """The first lines of a text between banners, and where the rest is."""
    found = _first_lines(place) if lines is None else lines
    app.say(f"\n──── {os.path.basename(place)} ────")
    for line in found[:_LINES]:
        app.say(printable(line.expandtabs()))
    if len(found) > _LINES:
        app.say(f"… {printable(tilde(place))}")


def show_new(app: App, home: Home, name: str, folder: str) -> None:
    """Those of a mounted pipe that were not shown on this machine as they are now."""
    if app.quiet or app.json:
        return
    file = home.pipe_state(name) / "shown.json"
    shown: dict[str, list[int]] = {}
    with contextlib.suppress(OSError, ValueError):
        shown = json.loads(file.read_bytes())
    found: dict[str, tuple[list[int], list[str]]] = {}

    def look() -> None:
        for document in DOCUMENTS:
            with contextlib.suppress(OSError):
                place = os.path.join(folder, document)
                status = os.stat(place)
                seen = [status.st_size, status.st_mtime_ns]
                if stat.S_ISREG(status.st_mode) and shown.get(document) != seen:
                    found[document] = seen, _first_lines(place)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(_WAIT_S)
    new = dict(found)
    for document, (_, lines) in new.items():
        show_document(app, os.path.join(folder, document), lines=lines)
    if new:
        told = {**shown, **{document: seen for document, (seen, _) in new.items()}}
        with contextlib.suppress(OSError):
            file.write_text(json.dumps(told))


def _first_lines(place: str) -> list[str]:
    """One more than is shown."""
    with open(place, encoding="utf-8", errors="replace") as file:
        return [line.rstrip() for line in itertools.islice(file, _LINES + 1)]
