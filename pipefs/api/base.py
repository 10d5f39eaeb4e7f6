"""What every part of `Pipe` stands on: which pipe, in which home, and how it is reached.

Opens nothing and asks nobody until it is used. A mount of the pipe on this machine is looked for
each time, so a `Pipe` that lives for days in a notebook may see it come and go.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pipefs.beside import Beside
from pipefs.config import SPECS, travelling
from pipefs.errors import ReadOnly, TimedOut, UsageError
from pipefs.folder.places import folder_of
from pipefs.home import Home, resolve_home
from pipefs.publishing import Publisher
from pipefs.reaching import Reach
from pipefs.registry import PATIENCE_S, Registry
from pipefs.registry import Pipe as Registered
from pipefs.replica import Replica
from pipefs.replicated import Now
from pipefs.sending import Progress
from pipefs.target import split_snapshot

if TYPE_CHECKING:
    from pipefs.api.transactions import Transaction
    from pipefs.protocol import MountItem
    from pipefs.types import Credentials

Mode = Literal["default", "new", "mod", "all"]
"""Which files `pull` and `push` take: new and changed ones, only new, only changed, or all."""

SORTS = {
    "filename": "name",
    "name": "name",
    "mod": "mod",
    "modified_at": "mod",
    "size": "size",
}
"""Words for an order, d6tpipe's among them."""


