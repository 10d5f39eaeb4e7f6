"""`pipefs status flush refresh`: is my work safe, make it safe, look again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import click
import msgspec

from pipefs.cli.app import App, Command, pass_app
from pipefs.cli.mounting import ProgressLine
from pipefs.cli.output import NO_ANSWER, conflict_lines, printable, status_row, table, unsafe
from pipefs.errors import NotFound, PartlyDone, PipefsError, Refused
from pipefs.target import parse_target
from pipefs.units import show_count, show_seconds, show_size

if TYPE_CHECKING:
    from pipefs.home import Home
    from pipefs.protocol import MountItem, MountStatus


@click.command(
    cls=Command,
    short_help="What is mounted, and is my work safe?",
    example="pipefs status\npipefs status sales --json",
)
@click.argument("name", required=False)
@pass_app
def status(app: App, name: str | None) -> None:
    """What is mounted, what is still going up, and whether anything needs you."""
    from pipefs.client import SupervisorClient

    home = app.home()
    items = SupervisorClient(home).mounts_or_none()
    if name is not None:
        target = parse_target(name, items)
        if all(m.name != target.name for m in items):
            app.registry(home).get(target.name)  # Unknown is another thing than not mounted.
        items = [
            m for m in items if m.name == target.name and target.snapshot in (None, m.snapshot)
        ]
        name = target.name
    found = _ask_all(items)
    app.emit({"mounts": found})
    if not found:
        app.say(_nothing(app, home, name))
        return
    wide = table([status_row(s) for s in found])
    for line, one in zip(wide, found, strict=True):
        app.say(line)
        conflicts = conflict_lines(one.name, one.conflict_list, app.command)
        for detail in (*(f"  {w}" for w in one.warnings), *conflicts):
            app.say(detail)
    at_risk = [printable(s.name) for s in found if unsafe(s)]
    app.say("safe to unplug: " + (f"no ({', '.join(at_risk)})" if at_risk else "yes"))


def _nothing(app: App, home: Home, name: str | None) -> str:
    from pipefs.waiting import waiting_changes

    if name is None:
        return f"nothing is mounted · pipes: {app.command('list')}"
    waits = waiting_changes(home, name)
    if waits:
        verb = "waits" if waits == 1 else "wait"
        rest = (
            f"{show_count(waits, 'change')} {verb} in the outbox · {app.command(f'mount {name}')}"
        )
    else:
        rest = "all saved"
    return f"{name}  not mounted · {rest}"


def _ask_all(items: list[MountItem]) -> list[MountStatus]:
    """Status of each mount; one that does not answer is shown as such, not left out."""
    if not items:
        return []
    with ThreadPoolExecutor(min(16, len(items))) as pool:
        return list(pool.map(_ask, items))


def _ask(item: MountItem) -> MountStatus:
    from pipefs.client import WorkerClient
    from pipefs.protocol import MountStatus

    try:
        found = WorkerClient(item.socket).status()
    except PipefsError as e:
        return MountStatus(
            item.name,
            item.path,
            item.pid,
            "",
            state=NO_ANSWER,
            snapshot=item.snapshot,
            last_error=item.last_error or (item.state if item.state != "live" else e.message),
        )
    return msgspec.structs.replace(found, name=item.name, snapshot=item.snapshot or found.snapshot)


def mounted(app: App, home: Home, items: list[MountItem], name: str) -> MountItem:
    """The live mount of a pipe. Raises `NotFound` (no such pipe) or `Refused` (not mounted)."""
    for item in items:
        if item.name == name and item.snapshot is None:
            return item
    app.registry(home).get(name)
    raise Refused(f'"{name}" is not mounted', hint=f"First: {app.command(f'mount {name}')}")


@click.command(
    cls=Command,
    short_help="Return when everything written is in the store.",
    example="pipefs flush sales && echo safe\npipefs flush sales/2026 --timeout 60\npipefs flush .",
)
@click.argument("target", required=False)
@click.option("--timeout", "timeout_s", metavar="S", type=click.FloatRange(min=0), help="Seconds.")
@pass_app
def flush(app: App, target: str | None, timeout_s: float | None) -> None:
    """Return when what was written before is in the store. TARGET is NAME[/PATH] or a path
    inside a mount; without it, all mounts. Exit code 124 when the time ran out."""
    from pipefs.client import SupervisorClient

    home = app.home()
    items = SupervisorClient(home).mounts_or_none()
    path: str | None = None
    if target is None:
        chosen = [m for m in items if m.snapshot is None]
    else:
        found = parse_target(target, items)
        if found.snapshot is not None:
            raise Refused(f"{found} is the past: there is nothing to flush")
        chosen, path = [mounted(app, home, items, found.name)], found.path or None
    if not chosen:
        app.say("nothing is mounted")
    results: list[dict[str, object]] = []
    failed: list[PipefsError] = []
    for item in chosen:
        try:
            results.append(_flush_one(app, item, path, timeout_s))
        except PipefsError as e:
            if len(chosen) == 1:
                raise
            app.warn(f"{item.name}: {e.message}", e.hint)
            failed.append(e)
    app.emit({"flushed": results})
    if failed:
        kind = type(failed[0]) if len({type(f) for f in failed}) == 1 else PartlyDone
        raise kind(f"{len(failed)} of {len(chosen)} pipes are not all saved")


def _flush_one(
    app: App, item: MountItem, path: str | None, timeout_s: float | None
) -> dict[str, object]:
    from pipefs.client import WorkerClient

    with ProgressLine(app, f"{item.name}:") as line:
        done = WorkerClient(item.socket).flush(path, timeout_s=timeout_s, progress=line.show)
    what = f"{item.name}/{path}" if path else item.name
    size = f" ({show_size(done.bytes)})" if done.bytes else ""
    sent = f" · {show_count(done.files, 'file')}{size}" if done.files else ""
    app.say(f"{printable(what)}  all saved{sent} · {show_seconds(done.seconds)}")
    return {"name": item.name, "path": path or "", **msgspec.structs.asdict(done)}


@click.command(
    cls=Command,
    short_help="Look for what others changed.",
    example="pipefs refresh sales\npipefs refresh sales --full     also what other tools wrote",
)
@click.argument("name")
@click.option("--full", is_flag=True, help="List the bucket, not only the commits.")
@pass_app
def refresh(app: App, name: str, full: bool) -> None:
    """Follow what other machines committed, now; --full also lists the bucket for what other
    tools wrote."""
    from pipefs.client import SupervisorClient, WorkerClient

    home = app.home()
    items = SupervisorClient(home).mounts_or_none()
    found = parse_target(name, items)
    if found.snapshot is not None:
        raise NotFound(f"{found} is the past: it does not change")
    item = mounted(app, home, items, found.name)
    done = WorkerClient(item.socket).refresh(full=full)
    app.emit({"name": found.name, **msgspec.structs.asdict(done)})
    count = show_count(done.changed, "path") if done.changed else "nothing"
    app.say(f"{found.name}  {count} changed")
