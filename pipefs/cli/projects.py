"""`pipefs project …`: a folder of code whose `data/` is a pipe, in datakit-data's words."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipefs.cli.app import App, Group, pass_app
from pipefs.cli.findings import tell
from pipefs.cli.output import printable, table, tilde
from pipefs.cli.projectmoves import pull, push
from pipefs.cli.projectstate import here, say_created, status
from pipefs.errors import PipefsError, Refused, StoreError, UsageError

if TYPE_CHECKING:
    from pipefs.doctor import Finding
    from pipefs.project.owner import Place
    from pipefs.project.settings import Project
    from pipefs.registry import Pipe, Registry


@click.group(cls=Group, short_help="A folder of code and its data/ in a bucket.")
def project() -> None:
    """A project is a folder of code whose data/ is kept in a bucket instead of git. What
    datakit-data set up works as it is. The project's place in the bucket is a pipe, so snapshot,
    diff, mount and all else work on it.
    """


project.add_command(push)
project.add_command(pull)
project.add_command(status)


# --- init ---------------------------------------------------------------------------------------


@project.command(
    "init",
    short_help="Make this folder a project.",
    example="""\
cd my-project && pipefs project init --bucket my-data-projects
pipefs project init --batch               no questions: defaults, or no bucket yet
pipefs project config --defaults s3_bucket=my-data-projects 's3_path_prefix=projects/$YEAR'
pipefs project init --adopt               this project again, in another folder""",
)
@click.option("--batch", is_flag=True, help="Ask nothing, as -y.")
@click.option("--bucket", metavar="B", help="Where the data goes (s3_bucket).")
@click.option("--path", metavar="P", help="Folder in the bucket (s3_path).")
@click.option("--aws-profile", metavar="P", help="Profile in ~/.aws (aws_user_profile).")
@click.option("--create-bucket", is_flag=True, help="Make the bucket, versioning on.")
@click.option("--adopt", is_flag=True, help="What is there already is this project's.")
@click.option("-n", "--dry-run", "--preview", "dry_run", is_flag=True, help="Only say what.")
@pass_app
def init(
    app: App,
    batch: bool,
    bucket: str | None,
    path: str | None,
    aws_profile: str | None,
    create_bucket: bool,
    adopt: bool,
    dry_run: bool,
) -> None:
    """Make data/, config/datakit-data.json and the lines in .gitignore that keep data/ out of git.
    What is there stays as it is.

    The folder's place in the bucket is kept for it: another project of the same name is refused
    there. On a terminal the first init asks for what all projects have in common.
    """
    from pipefs.project.layout import lay_out
    from pipefs.project.settings import CONFIG, project_of

    root = Path.cwd()
    given = {"s3_bucket": bucket, "s3_path": path, "aws_user_profile": aws_profile}
    chosen = {key: value for key, value in given.items() if value is not None}
    is_new = not (root / CONFIG).is_file()
    content = _content(app, root, chosen, ask=not (batch or dry_run or bucket))
    made = project_of(root, content)
    registry = app.registry()
    place = _place(app, registry, made, is_new, adopt) if made.s3_bucket else None
    laid = [] if dry_run else lay_out(root, content, write=is_new)
    pipe = None
    if place is not None and not dry_run:
        pipe = _join(app, registry, made, place, adopt, create_bucket)
    _tell_init(app, made, laid, place, pipe, dry_run=dry_run, is_new=is_new)


def _refuse_inside(root: Path) -> None:
    from pipefs.errors import NotFound
    from pipefs.project.settings import find_project

    try:
        above = find_project(root.parent)
    except NotFound:
        return
    if root.is_relative_to(above.data):
        raise Refused(f"{root} is the data of the project {above.root}")


def _content(app: App, root: Path, chosen: Mapping[str, str], *, ask: bool) -> Mapping[str, object]:
    """What the project's configuration says, or is to say.

    Raises:
        Refused: it is there, and something else was asked for; or this is a project's `data/`.
    """
    from pipefs.project.settings import (
        CONFIG,
        new_config,
        read_defaults,
        read_json,
        write_defaults,
    )

    _refuse_inside(root)
    if (root / CONFIG).is_file():
        if chosen:
            words = " ".join(f"{k}={v}" for k, v in chosen.items())
            hint = f"Change it: pipefs project config {words}"
            raise Refused(f"{CONFIG} is there already, and stays as it is", hint=hint)
        return read_json(root / CONFIG)
    home = app.home()
    defaults = read_defaults(home)
    values = defaults.values
    asks = sys.stdin.isatty() and sys.stderr.isatty() and ask and not app.yes
    if defaults.file is None and asks:
        values = _ask()
        file = write_defaults(home, values)
        app.warn(f"kept for further projects in {tilde(str(file))}")
    return new_config(root, {**values, **chosen})


def _ask() -> dict[str, object]:
    """What all projects have in common, from the terminal; what is left empty is not in it."""
    from pipefs.project.settings import DEFAULT_MARKERS, PROJECT_KEYS, TRANSIENT_KEYS

    otherwise = {"aws_user_profile": "default", "sync_status_location": DEFAULT_MARKERS}
    fields = ("s3_bucket", "aws_user_profile", *TRANSIENT_KEYS, "sync_status_location")
    about = {**PROJECT_KEYS, **TRANSIENT_KEYS}
    click.echo("What your projects have in common (Enter takes the default):", err=True)
    found: dict[str, object] = {}
    for key in fields:
        default = otherwise.get(key, "")
        answer = click.prompt(
            f"  {key}, {about[key]}", default=default, show_default=bool(default), err=True
        ).strip()
        if answer:
            found[key] = answer
    return found


def _place(app: App, registry: Registry, made: Project, is_new: bool, adopt: bool) -> Place | None:
    """Whose the project's place is; None: the bucket cannot be asked now, which is said.

    Raises:
        Refused: another project's, or of a new project anybody's files are there.
    """
    from pipefs.project.joining import look
    from pipefs.project.owner import Whose, taken

    where = made.url
    try:
        place = look(registry, made)
    except (StoreError, UsageError) as e:  # an AWS profile that is not on this machine
        app.warn(f"not looked at {where}: {e.message}", hint=e.hint)
        return None
    foreign = place.whose is Whose.OTHERS or (is_new and place.whose is Whose.UNNAMED)
    if foreign and not adopt:
        raise taken(made, place)
    return place


def _join(
    app: App, registry: Registry, made: Project, place: Place, adopt: bool, create_bucket: bool
) -> Pipe | None:
    from pipefs.project.joining import join
    from pipefs.project.owner import Whose

    writes = place.whose is not Whose.UNNAMED
    try:
        return join(
            registry,
            made,
            writes=writes,
            adopt=adopt,
            create_bucket=create_bucket,
            place=place,
            told=partial(say_created, app),
        )
    except StoreError as e:
        makes = "--create-bucket" in e.hint
        hint = "Make it with versioning: pipefs project init --create-bucket" if makes else e.hint
        app.warn(e.message, hint=hint)
        return None


def _tell_init(
    app: App,
    made: Project,
    laid: list[str],
    place: Place | None,
    pipe: Pipe | None,
    *,
    dry_run: bool,
    is_new: bool,
) -> None:
    url = made.url if made.s3_bucket else ""
    app.emit(
        {
            "project": made.name,
            "root": str(made.root),
            "url": url or None,
            "pipe": pipe.name if pipe else None,
            "made": laid,
            "whose": place.whose.value if place else None,
            "dry_run": dry_run,
        }
    )
    name, where = printable(made.name), url or "no bucket yet"
    if dry_run:
        app.say(f"{name}  would be a project · {where}")
        return
    other = f" · pipe {pipe.name}" if pipe and pipe.name != made.name else ""
    app.say(f"{name}  {where}{other}")
    if laid:
        app.say(f"made: {'  '.join(laid)}")
    if not is_new:
        app.say("its configuration was there and stays as it is")
    app.say(f"next: {_next(made, place)}")


def _next(made: Project, place: Place | None) -> str:
    from pipefs.project.owner import Whose

    if not made.s3_bucket:
        return "pipefs project config s3_bucket=NAME, then pipefs project push"
    if place is not None and place.whose is not Whose.FREE:
        return "pipefs project pull"
    return "files into data/, then pipefs project push"


# --- config, verify -----------------------------------------------------------------------------


@project.command(
    "config",
    short_help="The project's configuration, and that of new projects.",
    example="""\
