"""`pipefs forget`: drop snapshots, by name or by a policy, and bring them back."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pipefs.cli.app import App, Command, pass_app
from pipefs.cli.output import table
from pipefs.cli.pasts import find_snapshot, open_past, time_text, time_text_ns, whole_target
from pipefs.errors import NotFound, Refused, UsageError
from pipefs.units import DURATION_ALLOWED, parse_duration, show_count

if TYPE_CHECKING:
    from pipefs.catalog import Catalog, Snapshot
    from pipefs.commits import Change
    from pipefs.past.opened import Past
    from pipefs.past.retention import Decision, Policy

F = TypeVar("F", bound=Callable[..., Any])

NAMED = 5
"""Snapshots that a question names before it only counts."""


_RULES = (
    ("last", "the newest N"),
    ("hourly", "the newest of each of N hours"),
    ("daily", "the newest of each of N days"),
    ("weekly", "of N weeks"),
    ("monthly", "of N months"),
    ("yearly", "of N years"),
)


def _rule_options(command: F) -> F:
    """--keep-… of each rule."""
    options = [
        click.option(
            f"--keep-{name}", metavar="N", type=click.IntRange(min=1), help=f"Keep {what}."
        )
        for name, what in _RULES
    ]
    options += [
        click.option("--keep-within", metavar="30d", help="Keep what is as near to the newest."),
        click.option("--keep-tag", metavar="PATTERN", multiple=True, help="Keep tags like 'v*'."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command(
    cls=Command,
    short_help="Drop snapshots: some by name, or all that a policy does not keep.",
    example="pipefs forget sales@v1 sales@v2\n"
    "pipefs forget sales@v1 --undo\n"
    "pipefs forget sales --keep-last 3 --keep-daily 7 --keep-within 30d -n",
)
@click.argument("targets", metavar="NAME@SNAP… | NAME", nargs=-1, required=True)
@click.option("-n", "--dry-run", "--preview", "dry_run", is_flag=True, help="Only say what.")
@click.option("--undo", is_flag=True, help="Bring them back, while their grace period lasts.")
@_rule_options
@pass_app
def forget(app: App, /, targets: tuple[str, ...], dry_run: bool, undo: bool, **rules: Any) -> None:
    """Drop snapshots. Their versions stay until `pipefs prune`, and for a day at least: until
    then --undo brings them back. Protected ones are refused."""
    policy = _policy(rules)
    parsed = [whole_target(app, t) for t in targets]
    names = sorted({name for name, _ in parsed})
    if len(names) > 1:
        raise UsageError(f"one pipe at a time, not {' and '.join(names)}")
    past = open_past(app, names[0])
    snaps = [snap for _, snap in parsed if snap is not None]
    if policy is None:
        if len(snaps) < len(parsed):
            raise UsageError(
                f"which snapshots of {names[0]}?",
                hint=f"Name them, {names[0]}@SNAP, or say what to keep: --keep-last 5",
            )
        if undo:
            _undo(app, past, names[0], snaps, dry_run)
        else:
            _forget_named(app, past, names[0], snaps, dry_run)
        return
    if snaps or undo:
        raise UsageError("a policy (--keep-…) is for all snapshots of a pipe: name the pipe only")
    _forget_by(app, past, names[0], policy, rules, dry_run)


def _policy(rules: dict[str, Any]) -> Policy | None:
    """None: no rule was given."""
    from pipefs.past.retention import Policy

    within = rules["keep_within"]
    try:
        within_s = parse_duration(within) if within else 0.0
    except ValueError as e:
        raise UsageError(f"--keep-within {within}: use {DURATION_ALLOWED}") from e
    counts = {name: rules[f"keep_{name}"] or 0 for name, _ in _RULES}
    policy = Policy(**counts, within_s=within_s, tags=rules["keep_tag"])
    return None if policy.is_empty() else policy


def _as_typed(rules: dict[str, Any]) -> str:
    words = []
    for option, value in rules.items():
        given = value if isinstance(value, tuple) else (value,)
        name = option.replace("_", "-")
        words += [f"--{name} {shlex.quote(str(one))}" for one in given if one is not None]
    return " ".join(words)


def _forget_named(app: App, past: Past, name: str, snaps: Sequence[str], dry_run: bool) -> None:
    chosen = list({s.id: s for s in (find_snapshot(past.catalog, snap) for snap in snaps)}.values())
    _refuse_protected(app, name, chosen)
    if not dry_run:
        words = " ".join(f"{name}@{s.label}" for s in chosen)
        app.confirm(_question(name, chosen), f"forget {words}")
        _forget(app, past, name, {s.id for s in chosen})
    _tell_forgotten(app, past, name, chosen, [], dry_run)


def _forget_by(
    app: App, past: Past, name: str, policy: Policy, rules: dict[str, Any], dry_run: bool
) -> None:
    from pipefs.past.retention import decide

    made = decide(past.catalog.kept(), policy)
    chosen = [d.snapshot for d in made if not d.keep]
    _refuse_all(made)
    if chosen and not dry_run:
        app.confirm(_question(name, chosen), f"forget {name} {_as_typed(rules)}")
        _forget(app, past, name, {s.id for s in chosen})
    _tell_forgotten(app, past, name, chosen, [d for d in made if d.keep], dry_run)


def _refuse_all(made: Sequence[Decision]) -> None:
    """A policy that keeps nothing of a path is most likely a mistake."""
    for path in {d.snapshot.body.path for d in made}:
        if not any(d.keep for d in made if d.snapshot.body.path == path):
            raise Refused(
                f"this would forget every snapshot of {path or 'the pipe'}",
                hint="If you mean it, name them one by one, or add --keep-last 1.",
            )


def _refuse_protected(app: App, name: str, chosen: Sequence[Snapshot]) -> None:
    guarded = [s for s in chosen if s.protected]
    if guarded:
        raise Refused(
            f"{guarded[0].label} is protected",
            hint=f"First: {app.command(f'unprotect {name}@{guarded[0].label}')}",
        )


def _question(name: str, chosen: Sequence[Snapshot]) -> str:
    labels = ", ".join(s.label for s in chosen[:NAMED])
    more = f" and {len(chosen) - NAMED} more" if len(chosen) > NAMED else ""
    return f"This forgets {show_count(len(chosen), 'snapshot')} of {name}: {labels}{more}."


def _forget(app: App, past: Past, name: str, ids: set[str]) -> None:
    from pipefs.commits import Change

    def plan(catalog: Catalog) -> list[Change]:
        found = [catalog.snapshots[i] for i in sorted(ids) if i in catalog.snapshots]
        _refuse_protected(app, name, found)
        return [Change(op="forget", path="", snapshot=s.id) for s in found if not s.forgotten]

    past.amend(plan)


def _tell_forgotten(
    app: App,
    past: Past,
    name: str,
    chosen: Sequence[Snapshot],
    kept: Sequence[Decision],
    dry_run: bool,
) -> None:
    from pipefs.catalog import GRACE_NS

    until = time_text_ns(time.time_ns() + GRACE_NS)
    app.emit(
        {
            "name": name,
            "dry_run": dry_run,
            "forgotten": [{**_item(s), "until": until} for s in chosen],
            "kept": [{**_item(d.snapshot), "reasons": d.reasons} for d in kept],
        }
    )
    verb = "would go" if dry_run else "forgotten"
    rows = [["kept", *_row(d.snapshot), ", ".join(d.reasons)] for d in kept]
    for line in table([*rows, *([verb, *_row(s), ""] for s in chosen)]):
        app.say(line)
    if not chosen:
        app.say(f"{name}  nothing to forget")
    elif not dry_run:
        back = app.command(f"forget {name}@{chosen[0].label} --undo")
        app.say(f"back until {until} at least: {back}")
        app.say(f"their versions go with: {app.command(f'prune {name}')}")


def _row(snapshot: Snapshot) -> list[str]:
    return [snapshot.label, snapshot.short, time_text(snapshot.body.time)]


def _item(snapshot: Snapshot) -> dict[str, object]:
    return {
        "id": snapshot.id,
        "tags": snapshot.tags,
        "time": snapshot.body.time,
        "path": snapshot.body.path,
        "protected": snapshot.protected,
    }


def _undo(app: App, past: Past, name: str, snaps: Sequence[str], dry_run: bool) -> None:
    from pipefs.commits import Change

    chosen = [find_snapshot(past.catalog, snap, forgotten=True) for snap in snaps]
    for snapshot in chosen:
        if not snapshot.forgotten:
            raise Refused(f"{snapshot.label} was not forgotten")
    ids = {s.id for s in chosen}

    def plan(catalog: Catalog) -> list[Change]:
        found = [catalog.snapshots[i] for i in sorted(ids) if i in catalog.snapshots]
        if len(found) < len(ids) or any(s.dropped for s in found):
            raise NotFound("it was pruned meanwhile: its grace period was over")
        return [Change(op="forget", path="", snapshot=s.id, off=True) for s in found]

    if not dry_run:
        past.amend(plan)
        chosen = [past.catalog.snapshots[s.id] for s in chosen]
    app.emit({"name": name, "dry_run": dry_run, "brought_back": [_item(s) for s in chosen]})
    for line in table([_row(s) for s in chosen]):
        app.say(f"{'would bring back' if dry_run else 'back'}  {line}")
