"""Which pipes there are: making, changing and listing them, like `pipefs create` and `list`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipefs.api.tables import Table
from pipefs.folder.here import here_of
from pipefs.home import Home, resolve_home
from pipefs.registry import Registry
from pipefs.structured import read_structured
from pipefs.upserting import description_of, upsert

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
            or beside it; or as d6tpipe writes them, with `credentials`, which are stored here.

    >>> import pipefs
    >>> _ = pipefs.upsert_pipe({"name": "weather", "options": {"include": "*.csv|*.xls*"}})
    >>> pipefs.upsert_pipe({"name": "weather", "exclude": "draft*"}).settings["include"]
    ('*.csv', '*.xls*')
    """
    from pipefs.api.pipe import Pipe

    _, registry = _registry(profile, system)
    done = upsert(registry, description_of(settings, where="this description"))
    return Pipe(done.pipe.name, profile=profile, system=system)


def upsert_pipe_json(
    path: str | os.PathLike[str],
    name: str | None = None,
    *,
    profile: str | None = None,
    system: bool = False,
) -> Pipe:
    """The same with settings from a JSON, YAML or TOML file.

    Args:
        name: of the settings in the file, where it has those of several pipes by name.
    """
    from pipefs.api.pipe import Pipe

    _, registry = _registry(profile, system)
    file = Path(path)
    done = upsert(registry, description_of(read_structured(file), name, str(file)))
    return Pipe(done.pipe.name, profile=profile, system=system)


def list_pipes(
    *,
    remote: bool = False,
    names_only: bool = True,
    parent_only: bool = False,
    profile: str | None = None,
    system: bool = False,
) -> list[str] | Table[PipeRow]:
    """The pipes by name.

    Args:
        remote: those that lie below the profile's root, registered here or not.
        names_only: False gives a table.
        parent_only: leave out pipes that have a parent.

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
        pipes = [p for p in registry.list([]) if not (parent_only and p.settings.parent)]
        rows = [PipeRow(p.name, p.url, p.created) for p in pipes]
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
