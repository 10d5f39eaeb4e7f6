"""Which versions a prune lets go: listings as a store gives them, judged one by one."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipefs.past.marks import LOG, Marks, key_hash
from pipefs.past.sweeping import Judged, Rules, Verdict, judged
from pipefs.types import ObjectVersion
from tests.promises.promised import promise

HORIZON = 100


def listing(key: str, *entries: tuple[str, int] | tuple[str, int, str]) -> list[ObjectVersion]:
    """Entries of one key, the newest first: (id, time) or (id, time, "marker")."""
    return [
        ObjectVersion(
            key, entry[0], "etag", 0 if len(entry) == 3 else 10, entry[1],
            is_latest=n == 0, is_delete_marker=len(entry) == 3,
        )
        for n, entry in enumerate(entries)
    ]  # fmt: skip


def rules(*held: tuple[str, str], **parts: object) -> Rules:
    marks = Marks()
    for key, version in held:
        marks.add(key, version, 3)
    return Rules(marks, HORIZON, **parts)  # type: ignore[arg-type]  # fields of the rules


def verdicts(versions: Sequence[ObjectVersion], by: Rules) -> dict[str, Verdict]:
    return {j.version.version_id or "": j.verdict for j in judged(versions, by)}


def test_an_old_version_goes_by_when_it_was_replaced_not_by_its_age() -> None:
    found = verdicts(listing("k", ("new", 500), ("b", 90), ("a", 10)), rules())
    assert found == {"new": Verdict.CURRENT, "b": Verdict.GRACE, "a": Verdict.GONE}


def test_what_a_snapshot_or_the_log_names_stays() -> None:
    by = rules(("k", "a"))
    by.marks.add("k", "b", LOG)
    versions = listing("k", ("new", 50), ("c", 40), ("b", 30), ("a", 20))
    assert [(j.verdict, j.holder) for j in judged(versions, by)] == [
        (Verdict.CURRENT, -1),
        (Verdict.GONE, -1),
        (Verdict.HELD, LOG),
        (Verdict.HELD, 3),
    ]


def test_the_same_version_id_of_another_key_is_another_version() -> None:
    assert verdicts(listing("k", ("new", 50), ("a", 20)), rules(("other", "a")))["a"] is (
        Verdict.GONE
    )


def test_a_current_version_stays_however_old() -> None:
    assert verdicts(listing("k", ("only", 1)), rules()) == {"only": Verdict.CURRENT}


def test_versions_without_an_id_of_their_own_are_never_touched() -> None:
    found = verdicts(listing("k", ("new", 50), ("null", 20), ("a", 10)), rules())
    assert found == {"new": Verdict.CURRENT, "null": Verdict.UNSURE, "a": Verdict.GONE}
    assert verdicts(listing("k", ("null", 20)), rules()) == {"null": Verdict.CURRENT}
    plain = [ObjectVersion("k", None, "e", 1, 5)]
    assert [j.verdict for j in judged(plain, rules())] == [Verdict.CURRENT]


def test_a_deleted_file_goes_and_its_marker_after_it() -> None:
    versions = listing("k", ("m", 50, "marker"), ("b", 40), ("a", 10))
    assert [(j.version.version_id, j.verdict) for j in judged(versions, rules())] == [
        ("b", Verdict.GONE),
        ("a", Verdict.GONE),
        ("m", Verdict.GONE),
    ]


def test_a_marker_stays_while_it_hides_anything() -> None:
    by = rules(("k", "a"))
    versions = listing("k", ("m2", 60, "marker"), ("b", 50), ("m1", 40, "marker"), ("a", 10))
    assert verdicts(versions, by) == {
        "m2": Verdict.GRACE,
        "b": Verdict.GONE,
        "m1": Verdict.GRACE,
        "a": Verdict.HELD,
    }


def test_a_marker_between_versions_goes_with_those_below_it() -> None:
    versions = listing("k", ("c", 60), ("m", 40, "marker"), ("a", 10))
    assert verdicts(versions, rules()) == {
        "c": Verdict.CURRENT, "a": Verdict.GONE, "m": Verdict.GONE,
    }  # fmt: skip


def test_a_young_marker_stays_and_so_does_what_it_replaced() -> None:
    versions = listing("k", ("m", 150, "marker"), ("a", 10))
    assert verdicts(versions, rules()) == {"m": Verdict.CURRENT, "a": Verdict.GRACE}


def test_times_never_go_backwards() -> None:
    # A multipart upload that began at 20 and was completed after b was put at 150.
    versions = listing("k", ("c", 20), ("b", 150), ("a", 10))
    assert verdicts(versions, rules())["b"] is Verdict.GRACE
    versions = listing("k", ("d", 150), ("c", 20), ("b", 30))
    assert verdicts(versions, rules()) == {
        "d": Verdict.CURRENT, "c": Verdict.GRACE, "b": Verdict.GRACE,
    }  # fmt: skip


def test_a_key_in_doubt_keeps_all_its_versions() -> None:
    by = rules(doubtful={key_hash("k")})
    found = verdicts(listing("k", ("b", 50), ("a", 10)), by)
    assert found == {"b": Verdict.CURRENT, "a": Verdict.UNSURE}


def test_other_systems_and_pipes_below_are_left_alone() -> None:
    by = rules(apart=("sub/",))
    for key in (".snapshots/x.json.gz", "a/.snapshots/x", "sub/a", "sub/.pipefs/commits/1"):
        versions = listing(key, ("m", 50, "marker"), ("a", 10))
        assert set(verdicts(versions, by).values()) == {Verdict.APART}
    quilt = listing(".quilt/packages/x", ("b", 50), ("a", 10))
    assert set(verdicts(quilt, rules(url="s3://bucket")).values()) == {Verdict.APART}
    assert verdicts(quilt, rules(url="s3://bucket/pipe"))["a"] is Verdict.GONE


# --- below .pipefs/ -----------------------------------------------------------------------------


def test_old_versions_of_our_own_objects_go() -> None:
    found = verdicts(listing(".pipefs/refs.json", ("c", 150), ("b", 90), ("a", 10)), rules())
    assert found == {"c": Verdict.OWN, "b": Verdict.OWN, "a": Verdict.GONE}


def test_parts_that_nobody_needs_go_when_they_are_old() -> None:
    key = ".pipefs/manifests/p.jsonl.gz"
    assert verdicts(listing(key, ("a", 10)), rules(manifests={"p"})) == {"a": Verdict.OWN}
    assert verdicts(listing(key, ("a", 10)), rules()) == {"a": Verdict.GONE}
    assert verdicts(listing(key, ("a", 150)), rules()) == {"a": Verdict.OWN}
    again = listing(key, ("b", 150), ("a", 10))
    assert verdicts(again, rules()) == {"b": Verdict.OWN, "a": Verdict.OWN}


def test_the_object_of_a_dropped_snapshot_goes_whatever_its_age() -> None:
    key = ".pipefs/snapshots/abc.json"
    assert verdicts(listing(key, ("a", 150)), rules()) == {"a": Verdict.OWN}
    assert verdicts(listing(key, ("b", 150), ("a", 10)), rules(dropped={"abc"})) == {
        "b": Verdict.GONE, "a": Verdict.GONE,
    }  # fmt: skip


def test_what_another_program_hid_of_a_snapshot_can_be_brought_back() -> None:
    for key, by in (
        (".pipefs/snapshots/abc.json", rules()),
        (".pipefs/manifests/p.jsonl.gz", rules(manifests={"p"})),
    ):
        found = verdicts(listing(key, ("m", 50, "marker"), ("a", 10)), by)
        assert found == {"m": Verdict.OWN, "a": Verdict.OWN}
    key = ".pipefs/manifests/p.jsonl.gz"
    assert set(verdicts(listing(key, ("m", 50, "marker"), ("a", 10)), rules()).values()) == {
        Verdict.GONE
    }


def test_left_over_probes_go() -> None:
    assert verdicts(listing(".pipefs/probe/x", ("a", 10)), rules()) == {"a": Verdict.GONE}
    assert verdicts(listing(".pipefs/probe/x", ("a", 150)), rules()) == {"a": Verdict.OWN}


# --- any listing --------------------------------------------------------------------------------

calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""On a machine that does much else, too."""

