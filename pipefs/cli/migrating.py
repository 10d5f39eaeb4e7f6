"""`pipefs config move` and `wipe`: where the large folders are, and leaving a machine."""

from __future__ import annotations

import os

import click

from pipefs.cli.app import App, Command, pass_app
from pipefs.cli.bars import Bar
from pipefs.cli.output import tilde
from pipefs.units import show_count, show_size


@click.command(
    "move",
    cls=Command,
    short_help="Put the cache, pulled files or embedded stores elsewhere.",
    example="""\
pipefs config move cache ~/big/pipefs-cache -n     how much it is
pipefs config move cache ~/big/pipefs-cache
pipefs config move pipes ~/big/pulled              folders of pull and push""",
)
@click.argument("what", type=click.Choice(["cache", "pipes", "stores"]))
@click.argument("place", metavar="NEWPATH")
@click.option("-n", "--dry-run", "--preview", "dry", is_flag=True, help="Only say it.")
@pass_app
def move(app: App, what: str, place: str, dry: bool) -> None:
    """Move what is large to another disk; a link stays, so nothing else has to be changed.

    cache: what was read from buckets · pipes: the folders of pull and push · stores: embedded
    stores. Nothing may be mounted. Killed in the middle nothing is lost: the same command goes on.
    """
    from pipefs import relocating

    home = app.home()
    if not os.path.lexists(relocating.folder_of_kind(home, what)):
        home.make()
    wanted = relocating.plan(home, what, place)
    facts = f"{show_count(wanted.files, 'file')}, {show_size(wanted.bytes)}"
    if not dry:
        relocating.refuse_while_used(relocating.homes_of(home))
        with Bar(app, "moving") as bar:
            bar.start(wanted.files, wanted.bytes)
            relocating.move(home, wanted, bar.add)
    app.emit(
        {
            "what": what,
            "folder": wanted.folder,
            "from": wanted.source,
            "to": wanted.target,
            "files": wanted.files,
            "bytes": wanted.bytes,
            **({"dry_run": True} if dry else {}),
        }
    )
    if wanted.source == wanted.target:
        app.say(f"{what}  is at {tilde(wanted.target)}")
        return
    verb = "would move" if dry else "moved"
    app.say(f"{what}  {verb} to {tilde(wanted.target)} · {facts}")


@click.command(
    "wipe",
    cls=Command,
    short_help="Remove everything of pipefs from this machine.",
    example="pipefs config wipe -n        what would go\npipefs -y config wipe",
)
@click.option("--purge", is_flag=True, help="Embedded stores too: their files are nowhere else.")
@click.option("--force", is_flag=True, help="Although files in folders were never pushed.")
@click.option("-n", "--dry-run", "--preview", "dry", is_flag=True, help="Only say it.")
@pass_app
def wipe(app: App, purge: bool, force: bool, dry: bool) -> None:
    """Delete settings, local state, cache and pulled files of this user (with --profile: of that
    profile). Buckets keep everything. Refused while something is mounted, or waits to go up."""
    from pipefs import relocating, wiping
    from pipefs.client import NotRunning, SupervisorClient

    home = app.home()
    relocating.refuse_while_used([home])
    wanted = wiping.plan(home, force=force)
    going = [*wanted.folders, *(wanted.stores if purge else ())]
    if not dry and going:
        stores = f", {show_count(len(wanted.stores), 'embedded store')}" if purge else ""
        pipes = show_count(len(wanted.pipes), "pipe")
        words = f"config wipe{' --purge' if purge else ''}{' --force' if force else ''}"
        app.confirm(f"This forgets {pipes} and deletes their files here{stores}.", words)
        try:
            SupervisorClient(home).end()
        except NotRunning:
            pass
        wiping.wipe(home, wanted, purge=purge)
    told = {"removed": going, "kept": list(wanted.linked), "pipes": list(wanted.pipes)}
    app.emit({**told, "dry_run": dry})
    for path in going:
        app.say(f"{'would remove' if dry else 'removed'} {tilde(path)}")
    if not going:
        app.say("there is nothing of pipefs here")
    if wanted.linked:
        kept = ", ".join(tilde(path) for path in wanted.linked)
        app.say(f"kept, for links that pipefs did not make lead there: {kept}")
    if wanted.stores and not purge:
        kept = ", ".join(tilde(path) for path in wanted.stores)
        app.say(f"kept, for they are nowhere else: {kept} · with --purge they go as well")
