"""`pipefs warm pin unpin`: what of a pipe is in this machine's cache."""

from __future__ import annotations

import click

from pipefs import pins
from pipefs.cachemessages import CacheFilled
from pipefs.cachework import CacheWork
from pipefs.cli.app import App, Command, pass_app
from pipefs.cli.mounting import ProgressLine
from pipefs.cli.output import printable, table
from pipefs.client import SupervisorClient
from pipefs.errors import PartlyDone, UsageError
from pipefs.target import Target, is_path, parse_target
from pipefs.units import show_count, show_seconds, show_size


def _target(app: App, text: str) -> Target:
    mounts = SupervisorClient(app.home()).mounts_or_none() if is_path(text) else []
    return parse_target(text, mounts)


@click.command(
    cls=Command,
    short_help="Fetch into the cache what will be read.",
    example="""\
pipefs warm sales                    all of it
pipefs warm sales/2026               a folder, before the train leaves
pipefs warm sales@v1                 a snapshot""",
)
@click.argument("target")
@pass_app
def warm(app: App, target: str) -> None:
    """Fetch files into this machine's cache, so that reading them needs no network for now. The
    cache drops what was not read for long; `pipefs pin` keeps it.
    """
    found = _target(app, target)
    done = _filled(app, found, "warm")
    app.say(f"{printable(str(found))}  {_facts(done)} in the cache · {_fetched(done)}")
    _complain(app, found, done)


@click.command(
    cls=Command,
    short_help="Keep in the cache, also offline and beyond its limit.",
    example="""\
pipefs pin sales/2026                new versions of these files follow
pipefs pin sales@v1
pipefs pin                           what is pinned""",
)
@click.argument("target", required=False)
@pass_app
def pin(app: App, target: str | None) -> None:
    """Fetch files and keep them in this machine's cache: they can be read without the network, and
    no limit drops them. New versions of what is pinned follow while the pipe is mounted; without a
    mount at the next `pipefs pin` of it. Without TARGET: what is pinned.
    """
    if target is None:
        _list(app)
        return
    found = _target(app, target)
    done = _filled(app, found, "pin")
    app.say(f"{printable(str(found))}  pinned · {_fetched(done)} · {_facts(done)} of it stay here")
    _complain(app, found, done)


@click.command(
    cls=Command,
    short_help="Let the cache drop it again.",
    example="pipefs unpin sales/2026\npipefs unpin sales --all             every pin of the pipe",
)
@click.argument("target")
@click.option("--all", "everything", is_flag=True, help="Every pin of the pipe.")
@pass_app
def unpin(app: App, target: str, everything: bool) -> None:
    """Undo `pin`. The files stay in the cache until it needs the room."""
    found = _target(app, target)
    if everything and (found.path or found.snapshot):
        raise UsageError("--all is for a whole pipe", hint=app.command(f"unpin {found.name} --all"))
    home = app.home()
    work = CacheWork(home, app.registry(home).get(found.name))
    work.unpin(found.path, found.snapshot, all=everything)
    app.emit({"name": found.name, "pins": work.pins()})
    app.say(f"{printable(str(found))}  not pinned any more")


def _filled(app: App, target: Target, verb: str) -> CacheFilled:
    home = app.home()
    pipe = app.registry(home).get(target.name)
    with ProgressLine(app, "fetching") as line:
        work = CacheWork(home, pipe, progress=line.show)
        how = work.pin if verb == "pin" else work.warm
        done = how(target.path, target.snapshot)
    app.emit(done)
    return done


def _facts(done: CacheFilled) -> str:
    return f"{show_count(done.files, 'file')}, {show_size(done.bytes)}"


def _fetched(done: CacheFilled) -> str:
    if not done.fetched_files:
        return "all of it was there"
    what = f"{show_count(done.fetched_files, 'file')} ({show_size(done.fetched_bytes)})"
    return f"{what} fetched in {show_seconds(done.seconds)}"


def _complain(app: App, target: Target, done: CacheFilled) -> None:
    for path, why in done.failed.items():
        app.warn(f"{printable(path)}: {why}")
    if done.failed_count:
        count = show_count(done.failed_count, "file")
        raise PartlyDone(f"{count} of {target} could not be had")


def _list(app: App) -> None:
    home = app.home()
    registry = app.registry(home)
    items = [(n, one) for n in registry.names() for one in pins.load(home.pipe_state(n))]
    app.emit({"pins": [{"name": n, "path": p.path, "snapshot": p.label or None} for n, p in items]})
    if not items:
        app.say(f"nothing is pinned · {app.command('pin NAME[/PATH]')}")
    rows = [
        [printable(str(Target(name, one.label or None, one.path))), _meaning(one.label)]
        for name, one in items
    ]
    for line in table(rows):
        app.say(line)


def _meaning(label: str) -> str:
    return "as it was" if label else "follows new versions"
