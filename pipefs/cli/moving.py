"""`pipefs pull` and `push`: a plain folder in step with a pipe, without a mount."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from pipefs.cli.app import App, Command, pass_app
from pipefs.cli.bars import Bar
from pipefs.cli.folders import Place, place_of
from pipefs.cli.output import printable, tilde
from pipefs.cli.telling import question, report_json, tell

if TYPE_CHECKING:
    from pipefs.folder.deciding import Folder
    from pipefs.folder.reports import Direction, Options, Progress, Report
    from pipefs.replica import Replica

_OPTIONS: list[Callable[[Any], Any]] = [
    click.option("--dest", metavar="DIR", help="The folder; else the pipe's own."),
    click.option("-n", "--dry-run", "--preview", "dry_run", is_flag=True, help="Only say what."),
    click.option("--include", metavar="P", help="Only these, such as '*.csv|*.xls*'."),
    click.option("--exclude", metavar="P", help="Not these; '' takes all."),
    click.option(
        "--mode",
        type=click.Choice(["default", "new", "mod", "all"]),
        default="default",
        help="new and changed files, only new, only changed, or every file.",
    ),
    click.option("--nrecent", metavar="N", type=int, default=0, help="The N newest; -N oldest."),
    click.option("--no-cache", is_flag=True, help="Look now for what other tools wrote."),
    click.option("--delete", is_flag=True, help="Also delete what the other side has not."),
]
_MERGE = click.option(
    "--merge-mode",
    type=click.Choice(["keep", "overwrite"]),
    help="Files that changed on both sides: keep yours, or overwrite it.",
)


def _shared(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class _Run:
    """One pull or push as it was asked for."""

    app: App
    place: Place
    direction: Direction
    options: Options

    def go(self) -> None:
        if self.place.mount is not None:
            self._mounted(self.place.mount.path)
            return
        from pipefs.folder.reports import PartlyMoved

        replica, folder = self.place.opened()
        self._ask(replica, folder)
        try:
            with Bar(self.app, f"{self.direction}ing") as bar:
                report = self._call(replica, folder, self.options, bar)
        except PartlyMoved as e:
            tell(self.app, e.report)
            raise
        tell(self.app, report)

    def _call(
        self, replica: Replica, folder: Folder, options: Options, bar: Progress | None = None
    ) -> Report:
        if self.direction == "pull":
            from pipefs.folder.pulling import pull

            return pull(replica, folder, options, bar)
        from pipefs.folder.pushing import push

        return push(replica, folder, options, bar)

    def _mounted(self, path: str) -> None:
        from pipefs.folder.reports import Report

        name = self.place.pipe.name
        if not self.options.dry_run and self.direction == "pull":
            self.place.beside.show(full=not self.options.cached)
        elif not self.options.dry_run:
            self.place.beside.bring_up()
        self.app.emit(report_json(Report(name, path, self.direction, self.options.dry_run)))
        state = "up to date by itself" if self.direction == "pull" else "all is in the store"
        if self.options.dry_run and self.direction == "push":
            state = f"it sends by itself; what waits: {self.app.command(f'status {name}')}"
        self.app.say(f"{name}  mounted at {printable(tilde(path))}: {state}")

    # --- asking -------------------------------------------------------------------------------

    def _ask(self, replica: Replica, folder: Folder) -> None:
        """Before something goes that nobody else has, or that everybody had."""
        wanted = self.options
        over = self.direction == "pull" and (wanted.files is not None or wanted.mode == "all")
        if self.app.yes or wanted.dry_run or not (wanted.delete or over):
            return
        plan = self._call(replica, folder, replace(wanted, dry_run=True))
        if asked := question(plan):
            self.app.confirm(asked, self._again())

    def _again(self) -> str:
        """What was typed, for the message that asks for -y."""
        given = dict(click.get_current_context().params)
        words = [self.direction, given.pop("name"), *given.pop("files")]
        for option, value in given.items():
            if value and (option, value) != ("mode", "default"):
                words += [f"--{option.replace('_', '-')}", *([] if value is True else [str(value)])]
        return shlex.join(words)


@click.command(
    cls=Command,
    short_help="Bring what is new in a pipe into its folder.",
    example="""\
pipefs pull sales                            new and changed files
pipefs pull sales -n                         what that would be, with sizes
pipefs pull sales --include '*.csv' --nrecent 3 --dest ./work
pipefs pull sales q3.csv 2026/q4.csv         these, whatever is here
pipefs pull sales --merge-mode keep          what both sides changed stays yours""",
)
@click.argument("name")
@click.argument("files", nargs=-1)
@_shared
@_MERGE
@pass_app
def pull(app: App, /, name: str, files: tuple[str, ...], dest: str | None, **how: Any) -> None:
    """Bring new and changed files of a pipe into a plain folder: where there is no mount, or on
    purpose. Files that changed on both sides are an error that changes nothing; nothing is deleted
    without --delete. An interrupted pull goes on where it was.
    """
    _Run(app, place_of(app, name, dest), "pull", _options(app, files, how)).go()


@click.command(
    cls=Command,
    short_help="Send what is new in its folder into a pipe.",
    example="""\
pipefs push sales                            new and changed files
pipefs push sales -n                         what that would be, with sizes
pipefs push sales --include '*.csv' --dest ./work
pipefs push sales q3.csv                     this one, whatever is in the pipe
pipefs push sales --delete                   also delete what is not here any more""",
)
@click.argument("name")
@click.argument("files", nargs=-1)
@_shared
@pass_app
def push(app: App, /, name: str, files: tuple[str, ...], dest: str | None, **how: Any) -> None:
    """Send new and changed files of a plain folder into a pipe. Refused while the pipe has changes
    that were not pulled, except for named files and --mode all; whoever is faster wins, and the
    other is told. Nothing is deleted without --delete. An interrupted push goes on where it was.
    """
    _Run(app, place_of(app, name, dest), "push", _options(app, files, how)).go()


def _options(app: App, files: tuple[str, ...], how: dict[str, Any]) -> Options:
    from pipefs.folder.reports import Options

    no_cache = how.pop("no_cache")
    return Options(files=files or None, cached=not no_cache, empty_ok=app.yes, **how)
