"""`pipefs doctor`: what could keep a pipe from working, and what to do about it."""

from __future__ import annotations

from functools import partial

import click

from pipefs.cli.app import App, Command, pass_app
from pipefs.cli.findings import tell


@click.command(
    cls=Command,
    short_help="Check this machine and a pipe's store; --fix what is safe.",
    example="pipefs doctor\npipefs doctor sales --fix",
)
@click.argument("name", required=False)
@click.option("--fix", is_flag=True, help="Versioning, abort rule, dead mounts, rights of keys.")
@pass_app
def doctor(app: App, name: str | None, fix: bool) -> None:
    """Check this machine (packages, FUSE, dead mounts, settings, stored keys, room on the disk,
    stores that are gone), and with NAME the pipe's store: reachable, credentials, versions,
    conditional writes, lifecycle rules, clock. Each finding names the command that mends it. Exit
    code 1 when something is bad."""
    from pipefs.doctor import Finding, check_machine, check_pipe
    from pipefs.homecheck import check_home, mounts_at

    pipe = app.registry().get(name) if name else None
    home = app.home()
    found: list[Finding] = [
        *check_machine(fix=fix, is_ours=partial(mounts_at, home)),
        *check_home(home, fix=fix),
    ]
    if pipe is not None:
        found += check_pipe(pipe, fix=fix)
    tell(app, found)
    app.say(
        "all is well"
        if pipe is not None
        else f"this machine is fit · a pipe: {app.command('doctor NAME')}"
    )
