"""Object Lock for what a snapshot names: a legal hold on every version, where the bucket has it.

A protected snapshot is safe from `forget` and so from a prune. A hold makes it safe from everybody
else too: other programs, lifecycle rules, and whoever has the right to delete versions. Holds are
one request a version, so they cost what the snapshot has, not what changed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pipefs import catalog as cat
from pipefs import manifest
from pipefs.catalog import Snapshot
from pipefs.errors import NotFound, StoreError
from pipefs.past.holding import Holdings, held_by
from pipefs.past.manifests import ManifestStore
from pipefs.past.opened import Past, view_of
from pipefs.stores.base import Store

_AT_ONCE = 16
_WINDOW = 1024

Version = tuple[str, str]


@dataclass(slots=True)
class Locked:
    """What became of the versions of a snapshot."""

    versions: int = 0
    """That have the hold now, or have it no more."""
    kept: int = 0
    """Let go: another protected snapshot needs them, so they keep it."""
    missing: list[str] = field(default_factory=list)
    """Keys of versions that are gone."""
    failed: list[str] = field(default_factory=list)
    """What the store said to others, a few of them."""
    failures: int = 0


def hold(
    past: Past, snapshot: Snapshot, *, on: bool, progress: Callable[[int], None] = lambda _n: None
) -> Locked:
    """Put a legal hold on each version a snapshot names, and on its own objects; or take it off
    those that no other protected snapshot names. May be done again at any time.

    Raises:
        Unsupported: the bucket has no Object Lock. Corrupt: a protected snapshot cannot be read.
    """
    others = None
    if not on:
        protected = [s for s in past.catalog.kept() if s.protected and s.id != snapshot.id]
        others = held_by(past.store, protected)
    done = Locked()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        wanted = versions_of(past, snapshot)
        while batch := list(itertools.islice(wanted, _WINDOW)):
            free = [v for v in batch if others is None or not _needed(others, v)]
            done.kept += len(batch) - len(free)
            for key, problem in pool.map(lambda v: _hold_one(past.store, v, on=on), free):
                if problem is None:
                    done.versions += 1
                elif isinstance(problem, NotFound):
                    done.missing.append(key)
                else:
                    done.failures += 1
                    if len(done.failed) < 3:
                        done.failed.append(problem.message)
            progress(len(batch))
    return done


def versions_of(past: Past, snapshot: Snapshot) -> Iterator[Version]:
    """(key, version id) of every file that a snapshot has, then of its own objects."""
    manifests = ManifestStore(past.store, None)
    view = view_of(manifests, snapshot)
    for entry in view.entries():
        if entry.kind == "file" and entry.version not in (None, "null"):
            yield entry.object_key, entry.version or ""
    names = [snapshot.body.root, *(ref.part for ref in view.refs())]
    for key in [cat.object_key(snapshot.id), *map(manifest.key_of_object, names)]:
        yield key, past.store.head(key).version_id or ""


def _needed(others: Holdings, version: Version) -> bool:
    key, version_id = version
    name = key.removeprefix(manifest.PREFIX).removesuffix(manifest.SUFFIX)
    return name in others.manifests or others.marks.holder(key, version_id) is not None


def _hold_one(
    store: Store, version: Version, *, on: bool
) -> tuple[str, StoreError | NotFound | None]:
    try:
        store.hold_version(*version, hold=on)
    except (StoreError, NotFound) as e:
        return version[0], e
    return version[0], None
