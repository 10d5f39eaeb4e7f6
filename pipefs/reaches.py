"""The pipes that a process reaches, by their names: of the registry, or as it was told.

A `Reach` is shared by all that mean the same pipe in a process: its store, its connections and what
it has read are not made twice.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipefs.config import SPECS, check_options, load_config, resolve_settings
from pipefs.errors import PipefsError, UsageError
from pipefs.home import Home, check_name, resolve_home
from pipefs.reaching import Reach
from pipefs.registry import Pipe, Registry

_LOOKED_S = 1.0
"""For so long a pipe's entry in the registry is not read again."""

_PLACES = ("PIPEFS_HOME", "HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME")

_SHARED: dict[tuple[object, ...], Reach] = {}
_SHARED_LOCK = threading.Lock()  # protects _SHARED and _PID
_PID = os.getpid()


class Reaches:
    """
    Args:
        profile, system: whose registry.
        given: pipes that are not looked up: NAME → URL, or a mapping with `url`, `pipe_id` and
            settings.
        snapshots: NAME@SNAP → what is meant by it (`Reach.meant`).
        hints: NAME@SNAP → (URL of the pipe, what was meant by it when its URL was read): right if
            the name stands for that pipe.
    """

    def __init__(
        self,
        profile: str,
        system: bool,
        given: Mapping[str, Any],
        snapshots: Mapping[str, str],
        hints: Mapping[str, Sequence[str]],
    ) -> None:
        # As the command line takes it.
        self._profile = profile or os.environ.get("PIPEFS_PROFILE", "")
        self._system = system
        self._given = {name: _given(name, what) for name, what in given.items()}
        self._snapshots = dict(snapshots)
        self._hints = dict(hints)
        self._used: set[tuple[str, str]] = set()
        self._home: tuple[tuple[str | None, ...], Home, float] | None = None
        self._found: dict[str, tuple[tuple[Home, int], Reach, float]] = {}

    def home(self) -> Home:
        """Where this user's pipes and caches are. Looked up anew each second: a test, or a
        notebook, may set the environment."""
        said = tuple(map(os.environ.get, _PLACES))
        kept = self._home
        if kept is None or kept[0] != said or time.monotonic() >= kept[2]:
            home = resolve_home(system=self._system, profile=self._profile or None)
            kept = self._home = said, home, time.monotonic() + _LOOKED_S
        return kept[1]

    def get(self, name: str) -> Reach:
        """
        Raises:
            NotFound: no such pipe. UsageError: no pipe's name.
        """
        check_name(name)
        home = self.home()
        found, here = self._found.get(name), (home, os.getpid())
        if found is not None and found[0] == here and time.monotonic() < found[2]:
            return found[1]
        reach = _shared(home, self._pipe(home, name))
        self._found[name] = here, reach, time.monotonic() + _LOOKED_S
        return reach

    def _pipe(self, home: Home, name: str) -> Pipe:
        pipe = self._given.get(name)
        if pipe is None:
            return self._registry(home).get(name)
        # Credentials never travel; but if this machine keeps some for the pipe, they are right.
        with contextlib.suppress(PipefsError, OSError):
            here = self._registry(home).get(name)
            if here.url == pipe.url:
                return replace(pipe, kept=here.kept)
        return pipe

    def names(self) -> list[str]:
        """All pipes that can be named."""
        return sorted({*self._given, *self._registry(self.home()).names()})

    def place(self, name: str, snapshot: str | None) -> tuple[Reach, str | None]:
        """A pipe, and what is meant by a snapshot of it. Errors as `get`."""
        reach = self.get(name)
        if snapshot is None:
            return reach, None
        key = f"{name}@{snapshot}"
        url, hint = self._hints.get(key, ("", ""))
        if key not in self._snapshots and url == reach.pipe.url:
            self._snapshots[key] = hint
        self._used.add((name, snapshot))
        return reach, self._snapshots.get(key, snapshot)

    def known(self) -> tuple[dict[str, Any], dict[str, str]]:
        """What another process needs for the pipes and snapshots used so far: `given` and
        `snapshots`."""
        snapshots = dict(self._snapshots)
        for name, snapshot in self._used:
            reach, meant = self.place(name, snapshot)
            snapshots[f"{name}@{snapshot}"] = reach.meant(meant or snapshot)
        return {name: self.get(name).known() for name in {*self._found, *self._given}}, snapshots

    @staticmethod
    def _registry(home: Home) -> Registry:
        return Registry(home, load_config(home.config_file))


def _given(name: str, what: Any) -> Pipe:
    said: dict[str, Any] = {"url": what} if isinstance(what, str) else dict(what)
    url, pipe_id = said.pop("url", None), said.pop("pipe_id", "")
    if not isinstance(url, str):
        raise UsageError(f"nothing says where {name} is", hint='Its place: {"url": "s3://…"}')
    options = check_options(said, known=SPECS)
    return Pipe(name, url, str(pipe_id), options=options, settings=resolve_settings(options))


def _shared(home: Home, pipe: Pipe) -> Reach:
    global _PID
    key = (home, pipe.name, pipe.url, pipe.pipe_id, repr(pipe.settings))
    with _SHARED_LOCK:
        if os.getpid() != _PID:
            _SHARED.clear()  # of the process that was forked, threads and connections and all
            _PID = os.getpid()
        if key not in _SHARED:
            _SHARED[key] = Reach(home, pipe)
        return _SHARED[key]
