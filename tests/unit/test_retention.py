"""Which snapshots a policy keeps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipefs.catalog import Body, Snapshot
from pipefs.past.retention import Decision, Policy, decide

NEWEST = datetime(2026, 11, 28, 12, tzinfo=UTC)
DAY_S = 86_400.0


def snapshot(
    number: int,
    *,
    age: timedelta = timedelta(0),
    path: str = "",
    tags: tuple[str, ...] = (),
    protected: bool = False,
    time: str = "",
) -> Snapshot:
    taken = time or (NEWEST - age).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    body = Body(
        format=1, time=taken, author="a@b", host="b", program="p", path=path,
        epoch="e", commit=number, root="r",
    )  # fmt: skip
    return Snapshot(
        id=f"{number:064x}", body=body, tags=list(tags), protected=protected, number=number
    )


def hours_back(*hours: float) -> list[Snapshot]:
    count = len(hours)
    return [snapshot(count - n, age=timedelta(hours=h)) for n, h in enumerate(hours)]


def kept(found: list[Decision]) -> list[int]:
    return [d.snapshot.number for d in found if d.keep]


def reasons(found: list[Decision]) -> dict[int, tuple[str, ...]]:
    return {d.snapshot.number: d.reasons for d in found if d.keep}


def test_keep_last_keeps_the_newest() -> None:
    found = decide(hours_back(0, 1, 2, 3), Policy(last=2))
    assert [d.snapshot.number for d in found] == [4, 3, 2, 1]
    assert reasons(found) == {4: ("last",), 3: ("last",)}


def test_two_snapshots_of_one_moment_count_as_two() -> None:
    assert kept(decide(hours_back(0, 0, 0), Policy(last=2))) == [3, 2]


def test_keep_daily_keeps_the_newest_of_each_day_that_has_one() -> None:
    # 12:00, 02:00 of the same day, 22:00 of the day before, a week earlier, a month earlier.
    found = decide(hours_back(0, 10, 14, 168, 720), Policy(daily=3))
    assert reasons(found) == {
        5: ("daily 2026-11-28",),
        3: ("daily 2026-11-27",),
        2: ("daily 2026-11-21",),
    }


def test_each_period_has_its_rule() -> None:
    found = hours_back(0, 0.5, 24, 24 * 7, 24 * 40, 24 * 400)
    assert reasons(decide(found, Policy(hourly=2))) == {
        6: ("hourly 2026-11-28T12Z",),
        5: ("hourly 2026-11-28T11Z",),
    }
    assert kept(decide(found, Policy(weekly=2))) == [6, 3]
    assert kept(decide(found, Policy(monthly=2))) == [6, 2]
    assert reasons(decide(found, Policy(yearly=2))) == {6: ("yearly 2026",), 1: ("yearly 2025",)}


def test_weeks_begin_on_monday_and_belong_to_the_year_of_their_thursday() -> None:
    found = [
        snapshot(2, time="2027-01-01T00:00:00.000000Z"),  # Friday of 2026-W53
        snapshot(1, time="2026-12-28T00:00:00.000000Z"),  # Monday of the same week
    ]
    assert reasons(decide(found, Policy(weekly=5))) == {2: ("weekly 2026-W53",)}


def test_keep_within_counts_from_the_newest_snapshot_of_the_path() -> None:
    found = [snapshot(n, age=timedelta(days=1000 + n)) for n in range(5)]
    assert kept(decide(found, Policy(within_s=2 * DAY_S))) == [0, 1, 2]
    assert reasons(decide(found, Policy(within_s=2 * DAY_S)))[0] == ("within 2 days",)


def test_keep_tag_takes_patterns() -> None:
    found = [snapshot(1, tags=("v1", "best")), snapshot(2, tags=("draft",)), snapshot(3)]
    assert reasons(decide(found, Policy(tags=("v*", "b*")))) == {1: ("tag v1", "tag best")}


def test_protected_ones_stay_whatever_the_policy_says() -> None:
    found = [snapshot(1, age=timedelta(days=900), protected=True), snapshot(2)]
    assert reasons(decide(found, Policy(last=1))) == {1: ("protected",), 2: ("last",)}
    assert kept(decide(found, Policy())) == [1]


def test_each_path_is_judged_by_itself() -> None:
    found = [snapshot(n, age=timedelta(hours=n), path=path) for n, path in
             enumerate(["", "a", "", "a/b", "a"])]  # fmt: skip
    assert kept(decide(found, Policy(last=1))) == [0, 1, 3]


def test_a_snapshot_without_a_readable_time_stays() -> None:
    found = decide([snapshot(1, time="yesterday"), snapshot(2)], Policy(last=1))
    assert reasons(found) == {1: ("its time cannot be read",), 2: ("last",)}


# --- for any snapshots --------------------------------------------------------------------------

calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""On a machine that does much else, too."""

