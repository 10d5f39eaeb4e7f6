"""`pipefs config`: settings that count for all pipes of this user or machine."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping

import click

from pipefs.cli.app import App, Command, pass_app
from pipefs.cli.output import printable, table, tilde
from pipefs.config import SPECS, check_options, load_config, parse_assignments, resolve_settings
from pipefs.errors import StoreUnavailable, UsageError

_TIMEOUT_S = 15.0
_LIMIT_BYTES = 64 << 10

_EXAMPLES = """\
pipefs config                                      what counts for all pipes here
pipefs config cache_limit=100G region=eu-west-1    set
pipefs config region=                              back to the default
pipefs config --from-url https://data.example.org  take over a team's settings"""


@click.command(cls=Command, short_help="Settings for all your pipes.", example=_EXAMPLES)
@click.argument("assignments", metavar="[KEY=VALUE]…", nargs=-1)
@click.option("--from-url", metavar="URL", help="Settings as JSON; /config.json of a site.")
@pass_app
def config(app: App, assignments: tuple[str, ...], from_url: str | None) -> None:
    """Show or change the defaults of all pipes; profiles and pipes may say otherwise.

    With --from-url the defaults that a team publishes are taken over: a JSON object of settings.
    One that pipefs does not know is refused, and then nothing is changed.
    """
    file = app.home().config_file
    known = dict(load_config(file).defaults)
    changes, unset = _asked(assignments)
    if from_url is not None:
        changes = {**_fetched(from_url), **changes}
    if changes or unset:
        known = {k: v for k, v in {**known, **changes}.items() if k not in unset}
        resolve_settings(known)
        _write(app, known)
    app.emit({"file": str(file), "defaults": known})
    if not known:
        app.say(f"no settings for all pipes in {tilde(str(file))}")
        app.say("next: pipefs config KEY=VALUE · what a pipe has: pipefs show NAME")
    for line in table([[key, _shown(value)] for key, value in sorted(known.items())]):
        app.say(line)


def _asked(assignments: tuple[str, ...]) -> tuple[dict[str, object], list[str]]:
    """(what is set, what goes back to the default)."""
    unset = [a[:-1].strip().replace("-", "_") for a in assignments if a.endswith("=")]
    for key in unset:
        if key not in SPECS:
            parse_assignments([f"{key}=x"])  # says which key was meant
    return parse_assignments(a for a in assignments if not a.endswith("=")), unset


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
