"""`pipefs check`: is the past whole?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from pipefs.cli.app import App, Command, pass_app
from pipefs.cli.output import printable
from pipefs.cli.pasts import find_snapshot, open_past, whole_target
from pipefs.errors import Corrupt, UsageError
from pipefs.units import show_count, show_size

if TYPE_CHECKING:
    from pipefs.catalog import Snapshot
    from pipefs.past.checking import Fault
    from pipefs.past.opened import Past
    from pipefs.past.verifying import Progress

SHOWN = 100
"""Faults that are shown one by one; --json has all."""


@click.command(
    cls=Command,
    short_help="Is a snapshot whole, or the catalogue of all of them?",
    example="pipefs check sales               the catalogue: log, objects, manifests\n"
    "pipefs check sales@v1            every version that it names\n"
    "pipefs check sales@v1 --read-data",
)
@click.argument("target", metavar="NAME[@SNAP]")
@click.option("--read-data", is_flag=True, help="Read every byte and compare checksums.")
@click.option("--repair", is_flag=True, help="Bring back what another program deleted.")
@click.option("-n", "--dry-run", "--preview", "dry_run", is_flag=True, help="Complete nothing.")
@pass_app
def check(app: App, target: str, read_data: bool, repair: bool, dry_run: bool) -> None:
    """Check snapshots against the store. What a dying machine left half-made is completed; files
    that are gone are named. Exit code 1 when something is not whole."""
    from pipefs.past.verifying import Progress

    name, snap = whole_target(app, target)
    past = open_past(app, name)
    snapshot = find_snapshot(past.catalog, snap, forgotten=True) if snap is not None else None
    if snapshot is None and read_data:
        raise UsageError("--read-data is of one snapshot", hint=f"Write it as {name}@SNAP.")
    done = Progress()
    found: list[Fault] = []
    shown = 0
    for fault in _faults(past, snapshot, done, read_data, repair, dry_run):
        found.append(fault)
        if shown < SHOWN:
            app.say(_line(fault))
        shown += 1
    if shown > SHOWN:
        app.say(f"… and {shown - SHOWN:,} more: --json has them")
    bad = [f for f in found if not (f.fixed or f.note)]
    app.emit(
        {
            "name": name,
            "snapshot": snapshot.id if snapshot is not None else None,
            "whole": not bad,
            "files": done.files,
            "bytes": done.bytes,
            "read": done.read,
            "unverified": done.unverified,
            "faults": found,
        }
    )
    if bad:
        raise Corrupt(f"{name}: {show_count(len(bad), 'fault')}", hint=_advice(bad, repair, name))
    app.say(_summary(past, name, snapshot, done, read_data))


def _faults(
    past: Past,
    snapshot: Snapshot | None,
    done: Progress,
    read_data: bool,
    repair: bool,
    dry_run: bool,
) -> Iterator[Fault]:
    from pipefs import manifest
    from pipefs.past.checking import catalogue, own_objects
    from pipefs.past.verifying import verify

    if snapshot is None:
        yield from catalogue(past, repair=repair, dry_run=dry_run)
        return
    there = {v.key for v in past.store.list(manifest.PREFIX)}
    whole = True
    for fault in own_objects(past, snapshot, there, set(), repair=repair and not dry_run):
        whole = whole and fault.fixed
        yield fault
    if whole:
        yield from verify(past, snapshot, read_data=read_data, progress=done)


def _line(fault: Fault) -> str:
    mark = "fixed" if fault.fixed else "note " if fault.note else "BAD  "
    return f"{mark}  {printable(fault.where)}  {fault.detail}"


def _advice(bad: list[Fault], repair: bool, name: str) -> str:
    if not repair and any(f.kind in ("hidden", "root", "part") for f in bad):
        return f"What another program deleted can perhaps be brought back: check {name} --repair"
    return "Lifecycle rules delete old versions: pipefs doctor " + name


def _summary(
    past: Past, name: str, snapshot: Snapshot | None, done: Progress, read_data: bool
) -> str:
    if snapshot is None:
        count = sum(not s.dropped for s in past.catalog.snapshots.values())
        return f"{name}  {show_count(count, 'snapshot')}: the catalogue is whole"
    text = f"{name}@{snapshot.label}  {show_count(done.files, 'file')}, {show_size(done.bytes)}"
    if not read_data:
        return f"{text}: every version is there"
    known = f", {done.unverified:,} without a checksum" if done.unverified else ""
    return f"{text}: every byte is as it was{known}"
