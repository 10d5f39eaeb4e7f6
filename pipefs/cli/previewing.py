"""`pipefs preview`: what is in a file, at a glance."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from pipefs.cli.app import App, Command, pass_app
from pipefs.cli.look import Place
from pipefs.cli.output import cut, printable, table
from pipefs.errors import Refused, UsageError
from pipefs.units import show_count, show_size

if TYPE_CHECKING:
    from pipefs.preview.shown import Read, Shown

_CELL = 32
"""Columns of the terminal that a cell may take."""
_PLAIN_WIDTH = 120
"""Where the output is no terminal."""
_BOUND = 1000

_EXAMPLES = """\
pipefs preview sales/2026/q3.csv             the first rows
pipefs preview -n 5 sales@v1/storms.parquet  as it was in a snapshot, with the types of its columns
pipefs preview sales/first-look.ipynb        a notebook's cells as text"""


@click.command(cls=Command, short_help="What is in a file, at a glance.", example=_EXAMPLES)
@click.argument("target")
@click.option(
    "-n", "--rows", default=20, show_default=True, type=click.IntRange(0, _BOUND),
    help="Rows, lines or cells to show.",
)  # fmt: skip
@pass_app
def preview(app: App, target: str, rows: int) -> None:
    """The beginning of a file: rows of CSV, JSON Lines, Parquet and Arrow, cells of a notebook,
    format and size of an image, text, else bytes.

    TARGET as for ls. However large the file, only a little of it is read.
    """
    from pipefs.preview.showing import preview as look_at

    place = Place(app, target)
    if not place.names:
        raise UsageError(
            f"{place.target} is the whole pipe", hint=f"A file in it: {place.target}/PATH"
        )
    with place.errors():
        read, size = _opened(place)
        shown = look_at(read, size, place.target.path, rows)
    app.emit(_as_json(place, size, shown))
    if not app.json:
        app.say(_title(place, size, shown))
        for line in _lines(shown):
            app.say(line)


def _opened(place: Place) -> tuple[Read, int]:
    """How the bytes of a target are read, and how many they are."""
    if place.mounted is not None:
        fd = os.open(place.mounted, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        click.get_current_context().call_on_close(lambda: os.close(fd))
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{printable(str(place.target))} has no bytes to look at")
        return lambda start, length: os.pread(fd, length, start), status.st_size
    return _stored(place)


def _stored(place: Place) -> tuple[Read, int]:
    from pipefs.past.browsing import at

    store, view = place.opened()
    node = at(view, place.names, follow=True)
    if node.is_dir:
        raise IsADirectoryError
    if not node.is_file:
        raise UsageError(f"{printable(str(place.target))} has no bytes to look at")
    content = node.content
    if content is None:
        if node.size:
            raise Refused(f"the bytes of {printable(str(place.target))} are not in the store yet")
        return lambda _start, _length: b"", 0
    return (
        lambda start, length: store.get(content.key, content.version_id, start, length),
        content.size,
    )


def _as_json(place: Place, size: int, shown: Shown) -> dict[str, object]:
    found: dict[str, object] = {
        "name": place.target.name,
        "snapshot": place.target.snapshot,
        "path": place.target.path,
        "size": size,
        "kind": shown.kind,
        **shown.facts,
        "more": shown.more,
        "note": shown.note or None,
    }
    if shown.header:
        found |= {"header": shown.header, "cells": shown.rows}
    elif shown.lines:
        found["lines"] = shown.lines
    return found


def _title(place: Place, size: int, shown: Shown) -> str:
    said = [f"{printable(str(place.target))}  {shown.kind}", show_size(size), *_facts(shown.facts)]
    title = " · ".join(said)
    return f"{title}\n{printable(shown.note)}" if shown.note else title


def _facts(facts: Mapping[str, object]) -> list[str]:
    said = []
    for name, value in facts.items():
        if name == "width":
            said.append(f"{value} x {facts['height']} pixels")
        elif name in ("format", "kernel", "dtype"):
            said.append(printable(str(value)))
        elif name == "rows_about":
            said.append(f"about {value:,} rows")
        elif name == "shape" and isinstance(value, list):
            said.append(" x ".join(map(str, value)) or "one number")
        elif isinstance(value, int) and name != "height":
            said.append(show_count(value, name.removesuffix("s")))
        elif isinstance(value, dict):
            said.append(show_count(len(value), "column"))
    return said


def _lines(shown: Shown) -> list[str]:
    if shown.header:
        lines = _table(shown)
    else:
        lines = [printable(line.expandtabs(8)).rstrip() for line in shown.lines]
    while lines and not lines[-1]:
        lines.pop()
    return [*lines, "…"] if shown.more and lines else lines


def _table(shown: Shown) -> list[str]:
    """As many columns as the terminal has room for; the rest are counted."""
    types = shown.facts.get("columns")
    rows = [shown.header]
    if isinstance(types, dict):
        rows.append([str(types[name]) for name in shown.header])
    rows += shown.rows
    cells = [[cut(printable(cell), _CELL) for cell in row] for row in rows]
    width = shutil.get_terminal_size((_PLAIN_WIDTH, 24)).columns
    fits = len(shown.header)
    lines = table(cells)
    while fits > 1 and max(map(len, lines)) > width:
        fits -= 1
        lines = table([row[:fits] for row in cells])
    left = shown.header[fits:]
    if left:
        names = ", ".join(printable(name) for name in left)
        lines.append(cut(f"+ {show_count(len(left), 'column')}: {names}", width))
    return lines
