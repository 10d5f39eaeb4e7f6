"""`pipefs pull` and `push`: a plain folder in step with a pipe, without a mount."""

from __future__ import annotations

import itertools
import os
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from pipefs.cli.app import App, Command, pass_app
from pipefs.cli.bars import Bar
from pipefs.cli.folders import Place, moved_json, place_of
from pipefs.cli.output import printable, table, tilde
from pipefs.units import show_count, show_size

if TYPE_CHECKING:
    from pipefs.folder.deciding import Folder
    from pipefs.folder.reports import Direction, Options, Progress, Report
    from pipefs.replica import Replica

_DOCUMENT_LINES = 40
_NAMED = 5

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
            _tell(self.app, e.report)
            raise
        _tell(self.app, report)

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
        self.app.emit(_told(Report(name, path, self.direction, self.options.dry_run)))
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
        question = _question(plan)
        if question:
            self.app.confirm(question, self._again())

    def _again(self) -> str:
        """What was typed, for the message that asks for -y."""
        given = dict(click.get_current_context().params)
        words = [self.direction, given.pop("name"), *given.pop("files")]
        for option, value in given.items():
            if value and (option, value) != ("mode", "default"):
                words += [f"--{option.replace('_', '-')}", *([] if value is True else [str(value)])]
        return shlex.join(words)


def _question(plan: Report) -> str:
    deleted, parts = len(plan.deleted), []
    overwritten = [p for p in plan.lost if p not in set(plan.deleted)]
    if deleted:
        where = tilde(plan.folder) if plan.direction == "pull" else f"{plan.name}, for everybody"
        gone = len(plan.lost) - len(overwritten)
        only = f" ({gone:,} nowhere else)" if gone else ""
        parts.append(f"deletes {show_count(deleted, 'file')}{only} in {where}")
    if overwritten:
        parts.append(f"overwrites your changes in {_some(overwritten)}")
    return f"This {' and '.join(parts)}." if parts else ""


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


# --- telling ------------------------------------------------------------------------------------


def _tell(app: App, report: Report) -> None:
    app.emit(_told(report))
    if report.dry_run:
        for line in _preview(report):
            app.say(line)
    verb = {"pull": "pulled", "push": "pushed"}[report.direction]
    where = printable(tilde(report.folder))
    way = f"to {where}" if report.direction == "pull" else f"from {where}"
    what = f"{show_count(len(report), 'file')}, {show_size(report.bytes)}"
    if not report.files:
        app.say(f"{report.name}  nothing to {report.direction} · {where}")
    elif report.dry_run:
        app.say(f"{report.name}  would be {verb}: {what}, {way}")
    else:
        app.say(f"{report.name}  {verb} {what} {way}")
    for line in _besides(app, report):
        app.say(f"  {line}")
    for path, reason in list(report.failed.items())[:_NAMED] if len(report.failed) > 1 else ():
        app.warn(f"{printable(path)}: {reason}")
    if report.direction == "pull" and not report.dry_run:
        _show_documents(app, report)


def _preview(report: Report) -> list[str]:
    rows = [("A" if f.is_new else "M", printable(f), show_size(f.size)) for f in report.files]
    rows += [("D", printable(path), "") for path in report.deleted]
    return table(rows)


def _besides(app: App, report: Report) -> Iterable[str]:
    would = "would be " if report.dry_run else ""
    if report.deleted:
        side = "here" if report.direction == "pull" else "in the pipe"
        yield f"{would}deleted {side}: {_some(report.deleted)}"
    if report.kept:
        yield f"yours kept, changed in the pipe too: {_some(report.kept)}"
    if overwritten := [p for p in report.lost if p not in set(report.deleted)]:
        yield f"your changes {would}overwritten: {_some(overwritten)}"
    if report.gone:
        again = app.command(f"push {report.name} {shlex.quote(report.gone[0])}")
        yield f"deleted in the pipe, so not pushed: {_some(report.gone)} · all the same: {again}"
    reasons = sorted(set(report.left_out.values()))
    for reason in reasons:
        paths = [path for path, why in report.left_out.items() if why == reason]
        yield f"left out, {reason}: {_some(paths)}"


def _some(paths: list[str]) -> str:
    from pipefs.folder.reports import named

    return named([printable(path) for path in paths], _NAMED)


def _show_documents(app: App, report: Report) -> None:
    """README and LICENSE of the pipe, when they come for the first time or changed."""
    for name in report.documents:
        place = os.path.join(report.folder, name)
        with open(place, encoding="utf-8", errors="replace") as file:
            lines = [line.rstrip() for line in itertools.islice(file, _DOCUMENT_LINES + 1)]
        app.say(f"\n──── {name} ────")
        for line in lines[:_DOCUMENT_LINES]:
            app.say(printable(line.expandtabs()))
        if len(lines) > _DOCUMENT_LINES:
            app.say(f"… {printable(tilde(place))}")


def _told(report: Report) -> dict[str, object]:
    return {
        "name": report.name,
        "folder": report.folder,
        "direction": report.direction,
        "dry_run": report.dry_run,
        "files": [moved_json(f) for f in report.files],
        "bytes": report.bytes,
        "deleted": report.deleted,
        "kept": report.kept,
        "lost": report.lost,
        "gone": report.gone,
        "left_out": report.left_out,
        "failed": report.failed,
        "documents": report.documents,
        "seconds": round(report.seconds, 3),
    }
