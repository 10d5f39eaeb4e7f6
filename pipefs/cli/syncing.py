"""`pipefs is-synced` and `orphans`: whether a folder and a pipe have the same files."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from pipefs.cli.app import App, Command, pass_app
from pipefs.cli.folders import moved_json, place_of
from pipefs.cli.output import printable, table, tilde
from pipefs.errors import Conflict, PartlyDone
from pipefs.units import show_count, show_size

if TYPE_CHECKING:
    from pipefs.folder.orphans import Orphans, Where


@click.command(
    "is-synced",
    cls=Command,
    short_help="Whether a folder has all that its pipe has.",
    example="pipefs is-synced sales && python report.py\npipefs is-synced sales --dest ./work",
)
@click.argument("name")
@click.option("--dest", metavar="DIR", help="The folder; else the pipe's own.")
@click.option("--no-cache", is_flag=True, help="Look now for what other tools wrote.")
@pass_app
def is_synced(app: App, name: str, dest: str | None, no_cache: bool) -> None:
    """Succeed where a pull would bring nothing; else name what it would bring and end with exit
    code 4. What was not pushed from here does not count. A mount has everything by itself."""
    from pipefs.folder.places import command_for
    from pipefs.folder.pulling import is_synced as missing_in
    from pipefs.folder.reports import named

    place = place_of(app, name, dest)
    if place.mount is not None:
        where, missing = place.mount.path, []
    else:
        replica, folder = place.opened()
        where, missing = folder.path, missing_in(replica, folder, cached=not no_cache)
    app.emit({"name": name, "folder": where, "synced": not missing, "files": missing})
    if missing:
        raise Conflict(
            f"{tilde(where)} lacks {show_count(len(missing), 'change')} of {name}: "
            + named([printable(path) for path in missing]),
            hint=command_for(place.home, place.pipe, where, "pull"),
        )
    app.say(f"{name}  all of it is in {printable(tilde(where))}")


@click.command(
    cls=Command,
    short_help="Find and remove files that only one side has.",
    example="""\
pipefs orphans sales                              files of its folder that the pipe has not
pipefs orphans sales --direction both             and the other way round
pipefs orphans sales --remove                     delete them in the folder
pipefs orphans sales --direction remote --remove  delete in the pipe what is not here""",
)
@click.argument("name")
@click.argument("files", nargs=-1)
@click.option(
    "--direction",
    type=click.Choice(["local", "remote", "both"]),
    default="local",
    help="In the folder, in the pipe, or in both.",
)
@click.option("--dest", metavar="DIR", help="The folder; else the pipe's own.")
@click.option("--remove", is_flag=True, help="Delete them; asks first.")
@click.option("-n", "--dry-run", "--preview", "dry_run", is_flag=True, help="Only say what.")
@click.option("--include", metavar="P", help="Only these, such as '*.csv|*.xls*'.")
@click.option("--exclude", metavar="P", help="Not these; '' takes all.")
@click.option("--no-cache", is_flag=True, help="Look now for what other tools wrote.")
@pass_app
def orphans(
    app: App,
    name: str,
    files: tuple[str, ...],
    direction: Where,
    dest: str | None,
    remove: bool,
    dry_run: bool,
    include: str | None,
    exclude: str | None,
    no_cache: bool,
) -> None:
    """Show files that only a folder or only its pipe has, and with --remove (or -y) delete them
    there. A file that was never pushed is such a file, and is nowhere else. What is deleted in the
    pipe is deleted for everybody; its versions stay where the store keeps any."""
    from pipefs.folder.orphans import Orphans
    from pipefs.folder.orphans import orphans as find
    from pipefs.folder.reports import Options

    place = place_of(app, name, dest)
    if place.mount is not None:
        _tell(app, Orphans(name, place.mount.path, True))
        return
    replica, folder = place.opened()
    options = Options(files or None, include, exclude, dry_run=True, cached=not no_cache)
    found = find(replica, folder, direction, options)
    if len(found) and not dry_run and (remove or app.yes):
        words = ["orphans", name, *files, "--direction", direction, "--remove"]
        words += [f"--dest={dest}"] if dest else []
        app.confirm(_question(found), shlex.join(words))
        options = replace(options, dry_run=False, cached=True, empty_ok=True)  # as was answered
        found = find(replica, folder, direction, options)
    _tell(app, found)
    if len(found) and found.dry_run and not dry_run:
        app.say("nothing was deleted · delete them: --remove")
    _refuse_failed(found)


def _refuse_failed(found: Orphans) -> None:
    if found.failed:
        path, reason = next(iter(found.failed.items()))
        count = show_count(len(found.failed), "file")
        raise PartlyDone(f"{count} stayed; {printable(path)}: {reason}")


def _question(found: Orphans) -> str:
    parts = []
    if found.local:
        lost = f" ({len(found.lost):,} nowhere else)" if found.lost else ""
        where = tilde(found.folder)
        parts.append(f"{show_count(len(found.local), 'file')}{lost} in {where} for good")
    if found.remote:
        parts.append(f"{show_count(len(found.remote), 'file')} in {found.name} for everybody")
    return f"This deletes {' and '.join(parts)}."


def _tell(app: App, found: Orphans) -> None:
    app.emit(
        {
            "name": found.name,
            "folder": found.folder,
            "dry_run": found.dry_run,
            "local": [moved_json(f) for f in found.local],
            "remote": [moved_json(f) for f in found.remote],
            "lost": found.lost,
            "failed": found.failed,
        }
    )
    lost = set(found.lost)
    rows = [
        ["here", printable(f), show_size(f.size), "nowhere else" if f in lost else ""]
        for f in found.local
    ]
    rows += [["pipe", printable(f), show_size(f.size), ""] for f in found.remote]
    for line in table(rows):
        app.say(line)
    what = f"{show_count(len(found), 'file')}, {show_size(found.bytes)}"
    if not len(found):
        app.say(f"{found.name}  no orphans")
    else:
        app.say(f"{found.name}  {'only on one side' if found.dry_run else 'deleted'}: {what}")
