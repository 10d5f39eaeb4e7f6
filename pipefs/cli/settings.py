"""`pipefs show` and `set`: what is set for a pipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipefs.cli.app import App, Command, pass_app
from pipefs.cli.listing import is_mounted, pipe_json, place_of
from pipefs.cli.output import table
from pipefs.config import SPECS, parse_changes
from pipefs.errors import UsageError
from pipefs.registry import Pipe, Registry
from pipefs.units import typed_seconds, typed_size

if TYPE_CHECKING:
    from pipefs.upserting import Description, Upserted


@click.command(
    cls=Command, short_help="One pipe and all its settings.", example="pipefs show sales"
)
@click.argument("name")
@pass_app
def show(app: App, name: str) -> None:
    """One pipe: where it is, and its settings; those that were set are marked with *."""
    home = app.home()
    pipe = app.registry(home).get(name)
    values = {key: _shown(key, pipe) for key in SPECS if key != "root"}
    app.emit({**pipe_json(pipe), "settings": values})
    app.say(f"{pipe.name}  {place_of(pipe, home)}")
    rows = [
        ["*" if key in pipe.options else "", key, _text(key, value), SPECS[key].about]
        for key, value in values.items()
    ]
    for line in table(rows):
        app.say(line)


def _shown(key: str, pipe: Pipe) -> object:
    value = getattr(pipe.settings, SPECS[key].field)
    if key == "umask":
        return f"{value:03o}"
    return list(value) if isinstance(value, tuple) else value


def _text(key: str, value: object) -> str:
    """As it could be typed."""
    if value is None:
        return "auto"
    if SPECS[key].field.endswith("_bytes") and isinstance(value, int):
        return typed_size(value)
    if SPECS[key].field.endswith("_s") and isinstance(value, int | float):
        return typed_seconds(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ",".join(value) or "-"
    return str(value) if value not in ("", {}) else "-"


@click.command(
    "set",
    cls=Command,
    short_help="Change settings of a pipe.",
    example="""\
pipefs set sales cache_limit=50G automount=yes
pipefs set sales cache_limit=                   back to the default
pipefs set -f weather.yaml                      what a file describes: make it, or change it
pipefs set sales -f settings.json -n            only say what would change""",
)
@click.argument("name", required=False)
@click.argument("assignments", metavar="KEY=VALUE…", nargs=-1)
@click.option("-f", "--file", "file", metavar="FILE", help="A description in JSON, YAML or TOML.")
@click.option("-n", "--dry-run", "--preview", "dry", is_flag=True, help="Only say it.")
@pass_app
def set_options(
    app: App, name: str | None, assignments: tuple[str, ...], file: str | None, dry: bool
) -> None:
    """Change settings; KEY= without a value goes back to the default.

    What belongs to the pipe (schema, include, local_only …) is also written to its bucket, so
    that other machines adopt it.

    FILE has name, url and settings, as `pipefs show --json` or d6tpipe write them; credentials in
    it are stored on this machine. A pipe that is not there yet is made.
    """
    registry = app.registry()
    if file is not None:
        words = (name, *assignments) if name is not None else ()
        named = bool(words) and "=" not in words[0]
        name, assignments = (words[0], words[1:]) if named else (None, words)
        _set_from_file(app, registry, file, name, assignments, dry)
        return
    if name is None or not assignments:
        raise UsageError(
            "nothing to set", hint="pipefs set NAME KEY=VALUE …, or pipefs set [NAME] -f FILE"
        )
    changes, unset = parse_changes(assignments)
    _change(app, registry, name, changes, unset, dry)


def _change(
    app: App,
    registry: Registry,
    name: str,
    changes: dict[str, object],
    unset: tuple[str, ...],
    dry: bool,
) -> None:
    from pipefs.upserting import change

    pipe = registry.get(name)
    described = True
    merged = {k: v for k, v in {**pipe.options, **changes}.items() if k not in unset}
    if dry:
        settings = registry.settings_for(name, merged, pipe.url)
        changed = replace(pipe, options=merged, settings=settings)
    else:
        _, described = change(registry, name, changes, unset)
        changed = registry.get(name)
    _warn_local(app, described)
    app.emit({**pipe_json(changed), **({"dry_run": True} if dry else {})})
    now = ", ".join(f"{key}={_text(key, _shown(key, changed))}" for key in [*changes, *unset])
    app.say(f"{name}  {'would have ' if dry else ''}{now}{_again(app, name)}")


def _warn_local(app: App, described: bool) -> None:
    if not described:
        app.warn("changed on this machine only: your credentials may not write to the bucket")


def _again(app: App, name: str) -> str:
    return " · counts from the next mount" if is_mounted(app, name) else ""


def _set_from_file(
    app: App,
    registry: Registry,
    file: str,
    name: str | None,
    assignments: tuple[str, ...],
    dry: bool,
) -> None:
    from pipefs.structured import read_structured
    from pipefs.upserting import description_of, upsert

    found = description_of(read_structured(Path(file)), name, file)
    changes, unset = parse_changes(assignments)
    settings = {k: v for k, v in {**found.settings, **changes}.items() if k not in unset}
    wanted = replace(found, settings=settings)
    if dry:
        _say_planned(app, registry, wanted)
        return
    done = upsert(registry, wanted)
    _say_upserted(app, registry, done)


def _say_planned(app: App, registry: Registry, wanted: Description) -> None:
    name, new = wanted.name, wanted.name not in registry.names()
    before = {} if new else registry.get(name).options
    differ = {k: v for k, v in wanted.settings.items() if before.get(k) != v}
    keys = "keys" if wanted.credentials is not None else ""
    url = (wanted.url or registry.new_url(name)) if new else registry.get(name).url
    app.emit({"name": name, "url": url, "new": new, "changes": differ, "dry_run": True})
    facts = [f"would be made at {url}" if new else "", _pairs(differ), keys]
    app.say(f"{name}  {' · '.join(filter(None, facts)) or 'nothing would change'}")


def _say_upserted(app: App, registry: Registry, done: Upserted) -> None:
    if done.created is not None:
        from pipefs.cli.start import say_created

        say_created(app, done.created, registry)
        return
    name = done.pipe.name
    _warn_local(app, done.described)
    app.emit({**pipe_json(done.pipe), "changed": dict(done.changed)})
    facts = [_pairs(done.changed), "keys stored" if done.stored_credentials else ""]
    app.say(f"{name}  {' · '.join(filter(None, facts)) or 'as it was'}{_again(app, name)}")


def _pairs(settings: object) -> str:
    assert isinstance(settings, dict)
    return ", ".join(f"{key}={_text(key, value)}" for key, value in settings.items())
