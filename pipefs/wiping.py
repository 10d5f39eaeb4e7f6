"""Leaving a machine: everything of pipefs on it goes, and nothing that is nowhere else.

Refuses while something is mounted, waits to go up, or was changed in a folder and not pushed. What
is in buckets stays; embedded stores are the only copy of their files and stay too unless asked for.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from pipefs.errors import Refused
from pipefs.folder.places import folder_of, pipes_folder
from pipefs.folder.record import Record, record_file
from pipefs.folder.scan import scan
from pipefs.home import Home
from pipefs.installed_service import is_installed, systemctl
from pipefs.movedto import moved_to
from pipefs.profiles import profile_names
from pipefs.registry import Registry
from pipefs.units import show_count
from pipefs.waiting import waiting_changes


@dataclass(frozen=True, slots=True)
class Wipe:
    """What would go."""

    folders: tuple[str, ...]
    """Of settings, state, cache, pulled files; those that are there."""
    pipes: tuple[str, ...]
    stores: tuple[str, ...] = ()
    """Embedded stores that are there: with `purge` they go as well."""
    linked: tuple[str, ...] = ()
    """Where the user's own links lead, among them perhaps files of others: they stay."""


def plan(home: Home, *, force: bool = False) -> Wipe:
    """
    Args:
        force: although files in folders were not pushed.
    Raises:
        Refused: something would be lost, or profiles are left. Busy: a process has a pipe.
    """
    if not home.profile and (others := profile_names(home)):
        raise Refused(
            f"there are profiles with pipes of their own: {', '.join(others)}",
            hint=f"First: pipefs --profile {others[0]} config wipe",
        )
    if is_installed(home):
        raise Refused(
            "the service is installed, which would make everything anew",
            hint=f"First: {' '.join(systemctl(home))} disable --now pipefsd, "
            f"then pipefs {'--system ' if home.kind == 'system' else ''}service uninstall",
        )
    pipes = home.state / "pipes"
    for state in sorted(pipes.iterdir()) if pipes.is_dir() else ():
        if waits := waiting_changes(home, state.name):
            raise Refused(
                f'"{state.name}" has {show_count(waits, "change")} that are not in the store yet',
                hint=f"They go up when it is mounted: pipefs mount {state.name}, "
                f"then pipefs flush {state.name}",
            )
    registry = Registry(home)
    if not force:
        _refuse_unpushed(home, registry)
    own = [home.config, home.state, home.run, pipes_folder(home)]
    if not home.profile:
        own.append(home.cache)
    kept = [home.embedded_store(n) for n in _listed(home.stores) if not n.startswith("@")]
    return Wipe(
        tuple(str(path) for path in own if os.path.lexists(path)),
        tuple(registry.names()),
        tuple(map(str, kept)),
        tuple(os.path.realpath(path) for path in own if _is_users_link(home, path)),
    )


def _is_users_link(home: Home, path: Path) -> bool:
    return path.is_symlink() and os.path.realpath(path) not in moved_to(home)


def _listed(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def _refuse_unpushed(home: Home, registry: Registry) -> None:
    below = pipes_folder(home)
    left = {str(below / path) for path in scan(str(below), follow_links=False).files}
    for pipe in registry.list([]):
        folder = str(folder_of(home, pipe))
        found = scan(folder).files
        known = {}
        if record_file(home, folder, pipe.pipe_id).exists():
            with Record(home, folder, pipe.pipe_id) as record:
                known = record.known()
        changed = [p for p, f in found.items() if p not in known or not known[p].local_is_same(f)]
        if changed:
            count = show_count(len(changed), "file")
            raise Refused(
                f"{count} in {folder} may be nowhere else, such as {min(changed)}",
                hint=f"See pipefs push {pipe.name} -n, then push · or give them up: --force",
            )
        for path in found:
            left.discard(os.path.join(folder, path))
    if left:
        # Of pipes that were removed, or have another folder by now.
        count = show_count(len(left), "file")
        raise Refused(
            f"{count} in {below} may be nowhere else, such as {min(left)}",
            hint="They are in the folder of no pipe: move them to another place · "
            "or give them up: --force",
        )


def wipe(home: Home, wanted: Wipe, *, purge: bool = False) -> None:
    """Delete it. State goes before settings: killed in between, it can be called again."""
    for path in sorted(wanted.folders, key=lambda path: path == str(home.config)):
        _delete(Path(path), wanted.linked)
    for path in wanted.stores if purge else ():
        _delete(Path(path))
    for folder in (home.mounts, home.stores, pipes_folder(home).parent):
        if folder.is_dir() and not folder.is_symlink() and not os.listdir(folder):
            folder.rmdir()


def _delete(path: Path, linked: tuple[str, ...] = ()) -> None:
    if path.is_symlink():
        there = Path(os.path.realpath(path))
        path.unlink()
        if str(there) in linked:
            return
        path = there  # what `config move` put elsewhere
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
