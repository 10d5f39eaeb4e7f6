"""`pipefs project status`: what was pushed, what was not, what differs in the bucket."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipefs.cli.app import App, Command, pass_app
from pipefs.cli.output import printable
from pipefs.units import show_count, utc_text

if TYPE_CHECKING:
    from pipefs.creation import Created
    from pipefs.project.settings import Project
    from pipefs.project.standing import Compared, Standing
    from pipefs.registry import Registry

_GROUPS = {
    "only_local": "here and not in the bucket",
    "only_remote": "in the bucket and not here",
    "changed_local": "changed here",
    "changed_remote": "changed in the bucket",
    "conflict": "changed on both sides (conflict)",
    "differ": "differ, and nothing tells which is newer",
}


def here() -> Project:
    """The project that the current folder is in."""
    from pipefs.project.settings import find_project

    return find_project(Path.cwd())


def say_created(app: App, made: Created) -> None:
    """What keeps a new pipe from having a safe past."""
    if not made.capabilities.versioning:
        app.warn(
            f"the bucket of {made.pipe.url} keeps no versions: what is replaced or deleted there "
            "is gone",
            hint="Turn them on: pipefs project verify --fix",
        )
    for line in made.warnings:
        app.warn(line, hint="See pipefs project verify")


def say_mounted(app: App, registry: Registry, made: Project, *, is_saved: bool = False) -> bool:
    """Say that `data/` is a mount, where it is. `is_saved`: all of it is in the bucket."""
    from pipefs.project.moving import mount_of

    mount = mount_of(registry, made)
    if mount is None:
        return False
    app.emit({"project": made.name, "url": made.url, "mounted": mount.path})
    more = "all saved" if is_saved else f"is it saved? {app.command(f'status {mount.name}')}"
    app.say(f"{printable(made.name)}  data/ is mounted and in step by itself · {more}")
    return True


@click.command(
    cls=Command,
    short_help="What was pushed, and what was not.",
    example="""\
pipefs project status                what this machine knows, at once
pipefs project status --filepaths    each file
pipefs project status --all          look into the bucket too""",
)
@click.option("--filepaths", is_flag=True, help="Name the files.")
@click.option("--all", "--remote", "remote", is_flag=True, help="Compare with the bucket.")
@pass_app
def status(app: App, filepaths: bool, remote: bool) -> None:
    """When the project was last pushed, which files never were, and which changed since they were
    in step. With --all also what differs in the bucket, and on which side it changed."""
    from pipefs.project.joining import looking, pipe_of
    from pipefs.project.standing import compared, standing

    made = here()
    registry = app.registry()
    if say_mounted(app, registry, made):
        return
    pipe = pipe_of(registry, made) if made.s3_bucket else None
    found = standing(app.home(), made, pipe)
    both: Compared | None = None
    if remote:
        replica = looking(registry, made)
        click.get_current_context().call_on_close(replica.close)
        both = compared(replica, made)
    groups = _groups(found, both)
    app.emit(
        {
            "project": made.name,
            "url": made.url if made.s3_bucket else None,
            "last_pushed": utc_text(found.pushed_ns) if found.pushed_ns else None,
            "files": found.files,
            "never_pushed": found.never,
            "modified": found.changed,
            "remote": {key: getattr(both, key) for key in _GROUPS} if both else None,
        }
    )
    where = made.url if made.s3_bucket else "no bucket yet"
    when = f"last pushed {utc_text(found.pushed_ns)}" if found.pushed_ns else "never pushed"
    app.say(f"{printable(made.name)}  {where} · {when}")
    for text, paths in groups:
        app.say(f"{show_count(len(paths), 'file')} {text}")
        for path in paths if filepaths else ():
            app.say(f"  {printable(path)}")
    _say_next(app, found, both, bool(groups))


def _groups(found: Standing, both: Compared | None) -> list[tuple[str, list[str]]]:
    if both is not None:
        pairs = [(text, list(getattr(both, key))) for key, text in _GROUPS.items()]
    else:
        pairs = [("never pushed", found.never), ("modified since", found.changed)]
    return [(text, paths) for text, paths in pairs if paths]


def _say_next(app: App, found: Standing, both: Compared | None, differs: bool) -> None:
    if not differs:
        files = show_count(found.files, "file")
        app.say(f"{files}, in step with the bucket" if both else f"{files}, nothing to push")
        return
    if both is None:
        app.say("next: pipefs project push")
    elif both.only_remote or both.changed_remote or both.conflict or both.differ:
        app.say("next: pipefs project pull")
    else:
        app.say("next: pipefs project push")
