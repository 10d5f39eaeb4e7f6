"""`pipefs import`: files and folders of this machine into a pipe, in d6tpipe's words."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipefs.cli.app import App, Command, pass_app
from pipefs.cli.output import printable
from pipefs.errors import NotFound, Refused, UsageError
from pipefs.units import show_count, show_size

if TYPE_CHECKING:
    from pipefs.publishing import Published
    from pipefs.reaching import Reach

_EXAMPLES = """\
pipefs import sales ~/Downloads/*.csv              each under its own name
pipefs import sales results/ --subdir runs/one     a folder with what is in it
pipefs import sales scratch/ --move                deleted here once they are in the store"""


@click.command(
    "import", cls=Command, short_help="Copy or move files into a pipe.", example=_EXAMPLES
)
@click.argument("name")
@click.argument("sources", metavar="FILE…", nargs=-1, required=True, type=click.Path(exists=True))
@click.option("--subdir", metavar="DIR", default="", help="Folder in the pipe.")
@click.option("--move", is_flag=True, help="Delete them here when they are in the store.")
@click.option("-n", "--dry-run", "--preview", "dry_run", is_flag=True, help="Only say what.")
@pass_app
def import_files(
    app: App, name: str, sources: tuple[str, ...], subdir: str, move: bool, dry_run: bool
) -> None:
    """Put files into a pipe, each under its own name; of a folder, all that is in it with the
    folders there. Machines see them all at once, and what is there is replaced; its versions
    stay. As `pipefs put`, but nothing is put under the name of another."""
    from pipefs.altering import Alterer
    from pipefs.publishing import Publication
    from pipefs.reaching import Reach

    home = app.home()
    reach = Reach(home, app.registry(home).get(name))
    click.get_current_context().call_on_close(reach.replica.close)
    files = _files(sources, subdir.strip("/"))
    if move:
        _refuse_moving_out(reach, files.values())
    before = {path: file.stat() for path, file in files.items()}
    size = sum(status.st_size for status in before.values())
    what = f"{show_count(len(files), 'file')}, {show_size(size)}"
    done: list[Published] = []
    if not dry_run:
        done = Alterer(reach).publish([Publication(path, file) for path, file in files.items()])
    left = _remove(files, before, sources) if move and done else []
    versions = {one.path: one.version for one in done}
    app.emit(
        {
            "name": name,
            "dry_run": dry_run,
            "moved": bool(move and done),
            "files": [
                {"path": path, "local": str(file), "version": versions.get(path)}
                for path, file in files.items()
            ],
        }
    )
    for path, file in files.items() if dry_run else ():
        app.say(f"{printable(str(file))} → {printable(path)}")
    if dry_run:
        app.say(f"{name}  would import {what}")
    else:
        app.say(f"{name}  {what}{' · deleted here' if move else ''}")
    for file in left:
        app.warn(f"{printable(str(file))} was changed meanwhile, and is not deleted")


def _refuse_moving_out(reach: Reach, files: Iterable[Path]) -> None:
    """What a mount or the pipe's own store shows may be the very file that was put.

    Raises:
        Refused: a file lies there.
    """
    from pipefs.mountinfo import pipefs_mount_of
    from pipefs.stores.opening import parse_file_url

    url = reach.pipe.url
    store = Path(os.path.realpath(parse_file_url(url))) if url.startswith("file://") else None
    for folder in {Path(os.path.realpath(file.parent)) for file in files}:
        if (mount := pipefs_mount_of(str(folder))) is not None:
            raise Refused(
                f"{folder} is in the pipefs mount {mount.path}: --move would delete in that pipe",
                hint="Copy them: the same without --move · move them: pipefs mv, or mv there",
            )
        if store is not None and folder.is_relative_to(store):
            raise Refused(
                f"{folder} is in the store of {reach.pipe.name} itself",
                hint="Choose files outside of it",
            )


def _files(sources: tuple[str, ...], subdir: str) -> dict[str, Path]:
    """Path in the pipe → file.

    Raises:
        UsageError: two would have one path. NotFound: there is no file at all.
    """
    found: dict[str, Path] = {}
    above = f"{subdir}/" if subdir else ""
    for source in map(Path, sources):
        for name, file in _below(source) if source.is_dir() else [(source.name, source)]:
            path = above + name
            if path in found:
                raise UsageError(
                    f"{found[path]} and {file} would both be {path}",
                    hint="Import a folder that has both: names in it are kept",
                )
            found[path] = file
    if not found:
        raise NotFound(f"there is no file in {', '.join(sources)}")
    return found


def _below(folder: Path) -> Iterator[tuple[str, Path]]:
    from pipefs.folder.scan import scan

    for name in sorted(scan(os.fspath(folder)).files):
        yield name, folder / name


def _remove(
    files: dict[str, Path], before: dict[str, os.stat_result], sources: Iterable[str]
) -> list[Path]:
    """Delete files that are as they were when they were put, and folders; the other files."""
    left = []
    for path, file in files.items():
        then, now = before[path], file.stat()
        if (then.st_size, then.st_mtime_ns) == (now.st_size, now.st_mtime_ns):
            file.unlink()
        else:
            left.append(file)
    for source in sources:
        _remove_empty(source)
    return left


def _remove_empty(source: str) -> None:
    """Folders that have nothing left in them, the given one too."""
    for folder, _, _ in os.walk(source, topdown=False):
        try:
            os.rmdir(folder)
        except OSError:
            continue  # something came, or was no file
