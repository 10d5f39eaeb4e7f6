"""Which folder a pipe has on this machine, where nothing else was said."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from pipefs.home import Home
from pipefs.registry import Pipe


def folder_of(home: Home, pipe: Pipe) -> Path:
    """The profile's folder for a pipe: `<data>/pipes/NAME`. Its setting `dir` names a folder in
    there, or, as an absolute path, another one. Made when it is needed."""
    # An absolute one was set on this machine: `config.travels` lets none come from a bucket.
    inside = os.path.normpath(os.path.expanduser(pipe.settings.dir or "."))
    return pipes_folder(home) / pipe.name / inside


def pipes_folder(home: Home) -> Path:
    """Where the folders of the profile's pipes are."""
    data = home.stores.parent.parent if home.profile else home.stores.parent
    # "@" cannot begin a pipe's name, so a profile never shares a folder with a pipe.
    return data / "pipes" / f"@{home.profile}" if home.profile else data / "pipes"


def command_for(home: Home, pipe: Pipe, folder: str, verb: str, path: str = "") -> str:
    """A command about this pipe and folder, or a file in it, as the user types it."""
    profile = f" --profile {shlex.quote(home.profile)}" if home.profile else ""
    system = " --system" if home.kind == "system" else ""
    return f"pipefs{profile}{system} {verb} {words_for(home, pipe, folder, path)}"


def words_for(home: Home, pipe: Pipe, folder: str, path: str = "") -> str:
    """The pipe's name, or a path in it, as words of a command line that mean this folder."""
    name = shlex.quote(f"{pipe.name}/{path}" if path else pipe.name)
    if os.path.realpath(folder_of(home, pipe)) == os.path.realpath(folder):
        return name
    return f"{name} --dest {shlex.quote(folder)}"
