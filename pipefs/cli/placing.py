"""`pipefs put get rm meta`: single files and folders between this machine and a pipe, no mount."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipefs.cli.app import App, Command, pass_app
from pipefs.cli.bars import Bar
from pipefs.cli.output import printable, table
from pipefs.errors import NotFound, TimedOut, UsageError
from pipefs.units import show_count, show_size

if TYPE_CHECKING:
    from pipefs.reaching import Reach
    from pipefs.replicated import Item
    from pipefs.target import Target

_AT_ONCE = 16
_ROUND_BYTES = 32 << 20

_META = click.option(
    "--meta", "pairs", metavar="KEY=VALUE", multiple=True, help="Something to say of it."
)


def reach_of(app: App, text: str) -> tuple[Reach, Target]:
    """What a target means; of the present, with what programs wrote into a mount of it."""
    from pipefs.beside import Beside
    from pipefs.client import SupervisorClient
    from pipefs.reaching import Reach
    from pipefs.registry import PATIENCE_S
    from pipefs.target import is_path, parse_target

    home = app.home()
    mounts = SupervisorClient(home).mounts_or_none() if is_path(text) else []
    target = parse_target(text, mounts)
    reach = Reach(home, app.registry(home).get(target.name))
    if target.snapshot is None:
        with contextlib.suppress(TimedOut):
            Beside(home, target.name).bring_up(PATIENCE_S)
    click.get_current_context().call_on_close(reach.replica.close)
    return reach, target


def present(app: App, text: str) -> tuple[Reach, Target]:
    """A target that can be changed."""
    reach, target = reach_of(app, text)
    if target.snapshot is not None:
        raise UsageError(
            f"{target} is the past, which never changes",
            hint=f"The present: {target.name}/{target.path}",
        )
    return reach, target


def found_item(reach: Reach, target: Target) -> Item:
    try:
        return reach.item(target.snapshot, target.path)
    except (FileNotFoundError, NotADirectoryError) as e:
        shown = printable(str(target))
        raise NotFound(
            f"{shown} is not there", hint=f"What is: pipefs ls {shown.rpartition('/')[0] or shown}"
        ) from e


def _said(pairs: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE` words; a value that is JSON but no text is taken as what it is."""
    import json

    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise UsageError(f"{pair!r} says nothing", hint="Write it as KEY=VALUE")
        try:
            told = json.loads(value)
        except ValueError:
            told = value
        found[key] = value if isinstance(told, str) else told
    return found


# --- put ----------------------------------------------------------------------------------------


@click.command(
    cls=Command,
    short_help="Copy files into a pipe.",
    example="pipefs put q3.csv sales/2026/                 keeps the name\n"
    "pipefs put clean.parquet sales/clean.parquet --meta source=NOAA --meta rows=49105\n"
    "pipefs put results/ sales/runs/one            all that is in the folder",
)
@click.argument("sources", metavar="FILE…", nargs=-1, required=True, type=click.Path(exists=True))
@click.argument("target")
@_META
@pass_app
def put(app: App, sources: tuple[str, ...], target: str, pairs: tuple[str, ...]) -> None:
    """Copy files of this machine into a pipe; of a folder, what is in it. They are in the store,
    and every machine sees them all at once, when this returns. A TARGET that ends in / or is a
    folder keeps their names. What is there is replaced; its versions stay.
    """
    from pipefs.altering import Alterer
    from pipefs.objects.metadata import headers_for
    from pipefs.publishing import Publication

    reach, place = present(app, target)
    metadata = headers_for(_said(pairs)) if pairs else None
    into = target.endswith("/") or not place.path or len(sources) > 1 or is_folder(reach, place)
    files = [pair for source in sources for pair in _files(Path(source), place.path, into)]
    if not files:
        raise NotFound(f"there is no file in {', '.join(sources)}")
    with Bar(app, "putting") as bar:
        bar.start(len(files), sum(file.stat().st_size for _, file in files))
        alterer = Alterer(reach, lambda _path, count: bar.add(count))
        done = alterer.publish([Publication(path, file, metadata) for path, file in files])
    app.emit(
        {
            "name": place.name,
            "files": [{"path": d.path, "version": d.version, "size": d.size} for d in done],
        }
    )
    size = show_size(sum(d.size for d in done))
    what = printable(done[0].path) if len(done) == 1 else show_count(len(done), "file")
    sent = sum(d.sent_bytes for d in done)
    same = "" if sent or not any(d.size for d in done) else " · the same bytes were there"
    app.say(f"{place.name}  {what}, {size}{same}")


