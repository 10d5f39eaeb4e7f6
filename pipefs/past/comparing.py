"""The difference of two trees of a pipe: what was added, changed, deleted.

    for d in compare(old, new):        # any two `PastView`s
        print(d.kind, d.path)

Both are walked in the order of places and held by one entry a side, so memory does not grow with
the trees. Of two manifests, parts with equal names are neither fetched nor read: the cost is that
of what changed. What counts as equal is said in `pipefs.past.sameness`; renames are found
afterwards, in `pipefs.past.renaming`. Reads only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from pipefs import manifest
from pipefs.manifest import Entry, Place
from pipefs.past.manifests import ManifestView
from pipefs.past.sameness import Same, attributes_of, content_of
from pipefs.past.views import PastView

ADDED, MODIFIED, DELETED = "added", "modified", "deleted"
RENAMED, ATTRIBUTES = "renamed", "attributes"


@dataclass(frozen=True, slots=True)
class Difference:
    """One path that is not the same in two trees."""

    kind: str
    """added | modified | deleted | renamed | attributes: only these differ."""
    old: Entry | None = None
    """None: added. A further name of a file shows as that file."""
    new: Entry | None = None
    """None: deleted."""
    attributes: tuple[str, ...] = ()
    """mode, uid, gid, mtime, xattrs: which of them differ, where both sides are there."""
    unsure: bool = False
    """modified: nothing that is known of both tells whether the bytes are equal."""
    within: bool = False
    """renamed: as part of a directory that was renamed as a whole."""

    @property
    def entry(self) -> Entry:
        """How it is now; of what is deleted, how it was."""
        found = self.new or self.old
        assert found is not None
        return found

    @property
    def path(self) -> str:
        return self.entry.path

    @property
    def is_dir(self) -> bool:
        return self.entry.kind == "dir"


_Placed = tuple[Place, Entry]
_TOP: Place = (b"", b"")
"""Of the path itself that is compared; before all places below it."""


def compare(
    old: PastView,
    new: PastView,
    names: Sequence[bytes] = (),
    new_names: Sequence[bytes] | None = None,
) -> Iterator[Difference]:
    """What differs at and below a path, in the order of a manifest. A rename is a deletion and an
    addition; the attributes of the pipe's root directory do not count.

    Args:
        new_names: the path in the new tree, where it is another one: then the two are compared
            like two folders.
    """
    names = list(names)
    other = names if new_names is None else list(new_names)
    for before, after in _runs(old, names, new, other):
        for one, two in _merged(before, after):
            found = _judged(old, one, new, two)
            if found is not None:
                yield found


def _runs(
    old: PastView, names: list[bytes], new: PastView, other: list[bytes]
) -> Iterator[tuple[Iterator[_Placed], Iterator[_Placed]]]:
    """Pairs of stretches of both trees; what lies between them is equal."""
    if names == other and isinstance(old, ManifestView) and isinstance(new, ManifestView):
        scope = old.scope(names)
        if scope == new.scope(names):
            yield from _stretches(old, new, scope)
            return
    yield _placed(old, names), _placed(new, other)


def _placed(view: PastView, names: list[bytes]) -> Iterator[_Placed]:
    """The entries at and below a path with their places below it."""
    depth = len(names)
    for entry in view.entries(names):
        below = manifest.names_in(entry.path)[depth:]
        yield (manifest.place_of(below) if below else _TOP), entry


def _stretches(
    old: ManifestView, new: ManifestView, scope: list[bytes]
) -> Iterator[tuple[Iterator[_Placed], Iterator[_Placed]]]:
    """Runs of parts that the other manifest has not.

    A part that both have holds the same places in both, so what stands before it in one can only
    be found before it in the other.
    """
    ours = [p.part for p in old.parts_at(scope)]
    theirs = [p.part for p in new.parts_at(scope)]
    common = set(ours) & set(theirs)
    for before, after in zip(_split(ours, common), _split(theirs, common), strict=True):
        if before or after:
            yield _of_parts(old, before, scope), _of_parts(new, after, scope)


def _split(parts: list[str], common: set[str]) -> list[list[str]]:
    """The runs between common parts, one more than there are of these."""
    runs: list[list[str]] = [[]]
    for name in parts:
        if name in common:
            runs.append([])
        else:
            runs[-1].append(name)
    return runs


def _of_parts(view: ManifestView, parts: Iterable[str], scope: list[bytes]) -> Iterator[_Placed]:
    own = manifest.place_of(scope) if scope else None
    for name in parts:
        part = view.part(name)
        for place, entry in zip(part.places, part.entries, strict=True):
            if place == own or manifest.is_below(place[0], scope):
                yield place, entry


def _merged(
    old: Iterator[_Placed], new: Iterator[_Placed]
) -> Iterator[tuple[Entry | None, Entry | None]]:
    """Entries that are not the same line, side by side where they are at one place."""
    one, two = next(old, None), next(new, None)
    while one is not None or two is not None:
        if two is None or (one is not None and one[0] < two[0]):
            assert one is not None
            yield one[1], None
            one = next(old, None)
        elif one is None or two[0] < one[0]:
            yield None, two[1]
            two = next(new, None)
        else:
            if one[1] != two[1]:
                yield one[1], two[1]
            one, two = next(old, None), next(new, None)


def _judged(
    old: PastView, one: Entry | None, new: PastView, two: Entry | None
) -> Difference | None:
    if one is not None and two is not None and one.link and one.link == two.link:
        return None  # what became of its file is told at the file's own path
    one, two = _file_of(old, one), _file_of(new, two)
    if one is None or two is None:
        if one is two:
            return None
        return Difference(ADDED if one is None else DELETED, one, two)
    same = content_of(one, two)
    attributes = attributes_of(one, two)
    if same is not Same.YES:
        return Difference(MODIFIED, one, two, attributes, unsure=same is Same.UNKNOWN)
    return Difference(ATTRIBUTES, one, two, attributes) if attributes else None


def file_at(view: PastView, names: Sequence[bytes]) -> Entry | None:
    """The entry at a path, a further name of a file as that file; None: there is none."""
    return _file_of(view, next(iter(view.entries(names)), None))


def _file_of(view: PastView, entry: Entry | None) -> Entry | None:
    """A further name of a file as that file, at its own path."""
    if entry is None or entry.kind != "link":
        return entry
    file = next(iter(view.entries(manifest.names_in(entry.link))), None)
    if file is None or file.kind == "link":
        return entry  # damaged; `check` says so
    return msgspec.structs.replace(file, path=entry.path, key=file.object_key)
