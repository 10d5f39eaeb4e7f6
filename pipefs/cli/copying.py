"""`pipefs cp` and `mv`: files to other places in a pipe, inside the store, or in another pipe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from pipefs.cli.app import App, Command, pass_app
from pipefs.cli.output import printable
from pipefs.cli.placing import found_item, is_folder, present, reach_of
from pipefs.errors import NotFound, Refused, UsageError
from pipefs.units import show_count, show_size

if TYPE_CHECKING:
    from pipefs.reaching import Reach
    from pipefs.replicated import Item
    from pipefs.target import Target

_DRY = click.option("-n", "--dry-run", "--preview", "dry", is_flag=True, help="Only say it.")


@click.command(
    cls=Command,
    short_help="Copy files within a pipe, without a download, or into another.",
    example="""\
pipefs cp sales/q3.csv sales/2026/q3-copy.csv
pipefs cp -r sales@v1/2026/ sales/2026-as-of-v1/    a folder out of a snapshot
pipefs cp sales/q3.csv prices/                      into another pipe""",
)
@click.argument("targets", metavar="SOURCE… TARGET", nargs=-1, required=True)
@click.option("-r", "--recursive", is_flag=True, help="Folders, with all that is in them.")
@_DRY
@pass_app
def cp(app: App, targets: tuple[str, ...], recursive: bool, dry: bool) -> None:
    """Copy files and folders to TARGET, in the store and many at a time; other machines see all of
    them at once. A TARGET that ends in / or is a folder keeps names. What is there is replaced; its
    versions stay. Between two pipes the bytes go through this machine, file by file."""
    _transfer(app, targets, recursive=recursive, dry=dry, move=False)


@click.command(
    cls=Command,
    short_help="Move and rename files, without a download.",
    example="""\
pipefs mv sales/draft.csv sales/final.csv
pipefs mv sales/2019 sales/archive/                 a folder""",
)
@click.argument("targets", metavar="SOURCE… TARGET", nargs=-1, required=True)
@_DRY
@pass_app
def mv(app: App, targets: tuple[str, ...], dry: bool) -> None:
    """Move files and folders: copies inside the store, then the old places are deleted. Other
    machines may see both for a moment, never neither. On a mount `mv` does it in one step."""
    _transfer(app, targets, recursive=True, dry=dry, move=True)


@dataclass(frozen=True, slots=True)
class _Taken:
    """One source: what is in it, and where each thing goes."""

    reach: Reach
    items: tuple[tuple[Item, str], ...]

    def of(self, kind: str) -> list[tuple[Item, str]]:
        return [(item, path) for item, path in self.items if item.kind == kind]

    @property
    def others(self) -> list[Item]:
        """Links and special files: the store has no object of them to copy."""
        return [item for item, _ in self.items if item.kind not in ("file", "dir")]


def _transfer(app: App, words: tuple[str, ...], *, recursive: bool, dry: bool, move: bool) -> None:
    from pipefs.beside import Beside

    if len(words) < 2:
        raise UsageError("from where to where?", hint="pipefs cp SOURCE… TARGET")
    *sources, target = words
    reach, place = present(app, target)
    into = target.endswith("/") or not place.path or len(sources) > 1 or is_folder(reach, place)
    taken = []
    for source in sources:
        old, where = (present if move else reach_of)(app, source)
        if where.snapshot is None and not dry:
            Beside(app.home(), where.name).bring_up()  # else what was there before is copied
        taken.append(_Taken(old, tuple(_steps(old, where, reach, place, into, recursive))))
    left = [item for one in taken for item in one.others]
    if left and move:
        raise Refused(
            f"{printable(left[0].path)} is a {left[0].kind}, which only a mount can move",
            hint=f"{app.command(f'mount {place.name}')}, then mv there",
        )
    files = [pair for one in taken for pair in one.of("file")]
    if not files:
        raise NotFound(f"there is no file in {', '.join(sources)}")
    _refuse_twice(files)
    if not dry:
        _do(reach, taken, move)
    _say(app, place, files, verb=("move" if move else "copy"), dry=dry)
    if left:
        app.warn(f"left out: {show_count(len(left), 'link or special file')}")


def _refuse_twice(files: list[tuple[Item, str]]) -> None:
    """One of two files with one name would be lost."""
    sources: dict[str, str] = {}
    for item, path in files:
        if path in sources:
            raise UsageError(
                f"{printable(sources[path])} and {printable(item.path)} would both become "
                f"{printable(path)}: nothing was done",
                hint="One after the other, to two names",
            )
        sources[path] = item.path


def _do(reach: Reach, taken: list[_Taken], move: bool) -> None:
    from pipefs.altering import Alterer, Copying
    from pipefs.publishing import Deletion

    alterer = Alterer(reach)
    folders = [path for one in taken for _, path in one.of("dir") if path]
    if folders:
        alterer.make_folders(folders, parents=True, exist_ok=True)
    alterer.copy([Copying(one.reach, i, path) for one in taken for i, path in one.of("file")])
    for one in taken if move else ():
        # What somebody changed meanwhile stays where it was, and is told.
        gone = [Deletion(i.path, i.version) for i, _ in one.of("file")]
        gone += [Deletion(i.path) for i, _ in one.of("dir")]
        Alterer(one.reach).publish(gone)


def _say(app: App, place: Target, files: list[tuple[Item, str]], *, verb: str, dry: bool) -> None:
    app.emit(
        {
            "name": place.name,
            "files": [{"from": i.path, "path": path, "size": i.size} for i, path in files],
            "dry_run": dry,
        }
    )
    done = f"would {verb}" if dry else {"move": "moved", "copy": "copied"}[verb]
    what = f"to {printable(files[0][1])}" if len(files) == 1 else show_count(len(files), "file")
    app.say(f"{place.name}  {done} {what}, {show_size(sum(i.size for i, _ in files))}")


def _steps(
    reach: Reach, where: Target, other: Reach, place: Target, into: bool, recursive: bool
) -> Iterator[tuple[Item, str]]:
    item = found_item(reach, where)
    name = where.path.rpartition("/")[2]
    above = f"{place.path}/{name}".strip("/") if into and name else place.path
    shown = printable(str(where))
    # As the store has it: one pipe may lie in a folder of another.
    old = f"{reach.pipe.url}/{where.path}".rstrip("/") if where.snapshot is None else ""
    new = f"{other.pipe.url}/{above}".rstrip("/")
    if item.kind != "dir":
        if old == new:
            raise UsageError(f"{shown} is where it is to go")
        yield item, above
        return
    if not recursive:
        raise UsageError(f"{shown} is a folder", hint="With all that is in it: -r")
    if old and f"{new}/".startswith(f"{old}/"):
        raise UsageError(f"{shown} cannot go into itself")
    start = len(where.path) + 1 if where.path else 0
    for below in reach.walk(where.snapshot, where.path):
        yield below, f"{above}/{below.path[start:]}".strip("/")
