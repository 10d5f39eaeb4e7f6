"""Prune: delete the old versions that no snapshot, no grace period and nobody at work needs.

    survey(past, grace_ns=…)   what is held, by whom, and what would go: changes nothing
    prune(past, grace_ns=…)    the same, and then it goes

1. *Say it*: an entry of the log names a cut-off, a commit that is followed only by commits of the
   grace period, and the forgotten snapshots whose grace is over. From then on no snapshot may be
   made of an earlier commit, and these cannot be brought back.
2. *Mark*, with the log followed again: what every snapshot names that the catalogue still has or
   whose object lies in the bucket, and what the tree showed at any commit from the cut-off on, of
   which a snapshot may be in the making.
3. *Sweep*: first the objects of the dropped snapshots, then every version that is not marked and
   was replaced before the grace period (`pipefs.past.sweeping`).

May die anywhere and be run again, also by another machine, also by two at once. docs/design/011
has the argument, and what each death leaves.
"""

from __future__ import annotations

import bisect
import contextlib
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from pipefs import catalog as cat
from pipefs.catalog import Catalog, Snapshot
from pipefs.commits import Change, CommitLog, commit_key
from pipefs.errors import AccessDenied, Refused, UsageError
from pipefs.past.holding import Holdings, held_by, strangers
from pipefs.past.marks import FOREIGN, LOG
from pipefs.past.opened import Past
from pipefs.past.shown import shown_since
from pipefs.past.sweeping import Judged, Rules, Verdict, judged
from pipefs.past.usage import Held, count
from pipefs.stores.base import Store
from pipefs.stores.opening import stores_above

BATCH = 1000
"""Versions in one request."""

_FEW = 32
"""Entries of the log that are looked at to save one more of them."""

local_clock = time.time_ns
"""For a survey, which may not write and so cannot ask the store what time it is."""

Hook = Callable[[str], None]
"""Called with the name of each step when it is done; for tests."""


class Report(msgspec.Struct, kw_only=True):
    """What a survey found, or a prune did."""

    grace_ns: int
    horizon_ns: int
    """What was replaced before this moment may go."""
    cutoff: int
    held: list[Held]
    nested: list[str]
    """Keys of other pipes below this one begin so; they are left alone."""
    dropped: list[str]
    """Ids of forgotten snapshots whose grace is over: they go."""
    deleted_versions: int = 0
    deleted_bytes: int = 0
    deleted_markers: int = 0
    locked: int = 0
    """Versions that Object Lock (or missing permission) kept from going."""

    @property
    def free(self) -> Held:
        """What nobody needs."""
        return next((h for h in self.held if h.kind == "free"), Held(kind="free"))


def survey(
    past: Past,
    *,
    grace_ns: int = cat.GRACE_NS,
    now_ns: int | None = None,
    extra_marks: Iterable[tuple[str, str]] = (),
) -> Report:
    """What is held and by whom, and what `prune` would delete. Writes nothing.

    Args:
        now_ns: for tests; else the clock.
        extra_marks: (key, version) that other systems need.
    Raises:
        UsageError: a grace period under 24 hours. Refused: no log yet, or a pipe above this one.
        Corrupt: a snapshot or the log cannot be read. Unsupported: a store without versions.
    """
    _check_grace(grace_ns)
    horizon_ns = (local_clock() if now_ns is None else now_ns) - grace_ns
    refuse_inside_another(past.store)
    plan = _Plan(past, horizon_ns)
    plan.changes(past.refresh())
    rules, held = mark(past, plan, extra_marks)
    return tally(past.store, rules, held, plan, grace_ns)


def prune(
    past: Past,
    *,
    grace_ns: int = cat.GRACE_NS,
    now_ns: int | None = None,
    extra_marks: Iterable[tuple[str, str]] = (),
    hook: Hook = lambda _step: None,
) -> Report:
    """Delete what nobody needs; what there was, and what went. Arguments and errors as `survey`.

    Raises:
        AccessDenied: these credentials may not delete versions at all.
    """
    _check_grace(grace_ns)
    horizon_ns = (store_clock(past.store) if now_ns is None else now_ns) - grace_ns
    refuse_inside_another(past.store)
    plan = _Plan(past, horizon_ns)
    past.amend(plan.changes)
    hook("announced")
    rules, held = mark(past, plan, extra_marks)
    hook("marked")
    report = tally(past.store, rules, held, plan, grace_ns)
    hook("surveyed")
    sweep = _Sweep(past.store, report, hook)
    sweep.run(judged(past.store.list_versions(cat.PREFIX), rules))
    hook("objects")
    sweep.run(judged(past.store.list_versions(""), rules))
    hook("done")
    return report