pipefs project config                                  what this project has
pipefs project config s3_bucket=my-data-projects       change it
pipefs project config --defaults                       what new projects take over
pipefs project config --defaults 's3_path_prefix=projects/$YEAR' s3_path_suffix=data
pipefs project config --import-datakit                 take datakit's defaults over""",
)
@click.argument("assignments", metavar="[KEY=VALUE]…", nargs=-1)
@click.option("--defaults", is_flag=True, help="Of new projects, not of this one.")
@click.option("--import-datakit", is_flag=True, help="Defaults from ~/.datakit.")
@pass_app
def config(app: App, assignments: tuple[str, ...], defaults: bool, import_datakit: bool) -> None:
    """Show or change config/datakit-data.json, or with --defaults what new projects start from.

    Values may have $YEAR $MONTH $DAY $USERNAME $PROJECTNAME. Where you set no defaults, those in
    ~/.datakit/plugins/datakit-data/config.json count.
    """
    if defaults or import_datakit:
        file, values, about = _defaults(app, assignments, import_datakit)
    else:
        file, values, about = _of_project(assignments)
    app.emit({"file": str(file) if file else None, "values": values})
    if file is None:
        app.say("no defaults for new projects · next: pipefs project config --defaults KEY=VALUE")
        return
    app.say(tilde(str(file)))
    for line in table([_row(key, values.get(key), what) for key, what in about.items()]):
        app.say(line)


