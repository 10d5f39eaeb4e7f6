"""`pipefs profile …`: registries of their own, with common settings and a root."""

from __future__ import annotations

import click

from pipefs.cli.app import App, Group, pass_app
from pipefs.cli.output import table, tilde
from pipefs.config import parse_assignments, parse_changes
from pipefs.errors import Refused
from pipefs.home import resolve_home


@click.group(cls=Group, short_help="Registries with a common root and settings.")
def profile() -> None:
    """A profile is a registry of its own: its pipes, their common settings, and the place in a
    bucket (root) where `create NAME` puts new ones. Use it with `pipefs --profile NAME …`.
    """


def _options(name: str, app: App) -> dict[str, object]:
    from pipefs.registry import read_profile

    return read_profile(resolve_home(system=app.system, profile=name).config)


@profile.command(
    "create",
    short_help="Make a profile.",
    example="""\
pipefs profile create team -o root=s3://team-data/pipes
pipefs --profile team create sales""",
)
@click.argument("name")
@click.option("-o", "options", metavar="KEY=VALUE", multiple=True, help="A setting for its pipes.")
@pass_app
def create_profile(app: App, name: str, options: tuple[str, ...]) -> None:
    """Make a profile; its settings count for all its pipes."""
    from pipefs.registry import write_profile

    checked = parse_assignments(options)
    write_profile(resolve_home(system=app.system), name, checked, create=True)
    app.emit({"name": name, "options": checked})
    root = checked.get("root")
    app.say(f"{name}  {f'root {root}' if root else 'made'}")
    app.say(f"next: pipefs --profile {name} create NAME")


@profile.command("list", short_help="All profiles.", example="pipefs profile list")
@pass_app
def list_profiles(app: App) -> None:
    """All profiles and their roots."""
    from pipefs.registry import profile_names

    items = {name: _options(name, app) for name in profile_names(resolve_home(system=app.system))}
    app.emit({"profiles": [{"name": n, "options": o} for n, o in items.items()]})
    if not items:
        app.say("no profiles besides the default one")
    for line in table([[n, str(o.get("root", "-"))] for n, o in items.items()]):
        app.say(line)


@profile.command("show", short_help="Settings of a profile.", example="pipefs profile show team")
@click.argument("name")
@pass_app
def show_profile(app: App, name: str) -> None:
    """Settings of a profile, and its folder."""
    options = _options(name, app)
    folder = resolve_home(system=app.system, profile=name).config
    app.emit({"name": name, "options": options, "folder": str(folder)})
    app.say(f"{name}  {tilde(str(folder))}")
    for line in table([["", key, str(value)] for key, value in options.items()]):
        app.say(line)


@profile.command(
    "dir",
    short_help="The folder of its pipes.",
    example="""\
cd "$(pipefs profile dir)"                       of the default profile
pipefs profile dir team --json                   all its folders""",
)
@click.argument("name", required=False)
@pass_app
def profile_dir(app: App, name: str | None) -> None:
    """Print where pull puts the files of a profile's pipes; each has a folder of its name there.
    --json also has the folders of settings, state, cache and mounts."""
    from pipefs.folder.places import pipes_folder

    chosen = name or app.profile
    if chosen:
        _options(chosen, app)
    home = resolve_home(system=app.system, profile=chosen or None, config_file=app.config_file)
    folder = pipes_folder(home)
    folder.mkdir(parents=True, exist_ok=True)  # so that one can go there
    others = {k: str(getattr(home, k)) for k in ("config", "state", "cache", "mounts", "stores")}
    app.emit({"name": chosen, "pipes": str(folder), **others})
    app.say(str(folder))


@profile.command(
    "set",
    short_help="Change settings of a profile.",
    example="pipefs profile set team region=eu-central-1",
)
@click.argument("name")
@click.argument("assignments", metavar="KEY=VALUE…", nargs=-1, required=True)
@pass_app
def set_profile(app: App, name: str, assignments: tuple[str, ...]) -> None:
    """Change settings of a profile; KEY= goes back to the default."""
    from pipefs.registry import write_profile

    current = _options(name, app)
    changes, unset = parse_changes(assignments)
    merged = {k: v for k, v in {**current, **changes}.items() if k not in unset}
    write_profile(resolve_home(system=app.system), name, merged)
    app.emit({"name": name, "options": merged})
    app.say(f"{name}  {' '.join(assignments)}")


@profile.command(
    "remove", short_help="Forget an empty profile.", example="pipefs profile remove team"
)
@click.argument("name")
@pass_app
def remove_profile(app: App, name: str) -> None:
    """Forget a profile that has no pipes any more."""
    from pipefs.registry import Registry

    _options(name, app)
    home = resolve_home(system=app.system, profile=name)
    left = Registry(home).names()
    if left:
        raise Refused(
            f'profile "{name}" still has pipes: {", ".join(left)}',
            hint=f"First: pipefs --profile {name} remove {left[0]}",
        )
    app.confirm(f'This forgets the settings of profile "{name}".', f"profile remove {name}")
    (home.config / "profile.toml").unlink()
    app.emit({"name": name})
    app.say(f"{name}  forgotten")
