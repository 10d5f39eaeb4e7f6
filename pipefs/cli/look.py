"""`pipefs ls cat`: look into a pipe, now or at any moment, without a mount.

The past comes straight from the bucket: no daemon is asked and no lock is taken. The present comes
from the mount where there is one, since it knows what is not in the store yet.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from pipefs.cli.app import App, Command, pass_app
from pipefs.cli.output import printable, table
from pipefs.cli.pasts import open_past, time_text_ns, view_at
from pipefs.errors import NotFound, UsageError
from pipefs.target import Target, parse_target
from pipefs.units import show_size, utc_text

if TYPE_CHECKING:
    from pipefs.manifest import Entry
    from pipefs.past.views import PastView
    from pipefs.stores.base import Store
    from pipefs.types import ObjectVersion

_EXAMPLES = """\
pipefs ls sales                              now
pipefs ls -l sales@v1/2026                   in a snapshot
pipefs ls -R sales@@yesterday                the whole pipe as it was, on any versioned bucket
pipefs ls --versions sales/2026/q3.csv       every version, deletions too
pipefs ls -R sales --since 2d                what the last two days brought"""


class Place:
    """A target, and where to look for it: on a mount, or in the store."""

    def __init__(self, app: App, text: str) -> None:
        from pipefs.client import SupervisorClient

        items = SupervisorClient(app.home()).mounts_or_none()
        self.app = app
        self.target: Target = parse_target(text, items)
        self.names = [os.fsencode(n) for n in self.target.path.split("/") if n]
        live = (m.path for m in items if m.name == self.target.name and m.snapshot is None)
        mounted = next(live, None) if self.target.snapshot is None else None
        self.mounted = mounted and os.path.join(mounted, self.target.path)

    def store(self) -> Store:
        """The pipe's store; closed when the command ends."""
        from pipefs.registry import PATIENCE_S

        pipe = self.app.registry(self.app.home()).get(self.target.name)
        store = pipe.open_store(patience_s=PATIENCE_S)
        click.get_current_context().call_on_close(store.close)
        return store

    def opened(self) -> tuple[Store, PastView]:
        from pipefs.past.looking import stored_now

        if self.target.snapshot is None:
            store = self.store()
            return store, stored_now(store, self.names)
        past = open_past(self.app, self.target.name)
        return past.store, view_at(self.app, past, self.target.name, self.target.snapshot)

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """What is wrong with the path, in the words of the command."""
        shown = printable(str(self.target))
        try:
            yield
        except FileNotFoundError as e:
            above = f"{self.target.name}{f'@{s}' if (s := self.target.snapshot) else ''}"
            raise NotFound(
                f"{shown} is not there", hint=f"What is: {self.app.command(f'ls {above}')}"
            ) from e
        except NotADirectoryError as e:
            raise NotFound(f"{shown} is not there: a name above it is a file") from e
        except IsADirectoryError as e:
            again = self.app.command(f"ls {shown}")
            raise UsageError(f"{shown} is a directory", hint=f"What is in it: {again}") from e
        except OSError as e:
            raise NotFound(f"{shown}: {e.strerror}") from e


@click.command(cls=Command, short_help="What is there, now or at any moment.", example=_EXAMPLES)
@click.argument("target")
@click.option("-l", "--long", "long", is_flag=True, help="Modes, sizes and times too.")
@click.option("-R", "--recursive", is_flag=True, help="All that is below, as paths.")
@click.option("--versions", is_flag=True, help="Every version and deletion, newest first.")
@click.option("--since", metavar="TIME", help="Files of this time or later: 2d, 2026-11-01.")
@click.option("--until", metavar="TIME", help="Files of before this time.")
@pass_app
def ls(
    app: App,
    target: str,
    long: bool,
    recursive: bool,
    versions: bool,
    since: str | None,
    until: str | None,
) -> None:
    """Names in a directory of a pipe.

    TARGET is NAME[@SNAP][/PATH] or a path inside a mount; SNAP a tag, an id, latest, or @TIME: the
    pipe as it was then, also where pipefs never took a snapshot.
    """
    place = Place(app, target)
    if versions:
        _list_versions(app, place, recursive)
        return
    found = _lines(place, recursive)
    if since or until:
        found = _between(found, since, until)
    if not (long or app.json):
        for entry in found:
            app.say(_row(entry, place)[-1])
        return
    listed = list(found)
    app.emit(
        {
            "name": place.target.name,
            "snapshot": place.target.snapshot,
            "path": place.target.path,
            "entries": [_entry_json(e) for e in listed],
        }
    )
    for line in table([_row(e, place) for e in listed], right=[1]):
        app.say(line)


def _lines(place: Place, recursive: bool) -> Iterator[Entry]:
    from pipefs.past.looking import lines

    with place.errors():
        if place.mounted is not None:
            yield from _on_disk(os.fsencode(place.mounted), place.names, recursive)
            return
        _, view = place.opened()
        yield from lines(view, place.names, recursive=recursive)


def _between(found: Iterator[Entry], since: str | None, until: str | None) -> Iterator[Entry]:
    """Files whose time lies between; what is no file has none that tells."""
    from pipefs.moments import parse_moment

    now_ns = time.time_ns()
    first, last = (
        parse_moment(text if text.startswith("@") else f"@{text}", now_ns) if text else otherwise
        for text, otherwise in ((since, 0), (until, 1 << 63))
    )
    return (e for e in found if e.kind == "file" and first <= (e.mtime or 0) < last)


