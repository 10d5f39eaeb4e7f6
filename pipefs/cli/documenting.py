"""`pipefs docs`: a page about a pipe, to be shown to people."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipefs.cli.app import App, Command, pass_app
from pipefs.cli.output import tilde
from pipefs.cli.pasts import open_past, time_text
from pipefs.cli.placing import reach_of
from pipefs.errors import PipefsError, UsageError
from pipefs.units import show_count, show_size, utc_text

if TYPE_CHECKING:
    from pipefs.docspage import Page
    from pipefs.reaching import Reach
    from pipefs.target import Target

_TEXT_BYTES = 256 << 10


@click.command(
    cls=Command,
    short_help="A page about a pipe: README, files, snapshots, how to get it.",
    example="""\
pipefs docs sales                        writes sales.html
pipefs docs sales@v1 -o index.html       of a snapshot
pipefs docs sales -o - > page.html""",
)
@click.argument("target", metavar="NAME[@SNAP]")
@click.option("-o", "--output", metavar="FILE", help='Where to; "-" is standard output.')
@pass_app
def docs(app: App, target: str, output: str | None) -> None:
    """Write one HTML file about a pipe, to be mailed or put on a site: its README and LICENSE,
    schema, files with what is said of them, snapshots, and the lines that get it. It loads nothing
    from elsewhere."""
    from pipefs.docspage import render

    reach, place = reach_of(app, target)
    if place.path:
        raise UsageError("a page is of a whole pipe", hint=f"pipefs docs {place.name}")
    page = _page(app, reach, place)
    text = render(page)
    if output == "-":
        click.echo(text, nl=False)
        return
    file = Path(output or f"{place.name}.html")
    file.write_text(text, encoding="utf-8", errors="replace")
    app.emit({"name": place.name, "snapshot": place.snapshot, "file": str(file.absolute())})
    size = show_size(len(text.encode("utf-8", "replace")))
    app.say(f"{tilde(str(file))}  {show_count(len(page.files), 'file')} · {size}")


def _page(app: App, reach: Reach, place: Target) -> Page:
    from pipefs.descriptor import read_descriptor
    from pipefs.docspage import FileRow, Page

    found = [item for item in reach.walk(place.snapshot, "") if item.is_file]
    rows = [
        FileRow(i.path, i.size, i.mtime_ns, ", ".join(f"{k}: {v}" for k, v in i.metadata.items()))
        for i in found
    ]
    told = read_descriptor(reach.replica.store)
    past = open_past(app, place.name)
    snapshots = [(s.label, time_text(s.body.time), s.body.message) for s in past.catalog.kept()]
    return Page(
        name=place.name,
        url=reach.pipe.url,
        at=place.snapshot or "",
        created=told.created if told else "",
        created_by=told.created_by if told else "",
        readme=_document(reach, place, "README.md"),
        license=_document(reach, place, "LICENSE.md"),
        schema=reach.pipe.settings.schema,
        files=rows,
        snapshots=snapshots,
        made=utc_text(time.time_ns())[:16].replace("T", " ") + "Z",
    )


def _document(reach: Reach, place: Target, name: str) -> str:
    try:
        item = reach.item(place.snapshot, name)
        if not item.is_file:
            return ""
        return reach.read(item, 0, min(item.size, _TEXT_BYTES)).decode(errors="replace")
    except (OSError, PipefsError):
        return ""
