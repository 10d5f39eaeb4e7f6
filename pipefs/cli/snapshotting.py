"""`pipefs snapshot restore checkout`: keep this moment, bring one back, look at one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from pipefs.cli.app import App, Command, pass_app
from pipefs.cli.mounting import ProgressLine
from pipefs.cli.output import printable, tilde
from pipefs.errors import Refused, UsageError
from pipefs.target import Target, is_path, parse_target
from pipefs.units import show_count, show_seconds, show_size

if TYPE_CHECKING:
    from pipefs.pastmessages import RestoreDone, SnapshotTaken
    from pipefs.protocol import MountItem
    from pipefs.session import Session

SHOWN = 20
"""Paths that a command lists before it only counts."""


def serving(app: App, text: str) -> tuple[Target, MountItem | None]:
    """A target and the live mount of its pipe; None where it is not mounted. `NotFound`."""
    from pipefs.client import SupervisorClient

    home = app.home()
    items = SupervisorClient(home).mounts_or_none()
    target = parse_target(text, items)
    app.registry(home).get(target.name)
    found = [m for m in items if m.name == target.name and m.snapshot is None]
    return target, found[0] if found else None


def _session(app: App, name: str) -> Session:
    """The pipe's own state, where no daemon has it."""
    from pipefs.session import Session

    home = app.home()
    return Session(home, app.registry(home).get(name))


def _metrics(words: tuple[str, ...]) -> dict[str, str]:
    out = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not key or not equals:
            raise UsageError(f"--metric {word!r} is not KEY=VALUE")
        out[key] = value
    return out


@click.command(
    cls=Command,
    short_help="Keep this moment under a name.",
    example="pipefs snapshot sales\n"
    'pipefs snapshot sales v1 -m "as delivered"\n'
    "pipefs snapshot sales/2026 q1 --metric rows=49105\n"
    "pipefs snapshot . --no-wait",
)
@click.argument("target")
@click.argument("tag", required=False, default="")
@click.option("-m", "--message", metavar="MSG", default="", help="What it is.")
@click.option("--metric", "metrics", metavar="K=V", multiple=True, help="A figure to keep with it.")
@click.option("--no-wait", is_flag=True, help="Refuse where changes are not in the store yet.")
@click.option("--wait", "wait_open", is_flag=True, help="Wait until open files are closed.")
@click.option("--timeout", "timeout_s", metavar="S", type=click.FloatRange(min=0), help="Seconds.")
@click.option("--force", is_flag=True, help="Although old versions expire; take the tag over.")
@pass_app
def snapshot(
    app: App,
    target: str,
    tag: str,
    message: str,
    metrics: tuple[str, ...],
    no_wait: bool,
    wait_open: bool,
    timeout_s: float | None,
    force: bool,
) -> None:
    """Keep this moment of TARGET (a pipe, or a folder in it). It costs what changed since the
    last one; nothing is copied. Waits until what was written is in the store."""
    from pipefs.client import WorkerClient
    from pipefs.knownnames import remember
    from pipefs.pastmessages import TakeSnapshot

    found, item = serving(app, target)
    if found.snapshot is not None:
        raise UsageError(f"{found} is the past already", hint=f"Try {app.command('tag ' + target)}")
    request = TakeSnapshot(
        path=found.path,
        tag=tag,
        message=message,
        metrics=_metrics(metrics),
        wait=not no_wait,
        wait_open=wait_open,
        timeout_s=timeout_s,
        force=force,
    )
    if item is None:
        with _session(app, found.name) as session:
            done = session.snapshot(request)
    else:
        with ProgressLine(app, "waiting for") as line:
            done = WorkerClient(item.socket).snapshot(request, progress=line.show)
    remember(app.home(), found.name, done.tags or [done.id[:7]], add=True)
    app.emit(done)
    _say_taken(app, done, item, found)


def _say_taken(app: App, done: SnapshotTaken, item: MountItem | None, target: Target) -> None:
    label = done.tags[-1] if done.tags else done.id[:7]
    parts = [f"{label}  {done.id[:7]}"]
    if done.unchanged:
        parts.append("nothing changed since it was taken")
    else:
        parts.append(f"{show_count(done.files, 'file')}, {show_size(done.bytes)}")
    if done.uploads:
        parts.append(
            f"waited {show_seconds(done.seconds)} for {show_count(done.uploads, 'upload')}"
        )
    if item is not None:
        parts.append(tilde(os.path.join(item.path, target.path, ".snapshots", label)))
    app.say(" · ".join(parts))
    if done.open_count:
        names = ", ".join(map(printable, done.open[:3]))
        more = f" and {done.open_count - 3} more" if done.open_count > 3 else ""
        verb = "is" if done.open_count == 1 else "are"
        app.warn(f"{names}{more} {verb} open for writing: in the snapshot as last closed")


