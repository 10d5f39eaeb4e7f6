"""`pipefs search`: find files, columns, words and snapshots of a pipe, on this machine."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from pipefs.cli.app import App, Command, pass_app
from pipefs.cli.output import cut, printable, table
from pipefs.cli.pasts import time_text_ns
from pipefs.errors import NotFound
from pipefs.units import show_count, show_size, utc_text

if TYPE_CHECKING:
    from pipefs.search.finding import Hit, Hits

_PIECE = 90
"""Columns of the terminal for the words around a hit."""

_EXAMPLES = """\
pipefs search sales storms                   names, metadata, columns, text, messages of snapshots
pipefs search sales column:wind              tables with such a column
pipefs search sales 'author:maria -draft'    by metadata, and without a word
pipefs search sales '"as downloaded"'        several words, one after the other"""


@click.command(cls=Command, short_help="Find files, columns, words, snapshots.", example=_EXAMPLES)
@click.argument("name")
@click.argument("query", nargs=-1, required=True)
@click.option("-n", "--limit", default=50, show_default=True, type=click.IntRange(1, 10_000),
              help="Hits at most.")  # fmt: skip
@click.option("--offline", is_flag=True, help="Ask the store nothing: what is indexed here.")
@click.option("--refresh", is_flag=True, help="List the pipe for what other tools wrote just now.")
@pass_app
def search(
    app: App, name: str, query: tuple[str, ...], limit: int, offline: bool, refresh: bool
) -> None:
    """Find what a pipe has, or had: all words of QUERY, each also as the beginning of a word.

    Searched are names (also of files that are gone), metadata, names of columns (CSV, JSON Lines,
    Parquet, Arrow), text (the first MiB of a file) and messages of snapshots. The index is kept on
    this machine; a search reads what is new since the last one.
    """
    from pipefs.replica import Replica
    from pipefs.search.finding import search as find

    home = app.home()
    replica = Replica(home, app.registry(home).get(name))
    click.get_current_context().call_on_close(replica.close)
    told = _Progress(app)
    asked = " ".join(query)
    hits = find(replica, home, asked, limit, offline=offline, cached=not refresh, progress=told)
    told.end()
    app.emit(_as_json(name, asked, hits))
    for line in _lines(hits, limit):
        app.say(line)
    if hits.offline and not offline:
        app.warn(f"found in what is indexed here: {hits.offline}")
    if not hits:
        raise NotFound(f"nothing in {name} matches {printable(asked)}{_state(hits)}")


class _Progress:
    """One line on a terminal while files are read."""

    def __init__(self, app: App) -> None:
        self._shown = False
        self._quiet = app.quiet or app.json or not sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        if not self._quiet and total > 100:
            self._shown = True
            click.echo(f"\rreading {done:,} of {show_count(total, 'file')} …", err=True, nl=False)

    def end(self) -> None:
        if self._shown:
            click.echo("\r\x1b[K", err=True, nl=False)


def _lines(hits: Hits, limit: int) -> list[str]:
    if not hits:
        return []
    rows = [_row(hit) for hit in hits]
    more = " or more" if len(hits) == limit else ""
    found = "1 hit" if len(hits) == 1 else f"{len(hits):,} hits{more}"
    return [*table(rows), f"{found}{_state(hits)}"]


def _state(hits: Hits) -> str:
    """How current the index is, where that is not obvious."""
    said = ""
    if hits.offline:
        said = f" · as of {time_text_ns(hits.since_ns)}"
    if hits.waiting:
        said += f" · {show_count(hits.waiting, 'file')} not read yet"
    return said


def _row(hit: Hit) -> list[str]:
    if hit.kind == "snapshot":
        tags = str((hit.metadata or {}).get("tags") or "")
        label = f"@{tags.split()[0]}" if tags else f"@{hit.version[:7]}"
        where = f"snapshot of {hit.path}" if hit.path else "snapshot"
        return [label, f"{where}, {time_text_ns(hit.mtime_ns)}", _piece(hit)]
    name = printable(hit.path) + ("/" if hit.kind == "dir" else "")
    state = show_size(hit.size) if hit.kind == "file" else hit.kind
    return [name, f"{state}, deleted" if hit.deleted else state, _piece(hit)]


def _piece(hit: Hit) -> str:
    if not hit.piece:
        return ""
    first = next((w for w in ("columns", "message", "metadata") if w in hit.where), "")
    shown = f"{first}: " if first in ("columns", "metadata") else ""
    return cut(printable(shown + hit.piece), _PIECE)


def _as_json(name: str, query: str, hits: Hits) -> dict[str, object]:
    return {
        "name": name,
        "query": query,
        "indexed": utc_text(hits.since_ns) if hits.since_ns else None,
        "offline": hits.offline or None,
        "files_not_read": hits.waiting,
        "hits": [
            {
                "path": hit.path,
                "kind": hit.kind,
                "where": list(hit.where),
                "piece": hit.piece,
                "deleted": hit.deleted,
                "version": hit.version or None,
                "size": hit.size,
                "time": utc_text(hit.mtime_ns) if hit.mtime_ns else None,
                "metadata": dict(hit.metadata) if hit.metadata else None,
            }
            for hit in hits
        ],
    }