_keys = ["k", "l/m", ".pipefs/refs.json", ".pipefs/manifests/p.jsonl.gz",
         ".pipefs/manifests/q.jsonl.gz", ".pipefs/snapshots/abc.json", "sub/x"]  # fmt: skip


@st.composite
def listings(draw: st.DrawFn) -> list[ObjectVersion]:
    out = []
    for key in _keys:
        count = draw(st.integers(0, 5))
        times = sorted(draw(st.lists(st.integers(0, 200), min_size=count, max_size=count)))
        for n, time in enumerate(reversed(times)):
            name = draw(st.sampled_from([f"v{n}", f"v{n}", f"v{n}", "null"]))
            marker = draw(st.booleans())
            out.append(
                ObjectVersion(key, name, "e", 1, time, is_latest=n == 0, is_delete_marker=marker)
            )
    return out


@st.composite
def any_rules(draw: st.DrawFn) -> Rules:
    held = draw(st.lists(st.tuples(st.sampled_from(_keys), st.sampled_from(["v1", "v2", "v3"]))))
    return rules(
        *held,
        doubtful={key_hash(k) for k in draw(st.sets(st.sampled_from(_keys)))},
        manifests=draw(st.sets(st.sampled_from(["p", "q"]))),
        dropped=draw(st.sampled_from([set(), {"abc"}])),
        apart=draw(st.sampled_from([(), ("sub/",)])),
    )


