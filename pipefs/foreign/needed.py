"""Versions of a pipe that snapshots of other systems need: a prune leaves them alone."""

from __future__ import annotations

from collections.abc import Iterator

from pipefs.errors import AccessDenied
from pipefs.foreign import dws, quilt3, t4
from pipefs.foreign.found import Foreign, ForeignSnapshot
from pipefs.foreign.pins import Pin
from pipefs.foreign.places import Place


def needed_versions(place: Place) -> Iterator[tuple[str, str]]:
    """(key in the pipe, version id) of every version that any of them names.

    Raises:
        AccessDenied: these credentials may not look for them. Corrupt: one cannot be read.
    """
    for prefix in (dws.PREFIX, ".quilt/"):
        try:
            next(iter(place.root.list(prefix)), None)
        except AccessDenied as e:
            raise AccessDenied(
                f"nobody can say whether other systems need versions of this pipe: {e.message}",
                hint=f"Their snapshots lie in s3://{place.bucket}/{prefix} · "
                "allow it: pipefs policy NAME --role admin",
            ) from e
    foreign = Foreign(place)
    for item in foreign.refresh():
        for pin in _pins(place, item):
            key = place.inside(pin.full)
            if key and pin.version:
                yield key, pin.version


def _pins(place: Place, item: ForeignSnapshot) -> list[Pin]:
    if item.format == "dws":
        return list(dws.read(place, item.hash))
    if item.format == "t4":
        return list(t4.read(place, item.key))
    return list(quilt3.read(place, item.key)[0])
