"""How states and tables look to people."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import msgspec
import pytest

from pipefs.cli.output import (
    NO_ANSWER,
    cache_text,
    conflict_lines,
    printable,
    saved_text,
    status_row,
    table,
    tilde,
    unsafe,
)
from pipefs.conflictmessages import ConflictItem
from pipefs.protocol import MountStatus


def status(**values: object) -> MountStatus:
    given = {"name": "sales", "path": "/srv/sales", "pid": 1, "transport": "kernel", **values}
    return MountStatus(**given)  # type: ignore[arg-type]  # each test gives the field's type


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "all saved"),
        ({"snapshot": "v1"}, "the past, read-only"),
        ({"dirty_files": 1, "dirty_bytes": 2000}, "1 file (2 KB) waiting to go up"),
        (
            {"dirty_files": 3, "dirty_bytes": 12_000_000, "uploading_files": 2, "seconds_left": 8},
            "3 files (12 MB) going up · 8.0 s",
        ),
        (
            {"relocating_files": 2, "relocating_bytes": 5},
            "all saved · 2 objects (5 B) being renamed",
        ),
        ({"announcing": 1}, "1 change of names going up"),
        (
            {"announcing": 2, "relocating_files": 1},
            "2 changes of names going up · 1 object (0 B) being renamed",
        ),
        (
            {"dirty_files": 1, "dirty_bytes": 5, "refused_files": 1, "last_error": "no"},
            "1 file (5 B) waiting to go up · 1 refused · no",
        ),
        ({"conflicts": 1}, "all saved · 1 conflict"),
        ({"last_error": "403"}, "all saved · 403"),
    ],
)
def test_is_my_work_safe_in_words(values: dict[str, object], text: str) -> None:
    assert saved_text(status(**values)) == text


def test_offline_says_since_when_why_and_what_waits() -> None:
    moment = datetime.now(UTC).replace(hour=14, minute=2).strftime("%Y-%m-%dT%H:%M:00Z")
    text = saved_text(
        status(offline_since=moment, last_error="endpoint unreachable", dirty_files=2)
    )
    assert text == (
        "OFFLINE since 14:02Z (endpoint unreachable) · reading from cache · 2 changes wait"
    )


def test_offline_counts_names_and_attributes_among_what_waits() -> None:
    text = saved_text(status(offline_since="2020-01-02T03:04:05Z", announcing=1))
    assert text.endswith("1 change waits")


def test_a_time_of_another_day_has_its_date() -> None:
    assert "2020-01-02 03:04Z" in saved_text(status(offline_since="2020-01-02T03:04:05Z"))


def test_cache_shows_its_limit_only_when_it_matters() -> None:
    assert cache_text(status(cache_bytes=38_000_000, cache_limit_bytes=20 << 30)) == "cache 38 MB"
    full = status(cache_bytes=4_100_000_000, cache_limit_bytes=50_000_000_000, cache_hit_ratio=0.97)
    assert cache_text(full) == "cache 4.1 GB of 50 GB, 97 % hits"


def test_features_worth_a_word_are_in_the_row() -> None:
    row = status_row(status(features=["FUSE 7.45", "1 MiB reads", "readdirplus", "epochs"]))
    assert row[-1] == "kernel: 1 MiB reads, readdirplus"
    assert row[2] == "live"
    assert status_row(status(snapshot="v1"))[2] == "@v1"
    assert status_row(status(read_only=True))[2] == "read-only"


def test_a_worker_that_does_not_answer_is_not_called_safe() -> None:
    silent = status(state=NO_ANSWER, last_error="restarting")
    assert status_row(silent)[2:] == ["NO ANSWER", "restarting"]
    assert unsafe(silent)
    assert not unsafe(status())
    assert unsafe(status(relocating_files=1))
    assert unsafe(status(announcing=1))


def test_a_conflict_names_both_contents() -> None:
    item = ConflictItem("q3.csv", "q3.conflict-lab3.csv", "maria@lab7", "2020-01-02T14:10:00Z")
    lines = conflict_lines("sales", [item])
    for part in ("q3.csv", "q3.conflict-lab3.csv", "maria@lab7", "14:10Z"):
        assert part in "\n".join(lines)
    assert lines[-1] == "    pipefs resolve sales/q3.csv --keep mine|theirs|both"
    folder = msgspec.structs.replace(item, path="a b", kept_as="a b.conflict", theirs_aside=True)
    lines = conflict_lines("sales", [folder])
    assert lines[1] == "    a b (yours)   a b.conflict (theirs)"
    assert "'sales/a b'" in lines[2]


def test_of_several_copies_each_is_named_by_its_own_path() -> None:
    items = [ConflictItem("q3.csv", copy) for copy in ("q3.one.csv", "q3.two.csv")]
    commands = conflict_lines("sales", items)[2::3]
    assert [c.split()[2] for c in commands] == ["sales/q3.one.csv", "sales/q3.two.csv"]


def test_a_long_last_cell_widens_no_column() -> None:
    lines = table([["a", "b", "x", "y"], ["long name", "a very long last cell indeed"]])
    assert lines == ["a          b  x  y", "long name  a very long last cell indeed"]


def test_wide_and_combining_characters_are_aligned() -> None:
    lines = table([["日本", "1"], ["abcd", "2"], ["e\u0301", "3"]])
    assert lines == ["日本  1", "abcd  2", "e\u0301     3"]


def test_a_name_cannot_move_the_cursor() -> None:
    assert printable("a\x1b[2Jb\n\udcff") == "a\\x1b[2Jb\\n\\udcff"
    assert printable("日本 é") == "日本 é"


def test_the_home_folder_is_a_tilde() -> None:
    home = os.path.expanduser("~")
    assert tilde(f"{home}/pipes/x") == "~/pipes/x"
    assert tilde(f"{home}x") == f"{home}x"
