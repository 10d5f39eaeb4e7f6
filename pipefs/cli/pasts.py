"""What the commands about the past share: opening it, naming a moment of it, showing times.

The past is read from the bucket alone: no mount and no daemon is needed, and none is disturbed.
"""

from __future__ import annotations

import functools
import os
import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING

import click

from pipefs.catalog import FOREIGN
from pipefs.cli.app import App
from pipefs.errors import Refused, UsageError

if TYPE_CHECKING:
    from pipefs.catalog import Catalog, Snapshot
    from pipefs.manifest import Entry
    from pipefs.past.opened import Past
    from pipefs.past.reading import Contents
    from pipefs.past.views import PastView
    from pipefs.stores.base import Store

LIVE = "live"
"""The present, wherever a snapshot is named."""


def open_past(app: App, name: str) -> Past:
    """The past of a registered pipe, its catalogue read. The store is closed when the command
    ends.

    Raises:
        NotFound: no such pipe. Store errors.
    """
    from pipefs.descriptor import who
    from pipefs.knownnames import remember
    from pipefs.past.opened import Past
    from pipefs.registry import PATIENCE_S

    home = app.home()
    store = app.registry(home).get(name).open_store(patience_s=PATIENCE_S)
    context = click.get_current_context(silent=True)
    if context is not None:
        context.call_on_close(store.close)
    past = Past(
        store,
        author=who(),
        writer=uuid.uuid4().hex,
        folder=home.cache / "manifests",
        conditional=_asked_once(store),
    )
    past.refresh()
    remember(home, name, [snapshot.label for snapshot in past.catalog.kept()])
    return past


def _asked_once(store: Store) -> Callable[[], bool]:
    """Whether the store has conditional puts; tried when somebody first wants to know."""
    return functools.cache(lambda: store.probe().conditional_put)


def view_at(app: App, past: Past, name: str, moment: str | None) -> PastView:
    """The tree of a pipe at a moment: tag, id, `latest`, @TIME, or the present (None, `live`);
    also another system's snapshot by its label.

    Raises:
        NotFound: no such snapshot. Conflict: an id that several begin with. UsageError: no time.
    """
    from pipefs.past.nodes import MemoryNodes
    from pipefs.past.resolving import open_view

    if moment is None or moment == LIVE:
        return live_view(app, name)
    if moment.startswith(FOREIGN):
        return foreign_view(app, name, moment)
    return open_view(past, moment, MemoryNodes())


def foreign_view(app: App, name: str, moment: str) -> PastView:
    """What another system pinned of a pipe: `dws-4f2a91c`, `quilt-team-sales@4f2a91c`.

    Raises:
        NotFound: no such snapshot. Conflict: several begin so. Refused: the pipe is not in S3.
    """
    from pipefs.buckets import open_place
    from pipefs.foreign.found import Foreign
    from pipefs.registry import PATIENCE_S

    pipe = app.registry(app.home()).get(name)
    with open_place(pipe, patience_s=PATIENCE_S) as place:
        foreign = Foreign(place)
        foreign.refresh()
        return foreign.view(moment)


def live_view(app: App, name: str) -> PastView:
    """The present of a pipe as a view: asked of its daemon, or read from its state.

    Raises:
        NotFound: no such pipe. Busy: another command has its state.
    """
    from pipefs.client import SupervisorClient, WorkerClient
    from pipefs.manifest import decode_root
    from pipefs.past.manifests import ManifestStore, ManifestView
    from pipefs.pastmessages import PresentPart
    from pipefs.session import Session

    home = app.home()
    pipe = app.registry(home).get(name)
    manifests = ManifestStore(pipe.open_store(), home.cache / "manifests")
    items = SupervisorClient(home).mounts_or_none()
    item = next((m for m in items if m.name == name and m.snapshot is None), None)
    if item is None:
        with Session(home, pipe) as session:
            root, parts = session.keeper.present()
        for part, data in parts.items():
            manifests.lend(part, data)
        return ManifestView(manifests, root, LIVE)

    def keep(part: PresentPart) -> None:
        manifests.lend(part.name, part.lines.encode())

    tree = WorkerClient(item.socket).present(keep)
    return ManifestView(manifests, decode_root(tree.root.encode(), LIVE), LIVE)


