"""`pipefs resolve`: what to do where a file was changed on two sides, in a mount or in a folder."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from pipefs.cli.app import App, Command, pass_app
from pipefs.cli.folders import open_folder
from pipefs.cli.output import conflict_lines, printable, tilde
from pipefs.errors import UsageError
from pipefs.units import show_count

if TYPE_CHECKING:
    from pipefs.conflictmessages import Keep, Resolved
    from pipefs.conflictwork import ConflictWork
    from pipefs.home import Home
    from pipefs.registry import Pipe
    from pipefs.target import Target

_CHOICE = "mine|theirs|both"


@click.command(
    cls=Command,
    short_help="Decide between two contents of one file.",
    example="""\
pipefs resolve sales                            what is in conflict, and what to type
pipefs resolve sales/q3.csv --keep mine         your content gets the name
pipefs resolve sales/q3.csv --keep theirs       theirs stays, yours goes
pipefs resolve sales/q3.csv --keep both         both stay; nobody asks again
pipefs resolve sales/q3.csv --keep mine --dest ./work     a folder that pull filled""",
)
@click.argument("target")
@click.option("--keep", type=click.Choice(_CHOICE.split("|")), help="Which content has the name.")
@click.option("--dest", metavar="DIR", help="The plain folder; else mount, or the pipe's folder.")
@click.option("-n", "--dry-run", "--preview", "dry_run", is_flag=True, help="Only say what.")
@pass_app
def resolve(app: App, target: str, keep: Keep | None, dest: str | None, dry_run: bool) -> None:
    """Decide about a file that you and somebody else changed. TARGET is the file, or the copy
    beside it where a file has several; without a path, all conflicts are listed.

    In a mount both contents lie side by side: `mine` puts yours in the file's place, `theirs`
    removes yours; what goes stays in its history. In a folder that pull filled, yours is only
    there: `mine` lets the next push replace the pipe's, `theirs` fetches the pipe's over yours
    (asks first), `both` renames yours and fetches the pipe's.
    """
    from pipefs.client import SupervisorClient
    from pipefs.conflictwork import ConflictWork
    from pipefs.target import parse_target

    home = app.home()
    found = parse_target(target, SupervisorClient(home).mounts_or_none())
    if found.snapshot is not None:
        raise UsageError(f"{found} is the past: it has no conflicts")
    pipe = app.registry(home).get(found.name)
    work = ConflictWork(home, pipe)
    if not found.path:
        if keep:
            raise UsageError(
                "which file? --keep is for one", hint=app.command(f"resolve {target}") + " lists"
            )
        _list(app, home, pipe, work, dest)
    elif keep is None:
        word = shlex.quote(target)
        raise UsageError(
            "which content shall it have?", hint=app.command(f"resolve {word} --keep {_CHOICE}")
        )
    elif dest is None and (work.is_mounted or work.has(found.path)):
        _in_mount(app, work, found, keep, dry_run)
    else:
        _in_folder(app, home, pipe, found, keep, dest, dry_run)


# --- a mount ------------------------------------------------------------------------------------


def _in_mount(app: App, work: ConflictWork, target: Target, keep: Keep, dry_run: bool) -> None:
    done = work.resolve(target.path, keep, dry_run=dry_run, force=app.yes)
    app.emit({"name": target.name, "dry_run": dry_run, "in": "mount", **_told(done)})
    wins, goes = ("yours", "theirs") if keep == "mine" else ("theirs", "yours")
    copy, would = printable(done.copy), "would " if dry_run else ""
    if not done.replaced:
        text = f"both {would}stay: {printable(done.path)} and {copy}"
    elif done.replaced == done.path:
        name = "would have the name" if dry_run else "has the name now"
        text = f"{wins} {name} · {goes} stays in its history: {_history(app, target, done.path)}"
    else:
        stays, was = ("would stay", "would go") if dry_run else ("stays", "is gone")
        text = f"{wins} {stays} · {copy} {was}; its history: {_history(app, target, done.copy)}"
    app.say(f"{printable(f'{target.name}/{done.path}')}  {text}")
    if done.left:
        app.say(f"  {show_count(done.left, 'conflict')} of it left: {_lists(app, target.name)}")


def _history(app: App, target: Target, path: str) -> str:
    return app.command(f"log {shlex.quote(f'{target.name}/{path}')}")


def _lists(app: App, name: str) -> str:
    return app.command(f"resolve {name}")


def _told(done: Resolved) -> dict[str, object]:
    import msgspec

    return msgspec.structs.asdict(done)


# --- a folder -----------------------------------------------------------------------------------


def _in_folder(
    app: App, home: Home, pipe: Pipe, target: Target, keep: Keep, dest: str | None, dry_run: bool
) -> None:
    from pipefs.folder.places import words_for
    from pipefs.folder.resolving import resolve as resolve_in

    replica, folder = open_folder(home, pipe, dest)
    if keep == "theirs" and not dry_run:
        resolve_in(replica, folder, target.path, keep, dry_run=True)  # nothing is asked in vain
        word = shlex.quote(str(target)) + (f" --dest {shlex.quote(dest)}" if dest else "")
        app.confirm(
            f"This puts the pipe's version in the place of {tilde(folder.place(target.path))}; "
            "yours is nowhere else.",
            f"resolve {word} --keep theirs",
        )
    done = resolve_in(replica, folder, target.path, keep, dry_run=dry_run)
    told = {"folder": folder.path, **_told(done)}
    app.emit({"name": target.name, "dry_run": dry_run, "in": "folder", **told})
    push = app.command(f"push {words_for(home, pipe, folder.path)}")
    will = "would be " if dry_run else ""
    text = {
        "mine": f"yours {will and 'would '}stay{'' if will else 's'} · next: {push}",
        "theirs": f"theirs {will}fetched over yours",
        "both": f"theirs {will}fetched · yours {will or 'is '}{printable(done.copy)} · "
        f"next: {push}",
    }[keep]
    app.say(f"{printable(str(target))}  {text}")


# --- the list -----------------------------------------------------------------------------------


def _list(app: App, home: Home, pipe: Pipe, work: ConflictWork, dest: str | None) -> None:
    mounted = work.open() if dest is None else []
    where, there = "", []
    if dest is not None or not work.is_mounted:
        from pipefs.folder.resolving import conflicts

        replica, folder = open_folder(home, pipe, dest)
        where, there = folder.path, conflicts(replica, folder)
    app.emit({"name": pipe.name, "conflicts": mounted, "folder": where or None, "in_folder": there})
    if not mounted and not there:
        app.say(f"{pipe.name}  no conflicts")
        return
    app.say(f"{pipe.name}  {show_count(len(mounted) + len(there), 'conflict')}")
    for line in conflict_lines(pipe.name, mounted, app.command):
        app.say(line)
    end = f" --dest {shlex.quote(dest)}" if dest else ""
    for path in there:
        word = shlex.quote(f"{pipe.name}/{path}")
        app.say(f"  {printable(path)}  changed in the pipe, and in {tilde(where)}")
        app.say(f"    {app.command(f'resolve {word} --keep {_CHOICE}')}{end}")
