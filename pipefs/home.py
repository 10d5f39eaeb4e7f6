"""Folders: where one user, machine or `PIPEFS_HOME` keeps settings, state, cache and sockets.

Promises that the folders it makes are private (0700) and that every socket path fits the
kernel's 108 bytes. Never places anything inside a pipefs mount: the daemon would wait for itself.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipefs.errors import Refused, UsageError
from pipefs.mountinfo import pipefs_mount_of

SOCKET_PATH_LIMIT_BYTES = 107
"""sun_path holds 108 bytes with the final NUL."""

NAME_RE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
"""Names of pipes and of profiles."""

Kind = Literal["single", "user", "system"]


@dataclass(frozen=True, slots=True)
class Home:
    """Folders of one registry of pipes. One supervisor serves one home."""

    kind: Kind
    """single: all under `PIPEFS_HOME`; user: XDG folders; system: /etc, /var, /run."""
    profile: str
    """Name of the profile, "" for the default one. Each profile is a registry of its own."""
    config: Path
    """Registry: `pipes/NAME.toml` and the profile's `profile.toml`."""
    config_file: Path
    """Settings for all pipes of the user or machine (`[defaults]`); need not exist."""
    state: Path
    """Durable: trees, outboxes, staging files, logs."""
    cache: Path
    """Disposable, shared by all profiles: the block cache."""
    run: Path
    mounts: Path
    """Default mount points are `mounts/NAME`."""
    stores: Path
    """Embedded stores are `stores/NAME`."""
    profiles: Path
    """Parent of the profiles' folders, the same for every profile of a user or machine."""

    def make(self) -> None:
        """Create config, state, cache, run and log folders, 0700. Mounts and stores are made
        when they are needed."""
        for folder in (self.config, self.state, self.cache, self.run, self.logs):
            make_private(folder)

    @property
    def logs(self) -> Path:
        return self.state / "log"

    @property
    def supervisor_socket(self) -> Path:
        return self.socket_path("supervisor.sock")

    def worker_socket(self, name: str, snapshot: str = "") -> Path:
        """Control socket of the worker that serves a pipe, or one of its snapshots."""
        return self.socket_path(f"worker-{name}{'@' + snapshot if snapshot else ''}.sock")

    def pipe_state(self, name: str) -> Path:
        """Durable local state of one pipe (not created here)."""
        return self.state / "pipes" / name

    def mountpoint(self, name: str) -> Path:
        """Where `pipefs mount NAME` mounts when nothing else was said."""
        return self.mounts / name

    def embedded_store(self, name: str) -> Path:
        return self.stores / name

    def socket_path(self, filename: str) -> Path:
        """`run/filename`, or a short private folder under /tmp when that is too long to bind.

        The answer depends on the home only, never on TMPDIR or the session, so that a client
        started by cron finds the daemon started from a desktop.
        """
        path = self.run / filename
        if _fits(path):
            return path
        digest = hashlib.sha256(os.fsencode(self.run)).hexdigest()[:12]
        # Fixed on purpose: see above. Ownership and mode are checked before use.
        folder = Path("/tmp") / f"pipefs-{os.geteuid()}-{digest}"
        make_private(folder)
        path = folder / filename
        if not _fits(path):
            short = hashlib.sha256(filename.encode()).hexdigest()[:16]
            path = folder / f"worker-{short}.sock"
        return path


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= SOCKET_PATH_LIMIT_BYTES


def make_private(folder: Path) -> Path:
    """Create a folder (and its parents) with mode 0700, or check that an existing one is ours.

    Raises:
        Refused: it exists and is a link, no folder, or belongs to somebody else.
    """
    if not folder.is_dir():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700)
        except FileExistsError:
            pass  # Another process made it meanwhile; checked below like any other.
        except PermissionError as e:
            raise Refused(
                f"{folder} may not be made by you (uid {os.geteuid()})",
                hint="The machine's pipes (--system) are root's; yours need no --system",
            ) from e
    info = folder.lstat()
    if stat.S_ISLNK(info.st_mode):
        # A link of our own (say, state on another disk) is fine; anybody else's is a trap.
        owned_link = info.st_uid == os.geteuid()
        try:
            info = folder.stat() if owned_link else info
        except FileNotFoundError:
            raise Refused(
                f"{folder} leads to {os.readlink(folder)}, which is not there",
                hint="Plug in or mount the disk that it is on; see also: pipefs doctor",
            ) from None
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
        raise Refused(
            f"{folder} is not a folder of yours (owner uid {info.st_uid}, you are {os.geteuid()})",
            hint="Remove it or run as its owner; system-wide pipes: pipefs --system (as root)",
        )
    if stat.S_IMODE(info.st_mode) & 0o077:
        folder.chmod(0o700)
    return folder


