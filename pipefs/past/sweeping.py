"""What becomes of each version in the bucket: the rules of a prune, one version at a time. Pure.

The safe side is to keep. The newest entry of a key (the current version, or the delete marker that
hides the others) always stays, except below `.pipefs/` and a marker that hides nothing. An older
one may go when it was replaced before the horizon and nobody needs it. When it was replaced is the
time of the entry above it, not its own. S3 tells when a multipart upload began, not when it became
visible: an entry that seems older than the one below it is taken to have come as late as it can.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pipefs import catalog as cat
from pipefs import manifest
from pipefs.keys import PARKED
from pipefs.past.marks import Marks, key_hash
from pipefs.provenance import is_own_key
from pipefs.types import ObjectVersion

OWN = ".pipefs/"
_PROBES = ".pipefs/probe/"


class Verdict(enum.Enum):
    """Why a version stays, or that it goes."""

    CURRENT = "current"
    HELD = "held"
    """Somebody needs it: `Judged.holder`."""
    GRACE = "grace"
    """Nobody needs it, but it was replaced a short while ago."""
    UNSURE = "unsure"
    """No VersionId of its own (`null`), or a key whose history the log does not explain."""
    OWN = "own"
    """Of pipefs itself."""
    APART = "apart"
    """Of another system, or of another pipe below this one."""
    GONE = "gone"
    """Nobody needs it: a prune deletes it."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One version or delete marker, and what becomes of it."""

    version: ObjectVersion
    verdict: Verdict
    holder: int = -1


@dataclass(slots=True)
class Rules:
    """What a prune knows."""

    marks: Marks
    horizon_ns: int
    """What was replaced after this moment stays."""
    doubtful: set[int] = field(default_factory=set)
    """Hashes of keys whose old versions all stay."""
    manifests: set[str] = field(default_factory=set)
    """Parts and roots that are needed."""
    dropped: set[str] = field(default_factory=set)
    """Ids of snapshots whose objects go."""
    apart: tuple[str, ...] = ()
    """Keys that begin so belong to another pipe."""
    url: str = ""
    """Of the pipe."""


def judged(versions: Iterable[ObjectVersion], rules: Rules) -> Iterator[Judged]:
    """Judge a listing: all versions of a key together, the newest first.

    A delete marker that goes comes after everything that it hid. Memory: the delete markers of
    one key.
    """
    key, newest = "", None
    above_ns = replaced_ns = 0
    waiting: list[ObjectVersion] = []  # markers that go if nothing below them stays
    for version in versions:
        if newest is None or version.key != key:
            yield from (Judged(m, Verdict.GONE) for m in waiting)
            waiting = []
            key, newest = version.key, version
            replaced_ns = 0
        else:
            late = above_ns < version.last_modified_ns
            replaced_ns = max(above_ns, version.last_modified_ns, replaced_ns if late else 0)
        above_ns = version.last_modified_ns
        found = _judge(version, replaced_ns, newest, rules)
        if version.is_delete_marker and found.verdict is Verdict.GONE:
            waiting.append(version)
            continue
        if not version.is_delete_marker and found.verdict is not Verdict.GONE:
            kept = Verdict.OWN if key.startswith(OWN) else Verdict.GRACE
            yield from (Judged(m, kept) for m in waiting)
            waiting = []
        yield found
    yield from (Judged(m, Verdict.GONE) for m in waiting)


def _judge(version: ObjectVersion, replaced_ns: int, newest: ObjectVersion, rules: Rules) -> Judged:
    """
    Args:
        replaced_ns: when it was; nothing for the newest.
    """
    key, version_id = version.key, version.version_id
    if key.startswith(rules.apart) or (not key.startswith(OWN) and is_own_key(key, rules.url)):
        return Judged(version, Verdict.APART)
    if version_id is None or version_id == "null":
        return Judged(version, Verdict.CURRENT if version is newest else Verdict.UNSURE)
    if key.startswith(OWN):
        holder = rules.marks.holder(key, version_id) if key.startswith(PARKED) else None
        if holder is not None:
            return Judged(version, Verdict.HELD, holder)
        return Judged(version, _judge_own(version, replaced_ns, newest, rules))
    if version is newest or version.is_latest:
        idle = version.is_delete_marker and version.last_modified_ns < rules.horizon_ns
        return Judged(version, Verdict.GONE if idle else Verdict.CURRENT)
    marker = version.is_delete_marker
    if not marker:
        holder = rules.marks.holder(key, version_id)
        if holder is not None:
            return Judged(version, Verdict.HELD, holder)
    if replaced_ns >= rules.horizon_ns:
        return Judged(version, Verdict.GRACE)
    if not marker and key_hash(key) in rules.doubtful:
        return Judged(version, Verdict.UNSURE)
    return Judged(version, Verdict.GONE)


def _judge_own(
    version: ObjectVersion, replaced_ns: int, newest: ObjectVersion, rules: Rules
) -> Verdict:
    """Below `.pipefs/`: of what is needed the newest version stays, of what was written anew the
    old versions go, and what nobody needs goes when it is older than the horizon: whoever takes a
    snapshot puts its parts first."""
    key = version.key
    needed = True
    if key.startswith(cat.PREFIX):
        if key.removeprefix(cat.PREFIX).removesuffix(".json") in rules.dropped:
            return Verdict.GONE
    elif key.startswith(manifest.PREFIX):
        name = key.removeprefix(manifest.PREFIX).removesuffix(manifest.SUFFIX)
        needed = name in rules.manifests
    elif key.startswith(_PROBES):
        needed = False
    if version is newest or version.is_latest:
        young = version.last_modified_ns >= rules.horizon_ns
        idle = not needed or version.is_delete_marker
        return Verdict.GONE if idle and not young else Verdict.OWN
    lasting = needed and key.startswith((cat.PREFIX, manifest.PREFIX))
    if lasting and newest.is_delete_marker and not version.is_delete_marker:
        return Verdict.OWN  # another program deleted it: `check` brings it back
    return Verdict.OWN if replaced_ns >= rules.horizon_ns else Verdict.GONE
