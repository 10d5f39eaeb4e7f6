"""Renames among differences: the same content deleted here and added there.

A pair is made only where it is the only one: by version (a rename whose object has not moved
yet), by checksum, by ETag (the server's copy keeps it). Where several files have one content, their
places decide: a file goes where its directory's other files went, else to the only one of its
name. Empty files, links and devices have no content that tells them apart, so for them only the
directory counts. A directory all of whose contents went to one new directory, each under its
name, is renamed as a whole.

Holds the differences in memory, not the trees. Pure.
"""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Hashable, Iterable

from pipefs.manifest import Entry, place_in
from pipefs.past.comparing import ADDED, DELETED, RENAMED, Difference
from pipefs.past.sameness import Same, attributes_of, content_of, plain_etag

_Token = Callable[[Entry], Hashable]


def _version(entry: Entry) -> Hashable:
    known = entry.version not in (None, "", "null")
    return (entry.object_key, entry.version) if known else None


def _checksum(entry: Entry) -> Hashable:
    return (entry.checksum, entry.size) if entry.checksum else None


def _etag(entry: Entry) -> Hashable:
    return (plain_etag(entry.etag), entry.size) if entry.etag else None


_TOKENS: tuple[_Token, ...] = (_version, _checksum, _etag)
"""What equal contents share, the surest first."""


def with_renames(differences: Iterable[Difference]) -> list[Difference]:
    """The same differences, renames as such, in the order of places; a renamed directory comes
    with its contents, which are marked `within`."""
    rest = list(differences)
    pairs = _Pairs(rest)
    for token in _TOKENS:
        pairs.match_alone(token)
    while pairs.match_by_directory():
        pass
    for token in _TOKENS:
        pairs.match_alone(_named(token))
    while pairs.match_by_directory():
        pass
    pairs.match_directories()
    renamed = pairs.differences()
    gone = {d.old.path for d in renamed if d.old is not None}
    come = {d.new.path for d in renamed if d.new is not None}
    kept = [
        d
        for d in rest
        if not (d.kind == DELETED and d.path in gone) and not (d.kind == ADDED and d.path in come)
    ]
    return sorted([*kept, *renamed], key=lambda d: place_in(d.path))


def _named(token: _Token) -> _Token:
    """A token that only files of one name share."""

    def both(entry: Entry) -> Hashable:
        found = token(entry)
        return None if found is None else (found, entry.path.rpartition("/")[2])

    return both