def _path(entry: Entry) -> str:
    from pipefs.manifest import names_in

    return os.fsdecode(b"/".join(names_in(entry.path)))


def _row(entry: Entry, place: Place) -> list[str]:
    """Mode, size, time and name; the name as seen from the directory that was asked for."""
    from pipefs.manifest import names_in
    from pipefs.past.entries import inode_of

    names = names_in(entry.path)
    below = names[len(place.names) :] or names[-1:]
    name = printable(os.fsdecode(b"/".join(below)))
    if entry.kind == "link":
        return ["", "", "", f"{name} = {printable(entry.link)}"]
    node = inode_of(entry, 0)
    mode = stat.filemode(node.kind | stat.S_IMODE(node.mode))
    size = show_size(entry.size) if entry.kind == "file" else ""
    if entry.kind == "dir":
        name += "/"
    elif entry.kind == "symlink":
        name += f" -> {printable(os.fsdecode(node.target))}"
    return [mode, size, time_text_ns(entry.mtime or 0), name]


def _entry_json(entry: Entry) -> dict[str, object]:
    mode = None if entry.mode is None else f"{stat.S_IMODE(entry.mode):04o}"
    return {
        "path": _path(entry),
        "kind": entry.kind,
        "size": entry.size,
        "time": utc_text(entry.mtime) if entry.mtime else None,
        "mode": mode,
        "uid": entry.uid,
        "gid": entry.gid,
        "version": entry.version,
        "etag": entry.etag or None,
        "target": entry.target or entry.link or None,
    }


def _on_disk(path: bytes, names: list[bytes], recursive: bool) -> Iterator[Entry]:
    """The same of a place on the mount."""
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode):
        yield _disk_entry(path, names, status)
        return
    below = []
    with os.scandir(path) as items:
        for item in sorted(items, key=lambda i: i.name):
            with contextlib.suppress(FileNotFoundError):  # it went meanwhile
                at = [*names, item.name]
                yield _disk_entry(item.path, at, item.stat(follow_symlinks=False))
                if recursive and item.is_dir(follow_symlinks=False):
                    below.append((item.path, at))
    for deeper, at in below:
        yield from _on_disk(deeper, at, True)


def _disk_entry(path: bytes, names: list[bytes], status: os.stat_result) -> Entry:
    from pipefs.keys import component_of
    from pipefs.manifest import Entry, kind_name, path_of

    entry = Entry(
        path=path_of(names),
        kind=kind_name(stat.S_IFMT(status.st_mode)),
        mode=status.st_mode,
        uid=status.st_uid,
        gid=status.st_gid,
        mtime=status.st_mtime_ns,
    )
    if entry.kind == "file":
        entry.size = status.st_size
    elif entry.kind == "symlink":
        entry.target = component_of(os.readlink(path))
    return entry


# --- versions -----------------------------------------------------------------------------------


def _list_versions(app: App, place: Place, recursive: bool) -> None:
    from pipefs.past.looking import all_versions

    if place.target.snapshot is not None:
        raise UsageError(
            f"--versions lists the whole history of {place.target.name}, and not a snapshot of it",
            hint=f"Without the @: {app.command(f'ls --versions {place.target.name}')}",
        )
    items = list(all_versions(place.store(), place.names, recursive=recursive))
    folders = sorted(item for item in items if isinstance(item, str))
    found = [item for item in items if not isinstance(item, str)]
    if not items and place.names:
        with place.errors():
            raise FileNotFoundError
    result: dict[str, object] = {"name": place.target.name, "path": place.target.path}
    if not recursive:
        result["prefixes"] = folders
    result["versions"] = [_version_json(v) for v in found if not v.is_delete_marker]
    result["delete_markers"] = [_version_json(v) for v in found if v.is_delete_marker]
    app.emit(result)
    for folder in folders:
        app.say(f"{printable(folder)}/")
    rows = [
        [
            time_text_ns(v.last_modified_ns),
            "deleted" if v.is_delete_marker else show_size(v.size),
            "latest" if v.is_latest else "",
            v.version_id or "",
            printable(v.key),
        ]
        for v in found
    ]
    for line in table(rows, right=[1]):
        app.say(line)


def _version_json(version: ObjectVersion) -> dict[str, object]:
    shown: dict[str, object] = {
        "key": version.key,
        "version": version.version_id,
        "time": utc_text(version.last_modified_ns),
        "latest": version.is_latest,
    }
    if not version.is_delete_marker:
        shown |= {"size": version.size, "etag": version.etag}
    return shown


# --- bytes --------------------------------------------------------------------------------------


@click.command(
    cls=Command,
    short_help="The bytes of a file, now or at any moment.",
    example="pipefs cat sales/q3.csv | head\n"
    "pipefs cat sales@v1/q3.csv > q3-v1.csv\n"
    "pipefs cat sales@@2026-11-01T12:00/q3.csv",
)
@click.argument("target")
@pass_app
def cat(app: App, target: str) -> None:
    """Write a file's bytes to standard output. TARGET as for ls."""
    place = Place(app, target)
    out = sys.stdout.buffer
    for piece in _pieces(place):
        out.write(piece)
    out.flush()


def _pieces(place: Place) -> Iterator[bytes]:
    from pipefs.past.looking import PIECE_BYTES, pieces

    with place.errors():
        if place.mounted is None:
            store, view = place.opened()
            yield from pieces(store, view, place.names)
            return
        with open(place.mounted, "rb", buffering=0) as file:
            while piece := file.read(PIECE_BYTES):
                yield piece
