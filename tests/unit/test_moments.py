"""The forms in which people write times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipefs.errors import UsageError
from pipefs.moments import FORMS, is_moment, parse_moment, show_moment

NS = 10**9
NOW = int(datetime(2026, 11, 3, 15, 4, 5, tzinfo=UTC).timestamp()) * NS + 123_456_789
NOON = int(datetime(2026, 11, 1, 12, tzinfo=UTC).timestamp()) * NS
DAY = 86_400 * NS


@pytest.mark.parametrize(
    ("text", "moment_ns"),
    [
        ("@2026-11-01T12:00", NOON),
        ("@2026-11-01T12:00:00", NOON),
        ("@2026-11-01T12:00Z", NOON),
        ("@2026-11-01 12:00", NOON),
        ("@20261101T1200", NOON),
        ("@20261101T1200Z", NOON),
        ("@20261101T120000Z", NOON),
        ("@20261101t120000z", NOON),
        ("@2026-11-01T14:00+02:00", NOON),
        ("@2026-11-01T14:00:00+0200", NOON),
        ("@20261101T1400+02", NOON),
        ("@2026-11-01T06:30-05:30", NOON),
        ("@2026-11-01T12:00:07", NOON + 7 * NS),
        ("@2026-11-01T12:00:07.5", NOON + 7 * NS + NS // 2),
        ("@20261101T120007.000000001Z", NOON + 7 * NS + 1),
        ("@2026-11-01", NOON - DAY // 2),
        ("@20261101", NOON - DAY // 2),
        ("@now", NOW),
        ("@today", NOW // DAY * DAY),
        ("@Yesterday", NOW // DAY * DAY - DAY),
        ("@90s", NOW // NS * NS - 90 * NS),
        ("@30m", NOW // NS * NS - 1800 * NS),
        ("@2h", NOW // NS * NS - 7200 * NS),
        ("@3d", NOW // NS * NS - 3 * DAY),
        ("@1w", NOW // NS * NS - 7 * DAY),
        ("@1d12h", NOW // NS * NS - DAY - DAY // 2),
        ("2h", NOW // NS * NS - 7200 * NS),
    ],
)
def test_times_are_read_as_people_write_them(text: str, moment_ns: int) -> None:
    assert parse_moment(text, NOW) == moment_ns


@pytest.mark.parametrize(
    "text",
    [
        *("@", "@2026", "@2026-11", "@2026-1101", "@202611-01", "@2026-13-01", "@2026-02-30"),
        *("@2026-11-01T", "@2026-11-01T12", "@2026-11-01T25:00", "@2026-11-01T12:60"),
        *("@2026-11-01T12:00:60", "@2026-11-01T12:00:00.", "@2026-11-01T12:00+24:00"),
        *("@2026-11-01T12:00+2", "@2026-11-01T12:00Y", "@2026-11-01Z", "@0000-01-01"),
        *("@0001-01-01T00:00+01:00", "@2x", "@h", "@-2h", "@2 h", "@1.5h", "@999999999w", "@later"),
        *("@@2h", "@²h", "@\uff12h", "@2026-11-01T12:00\n"),
    ],
)
def test_what_is_no_time_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(UsageError, match="is no time") as caught:
        parse_moment(text, NOW)
    assert caught.value.hint == FORMS


def test_the_forms_of_the_message_are_times() -> None:
    forms = [word.strip(",") for word in FORMS.split() if word.startswith("@")]
    assert len(forms) == 12
    for form in forms:
        assert parse_moment(form, NOW) <= NOW


def test_a_name_of_a_moment_begins_with_an_at() -> None:
    assert is_moment("@2h")
    assert is_moment("@nonsense")
    assert not is_moment("2h")


MOMENTS = st.integers(
    min_value=-62_135_596_800 * NS, max_value=253_402_300_799 * NS + NS - 1
)  # years 1 to 9999


@given(MOMENTS)
def test_a_label_reads_back_as_the_moment_itself(moment_ns: int) -> None:
    assert parse_moment(show_moment(moment_ns), NOW) == moment_ns


@given(MOMENTS, MOMENTS)
def test_labels_of_whole_seconds_sort_like_moments(one: int, other: int) -> None:
    one, other = one // NS * NS, other // NS * NS
    assert (show_moment(one) < show_moment(other)) == (one < other)


@given(
    st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31)).map(lambda t: t.replace(microsecond=0)),
    st.integers(min_value=-23 * 60 - 59, max_value=23 * 60 + 59),
    st.sampled_from(["%Y-%m-%dT%H:%M:%S", "%Y%m%dT%H%M%S", "%Y-%m-%d %H:%M:%S"]),
    st.booleans(),
)
def test_an_offset_is_the_same_moment_elsewhere(
    local: datetime, east_minutes: int, form: str, colon: bool
) -> None:
    there = local.replace(tzinfo=timezone(timedelta(minutes=east_minutes)))
    sign, minutes = "-" if east_minutes < 0 else "+", abs(east_minutes)
    offset = f"{sign}{minutes // 60:02d}{':' if colon else ''}{minutes % 60:02d}"
    # strftime pads no years on Linux.
    text = "@" + local.strftime(form.replace("%Y", f"{local.year:04d}")) + offset
    expected = (there - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
    assert parse_moment(text, NOW) == expected * NS


@given(st.text(max_size=40))
def test_any_text_is_a_time_or_refused(text: str) -> None:
    try:
        moment_ns = parse_moment(text, NOW)
    except UsageError:
        return
    assert parse_moment(show_moment(moment_ns), NOW) == moment_ns
