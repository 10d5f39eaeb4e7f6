"""Which pipes there are: making, changing and listing them, like `pipefs create` and `list`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipefs.api.tables import Table
from pipefs.errors import AlreadyExists, UsageError
from pipefs.folder.here import here_of
from pipefs.home import Home, resolve_home
from pipefs.registry import Registry

if TYPE_CHECKING:
    from pipefs.api.pipe import Pipe


@dataclass(frozen=True, slots=True)
class PipeRow:
    """A pipe of the registry, or one that was found below the profile's root."""

    name: str
    url: str
    created: str = ""
    """UTC with Z."""
    created_by: str = ""
    here: bool = True
    """Whether this machine has registered it."""


def _registry(profile: str | None, system: bool) -> tuple[Home, Registry]:
    chosen = profile if profile is not None else os.environ.get("PIPEFS_PROFILE")
    home = resolve_home(system=system, profile=chosen or None)
    return home, Registry(home)


def create(
    name: str | None = None,
    url: str | None = None,
    *,
    create_bucket: bool = False,
    profile: str | None = None,
    system: bool = False,
    **settings: Any,
) -> Pipe:
    """Make a pipe, or adopt the one that is at a URL: its name and settings come from there.

    Args:
        name: None: as it is called at the URL.
        url: `s3://bucket/prefix` or `file:///folder`; None: below the profile's root, or an
            embedded store on this machine.
        create_bucket: make the bucket, with versioning, where it is missing.
        settings: as of `pipefs set`.
    Raises:
        AlreadyExists: there is a pipe of this name. UsageError. Store errors.

    >>> import pipefs
    >>> pipefs.create("weather", schema={"pandas": {"sep": ";"}}).schema
    {'pandas': {'sep': ';'}}
    """
    from pipefs.api.pipe import Pipe
    from pipefs.creation import create_pipe

    _, registry = _registry(profile, system)
    made = create_pipe(registry, name, url, settings, create_bucket=create_bucket)
    return Pipe(made.pipe.name, profile=profile, system=system)


def upsert_pipe(
    settings: Mapping[str, Any], *, profile: str | None = None, system: bool = False
) -> Pipe:
    """Make a pipe, or change the settings of the one of this name.

    Args:
        settings: `name`, `url` (only of a new one), and settings as of `pipefs set`, in `options`
            or beside it, as d6tpipe writes them.

    >>> import pipefs
    >>> _ = pipefs.upsert_pipe({"name": "weather", "options": {"include": "*.csv|*.xls*"}})
    >>> pipefs.upsert_pipe({"name": "weather", "exclude": "draft*"}).settings["include"]
    ('*.csv', '*.xls*')
    """
    from pipefs.api.pipe import Pipe

    told = dict(settings)
    name, url = told.pop("name", None), told.pop("url", None)
    if not isinstance(name, str):
        raise UsageError("these settings have no name", hint='{"name": "weather", …}')
    changes = {**_plain(told.pop("options", {})), **_plain(told)}
    _, registry = _registry(profile, system)
    if name not in registry.names():
        try:
            return create(name, url, profile=profile, system=system, **changes)
        except AlreadyExists:
            pass  # somebody else made it just now
    pipe = Pipe(name, profile=profile, system=system)
    if url is not None and url.rstrip("/") != pipe.url:
        raise AlreadyExists(
            f"{name} is at {pipe.url}, and stays there", hint=f"Another name for {url}"
        )
    pipe.update_settings(changes)
    return pipe


def _plain(told: object) -> dict[str, Any]:
    """Settings with `|` between patterns, as d6tpipe has them, as lists."""
    if not isinstance(told, Mapping):
        raise UsageError("options are names with values", hint='{"include": "*.csv"}')
    found = dict(told)
    for key in ("include", "exclude"):
        if isinstance(found.get(key), str):
            found[key] = [p for p in found[key].split("|") if p]
    return found


def upsert_pipe_json(
    path: str | os.PathLike[str],
    name: str | None = None,
    *,
    profile: str | None = None,
    system: bool = False,
) -> Pipe:
    """The same with settings from a JSON or YAML file.

    Args:
        name: of the settings in the file, where it has those of several pipes by name.
    """
    file = Path(path)
    try:
        text = file.read_text()
        if file.suffix in (".yaml", ".yml"):
            import yaml

            told = yaml.safe_load(text)
        else:
            told = json.loads(text)
    except FileNotFoundError:
        raise UsageError(f"there is no file {file}") from None
    except ValueError as e:
        raise UsageError(f"{file} cannot be read: {e}") from e
    if name is not None and isinstance(told, dict) and isinstance(told.get(name), dict):
        told = {"name": name, **told[name]}
    if not isinstance(told, dict):
        raise UsageError(f"{file} has no settings", hint='{"name": "weather", …}')
    return upsert_pipe({**told, "name": name or told.get("name")}, profile=profile, system=system)


def list_pipes(
    *,
    remote: bool = False,
    names_only: bool = True,
    profile: str | None = None,
    system: bool = False,
) -> list[str] | Table[PipeRow]:
    """The pipes by name.

    Args:
        remote: those that lie below the profile's root, registered here or not.
        names_only: False gives a table.

    >>> import pipefs
    >>> _ = pipefs.create("weather")
    >>> "weather" in pipefs.list_pipes()
    True
    """
    _, registry = _registry(profile, system)
    if remote:
        here = {p.url for p in registry.list([])}
        rows = [
            PipeRow(r.name, r.url, r.descriptor.created, r.descriptor.created_by, r.url in here)
            for r in registry.remote_pipes([])
        ]
    else:
        rows = [PipeRow(p.name, p.url, p.created) for p in registry.list([])]
    return [row.name for row in rows] if names_only else Table(rows)


def list_local_pipes(*, profile: str | None = None, system: bool = False) -> list[str]:
    """The pipes that have files on this machine: mounted, or in their folders.

    >>> import pipefs
    >>> weather = pipefs.create("weather")
    >>> _ = weather.put("1", "a.csv"), weather.pull()
    >>> pipefs.list_local_pipes()
    ['weather']
    """
    from pipefs.client import SupervisorClient

    home, registry = _registry(profile, system)
    mounted: set[str] = set()
    if SupervisorClient(home).socket.exists():
        mounted = {m.name.partition("@")[0] for m in SupervisorClient(home).mounts_or_none()}
    return [p.name for p in registry.list([]) if p.name in mounted or here_of(home, p).folder]
