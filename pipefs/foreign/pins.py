"""What another system pinned, as entries of a past tree.

The formats tell a key and a version, some a size. The rest (size, ETag, time) is what the store
says of its versions: one listing of those below what all the keys have in common.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pipefs.errors import Unsupported
from pipefs.foreign.places import Place
from pipefs.keys import names_of
from pipefs.manifest import Entry, path_of
from pipefs.past.listed import ListedView
from pipefs.provenance import is_own_key
from pipefs.types import ObjectVersion

NULL = "null"


@dataclass(frozen=True, slots=True)
class Pin:
    """A version that a snapshot holds."""

    full: str
    """The bucket's key."""
    version: str
    """VersionId; "null" is the object from before versioning, "" whatever is current."""
    size: int = -1
    """-1: the format does not tell."""
    checksum: str = ""
    """As in a manifest."""
    path: str = ""
    """Where it stands in the pipe, where that is not what its key says."""


def view_of(
    place: Place, pins: Iterable[Pin], label: str, *, time_ns: int = 0, names: str = ""
) -> ListedView:
    """The tree of these versions, as far as they lie in the pipe.

    Args:
        names: directory of the pipe (as in a manifest) that paths of pins are in.
    """
    inside = [p for p in pins if _is_file(place, p)]
    entries, missing = [], []
    versions = Versions(place, inside)
    for pin in inside:
        key = place.inside(pin.full) or ""
        path = (f"{names}/{pin.path}" if names else pin.path) if pin.path else ""
        path = path or path_of(names_of(key))
        found = versions.of(pin)
        if found is None or pin.size not in (-1, found.size):
            missing.append(path)
            continue
        entries.append(
            Entry(
                path=path,
                key="" if key == path else key,
                version=found.version_id,
                size=found.size,
                etag=found.etag,
                checksum=pin.checksum,
                mtime=found.last_modified_ns or None,
            )
        )
    return ListedView(entries, label, time_ns=time_ns, missing=missing)


def _is_file(place: Place, pin: Pin) -> bool:
    """Whether it is a file of the pipe: not another's, not ours to hide, no directory marker."""
    key = place.inside(pin.full) or ""
    return bool(key) and not key.endswith("/") and not is_own_key(key, place.pipe_url)


class Versions:
    """What the store says of some versions.

    One listing when it is made; what it holds grows with the pins, not with the bucket.
    """

    def __init__(self, place: Place, pins: Sequence[Pin]) -> None:
        wanted = {(p.full, p.version) for p in pins}
        self._found: dict[tuple[str, str], ObjectVersion] = {}
        for seen in _listed(place, common_prefix([p.full for p in pins])) if pins else ():
            if seen.is_delete_marker:
                continue
            key = (seen.key, seen.version_id or NULL)
            if key in wanted:
                self._found[key] = seen
            if seen.is_latest and (seen.key, "") in wanted:
                self._found[seen.key, ""] = seen

    def of(self, pin: Pin) -> ObjectVersion | None:
        """None: it is not in the store any more."""
        return self._found.get((pin.full, pin.version))


def _listed(place: Place, prefix: str) -> Iterator[ObjectVersion]:
    with contextlib.suppress(Unsupported):
        yield from place.root.list_versions(prefix)
        return
    yield from place.root.list(prefix)  # no versions: each object is its own "null"


def common_prefix(keys: Sequence[str]) -> str:
    """The directory (its key with the slash, or "") that all keys are below."""
    first, last = min(keys), max(keys)
    same = next((n for n, c in enumerate(first) if last[n : n + 1] != c), len(first))
    return first[: first.rfind("/", 0, same) + 1]
