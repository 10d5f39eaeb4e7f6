"""`pipefs lock`, and what `mount --locked` mounts: the snapshots that a project reads.

Snapshots come straight from the buckets. All pipes are asked before anything is written, so a store
that is out of reach leaves `pipefs.lock` as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from pipefs import lockfile
from pipefs.cli.app import App, Command, pass_app
from pipefs.cli.output import printable, tilde
from pipefs.cli.pasts import LIVE, find_snapshot, open_past, time_text
from pipefs.errors import NotFound, Refused, UsageError
from pipefs.target import split_snapshot
from pipefs.units import show_count

if TYPE_CHECKING:
    from pipefs.catalog import Catalog, Snapshot
    from pipefs.lockfile import Pin
    from pipefs.registry import Pipe

_EXAMPLES = """\
pipefs lock sales prices@v3      pin the newest snapshot of one, v3 of the other
pipefs lock                      move every pin to the newest snapshot
pipefs lock --check              in CI: exit code 4 if a pin is behind or gone
pipefs mount sales --locked      read what is pinned"""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What one pipe's pin is, and what it would be."""

    name: str
    before: Pin | None
    after: Pin | None
    """None: the snapshot is gone, and there is no other."""
    gone: bool = False
    """The snapshot pinned before is not in the pipe any more."""
    was_replaced: bool = False
    """Nobody named `after`: it is the newest one, and what a restore replaced."""

    @property
    def is_current(self) -> bool:
        if self.before is None or self.after is None or self.gone:
            return False
        return self.before.same_snapshot(self.after)


@click.command(cls=Command, short_help="Pin the snapshots a project reads.", example=_EXAMPLES)
@click.argument("words", metavar="[NAME[@SNAP]]…", nargs=-1)
@click.option("--check", is_flag=True, help="Change nothing; exit code 4 if a pin is behind.")
@pass_app
def lock(app: App, words: tuple[str, ...], check: bool) -> None:
    """Write which snapshot of each pipe this project reads into pipefs.lock, a file to keep in git
    beside the code.

    Pipes that are named are pinned at SNAP, or at their newest snapshot; the other pins stay.
    Without names every pin moves to the newest. A pin of a folder's snapshot moves to the newest of
    that folder, any other to the newest of the whole pipe. The file is the nearest from the current
    folder up to the root of its git work tree; a new one is made at that root.

    A pin keeps no snapshot from being forgotten and pruned: `pipefs protect NAME@SNAP` does.
    """
    file = lockfile.place()
    pins = lockfile.read(file)
    steps = []
    for name, snap in _wanted(app, file, words, pins):
        # Who names a pipe may mean another one than before; nobody else may.
        may_replace = bool(words) and not check
        steps.append(_step(app, name, snap, pins.get(name), may_replace=may_replace))
    if check:
        _check(app, file, steps)
    else:
        _write(app, file, steps)


def _wanted(
    app: App, file: Path, words: Sequence[str], pins: Mapping[str, Pin]
) -> list[tuple[str, str | None]]:
    """(pipe, snapshot); None is the newest one."""
    if not words and not pins:
        what = f"{tilde(str(file))} pins nothing" if file.exists() else "there is no pipefs.lock"
        raise NotFound(what, hint=f"Pin a pipe: {app.command('lock NAME')}")
    if not words:
        return [(name, None) for name in pins]
    wanted: dict[str, str | None] = {}
    for word in words:
        name, snapshot = split_snapshot(word)
        if word.partition("@")[2] == LIVE:
            raise UsageError(
                "the present cannot be pinned",
                hint=f"Keep it first: {app.command(f'snapshot {name}')}",
            )
        if name in wanted:
            raise UsageError(f"{name} is named twice: a project reads one snapshot of a pipe")
        wanted[name] = snapshot
    return list(wanted.items())


def _step(app: App, name: str, snap: str | None, before: Pin | None, *, may_replace: bool) -> Step:
    pipe = _registered(app, name, before)
    if before is not None and not may_replace:
        lockfile.check_same_pipe(name, before, pipe.url, pipe.pipe_id)
    catalog = open_past(app, name).catalog
    gone = before is not None and not _is_kept(catalog, before)
    path = before.path if before is not None else ""
    found = _newest(app, catalog, name, path, gone) if snap is None else _named(catalog, snap)
    after, was_replaced = None, False
    if found is not None:
        from pipefs.past.wording import BEFORE_RESTORE

        was_replaced = snap is None and any(t.startswith(BEFORE_RESTORE) for t in found.tags)
        asked = snap or (before.tag if before is not None else "")
        after = lockfile.pin_for(pipe.url, pipe.pipe_id, found, asked)
    return Step(name=name, before=before, after=after, gone=gone, was_replaced=was_replaced)


def _warn_replaced(app: App, steps: Sequence[Step]) -> None:
    for step in steps:
        if step.was_replaced and step.after is not None:
            name, snapshots = step.name, app.command(f"snapshots {step.name}")
            app.warn(
                f"{printable(f'{step.after.label} of {name}')} is what a restore replaced",
                hint=f"What is there now: {app.command(f'snapshot {name}')}, then "
                f"{app.command(f'lock {name}')}\n"
                f"Another one: {app.command(f'lock {name}@SNAP')} · all: {snapshots}",
            )


