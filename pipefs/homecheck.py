"""What could be wrong with a home: settings, stored keys, links to other disks, room, stores.

Each check yields `Finding`s with the command that mends it, and never raises. With `fix` it takes
rights away from others and finishes what was interrupted; nothing else is safe to do unasked.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipefs import relocating
from pipefs.config import load_config
from pipefs.doctor import BAD, NOTE, OK, Finding
from pipefs.errors import AccessDenied, PipefsError
from pipefs.folder.places import pipes_folder
from pipefs.home import Home
from pipefs.profiles import profile_names, read_profile
from pipefs.registry import Registry
from pipefs.stores.local_files import is_store
from pipefs.units import show_count, show_size

LOW_BYTES = 1 << 30
"""Less room than this on a disk that we write to is told."""
FULL_BYTES = 64 << 20
"""With less, writes fail within minutes."""


def mounts_at(home: Home, path: str) -> bool:
    """Whether a pipe of this home is mounted at a folder where nothing else was said."""
    if os.path.dirname(path) == os.path.realpath(home.mounts):
        return True
    registry = _registry(home)
    pipes = registry.list(problems=[]) if registry is not None else []
    return any(p.settings.mountpoint == path for p in pipes)


def check_home(home: Home, *, fix: bool = False) -> Iterator[Finding]:
    """Settings, keys, folders, and every registered pipe, as far as this machine can tell."""
    yield from _check_settings(home)
    yield from _check_rights(home, fix)
    yield from _check_links(home, fix)
    yield from _check_room(home)
    registry = _registry(home)
    if registry is not None:
        yield from _check_keys(registry)
        yield from _check_pipes(registry)


def _registry(home: Home) -> Registry | None:
    try:
        return Registry(home)
    except PipefsError:
        return None  # told by `_check_settings`


def _check_settings(home: Home) -> Iterator[Finding]:
    found: list[PipefsError] = []
    for name in (None, *profile_names(home)):
        try:
            if name is None:
                load_config(home.config_file)
            else:
                read_profile(home.profiles / name)
        except PipefsError as e:
            found.append(e)
        except OSError as e:
            found.append(PipefsError(f"{e.filename}: {e.strerror}"))
    for error in found:
        yield Finding(BAD, "settings", error.message, error.hint or "Mend or delete that file")
    if not found:
        yield Finding(OK, "settings", str(home.config_file.parent))


def _private_files(home: Home) -> list[Path]:
    key = home.config / "credentials.key"
    return [*sorted((home.config / "credentials").glob("*.toml")), *([key] if key.exists() else [])]


def _check_rights(home: Home, fix: bool) -> Iterator[Finding]:
    files = _private_files(home)
    for file in files:
        try:
            mode = stat.S_IMODE(file.stat().st_mode)
            if not mode & 0o077:
                continue
            if fix:
                file.chmod(0o600)
                yield Finding(OK, "stored keys", f"{file} is yours alone again", fixed=True)
                continue
        except OSError as e:
            yield Finding(BAD, "stored keys", f"{file}: {e.strerror}")
            continue
        yield Finding(
            BAD, "stored keys", f"{file} may be read by others ({mode:o})", f"chmod 600 {file}"
        )


def _check_keys(registry: Registry) -> Iterator[Finding]:
    names = registry.vault.names()
    lost, good = [], 0
    for name in names:
        try:
            registry.vault.get(name)
            good += 1
        except AccessDenied as e:
            lost.append((name, e))
        except PipefsError as e:
            yield Finding(BAD, "stored keys", e.message, f"pipefs cred set {name}")
    if lost:
        which = ", ".join(name for name, _ in lost)
        yield Finding(BAD, "stored keys", f"of {which}: {lost[0][1].message}", lost[0][1].hint)
    elif good:
        yield Finding(OK, "stored keys", f"of {show_count(good, 'pipe')}")


def _check_links(home: Home, fix: bool) -> Iterator[Finding]:
    for what, folder in (
        ("cache", home.cache),
        ("pipes", pipes_folder(home)),
        ("stores", home.stores),
        ("state", home.state),
    ):
        aside = folder.with_name(f"{folder.name}.moving")
        if os.path.lexists(aside):
            yield _interrupted(home, what, folder, aside, fix)
            continue
        if folder.is_symlink() and not folder.exists():
            target = os.readlink(folder)
            yield Finding(
                BAD,
                what,
                f"{folder} leads to {target}, which is not there",
                "Plug in or mount the disk that it is on",
            )


def _interrupted(home: Home, what: str, folder: Path, aside: Path, fix: bool) -> Finding:
    place = os.path.realpath(folder if folder.is_symlink() else aside)
    if not fix:
        text = f"a move of {folder} was interrupted; nothing is lost"
        return Finding(NOTE, what, text, f"pipefs config move {what} {place}")
    try:
        relocating.refuse_while_used(relocating.homes_of(home))
        relocating.move(home, relocating.plan(home, what, place))
        return Finding(OK, what, f"the move to {place} is complete", fixed=True)
    except (PipefsError, OSError) as e:
        return Finding(BAD, what, str(e), getattr(e, "hint", ""))


def _check_room(home: Home) -> Iterator[Finding]:
    seen: set[int] = set()
    for folder in (home.state, home.cache, home.stores):
        try:
            place = folder
            while not place.exists():
                place = place.parent
            device = place.stat().st_dev
            disk = os.statvfs(place)
        except OSError:
            continue
        if device in seen:
            continue
        seen.add(device)
        free = disk.f_bavail * disk.f_frsize
        text = f"{show_size(free)} free where {folder} is"
        if disk.f_favail == 0 and disk.f_files:
            text, free = f"no inodes are left where {folder} is", 0
        todo = "" if free >= LOW_BYTES else _room_todo(home, folder)
        level = BAD if free < FULL_BYTES else NOTE if free < LOW_BYTES else OK
        yield Finding(level, "disk", text, todo)


def _room_todo(home: Home, folder: Path) -> str:
    if folder == home.cache:
        return "pipefs config cache_limit=1G, or pipefs config move cache /big/disk"
    if folder == home.stores:
        return "pipefs config move stores /big/disk"
    return "Make room there: what is written waits on this disk until it is in the store"


def _check_pipes(registry: Registry) -> Iterator[Finding]:
    problems: list[PipefsError] = []
    pipes = registry.list(problems)
    for error in problems:
        yield Finding(BAD, "pipes", error.message, error.hint)
    bad = 0
    for pipe in pipes:
        parts = urlsplit(pipe.url)
        folder = unquote(parts.path)
        if parts.scheme == "file" and not is_store(folder):
            bad += 1
            yield Finding(
                BAD,
                pipe.name,
                f"its store is not in {folder}",
                "Plug in or mount the disk that it is on, or move it back · if it is given up: "
                f"pipefs remove {pipe.name}",
            )
    if pipes and not bad:
        yield Finding(OK, "pipes", f"{len(pipes)} registered")