_snapshots = st.lists(
    st.tuples(
        st.integers(0, 3 * 365 * 24 * 60),
        st.sampled_from(["", "a", "b"]),
        st.lists(st.sampled_from(["v1", "v2", "best"]), max_size=2, unique=True),
        st.booleans(),
    ),
    max_size=30,
).map(
    lambda rows: [
        snapshot(n, age=timedelta(minutes=m), path=p, tags=tuple(t), protected=guarded)
        for n, (m, p, t, guarded) in enumerate(rows)
    ]
)
_counts = st.integers(0, 5)
_policies = st.builds(
    Policy,
    last=_counts,
    hourly=_counts,
    daily=_counts,
    weekly=_counts,
    monthly=_counts,
    yearly=_counts,
    within_s=st.sampled_from([0.0, 3600.0, 30 * DAY_S, 800 * DAY_S]),
    tags=st.sampled_from([(), ("v*",), ("best", "v2")]),
)


@calm
@given(_snapshots, _policies)
def test_what_a_policy_keeps_it_keeps_again(found: list[Snapshot], policy: Policy) -> None:
    once = [d.snapshot for d in decide(found, policy) if d.keep]
    assert all(d.keep for d in decide(once, policy))


@calm
@given(_snapshots, _policies)
def test_every_snapshot_gets_one_decision_and_protected_ones_stay(
    found: list[Snapshot], policy: Policy
) -> None:
    made = decide(found, policy)
    assert sorted(d.snapshot.number for d in made) == [s.number for s in found]
    assert all(d.keep for d in made if d.snapshot.protected)


@calm
@given(_snapshots, _policies, st.randoms())
def test_the_order_of_the_snapshots_does_not_matter(
    found: list[Snapshot], policy: Policy, random: object
) -> None:
    mixed = list(found)
    random.shuffle(mixed)  # type: ignore[attr-defined]  # hypothesis' own Random
    assert decide(mixed, policy) == decide(found, policy)


@calm
@given(_snapshots, _policies, _policies)
def test_two_policies_together_keep_what_each_keeps(
    found: list[Snapshot], one: Policy, other: Policy
) -> None:
    both = Policy(
        *(max(getattr(one, n), getattr(other, n)) for n in
          ("last", "hourly", "daily", "weekly", "monthly", "yearly", "within_s")),
        tags=one.tags + other.tags,
    )  # fmt: skip
    together = set(kept(decide(found, both)))
    assert together >= set(kept(decide(found, one))) | set(kept(decide(found, other)))


@calm
@given(_snapshots, st.sampled_from(["last", "hourly", "daily", "weekly", "monthly", "yearly"]),
       st.integers(1, 5))  # fmt: skip
def test_a_rule_keeps_as_many_as_it_says_and_the_newest_first(
    found: list[Snapshot], rule: str, count: int
) -> None:
    form = {"hourly": "%Y%j%H", "daily": "%Y%j", "weekly": "%G%V", "monthly": "%Y%m",
            "yearly": "%Y"}.get(rule)  # fmt: skip
    for path in {s.body.path for s in found}:
        here = [s for s in found if s.body.path == path]
        made = decide(here, Policy(**{rule: count}))  # type: ignore[arg-type]  # a count
        by_rule = [d for d in made if any(r.startswith(rule) for r in d.reasons)]
        times = [datetime.fromisoformat(s.body.time) for s in here]
        periods = {t.strftime(form) for t in times} if form else set(range(len(here)))
        assert len(by_rule) == min(count, len(periods))
        assert by_rule[0] == made[0]


@pytest.mark.parametrize("policy", [Policy(), Policy(last=0, tags=())])
def test_a_policy_without_rules_says_that_it_is_empty(policy: Policy) -> None:
    assert policy.is_empty()
    assert not Policy(within_s=1.0).is_empty()
