"""The plain folder of a pipe, for the commands that work on one."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from pipefs.cli.app import App
from pipefs.errors import TimedOut, UsageError
from pipefs.units import utc_text

if TYPE_CHECKING:
    from pipefs.beside import Beside
    from pipefs.folder.deciding import Folder
    from pipefs.folder.reports import Moved
    from pipefs.home import Home
    from pipefs.protocol import MountItem
    from pipefs.registry import Pipe
    from pipefs.replica import Replica


@dataclass(frozen=True, slots=True)
class Place:
    """A pipe and where its files are to be on this machine."""

    home: Home
    pipe: Pipe
    beside: Beside
    mount: MountItem | None
    """Where it is mounted and no folder was named: there is nothing to move then."""
    dest: str | None

    def opened(self) -> tuple[Replica, Folder]:
        """The pipe's tree and the folder; what programs wrote through a mount is in the store."""
        return open_folder(self.home, self.pipe, self.dest)


def open_folder(home: Home, pipe: Pipe, dest: str | None) -> tuple[Replica, Folder]:
    """The pipe's tree, closed when the command ends, and its folder or `dest`. What programs
    wrote through a mount is in the store."""
    from pipefs.beside import Beside
    from pipefs.folder.deciding import Folder
    from pipefs.folder.places import folder_of
    from pipefs.registry import PATIENCE_S
    from pipefs.replica import Replica

    folder = Folder.at(folder_of(home, pipe) if dest is None else dest)
    with contextlib.suppress(TimedOut):
        Beside(home, pipe.name).bring_up(PATIENCE_S)
    replica = Replica(home, pipe)
    click.get_current_context().call_on_close(replica.close)
    return replica, folder


def place_of(app: App, name: str, dest: str | None) -> Place:
    """A pipe by its name, and its folder or `dest`.

    Raises:
        UsageError: a snapshot, or a file in the pipe. NotFound: no such pipe.
    """
    from pipefs.beside import Beside
    from pipefs.target import split_snapshot

    pipe_name, slash, path = name.partition("/")
    pipe_name, snapshot = split_snapshot(pipe_name)
    verb = click.get_current_context().info_name
    if snapshot is not None:
        shown = f"{pipe_name}@{snapshot}"
        raise UsageError(
            f"{shown} is a snapshot; a folder is kept in step with the present",
            hint="Its files into a folder: " + app.command(f"get {shown}/ {dest or 'FOLDER'}"),
        )
    if slash and path:
        raise UsageError(
            f"{name!r} is no pipe",
            hint=f"A file in it: {app.command(f'{verb} {pipe_name} {path}')}",
        )
    home = app.home()
    pipe = app.registry(home).get(pipe_name)
    beside = Beside(home, pipe_name)
    return Place(home, pipe, beside, beside.mount() if dest is None else None, dest)


def moved_json(file: Moved) -> dict[str, object]:
    """A file that was or would be moved or deleted, for programs."""
    return {
        "path": str(file),
        "size": file.size,
        "time": utc_text(file.mtime_ns),
        "version": file.version or None,
        "new": file.is_new,
    }