def is_folder(reach: Reach, place: Target) -> bool:
    try:
        return reach.item(None, place.path).kind == "dir"
    except (FileNotFoundError, NotADirectoryError):
        return False


def _files(source: Path, dest: str, into: bool) -> Iterator[tuple[str, Path]]:
    """(path in the pipe, file) of a file, or of what is in a folder."""
    above = f"{dest}/" if dest else ""
    if not source.is_dir():
        yield (above + source.name if into else dest), source
        return
    for folder, names, files in os.walk(source):
        names.sort()
        inside = Path(folder).relative_to(source)
        for name in sorted(files):
            yield above + (inside / name).as_posix(), Path(folder) / name


# --- get ----------------------------------------------------------------------------------------


@click.command(
    cls=Command,
    short_help="Copy files out of a pipe, now or at any moment.",
    example="pipefs get sales/q3.csv                       into this folder\n"
    "pipefs get sales@v1/2026/ old                 a folder as it was in a snapshot\n"
    "pipefs get sales/q3.csv q3-old.csv --version 18ec64e4",
)
@click.argument("target")
@click.argument("dest", default=".")
@click.option("--version", metavar="ID", help="This version of a file, or how its id begins.")
@pass_app
def get(app: App, target: str, dest: str, version: str | None) -> None:
    """Copy a file to this machine, or all files in a folder. A DEST that is a folder or ends in /
    keeps a file's name. What is there is replaced when all bytes have come.
    """
    reach, place = reach_of(app, target)
    if version is not None:
        found = [(_version(reach, place, version), _local(place.path, dest))]
    else:
        found = list(_wanted(reach, place, dest))
    with Bar(app, "getting") as bar, ThreadPoolExecutor(_AT_ONCE) as pool:
        bar.start(len(found), sum(item.size for item, _ in found))
        for _ in pool.map(lambda pair: _save(reach, pair[0], pair[1], bar), found):
            pass
    app.emit(
        {
            "name": place.name,
            "snapshot": place.snapshot,
            "files": [
                {"path": item.path, "local": str(file), "version": item.version, "size": item.size}
                for item, file in found
            ],
        }
    )
    size = show_size(sum(item.size for item, _ in found))
    what = printable(str(found[0][1])) if len(found) == 1 else show_count(len(found), "file")
    app.say(f"{what}, {size}")


def _wanted(reach: Reach, place: Target, dest: str) -> Iterator[tuple[Item, Path]]:
    item = found_item(reach, place)
    if item.kind != "dir":
        yield item, _local(place.path, dest)
        return
    start = len(place.path) + 1 if place.path else 0
    for below in reach.walk(place.snapshot, place.path):
        if below.is_file:
            yield below, Path(dest) / below.path[start:]


def _local(path: str, dest: str) -> Path:
    keeps = dest.endswith(os.sep) or Path(dest).is_dir()
    return Path(dest) / path.rpartition("/")[2] if keeps else Path(dest)


def _version(reach: Reach, place: Target, version: str) -> Item:
    """A version of a file by its id, or how that begins."""
    from pipefs.past.looking import all_versions
    from pipefs.replicated import Item

    if place.snapshot is not None:
        raise UsageError("a snapshot or a version, not both")
    names = [os.fsencode(name) for name in place.path.split("/")]
    found = [
        v
        for v in all_versions(reach.replica.store, names, recursive=False)
        if not isinstance(v, str) and not v.is_delete_marker
    ]
    fits = [v for v in found if (v.version_id or "").startswith(version)]
    if len(fits) != 1:
        several = f"{len(fits)} versions begin with" if fits else "there is no version"
        raise NotFound(f"{several} {version} of {place}", hint=f"All: pipefs ls --versions {place}")
    (one,) = fits
    return Item(
        place.path, "file", one.size, one.last_modified_ns,
        key=one.key, version_id=one.version_id, etag=one.etag,
    )  # fmt: skip


