"""`pipefs watch`: a plain folder in step with a pipe for as long as this runs, without a mount."""

from __future__ import annotations

import contextlib
import shlex
import signal
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from pipefs.cli.app import App, Command, pass_app
from pipefs.cli.output import printable, tilde
from pipefs.errors import UsageError
from pipefs.units import show_size, utc_text

if TYPE_CHECKING:
    from pipefs.folder.rounds import Event
    from pipefs.folder.watching import Watch
    from pipefs.replica import Replica

LAST_PUSH_S = 60.0
"""What waits when the user or the service manager ends it has so long to go up; systemd waits 90 s
before it kills."""


@click.command(
    cls=Command,
    short_help="Keep a folder in step with a pipe.",
    example="""\
pipefs watch ./work sales                 until Ctrl-C
pipefs watch ./work sales --delete        also what is deleted, on either side
pipefs watch ./work sales --once          one round, for cron and CI
pipefs watch ./work sales --once -n       what it would do
pipefs watch ./work sales --json          a JSON object a line""",
)
@click.argument("directory", metavar="DIR")
@click.argument("pipe")
@click.option("--delete", is_flag=True, help="What one side deleted is deleted on the other.")
@click.option("--include", metavar="P", help="Only these files, such as '*.csv|*.xls*'.")
@click.option("--exclude", metavar="P", help="Not these.")
@click.option(
    "--every",
    "follow_s",
    metavar="S",
    type=click.FloatRange(min=0.1),
    default=10.0,
    show_default=True,
    help="Seconds between looks at the pipe.",
)
@click.option("--once", is_flag=True, help="One round, then end.")
@click.option("-n", "--dry-run", "--preview", "dry_run", is_flag=True, help="Only say what.")
@pass_app
def watch(
    app: App,
    directory: str,
    pipe: str,
    delete: bool,
    include: str | None,
    exclude: str | None,
    follow_s: float,
    once: bool,
    dry_run: bool,
) -> None:
    """Keep DIR in step with PIPE, without a mount, for as long as this runs: what others put into
    the pipe comes within seconds, what changes in the folder goes up when it has rested for the
    pipe's `quiet_period`. A file that changed on both sides is kept twice, yours under a conflict
    name. While the store is away it waits.

    Without --delete, a file that is deleted in the folder comes back, and one that is deleted in
    the pipe stays in the folder. Ctrl-C pushes what waits, and ends.
    """
    from pipefs.folder.deciding import Folder
    from pipefs.folder.rounds import Wishes
    from pipefs.folder.watching import Watch
    from pipefs.replica import Replica
    from pipefs.target import split_snapshot

    name, snapshot = split_snapshot(pipe.rstrip("/"))
    if snapshot is not None:
        raise UsageError(
            f"{pipe} is a snapshot, which never changes",
            hint=app.command(f"get {pipe} {shlex.quote(directory)}"),
        )
    home = app.home()
    folder = Folder.at(directory)
    replica = Replica(home, app.registry(home).get(name))
    click.get_current_context().call_on_close(replica.close)
    shown = _Lines(app, dry_run)
    watched = Watch(replica, folder, Wishes(include, exclude, delete, follow_s), shown.tell)
    if dry_run:
        watched.preview()
    elif once:
        watched.once()
    else:
        _run(app, watched, folder.path, replica, delete, shown)
    if (once or dry_run) and not shown.count:
        app.say(f"{tilde(folder.path)}  in step with {name}")


def _run(
    app: App, watched: Watch, folder: str, replica: Replica, delete: bool, shown: _Lines
) -> None:
    name = replica.pipe.name

    def ready() -> None:
        what = "deletions travel" if delete else "deletions stay where they are (--delete)"
        shown.line({"event": "ready", "name": name, "folder": folder, "delete": delete})
        step = "waits for" if watched.is_offline else "in step with"
        app.say(f"{tilde(folder)}  {step} {name} · {what} · Ctrl-C ends it")

    with _signals(watched):
        watched.run(ready)
    shown.line({"event": "ended", "name": name, "folder": folder})
    app.say(f"{tilde(folder)}  ended · all of it is in {name}")


@contextlib.contextmanager
def _signals(watched: Watch) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM lets it push what waits; another one, or too long a time, ends
    that too."""
    from pipefs.folder.watching import Hurry

    asked = False

    def on_signal(_number: int, _frame: object) -> None:
        nonlocal asked
        if asked:
            raise Hurry
        asked = True
        watched.stop()
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, on_signal)
            signal.setitimer(signal.ITIMER_REAL, LAST_PUSH_S)
        if watched.is_pulling:
            raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


class _Lines:
    """What was done, a line each."""

    def __init__(self, app: App, dry_run: bool) -> None:
        self._app = app
        self._dry = dry_run
        self.count = 0

    def tell(self, event: Event) -> None:
        self.count += 1
        told = {"event": event.what, "path": event.path, "size": event.size, "text": event.text}
        self.line({k: v for k, v in told.items() if v != "" and (k != "size" or _moves(event))})
        parts = [utc_text(time.time_ns())[11:], f"{_WORDS.get(event.what, event.what):<13}"]
        if self._dry:
            parts[0] = "would be" if event.what != "conflict" else "would be a"
        if event.path:
            parts.append(printable(event.path))
        if _moves(event):
            parts.append(show_size(event.size))
        if event.what == "conflict":
            parts.append(f"both are kept: yours is {printable(event.text)}")
        elif event.text:
            parts.append(event.text)
        self._app.say("  ".join(parts))

    def line(self, told: dict[str, Any]) -> None:
        """One JSON object, where JSON was asked for."""
        import msgspec

        if self._app.json:
            now = utc_text(time.time_ns())
            click.echo(msgspec.json.encode({"time": now, **told}).decode())


_WORDS = {"offline": "OFFLINE"}


def _moves(event: Event) -> bool:
    return event.what in ("pulled", "pushed")