def check_name(name: str, what: str = "pipe") -> str:
    """`name` if it may name a pipe or profile, else `UsageError` that states the rule."""
    if not NAME_RE.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name a {what}",
            hint="A name starts with a letter or digit and has letters, digits, '.', '_', '-', "
            "at most 63",
        )
    return name


def resolve_home(
    *,
    system: bool = False,
    profile: str | None = None,
    config_file: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] = os.environ,
) -> Home:
    """The folders to use; creates nothing.

    Raises:
        Refused: `PIPEFS_HOME` lies inside a pipefs mount.
        UsageError: `PIPEFS_HOME` is relative, or the profile's name is not allowed.
    """
    name = check_name(profile, "profile") if profile else ""
    single = env.get("PIPEFS_HOME", "")
    if single:
        base = _single_home(single, env)
    elif system:
        base = _system_home()
    else:
        base = _user_home(env)
    file = Path(config_file).absolute() if config_file else base.config_file
    if not name:
        return _replace(base, config_file=file)
    return _replace(
        base,
        config_file=file,
        profile=name,
        config=base.profiles / name,
        state=base.state / "profiles" / name,
        run=base.run / "profiles" / name,
        # "@" cannot begin a pipe's name, so a profile never shares a store with a pipe.
        stores=base.stores / f"@{name}",
    )


def _replace(home: Home, **changes: object) -> Home:
    from dataclasses import replace

    return replace(home, **changes)  # type: ignore[arg-type]  # names and types are ours, above


def _single_home(text: str, env: Mapping[str, str]) -> Home:
    expanded = text
    if text == "~" or text.startswith("~/"):
        expanded = env.get("HOME", str(Path.home())) + text[1:]
    if not os.path.isabs(expanded):
        raise UsageError(
            f"PIPEFS_HOME={text} is not an absolute path", hint=f"export PIPEFS_HOME=$PWD/{text}"
        )
    # By name first: resolving links of a path inside a dead mount would already hang.
    plain = os.path.normpath(expanded)
    inside = pipefs_mount_of(plain)
    base = Path(plain) if inside else Path(os.path.realpath(plain))
    inside = inside or pipefs_mount_of(str(base))
    if inside is not None:
        raise Refused(
            f"PIPEFS_HOME={text} lies inside the pipefs mount {inside.path}: "
            "the daemon would wait for itself",
            hint="Point PIPEFS_HOME at a folder on a local disk",
        )
    return Home(
        kind="single",
        profile="",
        config=base / "config",
        config_file=base / "config" / "config.toml",
        state=base / "state",
        cache=base / "cache",
        run=base / "run",
        mounts=base / "mnt",
        stores=base / "stores",
        profiles=base / "config" / "profiles",
    )


def _system_home() -> Home:
    config = Path("/etc/pipefs")
    return Home(
        kind="system",
        profile="",
        config=config,
        config_file=config / "config.toml",
        state=Path("/var/lib/pipefs"),
        cache=Path("/var/cache/pipefs"),
        run=Path("/run/pipefs"),
        mounts=Path("/srv/pipes"),
        stores=Path("/var/lib/pipefs/stores"),
        profiles=config / "profiles",
    )


def _user_home(env: Mapping[str, str]) -> Home:
    user = Path(env.get("HOME") or Path.home())

    def xdg(variable: str, default: str) -> Path:
        value = env.get(variable, "")
        # The XDG rules: a relative path is invalid and ignored.
        return (Path(value) if os.path.isabs(value) else user / default) / "pipefs"

    config, state = xdg("XDG_CONFIG_HOME", ".config"), xdg("XDG_STATE_HOME", ".local/state")
    runtime = env.get("XDG_RUNTIME_DIR", "") or f"/run/user/{os.geteuid()}"
    usable = os.path.isabs(runtime) and os.path.isdir(runtime) and os.access(runtime, os.W_OK)
    return Home(
        kind="user",
        profile="",
        config=config,
        config_file=config / "config.toml",
        state=state,
        cache=xdg("XDG_CACHE_HOME", ".cache"),
        run=Path(runtime) / "pipefs" if usable else state / "run",
        mounts=user / "pipes",
        stores=xdg("XDG_DATA_HOME", ".local/share") / "stores",
        profiles=config / "profiles",
    )
