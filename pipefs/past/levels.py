"""One directory of the past, from the store's own versions.

What counts as there at a moment: of each key the newest version, in the order of the store, that
existed then and is no delete marker. A version exists from its LastModified on, but never before
one that the store has below it: times of one key only grow. A directory is there if its marker or
any key below it was.

Requests to the store are made as the caller goes; nothing is kept.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import xxhash

from pipefs.keys import MAX_NAME_BYTES, name_of
from pipefs.provenance import is_own_key
from pipefs.stores.base import Store
from pipefs.types import ObjectVersion

AT_ONCE = 16
"""Requests at the same time for one directory."""
_PAGE = 50
"""Versions asked for at first, where one key is enough."""
PRESENT = 1 << 63
"""A moment after all others."""


_KEY = operator.attrgetter("key")


@dataclass(frozen=True, slots=True)
class Folder:
    """A directory that was there."""

    prefix: str
    marker: ObjectVersion | None


def current_at(versions: Sequence[ObjectVersion], moment_ns: int) -> ObjectVersion | None:
    """What a key was at a moment; None: it was not there.

    Args:
        versions: all of one key, newest first.
    """
    found = None
    for version in reversed(versions):
        if version.last_modified_ns > moment_ns:
            break
        found = version
    return None if found is None or found.is_delete_marker else found


def by_key(versions: Iterable[ObjectVersion]) -> Iterator[tuple[str, list[ObjectVersion]]]:
    """All versions of one key after the other."""
    for key, group in itertools.groupby(versions, key=_KEY):
        yield key, list(group)


def versions_of(store: Store, key: str) -> list[ObjectVersion]:
    """All versions and markers of exactly this key, newest first."""
    items = (item for item in store.list_level_versions(key) if not isinstance(item, str))
    return list(itertools.takewhile(lambda v: v.key == key, items))


def find_folder(store: Store, prefix: str, moment_ns: int) -> Folder | None:
    """The directory of all keys below a prefix, if it was there at the moment.

    Lists until something is found that was: one small page, unless that many versions were gone by
    then or made since.
    """
    seen = 0

    def first_found(page: int) -> Folder | None:
        nonlocal seen
        for key, versions in by_key(store.list_versions(prefix, page=page)):
            seen += len(versions)
            if key != prefix and is_hidden(store, key):
                continue
            found = current_at(versions, moment_ns)
            if found is not None:
                return Folder(prefix, found if key == prefix else None)
        return None

    # A store may lose keys at the ends of pages: what small ones do not show is looked for again.
    return first_found(_PAGE) or (first_found(1000) if seen >= _PAGE else None)


def is_hidden(store: Store, key: str) -> bool:
    """Whether a key, or a directory's prefix, is never shown: pipefs' own, and its names; at the
    root of a bucket also what quilt3 and T4 keep there."""
    if not key.startswith(".") and "/." not in key:
        return False
    return is_own_key(key if key.endswith("/") else key + "/", store.url)


@dataclass(slots=True)
class Level:
    """Names directly in one directory."""

    read_ns: int
    """When its listing began."""
    files: dict[bytes, ObjectVersion] = field(default_factory=dict)
    folders: dict[bytes, str] = field(default_factory=dict)
    """Name → prefix of every folder that ever was: look with `find` which were then."""
    found: dict[bytes, Folder | None] = field(default_factory=dict)
    """Folders that were looked at."""
    names: list[bytes] = field(default_factory=list)
    """All of them, sorted."""

    def find(self, store: Store, names: Iterable[bytes], moment_ns: int) -> None:
        """Look at these folders, unless that was done."""
        todo = [n for n in names if n in self.folders and n not in self.found]

        def look(name: bytes) -> Folder | None:
            return find_folder(store, self.folders[name], moment_ns)

        if len(todo) == 1:
            self.found[todo[0]] = look(todo[0])
        elif todo:
            with ThreadPoolExecutor(min(AT_ONCE, len(todo))) as pool:
                self.found.update(zip(todo, pool.map(look, todo), strict=True))


def read_level(store: Store, prefix: str, moment_ns: int, now_ns: int) -> Level:
    """List one directory as it was. A file beside a directory of its name gets a stand-in."""
    level = Level(now_ns)
    folders: list[str] = []
    files: list[tuple[bytes, ObjectVersion]] = []

    def versions() -> Iterator[ObjectVersion]:
        for item in store.list_level_versions(prefix):
            if isinstance(item, str):
                folders.append(item)
            else:
                yield item

    for key, group in by_key(versions()):
        found = current_at(group, moment_ns)
        if found is not None and key != prefix and not is_hidden(store, key):
            files.append((name_of(key[len(prefix) :]), found))
    # In one order, so that stand-ins are the same each time.
    for folder in sorted(folders):
        if not is_hidden(store, f"{prefix}{folder}/"):
            level.folders[free(level.folders, name_of(folder))] = f"{prefix}{folder}/"
    shared = [name for name, _ in files if name in level.folders]
    level.find(store, shared, moment_ns)
    for name in shared:
        if level.found[name] is None:
            level.folders.pop(name, None)
    taken = set(level.folders)
    for name, file in sorted(files, key=lambda f: f[1].key):
        own = free(taken, name)
        level.files[own] = file
        taken.add(own)
    level.names = sorted([*level.files, *level.folders])
    return level


def free(taken: Container[bytes], name: bytes) -> bytes:
    """The name, or where it is taken a stand-in: with `%2F` behind, which no key's own name has."""
    while name in taken:
        name += b"%2F"
        if len(name) > MAX_NAME_BYTES:
            name = name[:200] + b"%2F" + xxhash.xxh3_64_hexdigest(name).encode()
    return name