# --- the plan -----------------------------------------------------------------------------------


class _Plan:
    """What a prune says in the log: the cut-off, and the snapshots that are dropped."""

    def __init__(self, past: Past, horizon_ns: int) -> None:
        self._past = past
        self._horizon_ns = horizon_ns
        self.cutoff = 0
        self.dropped: set[str] = set()
        """Those of earlier prunes too, while their objects may be there."""
        self.new: set[str] = set()
        """Those that this prune drops."""

    @property
    def horizon_ns(self) -> int:
        return self._horizon_ns

    def changes(self, catalog: Catalog) -> list[Change]:
        """For `Past.amend`; nothing where the log says all of it already."""
        here = self._past.position
        if here.number == 0:
            raise Refused(
                "this pipe has no log of changes yet, so nobody can say which versions it needs",
                hint="Mount it once: that takes in what is there.",
            )
        cutoff = cutoff_at(self._past.store, here.number, self._horizon_ns)
        if _same_tree(self._past.store, catalog.cutoff, cutoff):
            cutoff = catalog.cutoff  # a pipe that rests gets no entry for each prune
        self.cutoff = max(cutoff, catalog.cutoff)
        self.new = set()  # another machine may have brought one back since the last try
        self.dropped = {s.id for s in catalog.snapshots.values() if s.dropped}
        there = _objects(self._past.store) if self.dropped else set()
        out = [
            Change(op="prune", path="", snapshot=gone, off=True)
            for gone in sorted(self.dropped - there)
        ]
        for snapshot in catalog.snapshots.values():
            over = 0 < snapshot.forgotten < self._horizon_ns
            if over and not snapshot.dropped:
                self.dropped.add(snapshot.id)
                self.new.add(snapshot.id)
                out.append(Change(op="prune", path="", snapshot=snapshot.id))
        if self.cutoff > catalog.cutoff:
            out.append(Change(op="prune", path="", cutoff=self.cutoff))
        return out


def _objects(store: Store) -> set[str]:
    """Ids of the snapshots of whose objects any version or marker is left."""
    return {
        item.key.removeprefix(cat.PREFIX).removesuffix(".json")
        for item in store.list_versions(cat.PREFIX)
    }


def cutoff_at(store: Store, head: int, horizon_ns: int) -> int:
    """The first commit that the store got after the horizon; `head` where there is none. About 20
    HEADs: commits come one after the other, and so do their times."""
    numbers = range(1, head + 1)
    time_of = lambda number: store.head(commit_key(number)).last_modified_ns  # noqa: E731
    return min(head, 1 + bisect.bisect_left(numbers, horizon_ns, key=time_of))


def _same_tree(store: Store, before: int, after: int) -> bool:
    """Whether the tree of commit `after` is that of `before`: nothing but tags and prunes since.
    Looks at `_FEW` commits at most."""
    if not 0 < before < after <= before + _FEW:
        return False
    log = CommitLog(store, author="", writer="")
    found = [log.read(number) for number in range(before + 1, after + 1)]
    return all(c.op in cat.OPS for read in found if read for c in read.commit.changes)


def store_clock(store: Store) -> int:
    """What time the store has: the times it gives to versions are compared with it. Writes a probe
    and takes it away."""
    key = f".pipefs/probe/prune-{uuid.uuid4().hex}"
    made = store.put(key, b"clock")
    now_ns = store.head(key).last_modified_ns
    if made.version_id is not None:
        store.delete_version(key, made.version_id)
    return now_ns


def _check_grace(grace_ns: int) -> None:
    if grace_ns < cat.GRACE_NS:
        raise UsageError(
            "the grace period is at least 24 hours",
            hint="Others may be taking a snapshot of what was replaced a moment ago.",
        )


def refuse_inside_another(store: Store) -> None:
    """
    Raises:
        Refused: the pipe lies inside another one, whose snapshots may need its versions.
    """
    for above in stores_above(store):
        with contextlib.closing(above), contextlib.suppress(AccessDenied):
            if next(iter(above.list(".pipefs/commits/")), None) is not None:
                raise Refused(
                    f"this pipe lies inside the pipe {above.url}, whose snapshots may need "
                    "versions of it",
                    hint="Nothing was deleted. Keep them apart, or prune neither.",
                )