@click.command(
    cls=Command,
    short_help="Bring a snapshot's content back, as new versions.",
    example="pipefs restore sales v1 q3.csv\n"
    "pipefs restore sales@v1/2026\n"
    "pipefs restore sales v1 -n\n"
    "pipefs restore sales v1 --keep-extra",
)
@click.argument("target")
@click.argument("words", metavar="[SNAP] [PATH]…", nargs=-1)
@click.option("--keep-extra", is_flag=True, help="Leave what the snapshot does not have.")
@click.option("-n", "--dry-run", "--preview", "dry_run", is_flag=True, help="Only say what.")
@pass_app
def restore(app: App, target: str, words: tuple[str, ...], keep_extra: bool, dry_run: bool) -> None:
    """Make TARGET what it was: NAME@SNAP[/PATH], or NAME SNAP [PATH]…. Old content becomes new
    versions by copies in the store; nothing is destroyed, and what is replaced is kept in a
    snapshot of its own, which the last line names."""
    from pipefs.client import WorkerClient
    from pipefs.pastmessages import Restore

    found, item = serving(app, target)
    moment, paths = _moment(app, found, words)
    request = Restore(snapshot=moment, paths=paths, keep_extra=keep_extra, dry_run=dry_run)
    if item is None:
        with _session(app, found.name) as session:
            done = session.restore(request)
    else:
        with ProgressLine(app, "restoring") as line:
            done = WorkerClient(item.socket).restore(request, progress=line.show)
    app.emit(done)
    _say_restored(app, done, found.name, paths, dry_run)


def _moment(app: App, target: Target, words: tuple[str, ...]) -> tuple[str, list[str]]:
    """(snapshot, paths) of either form."""
    if target.snapshot is not None:
        return target.snapshot, [p for p in (target.path, *words) if p]
    if not words:
        raise UsageError(
            f"which snapshot of {target.name}?",
            hint=f"{app.command(f'restore {target.name} SNAP')} · "
            f"all: {app.command(f'snapshots {target.name}')}",
        )
    paths = [f"{target.path}/{p}" if target.path else p for p in words[1:]]
    if not paths and target.path:
        paths = [target.path]
    for path in paths:
        if is_path(path):
            raise UsageError(f"{path!r} is to be a path in the pipe", hint="Such as 2026/q3.csv")
    return words[0], paths


def _say_restored(app: App, done: RestoreDone, name: str, paths: list[str], dry_run: bool) -> None:
    verb, gone = ("would restore", "would remove") if dry_run else ("restored", "removed")
    total = done.files_count + done.removed_count
    if not total:
        app.say(f"{name}  is as in {done.snapshot}: nothing to restore")
        return
    if total <= SHOWN:
        for path in done.files:
            app.say(f"{verb} {printable(path)} ({done.snapshot})")
        for path in done.removed:
            app.say(f"{gone} {printable(path)}")
    else:
        text = f"{verb} {show_count(done.files_count, 'file')}, {show_size(done.bytes)}"
        removed = f" · {gone} {done.removed_count:,}" if done.removed_count else ""
        app.say(f"{text} ({done.snapshot}){removed}")
    for path in done.left[:SHOWN]:
        app.warn(f"{printable(path)} is open for writing: left as it is")
    if done.before:
        undo = " ".join(["restore", name, done.before, *paths])
        app.say(f"undo: {app.command(undo)}")


@click.command(
    cls=Command,
    short_help="Let the mount show a snapshot, or the present again.",
    example="pipefs checkout sales v1\npipefs checkout sales live",
)
@click.argument("name")
@click.argument("snap", metavar="SNAP|live")
@pass_app
def checkout(app: App, name: str, snap: str) -> None:
    """Let the folder of NAME show a snapshot, read-only; `live` is the present again. Changes that
    were made go up all the same; open files go on."""
    from pipefs.client import WorkerClient

    found, item = serving(app, name)
    if item is None:
        raise Refused(
            f'"{found.name}" is not mounted', hint=f"First: {app.command(f'mount {name}')}"
        )
    done = WorkerClient(item.socket).checkout(None if snap == "live" else snap)
    app.emit(done)
    if done.snapshot is None:
        app.say(f"{found.name}  {tilde(item.path)} shows the present")
    else:
        app.say(
            f"{found.name}  {tilde(item.path)} shows {done.snapshot}, read-only · "
            f"back: {app.command(f'checkout {found.name} live')}"
        )
