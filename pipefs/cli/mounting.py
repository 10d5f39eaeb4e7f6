"""`pipefs mount umount`: pipes as folders, through the supervisor of this home."""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING, NoReturn, Self

import click

from pipefs.cli.app import App, Command, pass_app
from pipefs.cli.documents import show_new
from pipefs.cli.output import printable, tilde
from pipefs.config import parse_assignments
from pipefs.detach import detach
from pipefs.errors import NotFound, PartlyDone, PipefsError, Refused, UsageError
from pipefs.mountinfo import PIPEFS_TYPE, read_mounts
from pipefs.target import is_path, split_snapshot
from pipefs.units import show_count, show_seconds, show_size

if TYPE_CHECKING:
    from pipefs.client import SupervisorClient
    from pipefs.home import Home
    from pipefs.protocol import FlushProgress, Mount, Mounted, Unmounted


@click.command(
    cls=Command,
    short_help="Mount pipes as folders; returns when they answer.",
    example="""\
pipefs mount hurdat                     at ~/pipes/hurdat
pipefs mount sales /srv/sales --read-only
pipefs mount sales@2026Q3               a snapshot, read-only
pipefs mount sales data/ --locked       the snapshot that pipefs.lock names
pipefs mount --all""",
)
@click.argument("names", metavar="NAME[@SNAP]… [DIR]", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every pipe that is not mounted yet.")
@click.option("--read-only", is_flag=True, help="Refuse writes.")
@click.option("--locked", is_flag=True, help="The snapshots that pipefs.lock names, read-only.")
@click.option("--foreground", is_flag=True, help="Stay until unmounted; Ctrl-C unmounts.")
@click.option(
    "--transport",
    type=click.Choice(["auto", "kernel", "libfuse"]),
    default="auto",
    help="How the kernel talks to the daemon.",
)
@click.option(
    "-o", "options", metavar="KEY=VALUE", multiple=True, help="A setting, this time only."
)
@pass_app
def mount(
    app: App,
    names: tuple[str, ...],
    everything: bool,
    read_only: bool,
    locked: bool,
    foreground: bool,
    transport: str,
    options: tuple[str, ...],
) -> None:
    """Mount pipes.

    DIR is a folder (with a "/" in it, or one that exists) and goes with a single pipe; without it
    the pipe's mountpoint setting counts, else ~/pipes/NAME. Writing may begin at once: what does
    not fit through the network now waits on this machine's disk. With --locked each pipe is mounted
    as NAME@ID, at the snapshot that pipefs.lock of this project names.
    """
    from pipefs.client import connect_or_start
    from pipefs.protocol import Mount

    home = app.home()
    registry = app.registry(home)
    wanted, directory = _wanted(app, home, registry.names(), names, everything, locked)
    for name, _ in wanted:
        registry.get(name)
    given = mount_options(options)
    if not wanted:
        app.emit({"mounted": []})
        return
    read_only = read_only or given.get("read_only") == "yes"
    client = connect_or_start(home, system=app.system, config_file=app.config_file)
    done, failed = _mount_each(
        app,
        client,
        [Mount(name, directory, at, read_only, transport, given) for name, at in wanted],
        tell=not foreground,
    )
    if not foreground or not done:
        app.emit({"mounted": done})
    if failed and not done:
        raise type(failed[0])(f"none of {len(failed)} pipes could be mounted")
    if foreground:
        _stay(app, client, done)
    if failed:
        raise PartlyDone(f"{len(failed)} of {len(wanted)} pipes could not be mounted")


def _mount_each(
    app: App, client: SupervisorClient, requests: list[Mount], *, tell: bool
) -> tuple[list[Mounted], list[PipefsError]]:
    """Mount one after the other; of several, a failed one does not keep the rest."""
    done: list[Mounted] = []
    failed: list[PipefsError] = []
    for request in requests:
        try:
            done.append(client.mount(request))
            if tell:
                _say_mounted(app, done[-1])
                if not done[-1].snapshot:
                    show_new(app, client.home, done[-1].name, done[-1].path)
        except PipefsError as e:
            if len(requests) == 1:
                raise
            app.warn(f"{request.name}: {e.message}", e.hint)
            failed.append(e)
    return done, failed


def _wanted(
    app: App,
    home: Home,
    known: list[str],
    names: tuple[str, ...],
    everything: bool,
    locked: bool,
) -> tuple[list[tuple[str, str | None]], str]:
    """Pipes with their snapshots, and the folder ("" when none was given)."""
    words, directory = list(names), ""
    shaped = bool(words) and _is_folder(words[-1])
    if shaped or (len(words) == 2 and words[1] not in known and os.path.isdir(words[1])):
        directory = words.pop()
    if everything:
        from pipefs.client import SupervisorClient

        if words or directory or locked:
            raise UsageError("--all goes without names, folder and --locked")
        there = {m.name for m in SupervisorClient(home).mounts_or_none() if m.snapshot is None}
        wanted = [n for n in known if n not in there]
        if not wanted:
            app.say("nothing to mount" if known else "no pipes yet")
        return [(n, None) for n in wanted], ""
    if not words:
        raise UsageError("which pipe?", hint=f"{app.command('mount NAME')} · all: --all")
    if directory and len(words) > 1:
        raise UsageError(f"{directory} can be the mount point of one pipe only")
    full = os.path.normpath(os.path.abspath(os.path.expanduser(directory))) if directory else ""
    targets = [split_snapshot(w) for w in words]
    if locked:
        from pipefs.cli.locking import pinned_targets

        targets = pinned_targets(app, targets)
    return targets, full


BARE_OPTIONS = {
    "ro": "read_only=yes",
    "rw": "read_only=no",
    "allow_other": "allow_other=yes",
    **{word: f"{word}=yes" for word in ("acl", "suid", "dev", "exec")},
    **{f"no{word}": f"{word}=no" for word in ("acl", "suid", "dev", "exec")},
    "requester_pays": "requester_pays=yes",
}


def mount_options(words: tuple[str, ...]) -> dict[str, str]:
    """Options as texts for the daemon; also those of mount(8), as /etc/fstab has them."""
    pairs = []
    for word in words:
        # "umask=022,ro" is one word in fstab, "include=*.csv,*.tsv" is one setting.
        parts = word.split(",")
        whole = any("=" not in p and p not in BARE_OPTIONS for p in parts)
        pairs += [BARE_OPTIONS.get(p, p) for p in ([word] if whole else parts)]
    checked = parse_assignments(pairs)
    return {key: _as_text(value) for key, value in checked.items()}


def _as_text(value: object) -> str:
    import json

    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ",".join(value)
    return json.dumps(value) if isinstance(value, dict) else str(value)


def _say_mounted(app: App, mounted: Mounted) -> None:
    name = f"{mounted.name}@{mounted.snapshot}" if mounted.snapshot else mounted.name
    facts = [tilde(mounted.path), f"ready in {show_seconds(mounted.seconds)}"]
    past = os.path.join(mounted.path, ".snapshots")
    if not mounted.snapshot and os.path.isdir(past):
        facts.append(f"history: {tilde(past)}/")
    facts += [w for w in mounted.warnings if w.startswith("READ-ONLY")]
    app.say(f"{printable(name)}  {' · '.join(facts)}")
    for warning in mounted.warnings:
        if not warning.startswith("READ-ONLY") or app.quiet or app.json:
            app.warn(warning)


def _stay(app: App, client: SupervisorClient, mounted: list[Mounted]) -> None:
    """Tell of the mounts, and return when none is there any more; a signal unmounts them first."""
    from pipefs.protocol import Umount

    def leave(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, leave)
    paths = {m.path for m in mounted}
    try:
        # Not before: who reads that it is mounted may end it at once.
        app.emit({"mounted": mounted})
        for one in mounted:
            _say_mounted(app, one)
        while paths & {m.path for m in client.mounts_or_none()}:
            time.sleep(0.5)
    except KeyboardInterrupt:
        for path in sorted(paths):
            _say_unmounted(app, client.umount(Umount(directory=path)))


@click.command(
    cls=Command,
    short_help="Unmount; waits for what is going up.",
    example="pipefs umount sales\npipefs umount --all --no-wait",
)
@click.argument("places", metavar="NAME|DIR…", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Everything this home has mounted.")
@click.option("--wait/--no-wait", default=None, help="Insist on an empty outbox, or do not wait.")
@pass_app
def umount(app: App, places: tuple[str, ...], everything: bool, wait: bool | None) -> None:
    """Unmount pipes.

    Waits up to 60 s for what is not in the store yet, then unmounts all the same: the rest waits
    on this machine and goes up at the next mount. --wait insists, --no-wait does not wait.
    """
    from pipefs.client import NotRunning, SupervisorClient

    home = app.home()
    client = SupervisorClient(home)
    if everything == bool(places):
        raise UsageError("which mount?", hint=f"{app.command('umount NAME')} · all: --all")
    if everything:
        places = tuple(
            f"{m.name}@{m.snapshot}" if m.snapshot else m.name for m in client.mounts_or_none()
        )
        if not places:
            app.say("nothing is mounted")
    results: list[Unmounted] = []
    failed: list[PipefsError] = []
    for place in places:
        try:
            try:
                results.append(_umount(app, client, place, wait))
            except (NotRunning, NotFound) as e:
                results.append(_clear_dead(app, home, place, e))
        except PipefsError as e:
            if len(places) == 1:
                raise
            app.warn(f"{place}: {e.message}", e.hint)
            failed.append(e)
    app.emit({"unmounted": results})
    if failed:
        kind = PartlyDone if results else type(failed[0])
        raise kind(f"{len(failed)} of {len(places)} mounts could not be unmounted")


def _umount(app: App, client: SupervisorClient, place: str, wait: bool | None) -> Unmounted:
    from pipefs.protocol import Umount

    bound = None if wait else 60.0
    if _is_folder(place):
        directory = _absolute(place)
        request = Umount(directory=directory, wait=wait, timeout_s=bound)
    else:
        name, snapshot = split_snapshot(place)
        label = f"{name}@{snapshot}" if snapshot else name
        request = Umount(name=label, wait=wait, timeout_s=bound)
    with ProgressLine(app, "waiting for") as line:
        done = client.umount(request, progress=line.show)
    _say_unmounted(app, done)
    return done


class ProgressLine:
    """One line on a terminal that is written over and cleared at the end; else nothing."""

    def __init__(self, app: App, verb: str) -> None:
        self._live = not (app.quiet or app.json) and sys.stderr.isatty()
        self._verb = verb
        self._shown = False

    def __enter__(self) -> Self:
        return self

    def show(self, left: FlushProgress) -> None:
        if self._live and left.files:
            text = f"{self._verb} {show_count(left.files, 'file')} ({show_size(left.bytes)})"
            click.echo(f"\r\x1b[K{text} …", nl=False, err=True)
            self._shown = True

    def __exit__(self, *_: object) -> None:
        if self._shown:
            click.echo("\r\x1b[K", nl=False, err=True)


def _is_folder(place: str) -> bool:
    return is_path(place) or "/" in place


def _absolute(place: str) -> str:
    # Not realpath: it would touch a mount that may be dead.
    return os.path.normpath(os.path.abspath(os.path.expanduser(place)))


def _say_unmounted(app: App, done: Unmounted) -> None:
    text = f"{printable(done.name)}  unmounted"
    if done.remaining_files:
        size = show_size(done.remaining_bytes)
        one = done.remaining_files == 1
        text += (
            f" · {show_count(done.remaining_files, 'file')} ({size}) could not go up; "
            f"{'it waits' if one else 'they wait'} in the outbox and "
            f"{'goes' if one else 'go'} up at the next mount"
        )
    app.say(text)


def _clear_dead(app: App, home: Home, place: str, cause: PipefsError) -> Unmounted:
    """Detach a mount whose daemon is gone; `cause` again when there is none."""
    from pipefs.protocol import Unmounted

    path = _absolute(place) if _is_folder(place) else _usual_place(app, home, place)
    entry = next((e for e in read_mounts() if e.path == path), None)
    if entry is None or entry.fstype != PIPEFS_TYPE:
        # A name was looked up above, so a pipe of that name exists and its state is the matter.
        kind = NotFound if _is_folder(place) else Refused
        hint = f"What is mounted: {app.command('status')}"
        raise kind(f"{place} is not mounted", hint=hint) from cause
    detach(entry)
    app.say(f"{place}  unmounted (its daemon was gone)")
    return Unmounted(place, path)


def _usual_place(app: App, home: Home, place: str) -> str:
    name = split_snapshot(place)[0]
    settings = app.registry(home).get(name).settings
    return settings.mountpoint or str(home.mountpoint(place))
