"""`pipefs prune du`: who holds how much of a bucket, and deleting what nobody needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import click

from pipefs.cli.app import App, Command, pass_app
from pipefs.cli.output import printable, table
from pipefs.cli.pasts import LIVE, open_past, time_text_ns, view_at
from pipefs.errors import AccessDenied, NotFound, UsageError
from pipefs.target import Target, is_path, parse_target
from pipefs.units import DURATION_ALLOWED, parse_duration, show_count, show_seconds, show_size

if TYPE_CHECKING:
    from pipefs.past.pruning import Report
    from pipefs.past.usage import Held

_ORDER = ("live", "snapshot", "shared", "foreign", "log", "grace", "unsure", "apart", "own", "free")
_SHOWN = 30
"""Snapshots with a line of their own; the rest of them share one."""


@click.command(
    cls=Command,
    short_help="Delete old versions that nothing needs; -n, what would go, is the default.",
    example="pipefs prune sales            what would go, and who holds the rest\n"
    "pipefs prune sales -y         delete it\n"
    "pipefs prune sales -y --grace 7d",
)
@click.argument("name")
@click.option("-n", "--dry-run", "--preview", "dry_run", is_flag=True, help="Only say what.")
@click.option("--grace", metavar="24h", default="24h", help="Spare what was replaced since then.")
@pass_app
def prune(app: App, name: str, dry_run: bool, grace: str) -> None:
    """Say which old versions nobody needs: no snapshot, no live file, nothing within the grace
    period. With -y they are deleted for good. Snapshots that are being taken meanwhile are safe;
    so is a second prune, and one that was interrupted is finished by the next."""
    from pipefs.past import pruning

    grace_ns = _grace(grace)
    past = open_past(app, name)
    foreign = list(_foreign_marks(app, name))
    if dry_run or not app.yes:
        found = pruning.survey(past, grace_ns=grace_ns, extra_marks=foreign)
        app.emit({"name": name, "dry_run": True, "report": found})
        _tell(app, name, found, dry_run=True)
        if found.free.versions or found.free.markers:
            app.say(f"delete it: {app.command(f'prune {name} -y')}")
        return
    done = pruning.prune(past, grace_ns=grace_ns, extra_marks=foreign)
    app.emit({"name": name, "dry_run": False, "report": done})
    _tell(app, name, done, dry_run=False)
    text = (
        f"{show_count(done.deleted_versions, 'version')} deleted, {show_size(done.deleted_bytes)}"
    )
    if done.locked:
        text += f" · {show_count(done.locked, 'version')} held by Object Lock"
    app.say(f"{name}  {text}")


def _grace(text: str) -> int:
    try:
        return int(parse_duration(text) * 1e9)
    except ValueError as e:
        raise UsageError(f"--grace {text}: use {DURATION_ALLOWED}") from e


def _foreign_marks(app: App, name: str) -> Iterator[tuple[str, str]]:
    """Versions that snapshots of other systems name."""
    from pipefs.buckets import open_place
    from pipefs.foreign.needed import needed_versions
    from pipefs.registry import PATIENCE_S

    pipe = app.registry().get(name)
    if pipe.url.startswith("s3://"):
        with open_place(pipe, patience_s=PATIENCE_S) as place:
            yield from needed_versions(place)


def _foreign_if_allowed(app: App, name: str) -> list[tuple[str, str]]:
    try:
        return list(_foreign_marks(app, name))
    except AccessDenied as e:
        app.warn(e.message)
        return []


def _tell(app: App, name: str, found: Report, *, dry_run: bool) -> None:
    app.say(f"{name}  who holds what in the bucket:")
    for line in held_lines(found.held, _words(found)):
        app.say(f"  {line}")
    for prefix in found.nested:
        app.say(f"  {printable(prefix)} is a pipe of its own: left alone")
    if found.dropped:
        verb = "would go" if dry_run else "went"
        app.say(f"  {show_count(len(found.dropped), 'forgotten snapshot')} {verb} for good")


def _words(found: Report) -> dict[str, str]:
    span = show_seconds(found.grace_ns / 1e9)
    return {**_KINDS, "grace": f"replaced within {span}", "log": f"live within {span}"}


_KINDS = {
    "live": "live files",
    "shared": "several snapshots",
    "foreign": "snapshots of other systems",
    "grace": "replaced lately",
    "log": "live lately",
    "unsure": "versions without an id, unclear histories",
    "apart": "other systems and pipes",
    "own": ".pipefs/",
    "free": "nobody",
}


def held_lines(held: Sequence[Held], words: dict[str, str]) -> list[str]:
    """A table: holder, versions, bytes; snapshots by size, the largest first."""
    rows = []
    held = [h for h in held if h.versions]  # delete markers alone take nothing
    alone = sorted((h for h in held if h.kind == "snapshot"), key=lambda h: -h.bytes)
    for kind in _ORDER:
        if kind != "snapshot":
            rows += [_row(words[kind], h) for h in held if h.kind == kind]
            continue
        rows += [_row(_name(h), h) for h in alone[:_SHOWN]]
        rest = alone[_SHOWN:]
        if rest:
            versions, size = sum(h.versions for h in rest), sum(h.bytes for h in rest)
            rows.append([f"{len(rest)} more snapshots alone", f"{versions:,}", show_size(size)])
    return table(rows, right=(1, 2))


def _name(held: Held) -> str:
    gone = f" (forgotten {time_text_ns(held.forgotten)})" if held.forgotten else ""
    return f"{held.label} alone{gone}"


def _row(words: str, held: Held) -> list[str]:
    return [words, f"{held.versions:,}", show_size(held.bytes)]


@click.command(
    cls=Command,
    short_help="How much something takes; --versions says who holds the past.",
    example="pipefs du sales\npipefs du sales@v1/2026\npipefs du sales --versions\npipefs du .",
)
@click.argument("target")
@click.option("--versions", is_flag=True, help="All versions in the bucket, by who holds them.")
@pass_app
def du(app: App, target: str, versions: bool) -> None:
    """Files and bytes of TARGET: of the present, or of a snapshot. --versions counts what is in
    the bucket instead: live files, each snapshot alone, several together, nobody."""
    from pipefs.client import SupervisorClient

    mounts = SupervisorClient(app.home()).mounts_or_none() if is_path(target) else []
    found = parse_target(target, mounts)
    past = open_past(app, found.name)
    if versions:
        if found.snapshot is not None:
            raise UsageError("--versions is of the bucket: name no snapshot")
        from pipefs.past.usage import of_bucket

        path = _catalogue_path(found)
        held = of_bucket(past, path, _foreign_if_allowed(app, found.name))
        app.emit({"name": found.name, "path": path, "held": held})
        for line in held_lines(held, _KINDS):
            app.say(line)
        return
    view = view_at(app, past, found.name, found.snapshot)
    names = [n for n in found.path.encode("utf-8", "surrogateescape").split(b"/") if n]
    files, size = _sum(view.entries(names))
    if names and not files and next(iter(view.entries(names)), None) is None:
        raise NotFound(f"there is no {found}")
    app.emit({"name": found.name, "snapshot": found.snapshot or LIVE, "path": found.path,
              "files": files, "bytes": size})  # fmt: skip
    app.say(f"{printable(str(found))}  {show_count(files, 'file')}, {show_size(size)}")


def _catalogue_path(target: Target) -> str:
    from pipefs.manifest import path_of

    return path_of([n for n in target.path.encode("utf-8", "surrogateescape").split(b"/") if n])


def _sum(entries: Iterable[object]) -> tuple[int, int]:
    from pipefs.manifest import Entry

    files = size = 0
    for entry in entries:
        if isinstance(entry, Entry) and entry.kind == "file":
            files, size = files + 1, size + entry.size
    return files, size
