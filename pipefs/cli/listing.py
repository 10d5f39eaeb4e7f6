"""`pipefs list`: the pipes of this user or machine, of a bucket, and those with files here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from pipefs.cli.app import App, Command, pass_app
from pipefs.cli.output import printable, table, tilde
from pipefs.errors import PartlyDone, PipefsError, UsageError
from pipefs.registry import Pipe, Registry
from pipefs.units import show_count

if TYPE_CHECKING:
    from pipefs.home import Home

Mounts = dict[str, list[str]]


@click.command(
    "list",
    cls=Command,
    short_help="All pipes, and where they are mounted.",
    example="""\
pipefs list
pipefs list --local                      those with files on this machine
pipefs list --details                    with what was set for each
pipefs --profile team list --remote      what is below the profile's root""",
)
@click.option("--remote", is_flag=True, help="What is below the profile's root in the bucket.")
@click.option("--local", is_flag=True, help="Only pipes with files on this machine, and where.")
@click.option("--details", is_flag=True, help="With identity, age and settings of each.")
@click.option("--parents-only", is_flag=True, help="Leave out pipes that have a parent.")
@pass_app
def list_pipes(app: App, remote: bool, local: bool, details: bool, parents_only: bool) -> None:
    """All pipes of this user (or with --system of the machine).

    --remote looks one level below the root, where children of a parent pipe do not lie.
    """
    if remote and local:
        raise UsageError("--remote and --local exclude each other")
    home = app.home()
    registry = app.registry(home)
    problems: list[PipefsError] = []
    if remote:
        _list_remote(app, registry, problems, details)
    else:
        pipes = [p for p in registry.list(problems) if not (parents_only and p.settings.parent)]
        _list_here(app, home, pipes, problems, local=local, details=details)
    for problem in problems:
        app.warn(problem.message, problem.hint)
    if problems:
        raise PartlyDone(f"{show_count(len(problems), 'pipe')} could not be read")


def _mounts(home: Home, problems: list[PipefsError]) -> Mounts:
    from pipefs.client import SupervisorClient

    mounted: Mounts = {}
    try:
        for item in SupervisorClient(home).mounts_or_none():
            mounted.setdefault(item.name.partition("@")[0], []).append(item.path)
    except PipefsError as e:
        problems.append(e)  # A wedged daemon does not hide what is registered.
    return mounted


def _list_here(
    app: App,
    home: Home,
    pipes: Sequence[Pipe],
    problems: list[PipefsError],
    *,
    local: bool,
    details: bool,
) -> None:
    from pipefs.folder.here import here_of

    mounted = _mounts(home, problems)
    items, rows, shown = [], [], []
    for pipe in pipes:
        mounts = mounted.get(pipe.name, [])
        item = {**pipe_json(pipe), "mounts": mounts}
        places = ", ".join(tilde(m) for m in mounts)
        if local:
            here = here_of(home, pipe, mounts)
            if not here:
                continue
            item |= {"folder": here.folder, "cached": here.cached}
            places = " · ".join(_facts(here.words()))
        items.append(item)
        shown.append(pipe)
        rows.append([pipe.name, place_of(pipe, home), places])
    app.emit({"pipes": items})
    if not rows and not problems:
        make = app.command("create NAME")
        app.say("no pipe has files here" if local and pipes else f"no pipes yet · make one: {make}")
    for pipe, line in zip(shown, table(rows), strict=True):
        app.say(line)
        if details:
            _say_details(app, pipe.pipe_id, f"here since {pipe.created[:10]}", pipe.options)


def _facts(words: Sequence[tuple[str, str]]) -> list[str]:
    return [f"{what} {tilde(path)}".strip() for what, path in words]


def _say_details(app: App, pipe_id: str, since: str, options: Mapping[str, object]) -> None:
    app.say(f"    {pipe_id} · {since}")
    for key, value in options.items():
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        app.say(f"    {key}={printable(text)}")


def _list_remote(app: App, registry: Registry, problems: list[PipefsError], details: bool) -> None:
    found = registry.remote_pipes(problems)
    here = {p.url: p.name for p in registry.list()}
    app.emit(
        {
            "pipes": [
                {
                    "name": r.name,
                    "url": r.url,
                    "pipe_id": r.descriptor.pipe_id,
                    "created": r.descriptor.created,
                    "created_by": r.descriptor.created_by,
                    "here": here.get(r.url),
                    **({"options": r.descriptor.options} if details else {}),
                }
                for r in found
            ]
        }
    )
    root = registry.defaults().root
    if not found and not problems:
        app.say(f"no pipes in {root} yet · make one: {app.command('create NAME')}")
    rows = [
        [
            printable(r.name),
            f"made {r.descriptor.created[:10]} by {printable(r.descriptor.created_by)}",
            f"here as {here[r.url]}" if r.url in here else app.command(f"create {r.url}"),
        ]
        for r in found
    ]
    for one, line in zip(found, table(rows), strict=True):
        app.say(line)
        if details:
            told = one.descriptor
            _say_details(app, printable(told.pipe_id), printable(one.url), told.options)


def place_of(pipe: Pipe, home: Home) -> str:
    """Where a pipe's files are, for people."""
    if pipe.url == home.embedded_store(pipe.name).as_uri():
        return f"embedded store in {tilde(str(home.embedded_store(pipe.name)))}"
    return pipe.url


def is_mounted(app: App, name: str) -> bool:
    """Whether a pipe, or a snapshot of it, is mounted now."""
    from pipefs.client import SupervisorClient

    mounts = SupervisorClient(app.home()).mounts_or_none()
    return any(m.name.partition("@")[0] == name for m in mounts)


def pipe_json(pipe: Pipe) -> dict[str, object]:
    return {
        "name": pipe.name,
        "url": pipe.url,
        "pipe_id": pipe.pipe_id,
        "created": pipe.created,
        "options": dict(pipe.options),
    }
