"""`pipefs protect unprotect`: snapshots that nobody can forget."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pipefs.cli.app import App, Command, pass_app
from pipefs.cli.output import printable
from pipefs.cli.pasts import find_snapshot, open_past, snapshot_target
from pipefs.errors import PartlyDone, UsageError
from pipefs.units import show_count

if TYPE_CHECKING:
    from pipefs.catalog import Catalog, Snapshot
    from pipefs.commits import Change
    from pipefs.past.locking import Locked
    from pipefs.past.opened import Past

_NO_LOCK = click.option("--no-lock", is_flag=True, help="Only for pipefs: no Object Lock.")


@click.command(
    cls=Command,
    short_help="Make snapshots that nobody can forget or prune.",
    example="pipefs protect sales@2026Q3\npipefs protect sales@v1 sales@v2 --no-lock",
)
@click.argument("targets", metavar="NAME@SNAP…", nargs=-1, required=True)
@_NO_LOCK
@pass_app
def protect(app: App, targets: tuple[str, ...], no_lock: bool) -> None:
    """Protect snapshots: `forget`, `rmdir` and policies leave them alone. Where the bucket has
    Object Lock, every version they name gets a legal hold, so that no program can delete it."""
    _set(app, targets, on=True, lock=not no_lock)


@click.command(
    cls=Command,
    short_help="Let protected snapshots be forgotten again.",
    example="pipefs unprotect sales@2026Q3",
)
@click.argument("targets", metavar="NAME@SNAP…", nargs=-1, required=True)
@_NO_LOCK
@pass_app
def unprotect(app: App, targets: tuple[str, ...], no_lock: bool) -> None:
    """Take the protection away, and with it the legal holds, except on versions that another
    protected snapshot names. Deletes nothing."""
    _set(app, targets, on=False, lock=not no_lock)


def _set(app: App, targets: tuple[str, ...], *, on: bool, lock: bool) -> None:
    parsed = [snapshot_target(app, t) for t in targets]
    names = sorted({name for name, _ in parsed})
    if len(names) > 1:
        raise UsageError(f"one pipe at a time, not {' and '.join(names)}")
    past = open_past(app, names[0])
    chosen = _flag(past, [snap for _, snap in parsed], on=on)
    locked = _locked(past, chosen, on=on) if lock and past.store.has_object_lock() else {}
    app.emit({"name": names[0], "snapshots": [_item(s, locked) for s in chosen]})
    for snapshot in chosen:
        app.say(f"{snapshot.label}  {_words(snapshot, locked.get(snapshot.id), on)}")
    bad = [one for one in locked.values() if one.failures or (on and one.missing)]
    if bad:
        raise PartlyDone(
            f"{sum(o.failures + len(o.missing) for o in bad):,} versions could not be locked: "
            f"{_reason(bad[0])}",
            hint="The snapshots are protected in pipefs all the same. Again: the same command.",
        )


def _flag(past: Past, names: list[str], *, on: bool) -> list[Snapshot]:
    """Say it in the log; the snapshots."""
    from pipefs.commits import Change

    found: list[Snapshot] = []

    def plan(catalog: Catalog) -> list[Change]:
        found[:] = {s.id: s for s in (find_snapshot(catalog, n) for n in names)}.values()
        return [
            Change(op="protect", path="", snapshot=s.id, off=not on)
            for s in found
            if s.protected != on
        ]

    past.amend(plan)
    return [past.catalog.snapshots[s.id] for s in found]


def _locked(past: Past, chosen: list[Snapshot], *, on: bool) -> dict[str, Locked]:
    from pipefs.past.locking import hold

    return {snapshot.id: hold(past, snapshot, on=on) for snapshot in chosen}


def _item(snapshot: Snapshot, locked: dict[str, Locked]) -> dict[str, object]:
    one = locked.get(snapshot.id)
    return {
        "id": snapshot.id,
        "tags": snapshot.tags,
        "protected": snapshot.protected,
        "locked": one.versions if one is not None else 0,
    }


def _words(snapshot: Snapshot, locked: Locked | None, on: bool) -> str:
    state = "protected" if snapshot.protected else "not protected any more"
    if locked is None:
        return state
    verb = "locked in the store" if on else "unlocked in the store"
    kept = f", {locked.kept:,} stay for other protected snapshots" if locked.kept else ""
    return f"{state} · {show_count(locked.versions, 'version')} {verb}{kept}"


def _reason(locked: Locked) -> str:
    if locked.failed:
        return locked.failed[0]
    return f"{printable(locked.missing[0])} is gone from the store"
