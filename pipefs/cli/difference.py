"""`pipefs diff`: what differs between two moments of a pipe, and inside its tables."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from pipefs.cli.app import App, Command, pass_app
from pipefs.cli.diffoutput import (
    as_json,
    counts,
    lines_of,
    row_lines,
    rows_json,
    shown_path,
    summary_text,
    worth_a_line,
)
from pipefs.cli.pasts import LIVE, contents_at, open_past, view_at
from pipefs.errors import NotFound, UsageError
from pipefs.past.comparing import MODIFIED, Difference, compare, file_at
from pipefs.past.counting import PARQUET, count_rows, table_kind
from pipefs.past.manifests import ManifestView
from pipefs.past.renaming import with_renames
from pipefs.target import Target, is_path, parse_target

if TYPE_CHECKING:
    from pipefs.manifest import Entry
    from pipefs.past.reading import Contents
    from pipefs.past.rows import RowDifference
    from pipefs.past.views import PastView
    from pipefs.protocol import MountItem

_COUNTED = 20
"""Parquet files whose rows are shown without --stat: two small requests each."""
_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two moments."""

    target: Target
    view: PastView
    contents: Contents

    @property
    def names(self) -> list[bytes]:
        return [n for n in os.fsencode(self.target.path).split(b"/") if n]

    @property
    def label(self) -> str:
        return self.target.snapshot or LIVE


@click.command(
    cls=Command,
    short_help="What changed between two moments.",
    example="pipefs diff sales v1\n"
    "pipefs diff sales v1 v2 --stat\n"
    "pipefs diff sales@v1/2026 sales@v2/2026\n"
    "pipefs diff sales v1 --rows storms.parquet --key id",
)
@click.argument("words", metavar="A [B] | NAME A [B]", nargs=-1, required=True)
@click.option("--stat", is_flag=True, help="Count rows of all tables, and everything in one line.")
@click.option("--name-only", is_flag=True, help="Only the paths of files.")
@click.option(
    "--rows",
    "rows_of",
    metavar="[PATH]",
    is_flag=False,
    flag_value="",
    help="Rows and columns that differ, of one table or of all that changed.",
)
@click.option("--key", metavar="COL", multiple=True, help="With --rows: what identifies a row.")
@click.option("-R", "--recursive", is_flag=True, help="Each file of new, gone, renamed folders.")
@pass_app
def diff(
    app: App,
    words: tuple[str, ...],
    stat: bool,
    name_only: bool,
    rows_of: str | None,
    key: tuple[str, ...],
    recursive: bool,
) -> None:
    """What is added (A), modified (M), deleted (D), renamed (R) or only has other attributes (m)
    in B, compared with A. Each is NAME@SNAP[/PATH], a path inside a mount, or after NAME a SNAP:
    tag, id, latest, or live, the present, which B is unless you name another. Nothing is read for
    it but lists; files count as equal by version, checksum or ETag."""
    if key and rows_of is None:
        raise UsageError("--key is for --rows")
    old, new = _sides(app, words)
    scope, note = _scope(old, new)
    if rows_of is not None:
        _tell_rows(app, old, new, scope, rows_of, key)
        return
    found = _differences(old, new, scope)
    if name_only and not app.json:
        for d in found:
            if not d.is_dir:
                app.say(shown_path(d.path))
        return
    rows = _count(old, new, found, everything=stat)
    same = _same(old, new, scope, found)
    app.emit(_result(old, new, scope, found, rows, same))
    for line in lines_of(found, rows, recursive=recursive):
        app.say(line)
    if not found:
        app.say(f"{old.target.name}  {old.label} and {new.label} are the same")
    elif stat:
        app.say(summary_text(found, same))
    if note:
        app.say(note)


# --- which two ----------------------------------------------------------------------------------


def _sides(app: App, words: tuple[str, ...]) -> tuple[Side, Side]:
    from pipefs.client import SupervisorClient

    items = SupervisorClient(app.home()).mounts_or_none()
    first = parse_target(words[0], items)
    rest = words[1:]
    if first.snapshot is None and "@" not in words[0].partition("/")[0]:
        # NAME A [B]; without A, what changed since the newest snapshot.
        old = _moment(rest[0] if rest else "latest", first, items)
        rest = rest[1:]
    else:
        old = first
    new = _moment(rest[0] if rest else LIVE, old, items)
    if len(rest) > 1:
        raise UsageError(f"{rest[1]!r} is one moment too many", hint="pipefs diff NAME A B")
    if old.name != new.name:
        raise UsageError(f"{old} and {new} are of two pipes; diff compares moments of one")
    past = open_past(app, old.name)
    one, two = (
        Side(t, view_at(app, past, t.name, t.snapshot), contents_at(app, past, t.name, t.snapshot))
        for t in (old, new)
    )
    return one, two


def _moment(word: str, base: Target, items: Sequence[MountItem]) -> Target:
    """A word that is a moment of the same pipe and path, or a TARGET of its own."""
    if is_path(word) or "/" in word or "@" in word[1:]:
        return parse_target(word, items)
    return Target(base.name, None if word == LIVE else word, base.path)