def _registered(app: App, name: str, pin: Pin | None) -> Pipe:
    """The pipe; where this machine has none, the message says where the pinned one is."""
    try:
        return app.registry().get(name)
    except NotFound as e:
        if pin is None:
            raise
        again = app.command(f"create {name} {pin.url}")
        raise NotFound(e.message, hint=f"The one in pipefs.lock: {again}") from e


def _is_kept(catalog: Catalog, pin: Pin) -> bool:
    found = catalog.snapshots.get(pin.snapshot)
    return found is not None and not found.forgotten


def _newest(app: App, catalog: Catalog, name: str, path: str, gone: bool) -> Snapshot | None:
    found = catalog.latest(path)
    if found is None and not gone:
        raise NotFound(
            f"{name} has no snapshot yet" if not path else f"{name}/{path} has no snapshot",
            hint=f"Make one: {app.command(f'snapshot {name}')} · one of a folder can be pinned as "
            f"{name}@SNAP",
        )
    return found


def _named(catalog: Catalog, snap: str) -> Snapshot:
    from pipefs.moments import is_moment

    if is_moment(snap):
        raise UsageError(
            f"{snap} is a moment, not a snapshot: it cannot be pinned",
            hint="A pin names a snapshot by what is in it. Take one: pipefs snapshot NAME",
        )
    return find_snapshot(catalog, snap)


def _write(app: App, file: Path, steps: Sequence[Step]) -> None:
    changed: dict[str, Pin] = {}
    for step in steps:
        if step.after is None:
            raise NotFound(
                f"the pinned snapshot of {step.name} is gone, and there is no other",
                hint=f"Make one: {app.command(f'snapshot {step.name}')}",
            )
        if step.after != step.before:
            changed[step.name] = step.after
    existed = file.exists()
    if changed:
        lockfile.merge(file, changed)
    app.emit(_as_json(file, steps))
    for step in steps:
        app.say(f"{printable(step.name)}  {_change_text(step)}")
    where = printable(tilde(str(file)))
    _warn_replaced(app, steps)
    if not changed:
        app.say(f"{where}  is up to date")
        return
    app.say(f"{where}  {'written' if existed else 'made'} · next: git add {lockfile.NAME}")


def _change_text(step: Step) -> str:
    before, after = step.before, step.after
    assert after is not None
    facts = [f"{after.label} · {time_text(after.time)}"]
    if before is None:
        return facts[0]
    if before.snapshot == after.snapshot:
        return f"{after.label} · as it was"
    facts[0] = f"{before.label} → {facts[0]}"
    if step.gone:
        facts.append(f"{before.label} is gone")
    if before.url != after.url:
        facts.append(f"{before.url} → {after.url}")
    return printable(" · ".join(facts))


def _check(app: App, file: Path, steps: Sequence[Step]) -> None:
    """
    Raises:
        Refused: something is not as it should be; it was said what.
    """
    app.emit(_as_json(file, steps))
    for step in steps:
        app.say(f"{printable(step.name)}  {_check_text(step)}")
    _warn_replaced(app, [s for s in steps if not s.is_current])
    bad = [s.name for s in steps if not s.is_current]
    if bad:
        one = len(bad) == 1
        raise Refused(
            f"{show_count(len(bad), 'pin')} of {len(steps)} {'is' if one else 'are'} not as "
            f"{'it' if one else 'they'} should be: {', '.join(bad)}",
            hint=f"Move {'it' if one else 'them'}: {app.command('lock ' + ' '.join(bad))}",
        )


def _check_text(step: Step) -> str:
    before, after = step.before, step.after
    if before is None:
        return "not pinned"
    if step.gone:
        newest = f" · there is {after.label}" if after is not None else ""
        return printable(f"{before.label} is gone{newest}")
    assert after is not None
    if step.is_current:
        return printable(f"{before.label} · up to date")
    if before.snapshot == after.snapshot:
        return printable(f"{before.label} · the file says something else about it than the pipe")
    return printable(f"{before.label} · behind: there is {after.label}")


def _as_json(file: Path, steps: Sequence[Step]) -> dict[str, object]:
    return {
        "file": str(file),
        "pipes": [
            {
                "name": s.name,
                "current": s.is_current,
                "gone": s.gone,
                "before": s.before and s.before.snapshot,
                "snapshot": s.after and s.after.snapshot,
                "tag": (s.after and s.after.tag) or None,
            }
            for s in steps
        ],
    }


# --- mount --locked -----------------------------------------------------------------------------


def pinned_targets(
    app: App, wanted: Sequence[tuple[str, str | None]]
) -> list[tuple[str, str | None]]:
    """Pipes with the whole ids of the snapshots that `pipefs.lock` names.

    Raises:
        NotFound: a pipe is not in the file, or not on this machine. Refused: it is another pipe
        here than the pinned one. UsageError: a snapshot was given too.
    """
    found: list[tuple[str, str | None]] = []
    for name, snapshot in wanted:
        if snapshot is not None:
            raise UsageError(
                f"{name}@{snapshot} and --locked name two snapshots",
                hint=f"{app.command(f'mount {name} --locked')} · to pin that one: "
                f"{app.command(f'lock {name}@{snapshot}')}",
            )
        pin = lockfile.pin_of(name)
        pipe = _registered(app, name, pin)
        lockfile.check_same_pipe(name, pin, pipe.url, pipe.pipe_id)
        found.append((name, pin.snapshot))
    return found