@calm
@given(listings(), any_rules())
def test_every_version_is_judged_once_and_what_goes_may_go(
    versions: list[ObjectVersion], by: Rules
) -> None:
    found = list(judged(versions, by))
    assert sorted(map(_identity, found)) == sorted((v.key, v.version_id) for v in versions)
    newest = {v.key: v for v in reversed(versions)}
    gone = [j.version for j in found if j.verdict is Verdict.GONE]
    for version in gone:
        assert version.version_id != "null"
        assert not (by.apart and version.key.startswith(by.apart))
        if version.key.startswith(".pipefs/"):
            continue
        assert by.marks.holder(version.key, version.version_id or "") is None or (
            version.is_delete_marker
        )
        assert newest[version.key] is not version or version.is_delete_marker
        assert (
            key_hash(version.key) not in by.doubtful
            or version is newest[version.key]
            or (version.is_delete_marker)
        )


def _identity(one: Judged) -> tuple[str, str | None]:
    return one.version.key, one.version.version_id


@promise(
    "retention-current",
    "A prune changes no live file and brings no deleted one back, wherever it is interrupted.",
)
@calm
@given(listings(), any_rules(), st.integers(0, 40))
def test_deleting_in_this_order_never_brings_a_file_back(
    versions: list[ObjectVersion], by: Rules, died_after: int
) -> None:
    def live(left: list[ObjectVersion]) -> dict[str, str | None]:
        top: dict[str, ObjectVersion] = {}
        for v in left:
            top.setdefault(v.key, v)
        return {
            k: v.version_id
            for k, v in top.items()
            if not v.is_delete_marker and not k.startswith(".pipefs/")
        }

    order = [j.version for j in judged(versions, by) if j.verdict is Verdict.GONE]
    done = order[:died_after]
    assert live([v for v in versions if v not in done]) == live(versions)


@calm
@given(listings(), any_rules())
def test_a_second_sweep_finds_nothing_more(versions: list[ObjectVersion], by: Rules) -> None:
    gone = {_identity(j) for j in judged(versions, by) if j.verdict is Verdict.GONE}
    left = [v for v in versions if (v.key, v.version_id) not in gone]
    first: set[str] = set()
    again = []
    for v in left:  # a key whose newest entry went shows the next one as current
        again.append(
            ObjectVersion(v.key, v.version_id, v.etag, v.size, v.last_modified_ns,
                          is_latest=v.key not in first, is_delete_marker=v.is_delete_marker)
        )  # fmt: skip
        first.add(v.key)
    assert [j for j in judged(again, by) if j.verdict is Verdict.GONE] == []