_Shown = tuple[Path | None, dict[str, object], dict[str, str]]
"""A file, what it says, and what each key is about."""


def _of_project(assignments: tuple[str, ...]) -> _Shown:
    from pipefs.project.settings import PROJECT_KEYS, read_json, write_json

    file = here().config_file
    values = read_json(file)
    if changes := _changes(assignments, PROJECT_KEYS):
        values |= changes
        write_json(file, values)
    return file, values, dict(PROJECT_KEYS)


def _defaults(app: App, assignments: tuple[str, ...], import_datakit: bool) -> _Shown:
    from pipefs.project.settings import (
        PROJECT_KEYS,
        TRANSIENT_KEYS,
        datakit_file,
        read_defaults,
        read_json,
        write_defaults,
    )

    home = app.home()
    found = read_defaults(home)
    about = PROJECT_KEYS | TRANSIENT_KEYS
    values = {**found.values, **(read_json(datakit_file()) if import_datakit else {})}
    values = {k: v for k, v in {**values, **_changes(assignments, about)}.items() if v != ""}
    if not (assignments or import_datakit):
        return found.file, values, about
    return write_defaults(home, values), values, about


def _changes(assignments: tuple[str, ...], about: Mapping[str, str]) -> dict[str, object]:
    import difflib

    changes: dict[str, object] = {}
    for pair in assignments:
        key, equals, value = pair.partition("=")
        if key not in about:
            near = difflib.get_close_matches(key, about, n=2, cutoff=0.5)
            guess = f"Did you mean {' or '.join(near)}?" if near else f"Keys: {' '.join(about)}"
            raise UsageError(f"a project has no {key!r}", hint=guess)
        if not equals:
            raise UsageError(f"{key} has no value", hint=f"{key}=…: {about[key]}")
        changes[key] = value.strip()
    return changes


def _row(key: str, value: object, about: str) -> list[str]:
    if value in ("", None):
        shown = "(missing)" if key == "s3_bucket" else "-"
    else:
        shown = printable(str(value))
    return [key, shown, about]


@project.command(
    "verify",
    short_help="Check the configuration, the bucket and whose the place is.",
    example="pipefs project verify\npipefs project verify --fix        versioning on",
)
@click.option("--fix", is_flag=True, help="Versioning on, abort rule.")
@pass_app
def verify(app: App, fix: bool) -> None:
    """Whether this project can be pushed and its past is safe: a bucket is named and answers, it
    keeps versions, no lifecycle rule deletes them, and the place in it is this project's."""
    made = here()
    registry = app.registry()
    tell(app, list(_checks(registry, made, fix)))
    app.say("all is well")


def _ours(finding: Finding) -> Finding:
    """With the command of projects for what to do: the pipe may not be registered yet."""
    from msgspec.structs import replace

    if "pipefs doctor" in finding.todo:
        return replace(finding, todo="pipefs project verify --fix")
    if "--create-bucket" in finding.todo:
        return replace(finding, todo="pipefs project init --create-bucket")
    return finding


def _checks(registry: Registry, made: Project, fix: bool) -> list[Finding]:
    from pipefs.doctor import BAD, OK, Finding, check_pipe
    from pipefs.project.joining import look, pipe_of, unregistered
    from pipefs.project.owner import Whose, taken

    try:
        where = made.url
    except UsageError as e:
        return [Finding(BAD, "configuration", e.message, e.hint)]
    found = [Finding(OK, "configuration", where)]
    pipe = pipe_of(registry, made)
    checks = check_pipe(pipe or unregistered(registry, made), fix=fix)
    # A pipe that is not registered cannot be another one than it seems.
    found += [_ours(f) for f in checks if pipe is not None or f.what != ".pipefs/pipe.json"]
    if found[1].level == BAD:
        return found  # nobody answers
    try:
        place = look(registry, made)
    except PipefsError as e:
        return [*found, Finding(BAD, "place", e.message, e.hint)]
    if place.whose in (Whose.OURS, Whose.FREE):
        text = "is this project's" if place.whose is Whose.OURS else "is free"
        return [*found, Finding(OK, "place", text)]
    error = taken(made, place)
    return [*found, Finding(BAD, "place", error.message, error.hint)]
