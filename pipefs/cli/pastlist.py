"""`pipefs snapshots log`: which moments were kept, and what happened."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TYPE_CHECKING

import click

from pipefs.cli.app import App, Command, pass_app
from pipefs.cli.diffoutput import shown_path
from pipefs.cli.output import printable, table
from pipefs.cli.pasts import open_past, time_text, time_text_ns
from pipefs.errors import NotFound
from pipefs.target import Target, parse_target
from pipefs.units import show_count, show_size, utc_text

if TYPE_CHECKING:
    from pipefs.catalog import Catalog, Snapshot
    from pipefs.commits import Change, Commit
    from pipefs.foreign.found import ForeignSnapshot
    from pipefs.past.history import Event
    from pipefs.past.opened import Past

_LINES = 20
"""Entries of a log that are shown unless -n says more."""


def _target(app: App, text: str) -> Target:
    from pipefs.client import SupervisorClient

    return parse_target(text, SupervisorClient(app.home()).mounts_or_none())


def _names(path: str) -> list[bytes]:
    return [n for n in os.fsencode(path).split(b"/") if n]


def manifest_path(path: str) -> str:
    """A path as somebody types it, as manifests and commits have it."""
    from pipefs.manifest import path_of

    return path_of(_names(path))


# --- snapshots ----------------------------------------------------------------------------------


@click.command(
    cls=Command,
    short_help="The snapshots of a pipe, newest first.",
    example="pipefs snapshots sales\n"
    "pipefs snapshots sales --contains 2026/q3.csv\n"
    "pipefs snapshots sales --foreign\n"
    "pipefs snapshots sales --json",
)
@click.argument("name")
@click.option("--contains", metavar="PATH", default="", help="Only those whose folder has PATH.")
@click.option("--foreign", "others", is_flag=True, help="Also those of dws, T4 and quilt3.")
@pass_app
def snapshots(app: App, name: str, contains: str, others: bool) -> None:
    """Tags, id, time, what is in it, and its message. NAME/PATH is short for --contains PATH."""
    target = _target(app, name)
    past = open_past(app, target.name)
    path = manifest_path("/".join(p for p in (target.path, contains) if p))
    found = past.catalog.covering(path) if path else past.catalog.kept()
    foreign = _foreign(app, target.name, path) if others else []
    shown: dict[str, object] = {
        "name": target.name,
        "snapshots": [snapshot_json(s) for s in found],
    }
    if others:
        shown["foreign"] = [_foreign_json(s) for s in foreign]
    app.emit(shown)
    for line in [*snapshot_lines(found), *foreign_lines(foreign)]:
        app.say(line)
    if not (found or foreign):
        of = f" of {shown_path(path)}" if path else ""
        app.say(
            f"{target.name}  no snapshot{of} yet · {app.command(f'snapshot {target.name} TAG')}"
        )


def snapshot_lines(found: Sequence[Snapshot]) -> list[str]:
    """One line a snapshot: `raw  4f2a91c  2026-11-28 12:00Z  12 files  38 MB  as downloaded`."""
    some_of = any(s.body.path for s in found)
    rows = []
    for s in found:
        words = ["protected"] if s.protected else []
        words += [f"{printable(k)}={printable(v)}" for k, v in s.body.metrics.items()]
        words += [printable(s.body.message)] if s.body.message else []
        row = [", ".join(s.tags) or "-", s.short, time_text(s.body.time)]
        row += [show_count(s.body.files, "file"), show_size(s.body.bytes)]
        if some_of:
            row.append(shown_path(s.body.path) + "/" if s.body.path else "")
        rows.append([*row, "  ".join(words)])
    return table(rows, right=(3, 4))


def snapshot_json(s: Snapshot) -> dict[str, object]:
    """A snapshot for programs."""
    body = s.body
    return {
        "id": s.id,
        "tag": s.tags[0] if s.tags else None,
        "tags": s.tags,
        "time": body.time,
        "message": body.message,
        "path": shown_path(body.path),
        "metrics": body.metrics,
        "author": body.author,
        "files": body.files,
        "bytes": body.bytes,
        "protected": s.protected,
        "commit": body.commit,
        "parent": body.parent or None,
        "open": body.open,
    }


def _foreign(app: App, name: str, path: str) -> list[ForeignSnapshot]:
    """Snapshots of other systems that can hold a path, newest first."""
    from pipefs.buckets import open_place
    from pipefs.catalog import covers
    from pipefs.foreign.found import Foreign
    from pipefs.registry import PATIENCE_S

    with open_place(app.registry(app.home()).get(name), patience_s=PATIENCE_S) as place:
        looked = Foreign(place)
        found = [s for s in looked.refresh() if not path or covers(s.path, path)]
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(looked.described, found))


def foreign_lines(found: Sequence[ForeignSnapshot]) -> list[str]:
    """One line a snapshot: `quilt-team-sales@4f2a91c  2026-11-28 12:00Z  as downloaded`."""
    return table(
        [[printable(s.label), time_text_ns(s.time_ns), printable(s.message)] for s in found]
    )


def _foreign_json(s: ForeignSnapshot) -> dict[str, object]:
    return {
        "label": s.label,
        "format": s.format,
        "hash": s.hash,
        "name": s.name,
        "time": utc_text(s.time_ns),
        "message": s.message,
        "path": shown_path(s.path),
    }


# --- log ----------------------------------------------------------------------------------------


@click.command(
    cls=Command,
    short_help="Who changed what, and when.",
    example="pipefs log sales\npipefs log sales/2026/q3.csv -n 0\npipefs log .",
)
@click.argument("target", default=".")
@click.option(
    "-n", "limit", metavar="N", default=_LINES, show_default=True, type=click.IntRange(min=0),
    help="So many, newest first; 0: all.",
)  # fmt: skip
@pass_app
def log(app: App, target: str, limit: int) -> None:
    """What happened, newest first: of a pipe or a folder its commits; of a file each of its
    versions, through renames, also those that other tools wrote. TARGET@SNAP begins at a
    snapshot."""
    found = _target(app, target)
    past = open_past(app, found.name)
    newest, before = past.position.number, ""
    if found.snapshot is not None:
        body = past.catalog.find(found.snapshot).body
        newest, before = body.commit, body.time
    path = manifest_path(found.path)
    if not path or not _log_file(app, past, path, newest, limit, before):
        _log_commits(app, past, path, newest, limit)


def _log_commits(app: App, past: Past, path: str, newest: int, limit: int) -> None:
    from pipefs.past.history import SCANNED, commits, touching

    found = commits(past.store, newest)
    if path:
        found = itertools.islice(found, SCANNED)
    entries = list(itertools.islice(touching(found, path) if path else
                                    ((c, c.changes) for c in found), limit or None))  # fmt: skip
    if path and not entries:
        raise NotFound(f"nothing is known of {shown_path(path)}")
    app.emit({"path": shown_path(path), "commits": [commit_json(c, ch) for c, ch in entries]})
    app_lines = [
        [time_text_ns(c.time), f"#{c.number}", _who(c), commit_text(changes, past.catalog)]
        for c, changes in entries
    ]
    for line in table(app_lines):
        app.say(line)
    if not entries:
        app.say("nothing happened yet")


def _who(commit: Commit) -> str:
    return "another tool" if commit.external else printable(commit.author)


def commit_text(changes: Sequence[Change], catalog: Catalog) -> str:
    """`notes.md added`, `3 added, 2 changed, 1 deleted`, `snapshot raw`."""
    changes = _without_times(changes)
    texts = [_past_text(c, catalog) for c in changes]
    told = [t for t in texts if t]
    plain = [c for c, t in zip(changes, texts, strict=True) if not t]
    if len(plain) == 1:
        told.append(_one_text(plain[0]))
    elif plain:
        counts = Counter(map(_kind, plain))
        told.append(", ".join(_counted(counts[k], k) for k in _COUNTED if counts[k]))
    return " · ".join(told)


def _without_times(changes: Sequence[Change]) -> list[Change]:
    """Less those of folders whose names changed: that changes their time, and says nothing."""
    touched = {p.rpartition("/")[0] for c in changes if c.op != "attr" for p in (c.path, c.source)}
    return [c for c in changes if not (c.op == "attr" and c.path in touched)]


_COUNTED = {
    "added": "added",
    "changed": "changed",
    "delete": "deleted",
    "move": "renamed",
    "mkdir": "folder made",
    "made": "made",
    "attr": "with other attributes",
    "same": "moved to its own key",
}
"""Kinds of changes in the order in which they are told, and the words for one."""


def _kind(change: Change) -> str:
    if change.op == "put":
        return "same" if change.same else "added" if change.replaces is None else "changed"
    return change.op if change.op in _COUNTED else "made"


def _counted(count: int, kind: str) -> str:
    words = _COUNTED[kind]
    if count > 1:
        words = words.replace("folder", "folders").replace("its own key", "their own keys")
    return f"{count:,} {words}"


def _one_text(change: Change) -> str:
    if change.op == "move":
        return f"{shown_path(change.source)} renamed to {shown_path(change.path)}"
    path = shown_path(change.path) or "the top folder"
    size = f" ({show_size(change.size)})" if change.op == "put" else ""
    return f"{path} {_COUNTED[_kind(change)].replace('folder ', '')}{size}"


def _past_text(change: Change, catalog: Catalog) -> str:
    if change.op == "snapshot":
        from pipefs import catalog as cat

        made = catalog.snapshots.get(cat.id_of(cat.object_bytes(change.data)))
        if made is None:
            return "snapshot, gone since"
        name = f"{made.body.name} {made.short}" if made.body.name else made.short
        message = f' "{made.body.message}"' if made.body.message else ""
        return f"snapshot {printable(name + message)}"
    short = change.snapshot[:7]
    undo = "un" if change.off else ""
    if change.op == "tag":
        verb = "taken from" if change.off else "given to"
        return f"tag {printable(change.tag)} {verb} {short}"
    if change.op == "forget":
        return f"snapshot {short} {'brought back' if change.off else 'forgotten'}"
    if change.op == "protect":
        return f"snapshot {short} {undo}protected"
    return f"old versions before #{change.cutoff} may go" if change.op == "prune" else ""


def commit_json(commit: Commit, changes: Sequence[Change]) -> dict[str, object]:
    """A commit for programs, with those of its changes that were asked for."""
    import msgspec

    return {
        "commit": commit.number,
        "time": _utc(commit.time),
        "author": commit.author,
        "program": commit.program,
        "external": commit.external,
        "changes": msgspec.to_builtins(list(changes)),
    }


def _utc(time_ns: int) -> str:
    from pipefs.units import utc_text

    return utc_text(time_ns)


def _log_file(app: App, past: Past, path: str, newest: int, limit: int, before: str) -> bool:
    """Tell the history of a file; False: it never was one."""
    from pipefs.past.history import of_file

    before_ns = int(datetime.fromisoformat(before).timestamp() * 1e9) if before else 0
    events = of_file(past.store, path, newest, limit=limit, before_ns=before_ns)
    if not any(e.version for e in events):
        return False
    app.emit({"path": shown_path(path), "events": [event_json(e) for e in events]})
    for line in table([event_row(e) for e in events], right=(3,)):
        app.say(line)
    return True


def event_row(e: Event) -> list[str]:
    """When, who, what, size, version."""
    who = "another tool" if e.external or not e.author else printable(e.author)
    what = e.what
    if what == "renamed":
        what = f"renamed from {shown_path(e.source)} to {shown_path(e.path)}"
    has_content = e.what in ("added", "changed")
    size = show_size(e.size) if has_content else ""
    return [time_text_ns(e.time_ns), who, what, size, printable(e.version or "")]


def event_json(e: Event) -> dict[str, object]:
    """An event for programs."""
    return {
        "time": _utc(e.time_ns),
        "event": e.what,
        "path": shown_path(e.path),
        "source": shown_path(e.source) or None,
        "version": e.version,
        "size": e.size,
        "etag": e.etag,
        "author": e.author or None,
        "external": e.external or not e.author,
        "commit": e.commit or None,
    }
