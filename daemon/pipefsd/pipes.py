"""From a mount request to what gets mounted: the registry's word on a pipe, for the supervisor.

Reads small configuration files of this home and nothing else: no store, no network, no LMDB, so
the supervisor may call it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pipefs.config import SPECS, Settings, check_options, load_config, resolve_settings
from pipefs.errors import Refused, Unsupported, UsageError
from pipefs.home import Home
from pipefs.protocol import Mount
from pipefs.registry import Pipe, Registry
from pipefsd.handoff import Service
from pipefsd.mountpoint import MountPlan

FUSE_CONF: Final = Path("/etc/fuse.conf")


@dataclass(frozen=True, slots=True)
class Target:
    """A mount request, resolved: the pipe with the settings of this mount, and the place."""

    pipe: Pipe
    settings: Settings
    snapshot: str | None
    plan: MountPlan
    socket_path: str


class Pipes:
    """The pipes of one home. Every question reads the files anew, so changes count at once."""

    def __init__(self, home: Home) -> None:
        self.home = home

    def automount(self) -> list[str]:
        """Names of the pipes to mount when the daemon starts."""
        return [pipe.name for pipe in self._registry().list(problems=[]) if pipe.settings.automount]

    def _registry(self) -> Registry:
        return Registry(self.home, load_config(self.home.config_file))

    def resolve(self, request: Mount) -> Target:
        """Raises `NotFound` (no such pipe), `UsageError` (bad option, relative directory),
        `Refused` (what this user or this transport may not)."""
        transport = _transport(request.transport)
        pipe = self._registry().get(request.name)
        settings = _overlay(pipe.settings, request.options)
        if request.read_only or request.snapshot:
            settings = replace(settings, read_only=True)
        if settings.acl and transport == "libfuse":
            raise Refused(
                "access lists cannot be enforced with the libfuse transport",
                hint="Mount with --transport kernel, or with -o noacl",
            )
        snapshot = request.snapshot or ""
        label = f"{request.name}@{snapshot}" if snapshot else request.name
        directory = request.directory or ("" if snapshot else settings.mountpoint)
        plan = MountPlan(
            label=label,
            directory=self._place(directory, label),
            explicit=bool(directory),
            read_only=settings.read_only,
            allow_other=_allow_other(settings),
            transport=transport,
            flags=_flags(settings),
            acl=settings.acl,
            given=request.given,
        )
        socket_path = str(self.home.worker_socket(request.name, snapshot))
        # The pipe opens its store with its own settings, so they must be those of this mount.
        pipe = replace(pipe, settings=settings)
        return Target(pipe, settings, request.snapshot, plan, socket_path)

    def _place(self, directory: str, label: str) -> str:
        if not directory:
            return str(self.home.mountpoint(label))
        if not os.path.isabs(directory):
            raise UsageError(f"the mount point {directory!r} is not an absolute path")
        return os.path.normpath(directory)


def _transport(wanted: str) -> str:
    """auto: our own server on /dev/fuse, which only Linux has; elsewhere libfuse."""
    linux = sys.platform == "linux"
    if wanted == "auto":
        return "kernel" if linux else "libfuse"
    if wanted not in ("kernel", "libfuse") or (wanted == "kernel" and not linux):
        raise Unsupported(
            f"the transport {wanted!r} is not available here",
            hint="Mount with --transport auto",
        )
    return wanted


def _overlay(settings: Settings, options: Mapping[str, str]) -> Settings:
    """Settings with the mount's own options on top."""
    given = resolve_settings(check_options(options, where="mount options"))
    fields = [SPECS[key].field for key in options]
    changes = {field: getattr(given, field) for field in fields}
    return replace(settings, **changes)


def _allow_other(settings: Settings) -> bool:
    if os.geteuid() == 0:
        return settings.allow_other is not False
    if settings.allow_other and not _user_allow_other():
        raise Refused(
            "allow_other is not permitted to you on this machine",
            hint="root can permit it: the line user_allow_other in /etc/fuse.conf",
        )
    return bool(settings.allow_other)


def _flags(settings: Settings) -> tuple[str, ...]:
    """Mount flags. An ordinary user's mount has nosuid and nodev whatever he says."""
    asked = [word for word in ("suid", "dev") if getattr(settings, word)]
    if asked and os.geteuid() != 0:
        raise Refused(
            f"{' and '.join(asked)} may be given by root only",
            hint=f"Mount with {' and '.join(f'-o no{word}' for word in asked)}",
        )
    return tuple(f"no{word}" for word in ("suid", "dev", "exec") if not getattr(settings, word))


def _user_allow_other() -> bool:
    try:
        lines = FUSE_CONF.read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)


def build_service(home: Home, target: Target) -> Service:
    """The service of a pipe; called in the worker, where threads may start."""
    if target.snapshot:
        from pipefsd.pinned import PinnedService

        return PinnedService(
            home=home, pipe=target.pipe, settings=target.settings, snapshot=target.snapshot
        )
    from pipefsd.service import PipeService

    return PipeService(
        home=home,
        pipe=target.pipe,
        settings=target.settings,
        read_only=target.settings.read_only,
    )
