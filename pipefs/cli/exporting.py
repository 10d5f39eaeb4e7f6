"""`pipefs export`: a snapshot in another system's format. Copies no data."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipefs.cli.app import App, Command, pass_app
from pipefs.cli.output import printable
from pipefs.cli.pasts import LIVE, open_past
from pipefs.errors import Refused, UsageError
from pipefs.target import SNAPDIR, Target, is_path, parse_target
from pipefs.units import show_count, show_size

if TYPE_CHECKING:
    from pipefs.foreign.exports import Exported, Source
    from pipefs.registry import Pipe

FORMATS = ("dws", "t4", "quilt3", "dvc")


@dataclass(frozen=True, slots=True)
class _Options:
    """What was asked for besides the snapshot."""

    format: str
    to: str
    remote: str
    force: bool

    def check(self) -> None:
        """
        Raises:
            UsageError: an option that this format has no use for.
        """
        if self.to and self.format in ("dws", "t4"):
            raise UsageError(
                f"--to says nothing for {self.format}: its snapshots are in the bucket"
            )
        if self.remote and self.format != "dvc":
            raise UsageError("--remote is for dvc only")


@click.command(
    cls=Command,
    short_help="Write a snapshot in another system's format.",
    example="""\
pipefs export sales v1 --format quilt3 --to team/sales
pipefs export sales@latest/2026 --format dvc --to ~/project
pipefs export sales v1 --format dws""",
)
@click.argument("target")
@click.argument("snap", required=False)
@click.option(
    "--format", "format_", type=click.Choice(FORMATS), required=True, help="What will read it."
)
@click.option(
    "--to", metavar="WHERE", default="", help="dvc: a folder (default .). quilt3: USER/PACKAGE."
)
@click.option("--remote", metavar="R", default="", help="dvc: its name of the bucket.")
@click.option("--force", is_flag=True, help="Also over what another program wrote.")
@pass_app
def export(
    app: App, target: str, snap: str | None, format_: str, to: str, remote: str, force: bool
) -> None:
    """Write a snapshot (or a folder or file of it) so that Data Workspaces, T4, quilt3 or DVC
    reads exactly its versions from the bucket. Nothing is copied."""
    options = _Options(format_, to, remote, force)
    options.check()
    found = _target(app, target, snap)
    pipe = app.registry().get(found.name)
    source = _source(app, pipe, found)
    done = _write(app, source, pipe, options)
    _tell(app, source, done)


def _target(app: App, target: str, snap: str | None) -> Target:
    """TARGET with its snapshot, which may be a word of its own."""
    from pipefs.client import SupervisorClient

    mounts = SupervisorClient(app.home()).mounts_or_none() if is_path(target) else []
    found = parse_target(target, mounts)
    if snap is not None:
        if found.snapshot is not None:
            raise UsageError(f"{target} and {snap} are two snapshots")
        found = Target(found.name, snap, found.path)
    if found.snapshot is None or found.snapshot == LIVE:
        raise UsageError(
            f"{target} is the present, which changes: name a snapshot",
            hint=f"For example: {app.command(f'export {found.name} latest --format …')}",
        )
    return found


def _source(app: App, pipe: Pipe, found: Target) -> Source:
    from pipefs.buckets import open_place
    from pipefs.foreign.exports import Source
    from pipefs.keys import component_of
    from pipefs.registry import PATIENCE_S

    place = click.get_current_context().with_resource(open_place(pipe, patience_s=PATIENCE_S))
    past = open_past(app, pipe.name)
    assert found.snapshot is not None
    snapshot = past.catalog.find(found.snapshot)
    path = "/".join(component_of(n.encode(errors="surrogateescape"))
                    for n in found.path.split("/") if n)  # fmt: skip
    view = past.view(snapshot.id)
    return Source(view, snapshot, place, path)


class _ReadLine:
    """How much had to be read for hashes, on a terminal. Called from several threads."""

    def __init__(self, app: App) -> None:
        self._live = not (app.quiet or app.json) and sys.stderr.isatty()
        self._lock = threading.Lock()  # protects what is below; a leaf
        self._bytes = 0
        self._next = 0.0

    def __enter__(self) -> _ReadLine:
        return self

    def __call__(self, count: int) -> None:
        with self._lock:
            self._bytes += count
            if self._live and time.monotonic() >= self._next:
                self._next = time.monotonic() + 0.2
                read = show_size(self._bytes)
                click.echo(f"\r\x1b[Kreading for hashes: {read} …", nl=False, err=True)

    def __exit__(self, *_: object) -> None:
        if self._next:
            click.echo("\r\x1b[K", nl=False, err=True)


def _write(app: App, source: Source, pipe: Pipe, options: _Options) -> Exported:
    if options.format == "dws":
        from pipefs.foreign import dws

        return dws.write(source)
    if options.format == "t4":
        from pipefs.foreign import t4

        return t4.write(source)
    if options.format == "quilt3":
        from pipefs.foreign import quilt3

        name = options.to or quilt3.default_name(pipe.name)
        with _ReadLine(app) as read:
            return quilt3.write(source, name, force=options.force, progress=read)
    from pipefs.foreign import dvc

    with _ReadLine(app) as read:
        return dvc.write(
            source,
            _folder(options.to or "."),
            remote=options.remote or pipe.name,
            endpoint_url=pipe.settings.endpoint_url,
            force=options.force,
            progress=read,
        )


def _folder(text: str) -> Path:
    folder = Path(text).expanduser().absolute()
    if SNAPDIR in folder.parts:
        raise Refused(f"{folder} is the past, which cannot be written")
    return folder


def _tell(app: App, source: Source, done: Exported) -> None:
    label = source.snapshot.label
    app.emit(
        {
            "format": done.format,
            "snapshot": source.snapshot.id,
            "path": source.top,
            "hash": done.hash,
            "written": done.written,
            "files": done.files,
            "bytes": done.bytes,
            "warnings": done.warnings,
            "next": done.next,
        }
    )
    for text in done.warnings:
        app.warn(printable(text))
    size = f"{show_count(done.files, 'file')}, {show_size(done.bytes)}"
    what = f"{done.format} {done.hash[:12]}".rstrip()
    app.say(f"{printable(label)}  {what} · {size}, nothing copied · {printable(done.written[0])}")
    for command in done.next:
        app.say(f"next: {command}")
