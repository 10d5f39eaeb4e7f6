"""Which paths count: d6tpipe's patterns."""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipefs.filters import Filters, patterns_of


@pytest.mark.parametrize(
    ("include", "exclude", "taken"),
    [
        (None, None, ["a.csv", "d/b.csv", "d/c.xlsx", "e.txt"]),
        ("*.csv", None, ["a.csv", "d/b.csv"]),
        ("*.csv|*.xls*", None, ["a.csv", "d/b.csv", "d/c.xlsx"]),
        ("*.csv | *.xls*", "d/*", ["a.csv"]),
        (None, "*.csv|*.txt", ["d/c.xlsx"]),
        ("d/*", "*.xlsx", ["d/b.csv"]),
        (["*.csv", "e*"], "a*", ["d/b.csv", "e.txt"]),
        ("[ab].csv", None, ["a.csv"]),
        ("?.csv", "", ["a.csv"]),
    ],
)
def test_d6_12_patterns_take_and_leave_paths(
    include: str | list[str] | None, exclude: str | None, taken: list[str]
) -> None:
    paths = ["a.csv", "d/b.csv", "d/c.xlsx", "e.txt"]
    assert [p for p in paths if Filters.of(include, exclude).takes(p)] == taken


def test_d6_13_the_pipes_own_filters_count_where_the_call_gives_none() -> None:
    own = (("*.csv",), ("tmp*",))
    assert Filters.of(otherwise=own) == Filters(("*.csv",), ("tmp*",))
    assert Filters.of("*.txt", otherwise=own) == Filters(("*.txt",), ("tmp*",))
    assert Filters.of("", "", otherwise=own) == Filters()


def test_empty_patterns_are_none() -> None:
    assert patterns_of(" | |*.csv||") == ("*.csv",)
    assert patterns_of(None) == patterns_of("") == patterns_of([]) == ()


TEXT = st.text("ab*?[]!-|./", max_size=8)


@given(st.lists(TEXT, max_size=3), st.lists(TEXT, max_size=3), TEXT)
def test_filters_are_fnmatch(include: list[str], exclude: list[str], path: str) -> None:
    def match(patterns: list[str]) -> bool:
        return any(fnmatch.fnmatchcase(path, p) for p in patterns_of(patterns))

    wanted = (not patterns_of(include) or match(include)) and not match(exclude)
    assert Filters.of(include, exclude).takes(path) == wanted
