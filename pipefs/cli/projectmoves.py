"""`pipefs project push` and `pull`, with datakit's words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from pipefs.cli.app import App, Command, pass_app
from pipefs.cli.bars import Bar
from pipefs.cli.projectstate import here, say_created, say_mounted
from pipefs.cli.telling import question, report_json, say

if TYPE_CHECKING:
    from pipefs.folder.reports import Direction, Report
    from pipefs.project.moving import Wish
    from pipefs.project.settings import Project

# What is no option of ours is a word: flags of `aws s3 sync` are named, with or without dashes.
_WORDS = {"ignore_unknown_options": True}


def _flags(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--adopt", is_flag=True, help="What is there already is this project's."),
        click.option("-n", "--dry-run", "--preview", "--dryrun", "dry_run", is_flag=True,
                     help="Only say what."),
        click.option("--force", is_flag=True, help="Every file, whatever changed."),
        click.option("--delete", is_flag=True, help="Also delete what the other side lacks."),
        click.argument("words", nargs=-1, metavar="[delete] [dryrun] [force]"),
    ):  # fmt: skip
        command = option(command)
    return command


@click.command(
    cls=Command,
    context_settings=_WORDS,
    short_help="Bring data/ into the bucket.",
    example="""\
pipefs project push
pipefs project push dryrun              what would go up
pipefs project push delete dryrun       and what would be deleted in the bucket
pipefs project push delete              delete there what is not here
pipefs project push --force             every file, over what others changed""",
)
@_flags
@pass_app
def push(
    app: App, words: tuple[str, ...], delete: bool, force: bool, dry_run: bool, adopt: bool
) -> None:
    """Send new and changed files of data/ to the project's place in the bucket. Nothing is deleted
    there without `delete`; versions stay where the bucket keeps any.

    A file that somebody else changed there since is refused. Flags may be words, as in datakit, or
    have dashes; those of `aws s3 sync` that mean nothing here are named and ignored.
    """
    given = {"delete": delete, "force": force, "dryrun": dry_run}
    _run(app, "push", words, given, adopt)


@click.command(
    cls=Command,
    context_settings=_WORDS,
    short_help="Bring the bucket's files into data/.",
    example="""\
pipefs project pull
pipefs project pull dryrun              what would come
pipefs project pull delete              delete here what is not in the bucket
pipefs project pull --force             every file, over changes here""",
)
@_flags
@pass_app
def pull(
    app: App, words: tuple[str, ...], delete: bool, force: bool, dry_run: bool, adopt: bool
) -> None:
    """Fetch new and changed files from the project's place in the bucket into data/. Nothing is
    deleted here without `delete`, and no change of yours is overwritten without `force`.
    """
    given = {"delete": delete, "force": force, "dryrun": dry_run}
    _run(app, "pull", words, given, adopt)


def _run(
    app: App, direction: Direction, words: tuple[str, ...], given: dict[str, bool], adopt: bool
) -> None:
    from pipefs.folder.reports import PartlyMoved
    from pipefs.project.flags import parse_flags
    from pipefs.project.moving import Wish, move

    flags = parse_flags([*words, *(name for name, is_set in given.items() if is_set)])
    app.quiet = app.quiet or flags.quiet
    for word, why in flags.ignored.items():
        app.warn(f"{word} is ignored: {why}")
    made = here()
    wish = Wish(direction, flags, adopt, empty_ok=app.yes)
    registry = app.registry()
    _ask_first(app, made, wish)
    try:
        with Bar(app, f"{direction}ing") as bar:
            shown = bar if flags.progress else None
            report = move(registry, made, wish, shown, partial(say_created, app))
    except PartlyMoved as e:
        _tell(app, made, e.report)
        raise
    saved = direction == "push" and not flags.dry_run
    if not say_mounted(app, registry, made, is_saved=saved):
        _tell(app, made, report)


def _tell(app: App, made: Project, report: Report) -> None:
    if app.json:  # as long as the report
        app.emit({"project": made.name, "url": made.url, **report_json(report)})
    say(app, report)


def _ask_first(app: App, made: Project, wish: Wish) -> None:
    """Where something would go that is nowhere else, the user is asked.

    Raises:
        Refused: no, or nobody to ask.
    """
    flags = wish.flags
    if app.yes or flags.dry_run or not (flags.delete or flags.force):
        return
    from pipefs.folder.reports import PartlyMoved
    from pipefs.project.joining import looking
    from pipefs.project.moving import move

    registry = app.registry()
    if wish.direction == "push":
        if not flags.delete:
            return
        replica = looking(registry, made, writes=True, adopt=wish.adopt)
        versioned = replica.capabilities.versioning
        replica.close()
        if versioned:
            return
    try:
        would = move(registry, made, replace(wish, flags=replace(flags, dry_run=True)))
    except PartlyMoved as e:
        would = e.report
    going = would.lost if wish.direction == "pull" else would.deleted
    if not going:
        return
    asked = question(would)
    if wish.direction == "push":
        asked += f" {made.url} keeps no versions."
    typed = [w for w in ("delete", "force") if getattr(flags, w)] + ["--adopt"] * wish.adopt
    app.confirm(asked, f"project {wish.direction} {' '.join(typed)}")
