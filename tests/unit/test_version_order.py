"""Versions and delete markers of one key, in order, from what a server's document says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from pipefs.stores.s3_listing import Entry, interleaves, newest_first

START = datetime(2026, 11, 1, tzinfo=UTC)


def entry(name: str, second: int, *, marker: bool = False, latest: bool = False) -> Entry:
    time = START + timedelta(seconds=second)
    return marker, {"VersionId": name, "IsLatest": latest, "LastModified": time}


def names(entries: list[Entry]) -> list[str]:
    return [e["VersionId"] for _, e in entries]


def test_a_document_that_mixes_markers_in_is_taken_as_it_is() -> None:
    # All within one second: only the document knows.
    listed = [
        entry("v3", 5, latest=True),
        entry("m2", 5, marker=True),
        entry("v2", 5),
        entry("m1", 5, marker=True),
        entry("v1", 5),
    ]
    assert names(newest_first(listed, interleaved=False)) == ["v3", "m2", "v2", "m1", "v1"]


def test_a_multipart_upload_stays_above_what_was_put_while_it_ran() -> None:
    listed = [entry("upload", 1, latest=True), entry("put meanwhile", 7), entry("first", 0)]
    assert names(newest_first(listed, interleaved=False)) == ["upload", "put meanwhile", "first"]


def test_grouped_markers_go_where_their_times_say() -> None:
    listed = [
        entry("v3", 9),
        entry("v2", 5),
        entry("v1", 1),
        entry("m2", 10, marker=True, latest=True),
        entry("m1", 3, marker=True),
    ]
    assert names(newest_first(listed, interleaved=False)) == ["m2", "v3", "v2", "m1", "v1"]


def test_a_latest_marker_is_first_also_within_one_second() -> None:
    listed = [entry("v2", 5), entry("v1", 5), entry("m", 5, marker=True, latest=True)]
    assert names(newest_first(listed, interleaved=False)) == ["m", "v2", "v1"]


def test_markers_behind_versions_stay_there_where_the_server_is_known_to_mix() -> None:
    # The upload began before the delete and ended after it.
    listed = [entry("upload", 1, latest=True), entry("m", 5, marker=True)]
    assert names(newest_first(listed, interleaved=True)) == ["upload", "m"]
    assert names(newest_first(listed, interleaved=False)) == ["upload", "m"]


def test_a_marker_before_a_version_shows_that_a_server_mixes() -> None:
    assert interleaves([False, True, False])
    assert interleaves([True, False])
    assert not interleaves([False, False, True, True])
    assert not interleaves([])


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20)), min_size=1, max_size=12))
def test_grouping_by_the_server_loses_no_order_that_whole_seconds_can_show(
    history: list[tuple[bool, int]],
) -> None:
    """A history with distinct times comes back exactly from a grouped document."""
    oldest_first = [
        entry(str(n), second + 21 * n, marker=marker) for n, (marker, second) in enumerate(history)
    ]
    true = oldest_first[::-1]
    true[0][1]["IsLatest"] = True
    grouped = [e for e in true if not e[0]] + [e for e in true if e[0]]
    assert newest_first(grouped, interleaved=False) == true
    assert newest_first(true, interleaved=True) == true
