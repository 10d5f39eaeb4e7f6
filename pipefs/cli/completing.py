"""What the shell suggests while somebody types: pipes, snapshots, settings, profiles, paths.

Reads files of this machine only and imports nothing heavy, so it answers in a blink. Never raises:
what it does not know it does not suggest.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from pipefs.errors import PipefsError
from pipefs.home import Home, resolve_home

if TYPE_CHECKING:
    from pipefs.config import Spec

Items = list[CompletionItem]

_MOUNT_ANSWERS_S = 0.3
"""A mount whose store is slow or away is not waited for."""
_MOMENTS = ("@yesterday", "@2h")
_TARGETS = frozenset({"target", "targets", "names", "places", "words"})


def complete(param: click.Parameter, ctx: click.Context, incomplete: str) -> Items:
    """Suggestions for a word of a command line."""
    try:
        return _complete(param, ctx, incomplete)
    except (PipefsError, OSError, ValueError):
        return []


def _complete(param: click.Parameter, ctx: click.Context, incomplete: str) -> Items:
    if isinstance(param.type, click.Choice):
        return param.type.shell_complete(ctx, param, incomplete)
    home, words = _home(ctx), tuple(ctx.command_path.split()[1:])
    if isinstance(param, click.Option):
        return _option(param, home, incomplete)
    name = param.name or ""
    if name == "name":
        if words[:1] == ("profile",):
            return _starting(_profiles(home), incomplete)
        return [] if words == ("create",) else _starting(_pipes(home), incomplete)
    if name == "assignments":
        return _settings(home, incomplete)
    if name == "key":
        from pipefs.config import SPECS

        return _starting(SPECS, incomplete)
    if name in ("snap", "tag") or (name == "words" and ctx.params.get("target")):
        pipe = str(ctx.params.get("name") or ctx.params.get("target") or "")
        return _starting(_snapshots(home, pipe.partition("@")[0].partition("/")[0]), incomplete)
    if name in _TARGETS:
        return _target(home, incomplete)
    if name in ("sources", "dest"):
        return [CompletionItem(incomplete, type="file")]
    return []


def _home(ctx: click.Context) -> Home:
    given = ctx.find_root().params
    return resolve_home(
        system=bool(given.get("system")),
        profile=given.get("profile") or None,
        config_file=given.get("config_file"),
    )


def _option(param: click.Option, home: Home, incomplete: str) -> Items:
    if param.name == "profile":
        return _starting(_profiles(home), incomplete)
    if param.name == "aws_profile":
        return _starting(_aws_profiles(), incomplete)
    if "-o" in param.opts:
        return _settings(home, incomplete)
    kind = {"FILE": "file", "F": "file", "FILE|env": "file", "DIR": "dir"}.get(param.metavar or "")
    return [CompletionItem(incomplete, type=kind)] if kind else []


def _starting(names: Iterable[str], incomplete: str, before: str = "") -> Items:
    return [CompletionItem(before + n) for n in names if (before + n).startswith(incomplete)]


def _pipes(home: Home) -> list[str]:
    from pipefs.registry import Registry

    return Registry(home).names()


def _profiles(home: Home) -> list[str]:
    from pipefs.profiles import profile_names

    return profile_names(home)


def _aws_profiles() -> list[str]:
    import configparser

    found = configparser.ConfigParser(interpolation=None, strict=False)
    with contextlib.suppress(configparser.Error):
        found.read(
            os.path.expanduser(os.environ.get(variable) or f"~/.aws/{file}")
            for variable, file in (
                ("AWS_CONFIG_FILE", "config"),
                ("AWS_SHARED_CREDENTIALS_FILE", "credentials"),
            )
        )
    return sorted({section.removeprefix("profile ") for section in found.sections()})


def _target(home: Home, incomplete: str) -> Items:
    """NAME, NAME@SNAP, NAME/PATH, NAME@SNAP/PATH, or a path of this machine."""
    if incomplete.startswith((".", "/", "~")):
        return [CompletionItem(incomplete, type="file")]
    head, slash, path = incomplete.partition("/")
    pipe, at, snapshot = head.partition("@")
    if slash:
        return _paths(home, pipe, snapshot, head, path)
    if at:
        moments = _MOMENTS if snapshot.startswith("@") else ()
        return _starting((*_snapshots(home, pipe), *moments), incomplete, f"{pipe}@")
    return _starting(_pipes(home), incomplete)


def _snapshots(home: Home, pipe: str) -> list[str]:
    """Tags and ids as they were seen last, newest first, and the two names that never change."""
    from pipefs.knownnames import recall

    place = None
    with contextlib.suppress(PipefsError, OSError):
        place = _mounted(home, pipe)
    shown = _listed(place / ".snapshots") if place is not None else None
    names = [n for n in shown or [] if n not in ("latest", "live")]
    known = list(reversed(recall(home, pipe)))
    return list(dict.fromkeys([*known, *names, "latest", "live"]))


def _paths(home: Home, pipe: str, snapshot: str, head: str, path: str) -> Items:
    """Names in a folder of the mounted pipe; without a mount nothing is known without asking."""
    place = _mounted(home, pipe)
    if place is None:
        return []
    if snapshot and snapshot != "live":
        place = place / ".snapshots" / snapshot
    folder, _, start = path.rpartition("/")
    above = f"{head}/{folder}/" if folder else f"{head}/"
    names = _listed(place / folder, folders=True) or []
    return [CompletionItem(f"{above}{name}") for name in names if name.startswith(start)]


def _mounted(home: Home, pipe: str) -> Path | None:
    """Where the live pipe is mounted, as this home's daemon says at once."""
    from pipefs.client import call
    from pipefs.protocol import ListMounts, MountList

    if not home.supervisor_socket.exists():
        return None
    found = call(home.supervisor_socket, ListMounts(), MountList, timeout_s=_MOUNT_ANSWERS_S).mounts
    return next((Path(item.path) for item in found if item.name == pipe), None)


def _listed(folder: Path, *, folders: bool = False) -> list[str] | None:
    """Names in a folder of a mount, folders with a slash; None where it does not answer at once."""
    found: list[str] = []

    def look() -> None:
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            found.extend(e.name + ("/" if folders and e.is_dir() else "") for e in entries)

    # A daemon thread: the process ends although the kernel still waits for the mount.
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(_MOUNT_ANSWERS_S)
    return None if thread.is_alive() else sorted(found)


def settings_from(incomplete: str) -> Items:
    """KEY= with what it is about."""
    from pipefs.config import SPECS

    return [
        CompletionItem(f"{name}=", help=spec.about)
        for name, spec in SPECS.items()
        if name.startswith(incomplete)
    ]


def _settings(home: Home, incomplete: str) -> Items:
    """KEY=, and behind the sign the values that there are."""
    from pipefs.config import SPECS

    key, equals, _ = incomplete.partition("=")
    if not equals:
        return settings_from(incomplete)
    if key == "parent":
        return _starting(_pipes(home), incomplete, f"{key}=")
    if key == "aws_profile":
        return _starting(_aws_profiles(), incomplete, f"{key}=")
    return _starting(_values(SPECS.get(key)), incomplete, f"{key}=")


def _values(spec: Spec | None) -> tuple[str, ...]:
    from pipefs.units import parse_bool
    from pipefs.values import choices_of, parse_tristate

    if spec is None:
        return ()
    if spec.parse is parse_bool:
        return ("yes", "no")
    return ("yes", "no", "auto") if spec.parse is parse_tristate else choices_of(spec.parse)