# --- mark ---------------------------------------------------------------------------------------


def mark(past: Past, plan: _Plan, extra_marks: Iterable[tuple[str, str]]) -> tuple[Rules, Holdings]:
    """Everything that is needed. The log is followed first: a snapshot that is not in it yet is
    of a commit from the cut-off on."""
    catalog = past.refresh()
    kept = [s for s in catalog.snapshots.values() if s.id not in plan.dropped and not s.dropped]
    kept.sort(key=lambda s: (s.body.time, s.id), reverse=True)
    held = held_by(past.store, [*kept, *strangers(past.store, catalog)])
    marks = held.marks
    for key, version in extra_marks:
        marks.add(key, version, FOREIGN)
    base = _base(past, kept, plan.cutoff)
    shown, doubtful = shown_since(
        past.store,
        past.position,
        plan.cutoff,
        after=base.body.commit if base is not None else 0,
        known=lambda key, version: marks.holder(key, version) is not None,
    )
    for at in shown:
        marks.add_hash(at, LOG)
    dropped, url = set(plan.dropped), past.store.url
    rules = Rules(marks, plan.horizon_ns, doubtful, held.manifests, dropped, url=url)
    return rules, held


def _base(past: Past, kept: Sequence[Snapshot], cutoff: int) -> Snapshot | None:
    """The newest snapshot of the whole pipe as of a commit before the cut-off: the log is read
    from there on."""
    epoch = past.position.epoch
    found = [
        s for s in kept if not s.body.path and s.body.epoch == epoch and s.body.commit <= cutoff
    ]
    return max(found, key=lambda s: s.body.commit, default=None)


def tally(store: Store, rules: Rules, held: Holdings, plan: _Plan, grace_ns: int) -> Report:
    """Count every version in the bucket by who holds it; finds pipes below this one, too, and adds
    them to the rules."""
    sums, nested = count(store, rules, held)
    if nested:
        rules.apart = tuple(nested)
        sums, _ = count(store, rules, held)
    return Report(
        grace_ns=grace_ns,
        horizon_ns=rules.horizon_ns,
        cutoff=plan.cutoff,
        held=sums,
        nested=nested,
        dropped=sorted(plan.new),
    )


# --- sweep --------------------------------------------------------------------------------------


class _Sweep:
    """Deletes in batches. A marker goes only when all that it hid is gone: the other way round,
    a death in between would bring a deleted file back to life."""

    def __init__(self, store: Store, report: Report, hook: Hook) -> None:
        self._store = store
        self._report = report
        self._hook = hook
        self._versions: list[Judged] = []
        self._markers: list[Judged] = []
        self._stay: set[str] = set()
        """Keys of which something had to stay."""

    def run(self, found: Iterator[Judged]) -> None:
        for one in found:
            if one.verdict is not Verdict.GONE:
                continue
            if one.version.is_delete_marker:
                self._markers.append(one)
            else:
                self._versions.append(one)
            if len(self._versions) >= BATCH:
                self._flush_versions()
            if len(self._markers) >= BATCH:
                self._flush()
        self._flush()

    def _flush(self) -> None:
        self._flush_versions()
        markers = [m for m in self._markers if m.version.key not in self._stay]
        self._report.deleted_markers += len(markers) - len(self._delete(markers))
        self._markers = []

    def _flush_versions(self) -> None:
        left = self._delete(self._versions)
        self._stay.update(key for key, _ in left)
        self._report.locked += len(left)
        for one in self._versions:
            if (one.version.key, one.version.version_id) not in left:
                self._report.deleted_versions += 1
                self._report.deleted_bytes += one.version.size
        self._versions = []

    def _delete(self, some: Sequence[Judged]) -> set[tuple[str, str | None]]:
        """(key, version id) of those that may not go."""
        if not some:
            return set()
        items = [(j.version.key, j.version.version_id or "") for j in some]
        left = self._store.delete_versions(items)
        self._hook("batch")
        if len(left) == len(items) and not self._store.has_object_lock():
            raise AccessDenied(
                f"old versions may not be deleted: {left[0].reason}",
                hint="Deleting versions needs s3:DeleteObjectVersion: pipefs policy --role admin",
            )
        return {(u.key, u.version_id) for u in left}