def _save(reach: Reach, item: Item, place: Path, bar: Bar) -> None:
    """Write a file beside its place, then give it its name."""
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f".{place.name[:200]}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            for start in range(0, item.size, _ROUND_BYTES):
                bar.add(file.write(reach.read(item, start, start + _ROUND_BYTES)))
        if item.mode is not None:
            part.chmod(item.mode)
        os.utime(part, ns=(item.mtime_ns, item.mtime_ns))
        part.replace(place)
        bar.done(item.path)
    finally:
        part.unlink(missing_ok=True)


# --- rm, meta -----------------------------------------------------------------------------------


@click.command(
    cls=Command,
    short_help="Delete files of a pipe; their versions stay.",
    example="pipefs rm sales/draft.csv\npipefs rm -r sales/2019",
)
@click.argument("target")
@click.option("-r", "--recursive", is_flag=True, help="A folder, with all that is in it.")
@pass_app
def rm(app: App, target: str, recursive: bool) -> None:
    """Delete a file or folder, everywhere at once. What a snapshot or the store's versions have
    stays: pipefs log and pipefs restore find it."""
    from pipefs.altering import Alterer
    from pipefs.publishing import Deletion

    reach, place = present(app, target)
    shown = printable(str(place))
    item = found_item(reach, place)
    if not place.path:
        raise UsageError(f"{shown} is the whole pipe", hint=f"See pipefs remove {shown} --purge")
    found = [item]
    if item.kind == "dir":
        found = reach.walk(None, place.path)
        if not recursive and len(found) > 1:
            raise UsageError(f"{shown} is a folder with something in it", hint="With all: -r")
    if not reach.replica.capabilities.versioning:
        what = show_count(len(found), "item")
        app.confirm(f"{place.name} keeps no versions: {what} would be gone.", f"rm {target}")
    Alterer(reach).publish([Deletion(i.path) for i in found], atomic=False)
    files = sum(i.is_file for i in found)
    app.emit({"name": place.name, "path": place.path, "files": files})
    what = f"{shown}, {show_count(files, 'file')}" if item.kind == "dir" else shown
    app.say(f"deleted {what} · its versions: {app.command(f'ls --versions {shown}')}")


@click.command(
    cls=Command,
    short_help="What is said of a file: show or change.",
    example="pipefs meta sales/clean.parquet\n"
    "pipefs meta sales/clean.parquet source=NOAA rows=49105\n"
    "pipefs meta sales/clean.parquet source=          take it back",
)
@click.argument("target")
@click.argument("pairs", metavar="[KEY=VALUE]…", nargs=-1)
@pass_app
def meta(app: App, target: str, pairs: tuple[str, ...]) -> None:
    """Show what is said of a file, or change it. It is found by pipefs search, and is the file's
    attributes `user.KEY` on a mount."""
    from pipefs.altering import Alterer
    from pipefs.objects.metadata import meta_of

    reach, place = present(app, target) if pairs else reach_of(app, target)
    item = found_item(reach, place)
    xattrs = {os.fsencode(name): value for name, value in item.xattrs.items()}
    headers = reach.replica.store.head(item.key, item.version_id).metadata if item.is_file else {}
    known = meta_of(headers, xattrs)
    if pairs:
        gone = [pair[:-1] for pair in pairs if pair.endswith("=") and pair.count("=") == 1]
        changes = _said([pair for pair in pairs if pair[:-1] not in gone])
        known = {k: v for k, v in {**known, **changes}.items() if k not in gone}
        Alterer(reach).describe(item.path, known)
    app.emit({"name": place.name, "path": place.path, "metadata": known})
    for line in table([[printable(k), printable(str(v))] for k, v in sorted(known.items())]):
        app.say(line)