class _Pairs:
    """Deleted and added paths, and which of them belong together."""

    def __init__(self, differences: list[Difference]) -> None:
        self.deleted = {d.path: d.entry for d in differences if d.kind == DELETED}
        self.added = {d.path: d.entry for d in differences if d.kind == ADDED}
        self.to: dict[str, str] = {}
        """Old path → new path of everything that was renamed."""
        self._taken: set[str] = set()
        self._moved: dict[str, Counter[str]] = defaultdict(Counter)
        """Old directory → new directories that its contents went to."""
        self._whole: dict[str, str] = {}
        self._within: set[str] = set()

    # --- files --------------------------------------------------------------------------------

    def match_alone(self, token: _Token) -> None:
        """Pair what is the only one with its token on both sides."""
        here = self._by_token(self.deleted, token, self.to)
        there = self._by_token(self.added, token, self._taken)
        for key, paths in here.items():
            others = there.get(key, [])
            if len(paths) == len(others) == 1:
                self._pair_if_same(paths[0], others[0])

    @staticmethod
    def _by_token(
        entries: dict[str, Entry], token: _Token, taken: Container[str]
    ) -> dict[Hashable, list[str]]:
        found: dict[Hashable, list[str]] = defaultdict(list)
        for path, entry in entries.items():
            if entry.kind == "file" and entry.size and path not in taken:
                key = token(entry)
                if key is not None:
                    found[key].append(path)
        return found

    def match_by_directory(self) -> int:
        """Pair what is left with what has its place in the directory that others of its directory
        went to; how many there were."""
        before = len(self.to)
        for path, entry in self.deleted.items():
            if path in self.to or entry.kind == "dir":
                continue
            for new in self._expected(path):
                if new in self.added and new not in self._taken and self._pair_if_same(path, new):
                    break
        return len(self.to) - before

    def _expected(self, path: str) -> Iterable[str]:
        """Where a path would be, by its nearest directory that has moved."""
        above, _, below = path.rpartition("/")
        while above:
            for new, _ in self._moved[above].most_common(3) if above in self._moved else ():
                yield f"{new}/{below}" if new else below
            above, _, name = above.rpartition("/")
            below = f"{name}/{below}"

    def _pair_if_same(self, old: str, new: str) -> bool:
        if content_of(self.deleted[old], self.added[new]) is not Same.YES:
            return False
        self._pair(old, new)
        return True

    def _pair(self, old: str, new: str) -> None:
        self.to[old] = new
        self._taken.add(new)
        one, _, name = old.rpartition("/")
        two, _, other = new.rpartition("/")
        # The directories above it moved too, as long as names on the way are the same.
        while name == other and one != two:
            self._moved[one][two] += 1
            one, _, name = one.rpartition("/")
            two, _, other = two.rpartition("/")
            if not one or not two:
                break

    # --- directories ----------------------------------------------------------------------------

    def match_directories(self) -> None:
        """Find directories that were renamed as a whole, the topmost first."""
        old, new = _Order(self.deleted), _Order(self.added)
        folders = [p for p, e in self.deleted.items() if e.kind == "dir"]
        for path in sorted(folders, key=lambda p: p.count("/")):
            if path in self.to or path not in self._moved:
                continue
            for target, _ in self._moved[path].most_common(1):
                entry = self.added.get(target)
                if entry is None or entry.kind != "dir" or target in self._taken:
                    continue
                inside = old.below(path)
                if self._is_whole(path, inside, target, new.below(target)):
                    self._rename_whole(path, target, inside)

    def _is_whole(self, path: str, inside: list[str], target: str, there: list[str]) -> bool:
        if len(inside) != len(there):
            return False
        for one in inside:
            two = target + one[len(path) :]
            if two not in self.added or self.added[two].kind != self.deleted[one].kind:
                return False
            if self.deleted[one].kind != "dir" and self.to.get(one) != two:
                return False
        return True

    def _rename_whole(self, path: str, target: str, inside: list[str]) -> None:
        self._whole[path] = target
        self.to[path] = target
        self._taken.add(target)
        for one in inside:
            two = target + one[len(path) :]
            self._within.add(one)
            self.to[one] = two
            self._taken.add(two)

    def differences(self) -> list[Difference]:
        found = []
        for one, two in self.to.items():
            old, new = self.deleted[one], self.added[two]
            changed = attributes_of(old, new)
            found.append(Difference(RENAMED, old, new, changed, within=one in self._within))
        return found


class _Order:
    """Paths in an order in which all that is below one stands together."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = sorted(paths, key=_slashes_first)
        self._keys = [_slashes_first(p) for p in self._paths]

    def below(self, path: str) -> list[str]:
        start = bisect.bisect_left(self._keys, _slashes_first(path + "/"))
        stop = bisect.bisect_left(self._keys, _slashes_first(path) + "\1")
        return self._paths[start:stop]


def _slashes_first(path: str) -> str:
    return path.replace("/", "\0")


def folded(differences: Iterable[Difference]) -> list[tuple[Difference, int, int]]:
    """For people: what is added, deleted or renamed with its whole directory is only counted there.

    Returns:
        (difference, files in it, their bytes); the figures are 0 of what is no directory.
    """
    rows: list[tuple[Difference, int, int]] = []
    at: dict[tuple[str, str], int] = {}
    for d in sorted(differences, key=lambda d: (place_in(d.path)[0].count(b"\0"), not d.is_dir)):
        top = _folder_above(d, at)
        if top is None:
            if d.is_dir and d.kind in (ADDED, DELETED, RENAMED):
                at[d.kind, d.path] = len(rows)
            rows.append((d, 0, 0))
        elif d.entry.kind == "file":
            one, files, size = rows[top]
            rows[top] = (one, files + 1, size + d.entry.size)
    return sorted(rows, key=lambda row: place_in(row[0].path))


def _folder_above(d: Difference, at: dict[tuple[str, str], int]) -> int | None:
    if d.kind == RENAMED and not d.within:
        return None
    above = d.path.rpartition("/")[0]
    while above:
        found = at.get((d.kind, above))
        if found is not None:
            return found
        above = above.rpartition("/")[0]
    return None
