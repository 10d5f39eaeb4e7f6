"""`pipefs doctor`: what could keep a pipe from working, and what to do about it."""

from __future__ import annotations

import click

from pipefs.cli.app import App, Command, pass_app
from pipefs.cli.output import printable, table
from pipefs.errors import PipefsError

_MARKS = {"ok": "ok", "note": "note", "bad": "BAD"}


@click.command(
    cls=Command,
    short_help="Check this machine and a pipe's store; --fix what is safe.",
    example="pipefs doctor\npipefs doctor sales --fix",
)
@click.argument("name", required=False)
@click.option("--fix", is_flag=True, help="Versioning on, abort rule, dead mounts away.")
@pass_app
def doctor(app: App, name: str | None, fix: bool) -> None:
    """Check this machine, and with NAME the pipe's store: reachable, credentials, versions,
    conditional writes, lifecycle rules, clock. Exit code 1 when something is bad."""
    from pipefs.doctor import BAD, Finding, check_machine, check_pipe

    pipe = app.registry().get(name) if name else None
    found: list[Finding] = list(check_machine(fix=fix))
    if pipe is not None:
        found += check_pipe(pipe, fix=fix)
    app.emit({"checks": found})
    shown = [f for f in found if not app.quiet or f.level != "ok"]
    for line, finding in zip(
        table([[_MARKS[f.level], f.what, printable(f.detail)] for f in shown]), shown, strict=True
    ):
        app.say(line)
        if finding.todo:
            app.say(f"      {finding.todo}")
    bad = [f for f in found if f.level == BAD]
    if bad:
        raise PipefsError(f"{len(bad)} of {len(found)} checks are bad")
    app.say(
        "all is well"
        if pipe is not None
        else f"this machine is fit · a pipe: {app.command('doctor NAME')}"
    )
