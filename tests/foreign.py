"""Snapshots to export, made by hand, and the bytes of past trees."""

from __future__ import annotations

from collections.abc import Mapping

from pipefs import catalog
from pipefs.catalog import Body, Snapshot
from pipefs.foreign.exports import Source
from pipefs.foreign.places import Place
from pipefs.manifest import Entry
from pipefs.past.listed import ListedView
from pipefs.past.views import PastView
from pipefs.stores.base import Store


def put_below(root: Store, prefix: str, files: Mapping[str, bytes]) -> list[Entry]:
    """Put each file below a prefix of the bucket; entries as the pipe there would have them."""
    out = []
    for path, data in files.items():
        made = root.put(prefix + path, data)
        out.append(
            Entry(
                path=path,
                version=made.version_id,
                size=made.size,
                etag=made.etag,
                mode=0o100644,
                mtime=10**18,
            )
        )
    return out


def snapshot_of(entries: list[Entry], *, path: str = "", message: str = "first") -> Snapshot:
    """A snapshot that no store holds: what an export reads of one."""
    body = Body(
        format=catalog.FORMAT,
        name="v1",
        time="2026-11-28T12:00:00.000000Z",
        author="user@host",
        host="host",
        program="pipefs test",
        message=message,
        path=path,
        epoch="e",
        commit=1,
        root="0" * 64,
        entries=len(entries),
    )
    return Snapshot(id="ab" * 32, body=body, tags=["v1"])


def source_of(
    place: Place, entries: list[Entry], *, path: str = "", message: str = "first"
) -> Source:
    """An export of these entries."""
    view = ListedView(entries, "v1")
    return Source(view, snapshot_of(entries, path=path, message=message), place)


def content_of(place: Place, view: PastView) -> dict[str, bytes]:
    """Path → bytes of every file of a past tree, read by version."""
    return {
        e.path: place.root.get(place.full(e.object_key), e.version, 0, e.size)
        for e in view.entries()
        if e.kind == "file"
    }
