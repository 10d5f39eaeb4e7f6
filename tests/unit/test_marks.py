"""The table of who needs which version, beside a plain dict."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipefs.past import marks
from pipefs.past.marks import FOREIGN, LOG, SHARED, Marks

_holders = st.sampled_from([0, 1, 2, 70, LOG, FOREIGN, SHARED])
_claims = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["1", "2", "3"]), _holders), max_size=80
)


def expected(claims: list[int]) -> int:
    snapshots = {c for c in claims if c not in (LOG, FOREIGN)}
    if len(snapshots) > 1:
        return SHARED
    if snapshots:
        return snapshots.pop()
    return claims[0] if len(set(claims)) == 1 else -1


@settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(_claims)
def test_it_answers_like_a_dict(
    monkeypatch: pytest.MonkeyPatch, claims: list[tuple[str, str, int]]
) -> None:
    monkeypatch.setattr(marks, "_FRESH", 7)
    table, plain = Marks(), {}  # type: ignore[var-annotated]
    for key, version, holder in claims:
        table.add(key, version, holder)
        plain.setdefault((key, version), []).append(holder)
    assert len(table) == len(plain)
    for key in "abcdefghi":
        for version in ("1", "2", "3"):
            found = table.holder(key, version)
            claimed = plain.get((key, version))
            if claimed is None:
                assert found is None
            elif expected(claimed) >= 0:
                assert found == expected(claimed)
            else:
                assert found in (LOG, FOREIGN)


def test_key_and_version_do_not_run_together() -> None:
    table = Marks()
    table.add("ab", "c", 1)
    assert table.holder("a", "bc") is None
    assert table.holder("ab", "c") == 1
