"""`pipefs tag`: what snapshots are called."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pipefs.cli.app import App, Command, pass_app
from pipefs.cli.output import printable, table
from pipefs.cli.pasts import find_snapshot, open_past, time_text, whole_target
from pipefs.errors import Conflict, NotFound, UsageError

if TYPE_CHECKING:
    from pipefs.catalog import Catalog, Snapshot
    from pipefs.commits import Change
    from pipefs.past.opened import Past


@click.command(
    cls=Command,
    short_help="Give a snapshot further names, or take them away.",
    example="pipefs tag sales@4f2a91c best 2026Q3\n"
    "pipefs tag sales@v2 best --force     move it from the one that has it\n"
    "pipefs tag sales@v2 best -d\n"
    "pipefs tag sales --list",
)
@click.argument("target", metavar="NAME@SNAP")
@click.argument("tags", metavar="TAG…", nargs=-1)
@click.option("-d", "--delete", is_flag=True, help="Take these tags away.")
@click.option("--force", is_flag=True, help="Also where another snapshot has the tag.")
@click.option("--list", "list_", is_flag=True, help="Show the tags.")
@pass_app
def tag(
    app: App, target: str, tags: tuple[str, ...], delete: bool, force: bool, list_: bool
) -> None:
    """Give a snapshot tags. It may have several; a tag belongs to one snapshot. Every machine
    hears of it."""
    from pipefs.catalog import check_tag
    from pipefs.commits import Change

    name, snap = whole_target(app, target)
    past = open_past(app, name)
    if list_ or not tags:
        if tags:
            raise UsageError("--list takes no tags")
        _list_tags(app, past, name, snap)
        return
    if snap is None:
        raise UsageError(f"which snapshot of {name}?", hint=f"Write it as {name}@SNAP.")
    for one in tags:
        check_tag(one)
    found: list[Snapshot] = []

    def plan(catalog: Catalog) -> list[Change]:
        found[:] = [find_snapshot(catalog, snap)]
        wanted = [t for t in tags if (t in found[0].tags) == delete]
        for one in tags:
            _check_holder(catalog, found[0], one, delete=delete, force=force)
        return [
            Change(op="tag", path="", snapshot=found[0].id, tag=t, off=delete, force=force)
            for t in wanted
        ]

    past.amend(plan)
    made = past.catalog.snapshots[found[0].id]
    app.emit({"name": name, "id": made.id, "tags": made.tags})
    app.say(f"{made.short}  {' '.join(made.tags) or 'no tags'}")


def _check_holder(
    catalog: Catalog, snapshot: Snapshot, tag: str, *, delete: bool, force: bool
) -> None:
    holder = catalog.tagged(tag)
    if delete:
        if holder is not snapshot:
            raise NotFound(f"{snapshot.label} does not have the tag {tag!r}")
        return
    if holder is not None and holder is not snapshot and not holder.forgotten and not force:
        raise Conflict(
            f"the tag {tag!r} belongs to {holder.short} of {time_text(holder.body.time)}",
            hint="Move it: --force",
        )


def _list_tags(app: App, past: Past, name: str, snap: str | None) -> None:
    chosen = [find_snapshot(past.catalog, snap)] if snap is not None else past.catalog.kept()
    rows = [(t, s) for s in chosen for t in s.tags]
    app.emit(
        {
            "name": name,
            "tags": [{"tag": t, "id": s.id, "time": s.body.time, "path": s.body.path}
                     for t, s in rows],
        }
    )  # fmt: skip
    if not rows:
        app.say(f"{name}  no tags")
    for line in table(
        [[t, s.short, time_text(s.body.time), printable(s.body.message)] for t, s in rows]
    ):
        app.say(line)