class Base:
    """Which pipe it is, and its settings."""

    def __init__(
        self,
        name: str,
        mode: Mode = "default",
        sortby: str = "filename",
        *,
        profile: str | None = None,
        offline: bool = False,
        snapshot: str | None = None,
        locked: bool = False,
        credentials: Mapping[str, object] | Credentials | None = None,
        system: bool = False,
    ) -> None:
        name, at = split_snapshot(name)
        if at is not None and snapshot is not None:
            raise UsageError(f"two snapshots: @{at} and {snapshot!r}", hint="Name one of them")
        chosen = profile if profile is not None else os.environ.get("PIPEFS_PROFILE")
        self._home: Home = resolve_home(system=system, profile=chosen or None)
        self._registry = Registry(self._home)
        self._registered: Registered = self._registry.get(name)
        self._given = (profile, system)
        self._credentials = _parsed(credentials)
        self._reached: tuple[int, Reach] | None = None
        self._beside = Beside(self._home, name)
        self._transaction: Transaction | None = None
        self._lock = threading.RLock()  # the one above, while a `with pipe.transaction()` runs
        self.name = name
        self.offline = offline
        """Whether the store is left alone: what this machine knows, and files that are here."""
        self.snapshot_name = at or snapshot
        """The snapshot that everything is read from; None: the present."""
        if locked:
            self.snapshot_name = self._pinned()
        self.sortby = sortby
        self.setmode(mode)

    def __repr__(self) -> str:
        at = f"@{self.snapshot_name}" if self.snapshot_name else ""
        return f"Pipe({self.name + at!r}) at {self.url}"

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process: the same pipe and snapshot. Credentials that were given do not go
        along; the other one finds its own."""
        profile, system = self._given
        how = {"profile": profile, "system": system, "snapshot": self.snapshot_name}
        how["offline"] = self.offline
        return partial(type(self), **how), (self.name, self.mode, self.sortby)  # type: ignore[arg-type]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of connections. Not needed at the end of a program; the pipe can be used on."""
        if self._reached is not None:
            self._replica.close()

    def _pinned(self) -> str:
        from pipefs import lockfile

        pin = lockfile.pin_of(self.name)
        lockfile.check_same_pipe(self.name, pin, self.url, self._registered.pipe_id)
        return pin.snapshot

    # --- what it is ---------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Of its store: `s3://bucket/prefix` or `file:///folder`."""
        return self._registered.url

    @property
    def mode(self) -> Mode:
        """What `pull` and `push` take where a call does not say: see `setmode`."""
        return self._mode

    def setmode(self, mode: Mode) -> None:
        """Choose what `pull` and `push` take: `default` (new and changed files), `new`, `mod`
        (only changed ones) or `all`, whatever is on the other side.

        >>> pipe.setmode("new")
        >>> pipe.mode
        'new'
        """
        if mode not in ("default", "new", "mod", "all"):
            raise UsageError(f"there is no mode {mode!r}", hint="default, new, mod or all")
        self._mode: Mode = mode

    @property
    def dirpath(self) -> Path:
        """The folder on this machine that has the pipe's files: its mount, where it is mounted;
        else the profile's folder for it, which `pull` fills and `push` reads. Made if need be.

        >>> (pipe.dirpath / "new.txt").write_text("hello")
        5
        """
        mount = self._mount()
        if mount is not None:
            return Path(mount.path)
        folder = folder_of(self._home, self._registered)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def dir(self) -> str:
        """`dirpath` as text, with a slash at its end."""
        return f"{self.dirpath}{os.sep}"

    @property
    def is_mounted(self) -> bool:
        """Whether a mount on this machine shows it now."""
        return self._mount() is not None

    def _mount(self) -> MountItem | None:
        return self._beside.mount()

    # --- settings -----------------------------------------------------------------------------

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting with the value that counts, by the names of `pipefs set`.

        >>> pipe.settings["read_only"]
        False
        """
        found = self._registered.settings
        return {key: getattr(found, spec.field) for key, spec in SPECS.items()}

    def update_settings(self, changes: Mapping[str, object]) -> dict[str, Any]:
        """Change some settings, as `pipefs set` does; None as a value goes back to the default.
        Those that belong to the pipe (`schema`, `include`, `exclude`, …) are written to its bucket,
        so other machines adopt them. Returns all settings.

        Raises:
            UsageError: no such setting, or no such value; nothing was changed.

        >>> pipe.update_settings({"schema": {"pandas": {"sep": ";"}}})["schema"]
        {'pandas': {'sep': ';'}}
        """
        from pipefs.descriptor import update_descriptor

        unset = tuple(key for key, value in changes.items() if value is None)
        given = {key: value for key, value in changes.items() if value is not None}
        pipe = self._registry.get(self.name)
        merged = {k: v for k, v in {**pipe.options, **given}.items() if k not in unset}
        self._registry.settings_for(self.name, merged)
        # The bucket first: if it refuses, this machine and the others still agree.
        if travelling(merged) != travelling(dict(pipe.options)):
            update_descriptor(self._replica.store, merged)
        self._take(self._registry.update(self.name, given, unset=unset))
        return self.settings

    def _take(self, pipe: Registered) -> None:
        self._registered = pipe
        self._reach.pipe = self._replica.pipe = pipe

    @property
    def schema(self) -> Mapping[str, Any]:
        """How to read its files, for `read` and for you: free JSON, such as
        `{"pandas": {"sep": ";"}}`. Assign to change it for everybody.

        >>> pipe.schema = {"pandas": {"sep": ";", "decimal": ","}}
        >>> pipe.schema["pandas"]["sep"]
        ';'
        """
        return self._registered.settings.schema

    @schema.setter
    def schema(self, value: Mapping[str, Any]) -> None:
        self.update_settings({"schema": dict(value)})

    # --- reaching it --------------------------------------------------------------------------

    @property
    def replica(self) -> Replica:
        """The copy of the pipe's tree that everything here looks at."""
        return self._reach.replica

    _replica = replica

    @property
    def _reach(self) -> Reach:
        """Connections and what was read; a forked process has its own."""
        with self._lock:
            if self._reached is None or self._reached[0] != os.getpid():
                made = Reach(self._home, self._registered, credentials=self._credentials)
                self._reached = os.getpid(), made
            return self._reached[1]

    def _publisher(self, progress: Progress = lambda _path, _bytes: None) -> Publisher:
        """To change the pipe.

        Raises:
            ReadOnly: this is a snapshot, or offline.
        """
        if self.snapshot_name is not None:
            raise ReadOnly(
                f"{self.name}@{self.snapshot_name} is a snapshot, which never changes",
                hint=f'The present: Pipe("{self.name}")',
            )
        if self.offline:
            raise ReadOnly(f"{self.name} was opened offline", hint=f'Pipe("{self.name}") can write')
        return Publisher(self._replica, progress=progress)

    def _catch_up(self) -> None:
        """What programs wrote into a mount is in the store; where that takes long, what is there
        counts."""
        if not self.offline:
            with contextlib.suppress(TimedOut):
                self._beside.bring_up(PATIENCE_S)

    @contextlib.contextmanager
    def _present(self, *, cached: bool = True, listing: bool = True) -> Iterator[Now]:
        """The pipe as it is now, with what programs wrote into a mount of it."""
        self._catch_up()
        with self._replica.opened(cached, offline=self.offline, listing=listing) as now:
            yield now


def _parsed(given: Mapping[str, object] | Credentials | None) -> Credentials | None:
    from pipefs.types import Credentials

    if given is None or isinstance(given, Credentials):
        return given
    from pipefs.credentials import parse_credentials

    return parse_credentials(given, "credentials")


def order_of(sortby: str) -> str:
    """name, mod or size. `UsageError` for any other word."""
    if sortby not in SORTS:
        raise UsageError(f"nothing can be sorted by {sortby!r}", hint="name, mod or size")
    return SORTS[sortby]
