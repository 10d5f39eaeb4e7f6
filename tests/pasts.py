"""Snapshots made by hand for tests: entries, parts, a root, a body and an entry of the log.

past = open_past(store)
entries = put_files(store, {"a.csv": b"1", "d/b.csv": b"2"})
made = take(past, entries, tag="v1", message="first")
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipefs import catalog, manifest
from pipefs.catalog import Body, Snapshot
from pipefs.commits import Change
from pipefs.manifest import Entry, Head, Root
from pipefs.past.opened import Past
from pipefs.stores.base import Store

START = datetime.datetime(2026, 11, 28, 12, tzinfo=datetime.UTC)
"""When the first snapshot that `take` makes was taken; each later one an hour after."""


def open_past(store: Store, folder: Path | None = None, *, name: str = "test") -> Past:
    """The past of a pipe in this store, its catalogue read."""
    past = Past(store, author=f"user@{name}", writer=name, folder=folder)
    past.refresh()
    return past


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """Entries as a manifest has them: directories that are only implied are added."""
    found = {e.path: e for e in entries}
    for path in list(found):
        above = path.rpartition("/")[0]
        while above:
            found.setdefault(above, Entry(path=above, kind="dir", mode=0o40755, mtime=1))
            above = above.rpartition("/")[0]
    return sorted(found.values(), key=lambda e: manifest.place_in(e.path))


def put_files(store: Store, files: Mapping[str, bytes], *, mtime: int = 10**18) -> list[Entry]:
    """Put each file as a new version; the entries of exactly these, with their directories."""
    entries = []
    for path, content in files.items():
        made = store.put(path, content)
        entries.append(
            Entry(
                path=path,
                version=made.version_id,
                size=made.size,
                etag=made.etag,
                mode=0o100644,
                mtime=mtime,
            )
        )
    return in_order(entries)


def put_manifest(past: Past, entries: Iterable[Entry], head: Head | None = None) -> str:
    """Put the parts and the root of a tree; the root's name."""
    refs = []
    for part in manifest.chunks(entries):
        name = past.manifests.put(manifest.encode_part(part))
        refs.append(manifest.ref_of(part, name))
    head = head or Head(mode=0o40755, mtime=1)
    return past.manifests.put(manifest.encode_root(Root(head, refs)))


def take(
    past: Past,
    entries: Iterable[Entry],
    *,
    tag: str = "",
    message: str = "",
    path: str = "",
    metrics: Mapping[str, str] | None = None,
    time: datetime.datetime | None = None,
    author: str = "user@host",
    head: Head | None = None,
) -> Snapshot:
    """Make a snapshot of these entries, announced in the log like any."""
    entries = in_order(entries)
    root = put_manifest(past, entries, head)
    known = past.refresh()
    newest = known.latest()
    time = time or START + datetime.timedelta(hours=len(known.snapshots))
    files = [e for e in entries if e.kind == "file"]
    body = Body(
        format=catalog.FORMAT,
        name=tag,
        time=time.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        author=author,
        host=author.partition("@")[2],
        program="pipefs test",
        message=message,
        metrics=dict(metrics or {}),
        path=path,
        parent=newest.id if newest else "",
        epoch=past.position.epoch or "epoch",
        commit=past.position.number,
        root=root,
        entries=len(entries),
        files=len(files),
        bytes=sum(e.size for e in files),
    )
    text = catalog.encode_body(body)
    data = catalog.object_bytes(text)
    past.store.put(catalog.object_key(catalog.id_of(data)), data, content_type="application/json")
    (made,) = past.amend(lambda _: [Change(op="snapshot", path="", data=text)])
    return made
