"""What d6tpipe knows on this machine: `cfg.json`, and the TinyDB file of each of its profiles.

    cfg.json   {profile: {"filerepo": folder, "filedb": file, "server": …, "key": …}}
    filedb     {"pipes": {"1": settings}, "NAME-cfg": {"1": {"name": NAME, "pipe": settings}}, …}

`pipes` is there in local mode; `NAME-cfg` is what a server told last. Reads only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pipefs.errors import PipefsError, UsageError
from pipefs.upserting import OF_D6TPIPE, Description, description_of

_KNOWN = OF_D6TPIPE | {"dir", "include", "exclude", "schema", "parent"}
"""A server tells more (`owner`, `id`), some of it by names that mean something else here."""

DEFAULT_FILE = "~/d6tpipe/cfg.json"


@dataclass(frozen=True, slots=True)
class Found:
    """A pipe of d6tpipe, or why it cannot be one of ours."""

    profile: str
    """"": d6tpipe's default one, which becomes ours."""
    name: str
    wanted: Description | None = None
    problem: str = ""
    left_out: tuple[str, ...] = ()
    """Settings that pipefs has not."""


def is_config(told: Mapping[str, Any]) -> bool:
    """Whether a JSON object is a cfg.json."""
    return bool(told) and all(isinstance(v, dict) and "filedb" in v for v in told.values())


def pipes_of(told: Mapping[str, Any], where: str = DEFAULT_FILE) -> Iterator[Found]:
    """The pipes of all profiles of a cfg.json, parents before their children.

    Raises:
        UsageError: a TinyDB file that cannot be read.
    """
    if not is_config(told):
        raise UsageError(
            f"{where} is no configuration of d6tpipe", hint=f"It is {DEFAULT_FILE} by default"
        )
    for name, profile in told.items():
        found = _settings(Path(os.path.expanduser(str(profile["filedb"]))))
        files = os.path.expanduser(str(profile.get("filerepo") or ""))
        for pipe in sorted(found, key=partial(_depth, found)):
            yield _found("" if name == "default" else name, pipe, found[pipe], files)


def _settings(file: Path) -> dict[str, dict[str, Any]]:
    """Settings by pipe; nothing where the profile was never used."""
    if not file.exists():
        return {}
    if not file.is_file():
        raise UsageError(f"{file} is no database of d6tpipe")
    try:
        tables = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as e:
        raise UsageError(f"{file} is no database of d6tpipe: {e}") from e
    if not isinstance(tables, dict):
        raise UsageError(f"{file} is no database of d6tpipe")
    found: dict[str, dict[str, Any]] = {}
    for table, rows in tables.items():
        for row in _rows(rows):
            if table.endswith("-cfg") and isinstance(row.get("pipe"), dict):
                found.setdefault(str(row.get("name") or table[:-4]), {}).update(row["pipe"])
    for row in _rows(tables.get("pipes")):
        # What was set here counts more than what a server told.
        settings = row["data"] if isinstance(row.get("data"), dict) else row
        if name := row.get("name") or settings.get("name"):
            found.setdefault(str(name), {}).update(settings)
    return found


def _rows(table: object) -> list[dict[str, Any]]:
    rows = table.values() if isinstance(table, dict) else ()
    return [row for row in rows if isinstance(row, dict)]


def _depth(found: Mapping[str, Mapping[str, Any]], name: str) -> tuple[int, str]:
    depth, seen = 0, name
    while (parent := found.get(seen, {}).get("parent")) and depth < len(found):
        depth, seen = depth + 1, str(parent)
    return depth, name


def _found(profile: str, name: str, settings: Mapping[str, Any], files: str) -> Found:
    options = settings.get("options") or {}
    flat = {k: v for k, v in settings.items() if k not in ("name", "options")}
    flat |= options if isinstance(options, Mapping) else {}
    left_out = tuple(sorted(key for key in flat if key not in _KNOWN))
    told = {key: value for key, value in flat.items() if key in _KNOWN}
    try:
        wanted = description_of(told, name, f'the pipe "{name}" of d6tpipe')
        if not wanted.url:
            return Found(profile, name, problem="it names no place in a bucket")
    except PipefsError as e:
        return Found(profile, name, problem=e.message)
    pulled = os.path.join(files, name)
    if files and os.path.isdir(pulled) and os.listdir(pulled):
        # Where its files are already: nothing is fetched twice, and paths in scripts stay right.
        wanted = replace(wanted, settings={**wanted.settings, "dir": pulled})
    return Found(profile, name, wanted, left_out=left_out)
