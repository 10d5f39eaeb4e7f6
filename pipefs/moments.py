"""Moments: the `@TIME` of the command line and of `.snapshots/`, as people write them. Pure.

    @2026-11-01T12:00     also with seconds, with a fraction, without `-` and `:`
    @2026-11-01           the beginning of that day
    @…T12:00+02:00        with an offset, also +0200 and +02; without one it is UTC, like with Z
    @90s @30m @2h @3d @1w back from now, also several in a row: @1d12h
    @today @yesterday     the beginning of that day; @now

A moment is ns since 1970, UTC; one counted back from now is a whole second. `show_moment` gives
each its one label, which reads back as itself.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from pipefs.errors import UsageError

FORMS = (
    "Times are UTC: @2026-11-01T12:00, @20261101T1200Z, @2026-11-01, with an offset "
    "@2026-11-01T12:00+02:00, or back from now @90s @30m @2h @3d @1w @yesterday @today @now"
)

_ABSOLUTE = re.compile(
    r"(?P<year>\d{4})(?P<dash>-?)(?P<month>\d\d)(?P=dash)(?P<day>\d\d)"
    r"(?:[T ](?P<hour>\d\d):?(?P<minute>\d\d)(?::?(?P<second>\d\d)(?:\.(?P<fraction>\d{1,9}))?)?"
    r"(?P<offset>Z|[+-]\d\d(?::?\d\d)?)?)?\Z",
    re.ASCII | re.IGNORECASE,
)
_BACK = re.compile(r"(?:\d{1,9}[wdhms])+\Z", re.ASCII | re.IGNORECASE)
_STEP = re.compile(r"(\d+)([wdhms])", re.ASCII)
_SECONDS = {"w": 604_800, "d": 86_400, "h": 3600, "m": 60, "s": 1}
_DAYS_AGO = {"today": 0, "yesterday": 1}
_NS = 10**9
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def is_moment(name: str) -> bool:
    """Whether a snapshot's name means a time, well-formed or not."""
    return name.startswith("@")


def parse_moment(text: str, now_ns: int) -> int:
    """The moment that `@TIME` means, ns since 1970; it may lie in the future.

    Raises:
        UsageError: it means none; the hint names the forms.
    """
    said = text.removeprefix("@").lower()
    try:
        if said == "now":
            return now_ns
        if said in _DAYS_AGO:
            return (now_ns // _NS // 86_400 - _DAYS_AGO[said]) * 86_400 * _NS
        if _BACK.match(said):
            back = sum(int(n) * _SECONDS[unit] for n, unit in _STEP.findall(said))
            return _checked(now_ns // _NS - back) * _NS
        found = _ABSOLUTE.match(said)
        if found is not None:
            return _absolute(found)
    except (ValueError, OverflowError) as e:
        raise UsageError(f"{text!r} is no time: {e}", hint=FORMS) from e
    raise UsageError(f"{text!r} is no time", hint=FORMS)


def _absolute(found: re.Match[str]) -> int:
    year, month, day, hour, minute, second = (
        int(found[part] or 0) for part in ("year", "month", "day", "hour", "minute", "second")
    )
    moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    seconds = (moment - _EPOCH) // timedelta(seconds=1) - _offset_s(found["offset"] or "z")
    return _checked(seconds) * _NS + int((found["fraction"] or "0").ljust(9, "0"))


def _offset_s(text: str) -> int:
    """Seconds east of Greenwich."""
    if text == "z":
        return 0
    hours, minutes = int(text[1:3]), int(text[3:].removeprefix(":") or 0)
    if hours > 23 or minutes > 59:
        raise ValueError(f"there is no offset {text}")
    return (hours * 3600 + minutes * 60) * (-1 if text[0] == "-" else 1)


def _checked(seconds: int) -> int:
    """The same, if it has a date."""
    _date(seconds)
    return seconds


def _date(seconds: int) -> datetime:
    return _EPOCH + timedelta(seconds=seconds)


def show_moment(moment_ns: int) -> str:
    """`@20261101T120000Z`: no colons, so it is a file name everywhere; a fraction of a second only
    where there is one."""
    seconds, ns = divmod(moment_ns, _NS)
    moment = _date(seconds)
    fraction = f".{ns:09d}".rstrip("0") if ns else ""
    return f"@{moment.year:04d}{moment:%m%dT%H%M%S}{fraction}Z"
