"""`pipefs config import`: pipes that d6tpipe, datakit or another machine have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipefs.cli.app import App, Command, pass_app
from pipefs.cli.output import table
from pipefs.errors import NotFound, PartlyDone, PipefsError, UsageError
from pipefs.units import show_count

if TYPE_CHECKING:
    from pipefs.d6tpipe import Found
    from pipefs.registry import Registry


@click.command(
    "import",
    cls=Command,
    short_help="Take over the pipes of d6tpipe, datakit or another machine.",
    example="""\
pipefs config import --from d6tpipe -n        what ~/d6tpipe/cfg.json and its databases have
pipefs config import --from d6tpipe
pipefs config import pipes.json               as pipefs list --json wrote it there""",
)
@click.argument("file", required=False, metavar="[FILE]")
@click.option(
    "--from", "source", type=click.Choice(["d6tpipe", "datakit"]), help="Where it keeps it."
)
@click.option("-n", "--dry-run", "--preview", "dry", is_flag=True, help="Only say it.")
@pass_app
def import_config(app: App, file: str | None, source: str | None, dry: bool) -> None:
    """Make the pipes that FILE describes: d6tpipe's cfg.json, a project's datakit-data.json, what
    `pipefs list --json` printed, or settings by name in JSON or YAML.

    Of d6tpipe all profiles are taken, with keys and settings; files that were pulled stay where
    they are and are not fetched again. What is there already is changed to what FILE says.
    --from datakit takes over what its new projects start from.
    """
    if file is None and source is None:
        raise UsageError("import what?", hint="pipefs config import FILE, or --from d6tpipe")
    if source == "datakit" and file is None:
        _datakit_defaults(app, dry)
        return
    found = list(_found(file, source))
    if not found:
        raise NotFound("it describes no pipe")
    rows = [_take(app, one, dry) for one in found]
    app.emit({"pipes": rows, "dry_run": dry})
    for line in table([[str(r["name"]), str(r["state"]), str(r["detail"])] for r in rows]):
        app.say(line)
    failed = [r for r in rows if r["state"] == "not taken"]
    if failed:
        raise PartlyDone(f"{show_count(len(failed), 'pipe')} of {len(rows)} not taken over")


def _found(file: str | None, source: str | None) -> Iterator[Found]:
    from pipefs import d6tpipe
    from pipefs.structured import read_structured

    path = file or d6tpipe.DEFAULT_FILE
    told = read_structured(Path(path))
    if source == "d6tpipe" or d6tpipe.is_config(told):
        yield from d6tpipe.pipes_of(told, path)
        return
    if "s3_bucket" in told:
        yield _project(told, Path(path))
        return
    several = told.get("pipes")
    if isinstance(several, list):
        items: list[tuple[str | None, dict[str, Any]]] = [
            (None, one) for one in several if isinstance(one, dict)
        ]
    elif "name" in told:
        items = [(None, told)]
    else:
        items = [(name, one) for name, one in told.items() if isinstance(one, dict)]
    for name, one in items:
        yield _described(name, one, path)


def _described(name: str | None, told: dict[str, Any], where: str) -> Found:
    from pipefs.d6tpipe import Found
    from pipefs.upserting import description_of

    called = name or str(told.get("name", ""))
    try:
        return Found("", called, description_of({**told, "name": called}, None, where))
    except PipefsError as e:
        return Found("", called, problem=e.message)


def _project(told: dict[str, Any], path: Path) -> Found:
    """A project's `config/datakit-data.json`; its folder stays datakit's and `project`'s."""
    place = str(told.get("s3_path") or "").strip("/")
    root = path.absolute().parent.parent.name
    name = place.rpartition("/")[2] or root
    chosen = str(told.get("aws_user_profile") or "default")
    settings = {} if chosen == "default" else {"aws_profile": chosen}
    url = f"s3://{told['s3_bucket']}/{place}".rstrip("/")
    return _described(name, {"url": url, **settings}, str(path))


def _take(app: App, found: Found, dry: bool) -> dict[str, object]:
    """One row of the report."""
    row: dict[str, object] = {"name": found.name, "profile": found.profile}
    if found.wanted is None:
        return {**row, "state": "not taken", "detail": found.problem}
    left = f"without {', '.join(found.left_out)}" if found.left_out else ""
    try:
        registry = _registry(app, found.profile, dry)
        state, detail = _upserted(registry, found, dry)
    except PipefsError as e:
        return {**row, "state": "not taken", "detail": e.message}
    profile = f"profile {found.profile}" if found.profile else ""
    detail = " · ".join(filter(None, [detail, profile, left]))
    return {**row, "state": state, "detail": detail}


def _upserted(registry: Registry, found: Found, dry: bool) -> tuple[str, str]:
    from pipefs.upserting import check_place, upsert

    assert found.wanted is not None
    wanted, new = found.wanted, found.name not in registry.names()
    if dry:
        if not new:
            check_place(registry, wanted)
        return "would be made" if new else "is there", wanted.url
    if new and "parent" in wanted.settings and wanted.settings["parent"] not in registry.names():
        # Its parent could not be taken over: better without than not at all.
        own = {k: v for k, v in wanted.settings.items() if k != "parent"}
        wanted = replace(wanted, settings=own)
    done = upsert(registry, wanted)
    keys = "keys stored" if done.stored_credentials else ""
    changed = "" if done.created else ", ".join(done.changed) or "as it was"
    facts = " · ".join(filter(None, [done.pipe.url, changed, keys]))
    return ("made" if done.created else "is there"), facts


def _registry(app: App, profile: str, dry: bool) -> Registry:
    from pipefs.registry import Registry

    if not profile:
        return app.registry(new_profile=not dry)
    other = replace(app, profile=profile)
    try:
        return other.registry(new_profile=not dry)
    except NotFound:
        return Registry(other.home())  # only looked at; made when it is done


def _datakit_defaults(app: App, dry: bool) -> None:
    from pipefs.project.settings import datakit_file, read_defaults, read_json, write_defaults

    home = app.home()
    values = {**read_defaults(home).values, **read_json(datakit_file())}
    values = {k: v for k, v in values.items() if v != ""}
    if not dry:
        write_defaults(home, values)
    app.emit({"defaults": values, "dry_run": dry})
    for line in table([[key, str(value)] for key, value in values.items()]):
        app.say(line)
    app.say(f"{'would be' if dry else 'are'} what new projects start from: pipefs project init")
