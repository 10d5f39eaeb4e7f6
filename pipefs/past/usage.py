"""Who holds how much of a pipe's bucket: live files, snapshots, the grace period, nobody.

One listing of all versions, each asked about in `pipefs.past.sweeping`. Changes nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from pipefs import catalog as cat
from pipefs.catalog import covers
from pipefs.past.holding import Holdings, held_by, strangers
from pipefs.past.marks import FOREIGN, LOG, SHARED
from pipefs.past.opened import Past
from pipefs.past.sweeping import Rules, Verdict, judged
from pipefs.stores.base import Store

_NESTED = re.compile(r"(.+/)\.pipefs/(?:pipe\.json|format\.json|commits/)")


class Held(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What one holder keeps in the bucket."""

    kind: str
    """live; snapshot (alone), shared (by several snapshots), log, foreign; grace; unsure; apart
    (another system's or pipe's); own (`.pipefs/`); free: nobody, a prune deletes it."""
    snapshot: str = ""
    """Id, where it is one."""
    label: str = ""
    forgotten: int = 0
    """When the snapshot was forgotten (ns)."""
    versions: int = 0
    bytes: int = 0
    markers: int = 0
    """Delete markers among them, which have no bytes."""


_KINDS = {
    Verdict.CURRENT: "live",
    Verdict.GRACE: "grace",
    Verdict.UNSURE: "unsure",
    Verdict.OWN: "own",
    Verdict.APART: "apart",
    Verdict.GONE: "free",
}
_BY_HOLDER = {SHARED: "shared", LOG: "log", FOREIGN: "foreign"}


@dataclass(slots=True)
class _Sum:
    versions: int = 0
    bytes: int = 0
    markers: int = 0


def of_bucket(past: Past, path: str, extra_marks: Iterable[tuple[str, str]] = ()) -> list[Held]:
    """Who holds how much of a pipe's bucket, at and below a path. What was replaced within
    `catalog.GRACE_NS` counts as held, as a prune would see it; the log is not read.

    Raises:
        Corrupt: a snapshot cannot be read. Unsupported: a store without versions.
    """
    kept = [s for s in past.catalog.snapshots.values() if not s.dropped]
    held = held_by(past.store, [*kept, *strangers(past.store, past.catalog)])
    for key, version in extra_marks:
        held.marks.add(key, version, FOREIGN)
    horizon_ns = time.time_ns() - cat.GRACE_NS
    dropped = {s.id for s in past.catalog.snapshots.values() if s.dropped}
    rules = Rules(held.marks, horizon_ns, set(), held.manifests, dropped, url=past.store.url)
    return count(past.store, rules, held, path)[0]


def count(
    store: Store, rules: Rules, held: Holdings, path: str = ""
) -> tuple[list[Held], list[str]]:
    """(who holds how much of what is at and below `path`, where other pipes lie)."""
    sums: dict[tuple[str, int], _Sum] = {}
    nested: set[str] = set()
    for one in judged(store.list_versions(path), rules):
        version = one.version
        if not covers(path, version.key):
            continue
        kind = _KINDS.get(one.verdict) or _BY_HOLDER.get(one.holder, "snapshot")
        total = sums.setdefault((kind, one.holder if kind == "snapshot" else -1), _Sum())
        if version.is_delete_marker:
            total.markers += 1
            continue
        total.versions += 1
        total.bytes += version.size
        inside = _NESTED.match(version.key)
        if inside is not None and version.is_latest:
            nested.add(inside[1])
    out = []
    for (kind, number), total in sums.items():
        named = held.snapshots[number] if 0 <= number < len(held.snapshots) else None
        out.append(
            Held(
                kind=kind,
                snapshot=named.id if named else "",
                label=named.label if named else "",
                forgotten=named.forgotten if named else 0,
                versions=total.versions,
                bytes=total.bytes,
                markers=total.markers,
            )
        )
    return out, sorted(nested)
