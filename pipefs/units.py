"""Sizes, durations, booleans and lists as people type and read them.

Pure functions; a text that is not understood raises `ValueError` whose message says what is
allowed, for the caller to put the key's name in front.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGTP]?)(i?)(B?)", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|sec|m|min|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}

SIZE_ALLOWED = "a size such as 200G, 1.5GiB or 500MB"
DURATION_ALLOWED = "a duration such as 500ms, 30s, 5m or 1h"
BOOL_ALLOWED = "yes or no"


def parse_size(value: object) -> int:
    """Bytes. `K M G T P` alone and with `iB` are powers of 1,024, with `B` powers of 1,000."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(SIZE_ALLOWED)
    number, letter, binary, byte = match.groups()
    if binary and not letter:
        raise ValueError(SIZE_ALLOWED)
    base = 1000 if byte and not binary else 1024
    return int(float(number) * base ** " KMGTP".index(letter.upper() or " "))


def parse_duration(value: object) -> float:
    """Seconds; a bare number is seconds."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return float(value)
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(DURATION_ALLOWED)
    return float(match[1]) * _SECONDS[match[2] or "s"]


def parse_bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("yes", "true", "on", "1"):
        return True
    if text in ("no", "false", "off", "0"):
        return False
    raise ValueError(BOOL_ALLOWED)


def parse_list(value: object) -> tuple[str, ...]:
    """Items of a list, or of a text with commas; empty items are dropped."""
    if isinstance(value, str):
        return tuple(item for part in value.split(",") if (item := part.strip()))
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise ValueError("a list such as *.csv,*.parquet")


def show_size(count: int) -> str:
    """Bytes for people, in powers of 1,000: `2 KB`, `12 MB`, `4.1 GB`."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("KB", "MB", "GB", "TB"):
        value /= 1000
        if value < 9.95 and unit not in ("KB", "MB"):
            return f"{value:.1f} {unit}"
        if value < 999.5:
            return f"{value:.0f} {unit}"
    return f"{value / 1000:.1f} PB"


def show_seconds(seconds: float) -> str:
    """A span for people: `0.3 s`, `8 s`, `12 min`, `3 h`, `2 days`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 172_800:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86_400:.0f} days"


def typed_size(count: int) -> str:
    """Bytes as a setting has them, exactly: `50G`, `1536M`, `1000`. `parse_size` reads it."""
    for power, letter in ((4, "T"), (3, "G"), (2, "M"), (1, "K")):
        if count and count % 1024**power == 0:
            return f"{count // 1024**power}{letter}"
    return str(count)


def typed_seconds(seconds: float) -> str:
    """A span as a setting has it, exactly: `30s`, `500ms`, `5m`. `parse_duration` reads it."""
    if seconds and seconds % 60 == 0:
        return f"{seconds / 60:.0f}m"
    ms = seconds * 1000
    return f"{seconds:.0f}s" if seconds == int(seconds) else f"{ms:.15g}ms"


def show_count(count: int, noun: str) -> str:
    """`1 file`, `12,000 files`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def utc_text(timestamp_ns: int) -> str:
    """`2026-11-23T14:02:00Z`."""
    return datetime.fromtimestamp(timestamp_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def clock_text(utc: str) -> str:
    """A UTC time for people: `14:02Z` today, else with its date."""
    try:
        moment = datetime.fromisoformat(utc)
    except ValueError:
        return utc
    today = datetime.now(UTC).date()
    form = "%H:%MZ" if moment.astimezone(UTC).date() == today else "%Y-%m-%d %H:%MZ"
    return moment.astimezone(UTC).strftime(form)
