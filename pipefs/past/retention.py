"""Which snapshots a policy keeps, and why. Pure: reads no clock, forgets nothing.

The rules are those of restic and borg. Snapshots of different paths are judged apart. `keep_last`
keeps the newest; `keep_daily` and its kin keep the newest of each day (UTC) that has a snapshot,
for the newest so many such days; `keep_within` counts from the newest snapshot of the path, not
from now, so that a pipe nobody touched for a year loses nothing. A snapshot that any rule keeps
stays. Forgetting what a policy does not keep, and asking again, changes nothing.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pipefs.catalog import Snapshot
from pipefs.units import show_seconds


@dataclass(frozen=True, slots=True)
class Policy:
    """How much of the past is to stay. 0 and empty: the rule is not asked."""

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    """ISO weeks, from Monday."""
    monthly: int = 0
    yearly: int = 0
    within_s: float = 0.0
    """Seconds back from the newest snapshot of the path."""
    tags: tuple[str, ...] = ()
    """Patterns as in a shell; a snapshot with a tag that matches stays."""

    def is_empty(self) -> bool:
        """Whether it would keep nothing but what is protected."""
        return self == Policy()


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one snapshot."""

    snapshot: Snapshot
    reasons: tuple[str, ...]
    """Rules that keep it, for people: `last`, `daily 2026-11-28`. None: it goes."""

    @property
    def keep(self) -> bool:
        return bool(self.reasons)


def decide(snapshots: Iterable[Snapshot], policy: Policy) -> list[Decision]:
    """One decision for each snapshot, by path, then the newest first."""
    paths: dict[str, list[Snapshot]] = {}
    for snapshot in snapshots:
        paths.setdefault(snapshot.body.path, []).append(snapshot)
    out: list[Decision] = []
    for path in sorted(paths):
        found = sorted(paths[path], key=lambda s: (s.body.time, s.number, s.id), reverse=True)
        out += _decide_one_path(found, policy)
    return out


def _decide_one_path(newest_first: list[Snapshot], policy: Policy) -> Iterator[Decision]:
    times = [taken_at(s) for s in newest_first]
    since = max((t for t in times if t is not None), default=None)
    if since is not None and policy.within_s:
        since -= timedelta(seconds=policy.within_s)
    counters = [
        _Periods("last", policy.last, "%Y-%m-%dT%H:%M:%S.%f"),
        _Periods("hourly", policy.hourly, "%Y-%m-%dT%HZ"),
        _Periods("daily", policy.daily, "%Y-%m-%d"),
        _Periods("weekly", policy.weekly, "%G-W%V"),
        _Periods("monthly", policy.monthly, "%Y-%m"),
        _Periods("yearly", policy.yearly, "%Y"),
    ]
    for snapshot, time in zip(newest_first, times, strict=True):
        reasons = ["protected"] if snapshot.protected else []
        if time is None:
            reasons.append("its time cannot be read")
        else:
            reasons += [reason for c in counters if (reason := c.keeps(time))]
            if policy.within_s and since is not None and time >= since:
                reasons.append(f"within {show_seconds(policy.within_s)}")
        for pattern in policy.tags:
            tag = next((t for t in snapshot.tags if fnmatch.fnmatchcase(t, pattern)), None)
            if tag is not None:
                reasons.append(f"tag {tag}")
        yield Decision(snapshot, tuple(reasons))


class _Periods:
    """One rule going back in time: the newest snapshot of each period, so many periods."""

    def __init__(self, name: str, count: int, form: str) -> None:
        self._name = name
        self._left = count
        self._form = form
        self._current = ""

    def keeps(self, time: datetime) -> str:
        """The reason to keep a snapshot that is older than all asked about before; or ""."""
        period = time.strftime(self._form)
        if self._left <= 0 or (period == self._current and self._name != "last"):
            return ""
        self._left -= 1
        self._current = period
        return self._name if self._name == "last" else f"{self._name} {period}"


def taken_at(snapshot: Snapshot) -> datetime | None:
    """When a snapshot was taken; None where its object says no time."""
    try:
        found = datetime.fromisoformat(snapshot.body.time)
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
