"""Pipes and profiles of this user or machine: which pipes there are, where, with which settings.

Each pipe is `config/pipes/NAME.toml`; its settings are layered (later wins): defaults, the main
configuration file, the profile, the parent pipe, the pipe itself. Every change is atomic and
durable. Never asks the network, except `remote_pipes` and `Pipe.open_store`; credentials of single
pipes are in `pipefs.credentials`.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
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
from pipefs.credentials import Vault
from pipefs.errors import (
    AlreadyExists,
    Corrupt,
    NewerFormat,
    NotFound,
    PipefsError,
    Refused,
    StoreError,
    UsageError,
)
from pipefs.home import Home, check_name, make_private
from pipefs.profiles import profile_names, read_profile, write_profile
from pipefs.registered import PATIENCE_S, Pipe, open_store_for
from pipefs.tomlfile import read_toml, sync_folder, write_toml
from pipefs.types import Credentials
from pipefs.units import utc_text

if TYPE_CHECKING:
    from pipefs.descriptor import PipeDescriptor

__all__ = [
    "PATIENCE_S",
    "Pipe",
    "Registry",
    "RemotePipe",
    "open_store_for",
    "profile_names",
    "read_profile",
    "write_profile",
]

FORMAT = 1

_NOT_INHERITED = frozenset({"mountpoint", "automount", "parent", "root"})
"""Settings that make no sense twice, so a child pipe does not take them from its parent."""


@dataclass(frozen=True, slots=True)
class RemotePipe:
    """A pipe found below a root; `name` is its folder's name."""

    name: str
    url: str
    descriptor: PipeDescriptor


# `Registry.list` hides the builtin inside its class, for mypy.
Pipes = list[Pipe]
Names = list[str]
RemotePipes = list[RemotePipe]
Problems = list[PipefsError]
Layers = list[Mapping[str, object]]


class Registry:
    """The pipes of one home (with `--profile P`: of that profile)."""

    def __init__(
        self,
        home: Home,
        config: Config | None = None,
        *,
        on_get: Callable[[str], object] = lambda _: None,
    ) -> None:
        """Reads the main configuration file unless it is given. `on_get` is told every name that
        is looked up."""
        self.home = home
        self._on_get = on_get
        self._folder = home.config / "pipes"
        self.vault = Vault(home)
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
        self._on_get(name)
        settings = self.settings_for(name, options, url)
        kept = partial(self.credentials_for, name, options)
        return Pipe(name, url, pipe_id, created, options, settings, kept)

    def settings_for(self, name: str, options: Mapping[str, object], url: str = "") -> Settings:
        """What a pipe with these options would have at `url`, all layers resolved."""
        return resolve_settings(*self._layers(name, options, url))

    def children(self, name: str) -> Names:
        """Pipes that have this one as their parent, by name."""
        found = []
        for other in self.names():
            with contextlib.suppress(PipefsError):
                if self._read(other)[3].get("parent") == name:
                    found.append(other)
        return found

    def credentials_for(self, name: str, options: Mapping[str, object]) -> Credentials | None:
        """What is stored for a pipe with these options, or else for the next of its parents."""
        for owner in (name, *self._parents(name, options)):
            if found := self.vault.get(owner):
                return found
        return None

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
        """Forget a pipe. Neither its store nor its local state is touched.

        Raises:
            Refused: other pipes inherit from it.
        """
        with self._locked():
            self._read(name)
            self.refuse_parent(name)
            self._file(name).unlink()
            sync_folder(self._folder)

    def refuse_parent(self, name: str) -> None:
        """`Refused` where other pipes inherit from this one."""
        children = self.children(name)
        if children:
            raise Refused(
                f'"{name}" is the parent of {", ".join(children)}, which would lose its settings',
                hint=f"First: pipefs remove {children[0]}, or give it another parent: "
                f"pipefs set {children[0]} parent=",
            )

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

    def _layers(self, name: str, options: Mapping[str, object], url: str) -> Layers:
        """Options from the weakest to the strongest."""
        chain: Layers = [options]
        for parent, inherited in self._parents(name, options).items():
            taken = {k: v for k, v in inherited.items() if k not in _NOT_INHERITED}
            if os.path.isabs(str(taken.get("dir", ""))):
                # Two pipes never share a folder. A child below its parent's prefix has the same
                # place below its parent's folder, so there the two agree about each file.
                below = url.removeprefix(f"{self._read(parent)[0]}/")
                del taken["dir"]
                if below and below != url:
                    taken["dir"] = os.path.join(str(inherited["dir"]), below)
            chain.append(taken)
        return [self._config.defaults, self.profile_options(), *reversed(chain)]

    def _parents(
        self, name: str, options: Mapping[str, object]
    ) -> Mapping[str, Mapping[str, object]]:
        """Parent, its parent, …, and the options of each."""
        found: dict[str, Mapping[str, object]] = {}
        parent = options.get("parent")
        while parent:
            if not isinstance(parent, str) or parent in found or parent == name:
                raise UsageError(
                    f"{name}: parent={parent} goes round in a circle",
                    hint=f"pipefs set {name} parent=",
                )
            found[parent] = self._read(parent)[3]
            parent = found[parent].get("parent")
        return found

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

    def new_url(self, name: str, parent: str = "") -> str:
        """Where `create NAME` without a URL puts a pipe: below its parent's prefix, else ROOT/NAME,
        or an embedded store. (Embedded stores do not lie inside each other.)"""
        check_name(name)
        above = self._read(parent)[0] if parent else ""
        if above.startswith("s3://"):
            return f"{above}/{name}"
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

        def look(folder: str, raw: Callable[[str], bytes]) -> RemotePipe | PipefsError | None:
            try:
                found = decode_descriptor(raw(f"{folder}/{PIPE_KEY}"), f"{settings.root}/{folder}")
            except (NotFound, FileNotFoundError, NotADirectoryError):
                return None  # An ordinary folder.
            except PipefsError as e:
                return e
            except OSError as e:
                return PipefsError(f"{settings.root}/{folder}: {e.strerror}")
            return RemotePipe(folder, f"{settings.root}/{folder}", found)

        if settings.root.startswith("file:"):
            above = _folder_of(settings.root)
            names = sorted(os.listdir(above))
            found = [look(n, lambda key: (above / key).read_bytes()[: 1 << 20]) for n in names]
        else:
            store = open_store_for(settings.root, settings, patience_s=PATIENCE_S)
            try:
                # 16: one small GET each; the threads end with this call.
                with ThreadPoolExecutor(16) as pool:
                    get = partial(store.get, version_id=None, start=0, length=1 << 20)
                    found = list(pool.map(lambda n: look(n, get), sorted(store.list_dirs(""))))
            finally:
                store.close()
        if problems is not None:
            problems.extend(item for item in found if isinstance(item, PipefsError))
        return [item for item in found if isinstance(item, RemotePipe)]


def _folder_of(root: str) -> Path:
    """The folder of stores that a `file:` root is; no store itself, so none is made there.

    Raises:
        StoreError: it is not there.
    """
    from pipefs.stores.opening import parse_file_url

    folder = Path(parse_file_url(root))
    if not folder.is_dir():
        raise StoreError(
            f"the root {folder} is not there",
            hint="Plug in or mount the disk that it is on; of a new root the first create makes it",
        )
    return folder


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