def _scope(old: Side, new: Side) -> tuple[list[bytes], str]:
    """Where the two are compared, and a line where that is less than was asked for.

    A snapshot of a folder says nothing about what is beside it, so nothing there is deleted.
    """
    names = old.names
    if names != new.names:
        return names, ""
    tops = [_top(side.view, names) for side in (old, new)]
    short, long = sorted(tops, key=len)
    if short != long[: len(short)]:
        return names, ""  # nothing in common: all of one is gone, all of the other is new
    _must_exist(old, new, long)
    if long == names:
        return names, ""
    where = b"/".join(long).decode("utf-8", "surrogateescape")
    return long, f"compared below {where}, of which both snapshots are"


def _top(view: PastView, names: list[bytes]) -> list[bytes]:
    return view.scope(names) if isinstance(view, ManifestView) else names


def _must_exist(old: Side, new: Side, names: list[bytes]) -> None:
    if names and not any(next(s.view.entries(names), None) for s in (old, new)):
        raise NotFound(f"{old.target.path} is neither in {old.label} nor in {new.label}")


# --- trees --------------------------------------------------------------------------------------


def _differences(old: Side, new: Side, scope: list[bytes]) -> list[Difference]:
    other = scope if old.names == new.names else new.names
    found = with_renames(compare(old.view, new.view, scope, other))
    return [d for d in found if worth_a_line(d)]


def _count(
    old: Side, new: Side, found: list[Difference], *, everything: bool
) -> dict[str, tuple[int | None, int | None]]:
    """Rows of modified tables: from the footers of the first Parquet files, or of all tables."""
    tables = [d for d in found if d.kind == MODIFIED and table_kind(d.path) is not None]
    if not everything:
        tables = [d for d in tables if table_kind(d.path) == PARQUET][:_COUNTED]

    def rows_of(d: Difference) -> tuple[int | None, int | None]:
        return tuple(  # type: ignore[return-value]  # of two
            count_rows(side.contents, entry, read=everything)
            if entry is not None and entry.kind == "file"
            else None
            for side, entry in ((old, d.old), (new, d.new))
        )

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return dict(zip((d.path for d in tables), pool.map(rows_of, tables), strict=True))


def _same(old: Side, new: Side, scope: list[bytes], found: list[Difference]) -> int | None:
    """Files that are the same in both; None where counting them would mean reading the trees."""
    view = old.view
    if scope or old.names != new.names or not isinstance(view, ManifestView):
        return None
    return view.root.files - sum(1 for d in found if d.old is not None and d.old.kind == "file")


def _result(
    old: Side,
    new: Side,
    scope: list[bytes],
    found: list[Difference],
    rows: dict[str, tuple[int | None, int | None]],
    same: int | None,
) -> dict[str, object]:
    figures = counts(found)
    kinds = ("added", "modified", "deleted", "renamed", "attributes")
    return {
        "name": old.target.name,
        "from": old.label,
        "to": new.label,
        "path": b"/".join(scope).decode("utf-8", "replace"),
        "changes": [as_json(d, rows) for d in found],
        "summary": {**{k: figures[k] for k in kinds}, "same": same},
    }


# --- tables -------------------------------------------------------------------------------------


def _tell_rows(
    app: App,
    old: Side,
    new: Side,
    scope: list[bytes],
    path: str,
    key: tuple[str, ...],
) -> None:
    pairs = _one_table(old, new, path) if path else _changed_tables(old, new, scope)
    schema = app.registry().get(old.target.name).settings.schema
    results = []
    for one, two in pairs:
        found = _compare_tables(old, new, one, two, key, schema)
        results.append(rows_json(two.path, found))
        if not path:
            app.say(shown_path(two.path))
        for line in row_lines(found):
            app.say(line if path else f"  {line}")
    if not pairs:
        app.say(f"{old.target.name}  no table differs between {old.label} and {new.label}")
    app.emit({"name": old.target.name, "from": old.label, "to": new.label, "tables": results})


def _compare_tables(
    old: Side,
    new: Side,
    one: Entry,
    two: Entry,
    key: tuple[str, ...],
    schema: object,
) -> RowDifference:
    from pipefs.past.rows import compare_rows
    from pipefs.past.tables import read_table

    options = schema if isinstance(schema, dict) else {}
    with old.contents.open(one) as before, new.contents.open(two) as after:
        tables = [
            read_table(file, shown_path(entry.path), options)
            for file, entry in ((before, one), (after, two))
        ]
    return compare_rows(tables[0], tables[1], key)


def _changed_tables(old: Side, new: Side, scope: list[bytes]) -> list[tuple[Entry, Entry]]:
    return [
        (d.old, d.new)
        for d in _differences(old, new, scope)
        if d.kind == MODIFIED
        and d.old is not None
        and d.new is not None
        and d.old.kind == d.new.kind == "file"
        and table_kind(d.path) is not None
    ]


def _one_table(old: Side, new: Side, path: str) -> list[tuple[Entry, Entry]]:
    """The two versions of a path below those that are compared."""
    names = [n for n in os.fsencode(path).split(b"/") if n]
    found = []
    for side in (old, new):
        entry = file_at(side.view, [*side.names, *names])
        if entry is None or entry.kind != "file":
            raise NotFound(f"{path} is no file in {side.label}")
        found.append(entry)
    return [(found[0], found[1])]