def contents_at(app: App, past: Past, name: str, moment: str | None) -> Contents:
    """What the files of `view_at` have in them; a file that is only on this machine is read
    through its mount."""
    from pipefs.past.reading import Contents

    if moment is None or moment == LIVE:
        return Contents(past.store, functools.partial(_open_live, app, name))
    return Contents(past.store)


def _open_live(app: App, name: str, entry: Entry) -> IO[bytes]:
    from pipefs.client import SupervisorClient, WorkerClient
    from pipefs.manifest import names_in

    items = SupervisorClient(app.home()).mounts_or_none()
    item = next((m for m in items if m.name == name and m.snapshot is None), None)
    if item is None:
        raise Refused(
            f"{entry.path} is not in the store yet, and {name} is not mounted",
            hint=f"First: {app.command(f'mount {name}')}",
        )
    if WorkerClient(item.socket).status().snapshot is not None:
        raise Refused(
            f"{entry.path} is not in the store yet, and {item.path} shows a snapshot",
            hint=f"First: {app.command(f'flush {name}')}",
        )
    return open(os.path.join(os.fsencode(item.path), *names_in(entry.path)), "rb")


# --- names -----------------------------------------------------------------------------------


def snapshot_target(app: App, text: str) -> tuple[str, str]:
    """(pipe, snapshot) of NAME@SNAP or of a path inside `.snapshots/SNAP`.

    Raises:
        UsageError: no snapshot is named, or only a part of one, or a moment.
    """
    found = whole_target(app, text)
    if found[1] is None:
        raise UsageError(f"{text!r} names no snapshot", hint=f"Write it as {found[0]}@SNAP.")
    return found[0], found[1]


def whole_target(app: App, text: str) -> tuple[str, str | None]:
    """(pipe, snapshot or None) of NAME[@SNAP]. Raises `UsageError` for a path in it, a moment."""
    from pipefs.client import SupervisorClient
    from pipefs.target import is_path, parse_target

    mounts = SupervisorClient(app.home()).mounts_or_none() if is_path(text) else []
    target = parse_target(text, mounts)
    if target.path and target.snapshot is not None:
        raise UsageError(f"{target} is a part of a snapshot", hint="Name it without the path.")
    if target.snapshot is not None and target.snapshot.startswith("@"):
        raise UsageError(f"{target} is a moment, not a snapshot: it cannot be kept or forgotten")
    return target.name, target.snapshot


def find_snapshot(catalog: Catalog, name: str, *, forgotten: bool = False) -> Snapshot:
    """A snapshot of pipefs' own, by tag or id.

    Raises:
        NotFound, Conflict: as `Catalog.find`. Refused: another system made it.
    """
    from pipefs.catalog import FOREIGN

    if name.startswith(FOREIGN):
        raise Refused(f"{name} belongs to another system: pipefs only reads it")
    return catalog.find(name, forgotten=forgotten)


# --- times --------------------------------------------------------------------------------------

_FRACTION = re.compile(r"\.\d+")


def time_text(utc: str) -> str:
    """A time of a snapshot for people: `2026-11-28 12:00Z`; as it is where it is no time."""
    try:
        moment = datetime.fromisoformat(_FRACTION.sub("", utc))
    except ValueError:
        return utc
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%MZ")


def time_text_ns(timestamp_ns: int) -> str:
    """The same for ns since the epoch; empty for 0, which is no time."""
    if not timestamp_ns:
        return ""
    return datetime.fromtimestamp(timestamp_ns // 10**9, UTC).strftime("%Y-%m-%d %H:%MZ")
