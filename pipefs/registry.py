"""Pipes and profiles of this user or machine: which pipes there are, where, with which settings.

Each pipe is `config/pipes/NAME.toml`; its settings are layered (later wins): defaults, the main
configuration file, the profile, the parent pipe, the pipe itself. Every change is atomic and
durable. Never asks the network, except `remote_pipes` and `Pipe.open_store`; never holds
credentials.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipefs.config import (
    SPECS,
    Config,
    Settings,
    check_options,
    load_config,
    resolve_settings,
)
from pipefs.errors import (
    AlreadyExists,
    Corrupt,
    NewerFormat,
    NotFound,
    PipefsError,
    UsageError,
)
from pipefs.home import Home, check_name, make_private
from pipefs.tomlfile import read_toml, sync_folder, write_toml
from pipefs.units import utc_text

if TYPE_CHECKING:
    from pipefs.descriptor import PipeDescriptor
    from pipefs.stores.base import Store

FORMAT = 1

_NOT_INHERITED = frozenset({"mountpoint", "automount", "parent", "root"})
"""Settings that make no sense twice, so a child pipe does not take them from its parent."""


@dataclass(frozen=True, slots=True)
class Pipe:
    """One registered pipe."""

    name: str
    url: str
    pipe_id: str
    created: str = ""
    """UTC with Z: when it was registered here."""
    options: Mapping[str, object] = field(default_factory=dict)
    """What was set for this pipe, as TOML keeps it."""
    settings: Settings = field(default_factory=Settings)
    """All layers resolved."""

    def open_store(self, *, patience_s: float | None = None) -> Store:
        """The pipe's store, with its settings. The caller closes it.

        Args:
            patience_s: how long an operation is tried while the store does not answer; None is
                the store's own bound, right for a daemon.
        """
        return open_store_for(self.url, self.settings, patience_s=patience_s)


@dataclass(frozen=True, slots=True)
class RemotePipe:
    """A pipe found below a root; `name` is its folder's name."""

    name: str
    url: str
    descriptor: PipeDescriptor


# `Registry.list` hides the builtin inside its class, for mypy.
Pipes = list[Pipe]
RemotePipes = list[RemotePipe]
Problems = list[PipefsError]
Layers = list[Mapping[str, object]]


PATIENCE_S = 10.0
"""For a command somebody waits for: longer than a hiccup, shorter than a coffee."""


def open_store_for(url: str, settings: Settings, *, patience_s: float | None = None) -> Store:
    """The store of a URL; see `Pipe.open_store`."""
    # Here: boto3 takes 0.4 s to import, and `pipefs list` needs no store.
    from pipefs.stores.opening import open_store
    from pipefs.stores.retrying import RetryPolicy

    return open_store(
        url,
        endpoint_url=settings.endpoint_url,
        region=settings.region,
        profile=settings.aws_profile,
        addressing=settings.addressing,
        engine=settings.engine,
        checksum=settings.checksum,
        storage_class=settings.storage_class,
        sse=settings.sse,
        kms_key=settings.kms_key,
        requester_pays=settings.requester_pays,
        policy=None if patience_s is None else RetryPolicy(deadline_s=patience_s),
    )


