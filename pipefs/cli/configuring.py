"""`pipefs config`: settings that count for all pipes of this user or machine."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from pipefs.cli.app import App, Group, pass_app
from pipefs.cli.completing import settings_from
from pipefs.cli.migrating import move, wipe
from pipefs.cli.output import printable, table, tilde
from pipefs.cli.takingover import import_config
from pipefs.config import (
    SPECS,
    check_options,
    load_config,
    parse_assignments,
    parse_changes,
    resolve_settings,
)
from pipefs.errors import StoreUnavailable, UsageError
from pipefs.structured import read_structured

_TIMEOUT_S = 15.0
_LIMIT_BYTES = 64 << 10
_SETTING = frozenset({"-f", "--file", "--from-url"})


class _Config(Group):
    """`pipefs config region=x` is `pipefs config set region=x`, and alone it shows."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if ctx.resilient_parsing and not args:
            return super().parse_args(ctx, args)  # a shell asks what may come next
        if not args or (args[0] not in self.commands and args[0] not in ("-h", "--help")):
            sets = any("=" in a or a in _SETTING for a in args)
            args = ["set" if sets else "show", *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        return [*super().shell_complete(ctx, incomplete), *settings_from(incomplete)]


@click.group(cls=_Config, short_help="Settings for all your pipes; import, move, wipe.")
def config() -> None:
    """Settings that count for all pipes of this user or machine, and what concerns all of them.
    Profiles and pipes may say otherwise. `pipefs config` shows, `pipefs config KEY=VALUE` sets.
    """


config.add_command(import_config)
config.add_command(move)
config.add_command(wipe)


@config.command(
    "show",
    short_help="What counts for all pipes here.",
    example="pipefs config show\npipefs config show region      only this one, for scripts",
)
@click.argument("key", required=False)
@pass_app
def show(app: App, key: str | None) -> None:
    """Show the defaults of all pipes, or the value of one."""
    file = app.home().config_file
    known = dict(load_config(file).defaults)
    if key is not None:
        if key not in SPECS:
            parse_assignments([f"{key}=x"])  # says which key was meant
        app.emit({"key": key, "value": known.get(key)})
        app.say(_shown(known.get(key, "")))
        return
    _tell(app, file, known)


@config.command(
    "set",
    short_help="Change settings for all pipes.",
    example="""\
pipefs config set cache_limit=100G region=eu-west-1
pipefs config region=                              back to the default
pipefs config set -f settings.json                 those in a file
pipefs config set --from-url https://data.example.org  take over a team's settings""",
)
@click.argument("assignments", metavar="[KEY=VALUE]…", nargs=-1)
@click.option("-f", "--file", "source", metavar="FILE", help="Settings in JSON, YAML or TOML.")
@click.option("--from-url", metavar="URL", help="Settings as JSON; /config.json of a site.")
@click.option("-n", "--dry-run", "--preview", "dry", is_flag=True, help="Only say it.")
@pass_app
def set_config(
    app: App, assignments: tuple[str, ...], source: str | None, from_url: str | None, dry: bool
) -> None:
    """Change the defaults of all pipes; others stay as they are, and KEY= goes back.

    With --from-url the defaults that a team publishes are taken over: a JSON object of settings.
    One that pipefs does not know is refused, and then nothing is changed.
    """
    file = app.home().config_file
    known = dict(load_config(file).defaults)
    changes, unset = parse_changes(assignments)
    if from_url is not None:
        changes = {**_fetched(from_url), **changes}
    if source is not None:
        changes = {**check_options(read_structured(Path(source)), where=source), **changes}
    if not (changes or unset):
        raise UsageError("nothing to set", hint="pipefs config set KEY=VALUE …")
    known = {k: v for k, v in {**known, **changes}.items() if k not in unset}
    resolve_settings(known)
    if not dry:
        _write(app, known)
    _tell(app, file, known)


def _tell(app: App, file: Path, known: Mapping[str, object]) -> None:
    app.emit({"file": str(file), "defaults": known})
    if not known:
        app.say(f"no settings for all pipes in {tilde(str(file))}")
        app.say("next: pipefs config KEY=VALUE · what a pipe has: pipefs show NAME")
    for line in table([[key, _shown(value)] for key, value in sorted(known.items())]):
        app.say(line)


def _write(app: App, defaults: Mapping[str, object]) -> None:
    from pipefs.tomlfile import write_toml

    home = app.home()
    home.make()
    home.config_file.parent.mkdir(parents=True, exist_ok=True)
    write_toml(home.config_file, {"defaults": dict(defaults)})


def _shown(value: object) -> str:
    if isinstance(value, str):
        return printable(value)
    return printable(json.dumps(value))


def _fetched(url: str) -> dict[str, object]:
    """The settings that a site tells.

    Raises:
        UsageError: no URL, no JSON, or a key that is not known. StoreUnavailable: no answer.
    """
    if not url.startswith(("https://", "http://")):
        raise UsageError(f"{url!r} is no URL of a site", hint="Such as https://data.example.org")
    place = url if url.endswith(".json") else url.rstrip("/") + "/config.json"
    try:
        with urllib.request.urlopen(place, timeout=_TIMEOUT_S) as answer:
            data = answer.read(_LIMIT_BYTES + 1)
    except (urllib.error.URLError, OSError) as e:
        reason = getattr(e, "reason", None) or e
        raise StoreUnavailable(f"{place} gives no settings: {reason}") from e
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    if not isinstance(found, dict) or len(data) > _LIMIT_BYTES:
        raise UsageError(
            f"{place} is no JSON object of settings", hint='Such as {"region": "eu-west-1"}'
        )
    return check_options(found, where=place)
