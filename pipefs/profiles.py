"""Profiles: registries of their own, with common settings and a root where new pipes go."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path

from pipefs.config import check_options, resolve_settings
from pipefs.errors import AlreadyExists, NotFound, UsageError
from pipefs.home import Home, check_name, make_private
from pipefs.tomlfile import read_toml, write_toml

FORMAT = 1


def profile_names(home: Home) -> list[str]:
    """Profiles of this user or machine besides the default one."""
    try:
        found = os.listdir(home.profiles)
    except FileNotFoundError:
        return []
    return sorted(name for name in found if (home.profiles / name / "profile.toml").exists())


def read_profile(folder: Path) -> dict[str, object]:
    """Options of a profile. `NotFound` when there is no such profile."""
    file = folder / "profile.toml"
    if not file.exists():
        names = sorted(p.parent.name for p in folder.parent.glob("*/profile.toml"))
        near = difflib.get_close_matches(folder.name, names, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
        raise NotFound(
            f'there is no profile "{folder.name}"',
            hint=f"{hint}Make it: pipefs profile create {folder.name}",
        )
    options = read_toml(file).get("settings", {})
    if not isinstance(options, dict):
        raise UsageError(f"{file}: settings is not a table", hint="Write it as [settings]")
    return check_options(options, where=str(file))


def write_profile(
    home: Home, name: str, options: Mapping[str, object], *, create: bool = False
) -> None:
    """Make a profile (`AlreadyExists` when there is one) or replace its options."""
    folder = home.profiles / check_name(name, "profile")
    checked = check_options(options)
    resolve_settings(checked)
    make_private(home.profiles.parent)
    make_private(folder)
    try:
        write_toml(
            folder / "profile.toml", {"format": FORMAT, "settings": checked}, exclusive=create
        )
    except FileExistsError:
        raise AlreadyExists(
            f'there is a profile "{name}" already', hint=f"Change it: pipefs profile set {name} k=v"
        ) from None