class Registry:
    """The pipes of one home (with `--profile P`: of that profile)."""

    def __init__(self, home: Home, config: Config | None = None) -> None:
        """Reads the main configuration file unless it is given."""
        self.home = home
        self._folder = home.config / "pipes"
        self._config = load_config(home.config_file) if config is None else config

    # --- pipes --------------------------------------------------------------------------------

    def names(self) -> list[str]:
        try:
            found = os.listdir(self._folder)
        except FileNotFoundError:
            return []
        return sorted(n[:-5] for n in found if n.endswith(".toml") and not n.startswith("."))

    def list(self, problems: Problems | None = None) -> Pipes:
        """All pipes by name. A file that cannot be read raises, or is put into `problems` so
        that one bad file does not hide the others."""
        pipes = []
        for name in self.names():
            try:
                pipes.append(self.get(name))
            except PipefsError as e:
                if problems is None:
                    raise
                problems.append(e)
        return pipes

    def get(self, name: str) -> Pipe:
        """Raises `NotFound` with near names, `NewerFormat`, `UsageError` for a bad file."""
        url, pipe_id, created, options = self._read(name)
        settings = self.settings_for(name, options)
        return Pipe(name, url, pipe_id, created, options, settings)

    def settings_for(self, name: str, options: Mapping[str, object]) -> Settings:
        """What a pipe with these options would have, all layers resolved."""
        return resolve_settings(*self._layers(name, options))

    def add(self, name: str, url: str, pipe_id: str, options: Mapping[str, object]) -> Pipe:
        """Register a pipe. `AlreadyExists` when the name is taken."""
        check_name(name)
        checked = check_options(options)
        _refuse_root(checked)
        self.settings_for(name, checked)
        self.home.make()
        make_private(self._folder)
        content = _content(url, pipe_id, utc_text(time.time_ns()), checked)
        try:
            write_toml(self._file(name), content, exclusive=True)
        except FileExistsError:
            raise self.taken(name) from None
        return self.get(name)

    def taken(self, name: str) -> AlreadyExists:
        """The error for a name that is in use."""
        try:
            where = f" ({self._read(name)[0]})"
        except PipefsError:
            where = ""
        return AlreadyExists(
            f'there is a pipe "{name}" already{where}',
            hint=f"Choose another name, or forget that one first: pipefs remove {name}",
        )

    def update(
        self, name: str, changes: Mapping[str, object], *, unset: tuple[str, ...] = ()
    ) -> Pipe:
        """Change settings; `unset` keys go back to the layer below."""
        checked = check_options(changes)
        _refuse_root(checked)
        with self._locked():
            url, pipe_id, created, options = self._read(name)
            merged = {k: v for k, v in {**options, **checked}.items() if k not in unset}
            self.settings_for(name, merged)
            write_toml(self._file(name), _content(url, pipe_id, created, merged))
        return self.get(name)

    def remove(self, name: str) -> None:
        """Forget a pipe. Neither its store nor its local state is touched."""
        with self._locked():
            self._read(name)
            self._file(name).unlink()
            sync_folder(self._folder)

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.toml"

    def _read(self, name: str) -> tuple[str, str, str, dict[str, object]]:
        check_name(name)
        file = self._file(name)
        content = read_toml(file)
        if not content:
            if file.exists():
                raise Corrupt(f"{file} is empty", hint=f"Delete it, then pipefs create {name} URL")
            raise self._unknown(name)
        found = content.get("format", FORMAT)
        if isinstance(found, int) and found > FORMAT:
            raise NewerFormat(
                f"{file} was written by a newer pipefs (format {found}; this one knows {FORMAT})",
                hint="Upgrade: pip install -U pipefs",
            )
        url, pipe_id = content.get("url"), content.get("pipe_id", "")
        created, options = content.get("created", ""), content.get("settings", {})
        if not (isinstance(url, str) and url and isinstance(pipe_id, str)):
            raise UsageError(f"{file} names no url", hint='It needs a line url = "s3://…"')
        if not isinstance(options, dict):
            raise UsageError(f"{file}: settings is not a table", hint="Write it as [settings]")
        return url, pipe_id, str(created), check_options(options, where=str(file))

    def _unknown(self, name: str) -> NotFound:
        near = difflib.get_close_matches(name, self.names(), n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
        profile = f' in profile "{self.home.profile}"' if self.home.profile else ""
        return NotFound(
            f'there is no pipe "{name}"{profile}',
            hint=f"{hint}All pipes: pipefs list · a new one: pipefs create {name}",
        )

    def _layers(self, name: str, options: Mapping[str, object]) -> Layers:
        """Options from the weakest to the strongest."""
        chain: Layers = [options]
        seen, parent = {name}, options.get("parent")
        while parent:
            if not isinstance(parent, str) or parent in seen:
                raise UsageError(
                    f"{name}: parent={parent} goes round in a circle",
                    hint=f"pipefs set {name} parent=",
                )
            seen.add(parent)
            inherited = self._read(parent)[3]
            parent = inherited.get("parent")
            chain.append({k: v for k, v in inherited.items() if k not in _NOT_INHERITED})
        return [self._config.defaults, self.profile_options(), *reversed(chain)]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time: `update` reads, changes and writes."""
        self.home.make()
        make_private(self._folder)
        fd = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    # --- profiles -----------------------------------------------------------------------------

    def profile_options(self) -> dict[str, object]:
        """What the home's profile sets for its pipes; {} for the default profile."""
        if not self.home.profile:
            return {}
        return read_profile(self.home.config)

    def defaults(self) -> Settings:
        """Settings of a pipe that sets nothing itself; `root` is where new pipes go."""
        return resolve_settings(self._config.defaults, self.profile_options())

    def new_url(self, name: str) -> str:
        """Where `create NAME` without a URL puts a pipe: ROOT/NAME, or an embedded store."""
        check_name(name)
        root = self.defaults().root
        return f"{root}/{name}" if root else self.home.embedded_store(name).as_uri()

    def remote_pipes(self, problems: Problems | None = None) -> RemotePipes:
        """Pipes below the root, by folder name.

        Raises:
            UsageError: there is no root.
        """
        from pipefs.descriptor import PIPE_KEY, decode_descriptor

        settings = self.defaults()
        if not settings.root:
            raise UsageError(
                "there is no root to look in",
                hint="pipefs profile create team -o root=s3://bucket/pipes, "
                "then pipefs --profile team list --remote",
            )
        store = open_store_for(settings.root, settings, patience_s=PATIENCE_S)

        def look(folder: str) -> RemotePipe | PipefsError | None:
            key = f"{folder}/{PIPE_KEY}"
            try:
                raw = store.get(key, None, 0, 1 << 20)
                found = decode_descriptor(raw, f"{settings.root}/{key}")
            except NotFound:
                return None  # An ordinary folder.
            except PipefsError as e:
                return e
            return RemotePipe(folder, f"{settings.root}/{folder}", found)

        try:
            # 16: one small GET each; the threads end with this call.
            with ThreadPoolExecutor(16) as pool:
                found = list(pool.map(look, sorted(store.list_dirs(""))))
        finally:
            store.close()
        if problems is not None:
            problems.extend(item for item in found if isinstance(item, PipefsError))
        return [item for item in found if isinstance(item, RemotePipe)]


def _refuse_root(options: Mapping[str, object]) -> None:
    if "root" in options:
        raise UsageError(
            "root belongs to a profile, not to a pipe",
            hint=f"pipefs profile create NAME -o root={options['root']}",
        )


def _content(
    url: str, pipe_id: str, created: str, options: Mapping[str, object]
) -> dict[str, object]:
    return {
        "format": FORMAT,
        "url": url,
        "pipe_id": pipe_id,
        "created": created,
        "settings": {key: options[key] for key in SPECS if key in options},
    }


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
