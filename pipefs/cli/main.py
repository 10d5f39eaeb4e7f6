"""The `pipefs` command: global options and the table of commands.

Commands are imported when they are used, so that `pipefs list` stays fast; nothing here imports
boto3 or pandas.
"""

from __future__ import annotations

import gc
import sys
from typing import NoReturn

import click

from pipefs.cli.app import App, Program
from pipefs.version import VERSION

_START, _MOUNTING, _ADMIN = "pipefs.cli.start", "pipefs.cli.mounting", "pipefs.cli.admin"

SECTIONS: list[tuple[str, str, dict[str, str]]] = [
    (
        "Start",
        "make a pipe and know it",
        {
            "create": f"{_START}:create",
            "list": "pipefs.cli.listing:list_pipes",
            "show": "pipefs.cli.settings:show",
            "set": "pipefs.cli.settings:set_options",
            "remove": f"{_START}:remove",
            "doctor": "pipefs.cli.health:doctor",
            "demo": "pipefs.cli.demo:demo",
        },
    ),
    (
        "Mount",
        "use it as a folder",
        {
            "mount": f"{_MOUNTING}:mount",
            "umount": f"{_MOUNTING}:umount",
            "status": "pipefs.cli.state:status",
            "flush": "pipefs.cli.state:flush",
            "refresh": "pipefs.cli.state:refresh",
            "warm": "pipefs.cli.caching:warm",
            "pin": "pipefs.cli.caching:pin",
            "unpin": "pipefs.cli.caching:unpin",
            "service": "pipefs.cli.service:service",
        },
    ),
    (
        "Look",
        "what is there, without a mount",
        {
            "ls": "pipefs.cli.look:ls",
            "cat": "pipefs.cli.look:cat",
            "preview": "pipefs.cli.previewing:preview",
            "search": "pipefs.cli.searching:search",
            "docs": "pipefs.cli.documenting:docs",
        },
    ),
    (
        "Move",
        "files into a pipe and out of it, without a mount",
        {
            "pull": "pipefs.cli.moving:pull",
            "push": "pipefs.cli.moving:push",
            "is-synced": "pipefs.cli.syncing:is_synced",
            "orphans": "pipefs.cli.syncing:orphans",
            "put": "pipefs.cli.placing:put",
            "get": "pipefs.cli.placing:get",
            "cp": "pipefs.cli.copying:cp",
            "mv": "pipefs.cli.copying:mv",
            "rm": "pipefs.cli.placing:rm",
            "import": "pipefs.cli.importing:import_files",
            "watch": "pipefs.cli.instep:watch",
            "resolve": "pipefs.cli.settling:resolve",
            "meta": "pipefs.cli.placing:meta",
        },
    ),
    (
        "Past",
        "what it was, and getting it back",
        {
            "snapshot": "pipefs.cli.snapshotting:snapshot",
            "snapshots": "pipefs.cli.pastlist:snapshots",
            "log": "pipefs.cli.pastlist:log",
            "diff": "pipefs.cli.difference:diff",
            "restore": "pipefs.cli.snapshotting:restore",
            "checkout": "pipefs.cli.snapshotting:checkout",
            "tag": "pipefs.cli.tagging:tag",
            "protect": "pipefs.cli.guarding:protect",
            "unprotect": "pipefs.cli.guarding:unprotect",
            "forget": "pipefs.cli.keeping:forget",
            "prune": "pipefs.cli.pruning:prune",
            "check": "pipefs.cli.checking:check",
            "du": "pipefs.cli.pruning:du",
            "export": "pipefs.cli.exporting:export",
            "lock": "pipefs.cli.locking:lock",
        },
    ),
    (
        "Admin",
        "settings for many pipes",
        {
            "profile": f"{_ADMIN}:profile",
            "config": "pipefs.cli.configuring:config",
            "cred": "pipefs.cli.creds:cred",
            "project": "pipefs.cli.projects:project",
            "policy": "pipefs.cli.policies:policy",
            "completion": "pipefs.cli.completion:completion",
        },
    ),
]
"""Sections of the help, in the order in which people meet them."""


def _version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        click.echo(f"pipefs {VERSION} (Python {sys.version.split()[0]})")
        ctx.exit()


@click.group(
    cls=Program,
    sections=SECTIONS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    options_metavar="[--profile P] [--system] [--config F] [-y] [-q|-v] [--json]",
    subcommand_metavar="COMMAND …",
)
@click.option("--profile", metavar="P", default="", envvar="PIPEFS_PROFILE", help="Registry P.")
@click.option("--system", is_flag=True, help="The machine's pipes (/etc/pipefs), not yours.")
@click.option("--config", "config_file", metavar="F", help="Main configuration file.")
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Version."
)
@click.pass_context
def cli(ctx: click.Context, profile: str, system: bool, config_file: str | None) -> None:
    """Mount versioned S3 data sets as ordinary folders, with their past inside.

    \b
    First minute:
      pipefs create hurdat            an embedded store; or add s3://bucket/prefix
      pipefs mount hurdat             then use ~/pipes/hurdat like any folder
      pipefs status                   is my work safe?
    """
    app = ctx.ensure_object(App)
    app.profile, app.system, app.config_file = profile, system, config_file


def main() -> NoReturn:
    """Entry point of `pipefs`; ends the process."""
    # Commands make large trees and little garbage: as often as it is by itself, looking for it
    # takes a tenth of a second of processor time for each 10,000 files.
    gc.set_threshold(50_000, 20, 100)
    try:
        cli.main()
    finally:
        gc.freeze()  # else the end of the process would look for it once more, as long


if __name__ == "__main__":
    main()
