"""Rows and columns that differ between two versions of a table, as pandas itself finds them."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipefs.errors import Corrupt, NotFound, Refused, UsageError
from pipefs.past.rows import RowDifference, compare_rows
from pipefs.past.tables import Table, read_table
from tests.promises.promised import promise

KINDS = ["csv", "csv.gz", "jsonl", "parquet"]
FORMATS = ["csv", "jsonl", "parquet"]


def encoded(frame: pd.DataFrame, kind: str) -> bytes:
    if kind == "parquet":
        file = io.BytesIO()
        frame.to_parquet(file)
        return file.getvalue()
    if kind == "jsonl":
        rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
        return "".join(json.dumps(r, default=str) + "\n" for r in rows).encode()
    data = frame.to_csv(index=False).encode()
    return gzip.compress(data) if kind == "csv.gz" else data


def table(data: bytes | str | pd.DataFrame, kind: str = "csv", **schema: object) -> Table:
    if isinstance(data, pd.DataFrame):
        data = encoded(data, kind)
    raw = data.encode() if isinstance(data, str) else data
    return read_table(io.BytesIO(raw), f"t.{kind}", schema)


def diff(
    old: str | bytes | pd.DataFrame,
    new: str | bytes | pd.DataFrame,
    kind: str = "csv",
    key: Sequence[str] = (),
) -> RowDifference:
    return compare_rows(table(old, kind), table(new, kind), key)


def figures(d: RowDifference) -> tuple[int, int, int]:
    """(removed, changed, added)."""
    return len(d.removed), len(d.changed_to), len(d.added)


# --- as pandas does -----------------------------------------------------------------------------


def counted_by_pandas(old: pd.DataFrame, new: pd.DataFrame) -> tuple[int, int]:
    """(removed, added), by pandas' own outer merge; equal rows are told apart by their number."""
    names = list(old.columns)

    def numbered(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(_n=frame.groupby(names, dropna=False).cumcount())

    merged = numbered(old).merge(numbered(new), how="outer", indicator=True)
    found = merged["_merge"].value_counts()
    return int(found["left_only"]), int(found["right_only"])


_cells = {
    "int": st.integers(-3, 3),
    "big": st.sampled_from([2**53 - 1, 2**53 + 1, 2**62, -(2**62)]),
    "float": st.sampled_from([0.0, 0.5, 1.0, 1e300, float("nan")]),
    "text": st.sampled_from(["a", "b", "ü", "日本", "a,b", 'q"q', "two\nlines", None]),
    "bool": st.booleans(),
}
_rows = st.lists(st.fixed_dictionaries(_cells), max_size=12)


def framed(rows: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    kinds = {"int": "int64", "big": "int64", "float": "float64", "text": "str", "bool": "bool"}
    columns = {n: pd.Series([r[n] for r in rows], dtype=kinds[n]) for n in kinds}
    return pd.DataFrame(columns)


@pytest.mark.parametrize("kind", FORMATS)
@settings(deadline=None, max_examples=20)
@given(old=_rows, new=_rows, again=st.lists(st.integers(0, 11), max_size=4), data=st.data())
def test_rows_without_a_key_are_counted_as_pandas_merges_them(
    kind: str,
    old: list[dict[str, object]],
    new: list[dict[str, object]],
    again: list[int],
    data: st.DataObject,
) -> None:
    new = [*new, *(old[n] for n in again if n < len(old))]
    one, two = framed(old), framed(data.draw(st.permutations(new)))
    found = diff(one, two[data.draw(st.permutations(list(two.columns)))], kind)
    removed, added = counted_by_pandas(one, two)
    if not found.key:
        assert figures(found) == (removed, 0, added)
    else:  # a key explains it with fewer rows, and as many more or less
        assert sum(figures(found)) <= removed + added
        assert len(found.added) - len(found.removed) == added - removed


@promise(
    "diff-rows",
    "With `--rows` cells are equal by value, integers of any size exactly, a missing value "
    "changes no other cell, and the order of rows and columns is no difference.",
)
@pytest.mark.parametrize("kind", FORMATS)
@settings(deadline=None, max_examples=20)
@given(
    old=st.dictionaries(st.integers(0, 9), st.fixed_dictionaries(_cells), max_size=9),
    new=st.dictionaries(st.integers(0, 9), st.fixed_dictionaries(_cells), max_size=9),
    data=st.data(),
)
def test_rows_with_a_key_are_told_as_pandas_compares_them(
    kind: str,
    old: dict[int, dict[str, object]],
    new: dict[int, dict[str, object]],
    data: st.DataObject,
) -> None:
    new = {
        **new,
        **{k: old[k] for k in data.draw(st.lists(st.sampled_from(range(10)))) if k in old},
    }

    def keyed(rows: dict[int, dict[str, object]]) -> pd.DataFrame:
        frame = framed(list(rows.values()))
        frame.insert(0, "id", pd.Series(list(rows), dtype="int64"))
        return frame

    one, two = keyed(old), keyed(new)
    if kind == "jsonl" and (one.empty or two.empty):
        return  # no line, no column
    found = diff(one, two, kind, ["id"])
    merged = one[["id"]].merge(two[["id"]], how="outer", indicator=True)
    sides = merged.groupby("_merge", observed=False)["id"].apply(sorted)
    assert sorted(map(int, found.removed["id"])) == list(sides.get("left_only", []))
    assert sorted(map(int, found.added["id"])) == list(sides.get("right_only", []))
    both = list(sides.get("both", []))
    first, second = (f.set_index("id").loc[both] for f in (one, two))
    changes = first.compare(second)
    assert sorted(map(int, found.changed_to["id"])) == sorted(changes.index)
    assert list(found.changed_from["id"]) == list(found.changed_to["id"])
    assert set(found.changed_cells) == set(changes.columns.get_level_values(0))


def test_storms_as_in_the_transcript() -> None:
    rng = np.random.default_rng(1)
    size = 49_105
    old = pd.DataFrame(
        {
            "name": rng.choice(["AMY", "BOB", "CARLA"], size),
            "status": rng.choice(["TROPICAL STORM", "HURRICANE"], size),
            "wind": rng.integers(10, 160, size),
            "pressure": rng.choice([np.nan, 990.0, 1004.5], size),
        }
    )
    gone = rng.choice(size, 115, replace=False)
    old.loc[gone, "status"] = "UNKNOWN"
    found = diff(old, old.drop(index=gone), "parquet")
    assert figures(found) == (115, 0, 0)
    assert found.removed_where is not None
    assert (found.removed_where.column, found.removed_where.value) == ("status", "UNKNOWN")
    assert sorted(found.removed.index) == sorted(gone)


# --- cells --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("1", "1.0", 0),
        ("1", "01", 0),
        ("1", "2", 1),
        ("100000", "1e5", 0),
        ("9007199254740993", "9007199254740992", 1),
        ("123456789012345678901234567890", "123456789012345678901234567891", 1),
        ("123456789012345678901234567890", "123456789012345678901234567890", 0),
        ("18446744073709551615", "-1", 1),
        ("", "NaN", 0),
        ("", "0", 1),
        ("a", "a ", 1),
        ("a", "A", 1),
        ("é", "e\u0301", 1),
    ],
)
def test_cells_of_csv_are_equal_by_value(old: str, new: str, changed: int) -> None:
    found = diff(f"id,x\n1,5\n2,{old}\n", f"id,x\n1,5\n2,{new}\n", key=["id"])
    assert figures(found) == (0, changed, 0)


def test_a_word_among_numbers_makes_a_column_text_in_both_versions() -> None:
    found = diff("id,x\n1,1\n2,2\n3,3\n", "id,x\n1,1\n2,unknown\n3,3\n", key=["id"])
    assert figures(found) == (0, 1, 0)
    assert found.changed_cells == {"x": 1}


def test_integers_that_became_floats_because_one_is_missing_are_the_same() -> None:
    old = pd.DataFrame({"id": [1, 2, 3], "x": [10, 2**53 + 1, 30]})
    new = pd.DataFrame({"id": [1, 2, 3], "x": pd.array([10, 2**53 + 1, None], dtype="Int64")})
    for kind in KINDS:
        assert figures(diff(old, new, kind, ["id"])) == (0, 1, 0)
    rounded = pd.DataFrame({"id": [1, 2, 3], "x": [10.0, 2.0**53, 30.0]})
    for kind in KINDS:
        assert figures(diff(old, rounded, kind, ["id"])) == (0, 1, 0)


def test_parquet_types_do_not_hide_equal_values() -> None:
    moment = pd.Timestamp("2026-11-28T12:00:00")
    old = pd.DataFrame(
        {
            "id": [1, 2],
            "n": np.array([1, 2], dtype="int8"),
            "f": np.array([1.5, np.nan], dtype="float32"),
            "c": pd.Categorical(["x", "y"]),
            "t": pd.Series([moment, moment]).dt.as_unit("ms"),
            "z": pd.Series([moment, moment]).dt.tz_localize("Europe/Berlin"),
            "list": [[1, 2], [3]],
            "bytes": [b"a", b"\xff"],
        }
    )
    new = old.assign(
        n=old["n"].astype("float64"),
        f=old["f"].astype("float64"),
        c=old["c"].astype(str),
        t=old["t"].dt.as_unit("ns"),
        z=old["z"].dt.tz_convert("UTC"),
    )
    found = diff(old, new, "parquet", ["id"])
    assert figures(found) == (0, 0, 0)
    assert found.retyped["n"] == ("int8", "double")
    changed = new.assign(list=[[1, 2], [4]], z=new["z"] + pd.Timedelta("1s"))
    assert diff(old, changed, "parquet", ["id"]).changed_cells == {"list": 1, "z": 2}


def test_numbers_that_became_text_are_compared_as_text() -> None:
    old = pd.DataFrame({"id": [1, 2, 3], "zip": [1234, 5678, 9]})
    new = pd.DataFrame({"id": [1, 2, 3], "zip": ["1234", "05678", "9"]})
    found = diff(old, new, "parquet", ["id"])
    assert figures(found) == (0, 1, 0)
    assert found.retyped["zip"][0] == "int64"


def test_json_lines_keep_their_types() -> None:
    def lines(*records: Any) -> bytes:
        return "".join(json.dumps(r) + "\n" for r in records).encode()

    big = 10**30
    old = lines(
        {"id": 1, "x": "1", "d": {"a": [1, None]}}, {"id": 2, "x": True}, {"id": 3, "x": big}
    )
    new = lines({"id": 1, "x": 1, "d": {"a": [1.0, None]}}, {"id": 2, "x": 1}, {"x": big, "id": 3})
    found = diff(old, new, "jsonl", ["id"])
    assert found.changed_cells == {"x": 2}


# --- keys ---------------------------------------------------------------------------------------


def test_a_key_is_found_where_it_explains_the_most() -> None:
    old = "chance,id,price\n" + "".join(f"{n * 7},{n},{n % 5}\n" for n in range(50))
    new = old.replace("\n70,10,0\n", "\n71,10,4\n")
    found = diff(old, new)
    assert found.key == ["id"]
    assert figures(found) == (0, 1, 0)
    assert found.changed_cells == {"chance": 1, "price": 1}


def test_several_columns_may_be_the_key() -> None:
    old = "year,month,x\n2025,1,a\n2025,2,b\n2026,1,c\n"
    found = diff(old, old.replace(",b", ",B"), key=["year", "month"])
    assert figures(found) == (0, 1, 0)


@pytest.mark.parametrize("column", ["x", "gap"])
def test_a_key_that_is_none_is_refused(column: str) -> None:
    with pytest.raises(UsageError, match="is no key"):
        diff("x,gap\n1,1\n1,\n", "x,gap\n1,1\n2,2\n", key=[column])


def test_a_key_that_is_no_column_is_not_found() -> None:
    with pytest.raises(NotFound) as refused:
        diff("x\n1\n", "x\n1\n", key=["y"])
    assert refused.value.hint == "Columns: x"


def test_the_index_that_pandas_wrote_is_no_content() -> None:
    old = pd.DataFrame({"x": list("abcdefgh")})
    new = old.drop(index=2).reset_index(drop=True)
    found = compare_rows(table(old.to_csv()), table(new.to_csv()))
    assert figures(found) == (1, 0, 0)
    assert found.left_out == ["Unnamed: 0"]
    kept = compare_rows(table(old.to_csv()), table(old.drop(index=2).to_csv()))
    assert figures(kept) == (1, 0, 0)


# --- columns, order, nothing --------------------------------------------------------------------


def test_names_of_rows_as_r_writes_them_are_a_column() -> None:
    old = "a,b\nx,1,2\ny,3,4\nz,5,6\n"
    found = diff(old, old.replace("y,", "why,"))
    assert figures(found) == (0, 1, 0)
    assert found.changed_cells == {"index": 1}


def test_columns_that_came_and_went() -> None:
    found = diff("id,a,b\n1,2,3\n", "id,b,c\n1,3,4\n")
    assert (found.columns_added, found.columns_removed) == (["c"], ["a"])
    assert found.same_rows


def test_the_order_of_rows_and_columns_is_no_difference() -> None:
    found = diff("a,b\n1,x\n2,y\n2,y\n", "b,a\ny,2\nx,1\ny,2\n")
    assert found.same_rows
    assert found.reordered
    assert not diff("a,b\n1,x\n", "b,a\nx,1\n").reordered


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_an_empty_file_is_a_table_without_rows(kind: str) -> None:
    full = "a\n1\n2\n" if kind == "csv" else '{"a":1}\n{"a":2}\n'
    assert diff("", "", kind).same_rows
    found = diff("", full, kind)
    assert (found.columns_added, figures(found)) == (["a"], (0, 0, 2))
    assert figures(diff(full, "", kind)) == (2, 0, 0)


def test_rows_that_are_gone_share_the_rarest_value() -> None:
    old = "id,country,kind\n1,de,a\n2,de,b\n3,fr,b\n4,de,b\n5,it,a\n"
    found = diff(old, "id,country,kind\n1,de,a\n3,fr,b\n5,it,a\n")
    assert found.removed_where is not None
    # Both `de` and `b`; as many others have `de` as `b`: the first column is as good as any.
    assert (found.removed_where.column, found.removed_where.value) == ("country", "de")
    assert diff(old, "id,country,kind\n1,de,a\n").removed_where is None


def test_rows_may_share_that_a_value_is_missing() -> None:
    found = diff("id,x\n1,\n2,5\n3,\n", "id,x\n2,5\n", key=["id"])
    assert found.removed_where is not None
    assert (found.removed_where.column, found.removed_where.value) == ("x", None)


# --- files --------------------------------------------------------------------------------------


def test_what_separates_columns_is_found_or_told() -> None:
    semi = 'a;"b,c,d"\n1;2,5\n'
    assert list(table(semi).frame.columns) == ["a", "b,c,d"]
    assert list(table("a\tb\n1\t2\n", "tsv").frame.columns) == ["a", "b"]
    told = table("# made by hand\na:b\n1:2\n", pandas={"sep": ":", "comment": "#"})
    assert list(told.frame.columns) == ["a", "b"]


def test_bytes_that_are_no_utf8_are_compared_as_they_are() -> None:
    assert figures(diff(b"id,x\n1,caf\xe9\n", b"id,x\n1,caf\xe8\n", key=["id"])) == (0, 1, 0)
    assert diff(b"id,x\n1,caf\xe9\n", b"id,x\n1,caf\xe9\n").same_rows


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ("a,b\n1,2\n1,2,3,4\n", "csv"),
        ("not json\n", "jsonl"),
        ("[1]\n", "jsonl"),
        ("PAR1nonsense", "parquet"),
        ("no gzip", "csv.gz"),
    ],
)
def test_what_is_no_table_is_said_so(data: str, kind: str) -> None:
    with pytest.raises(Corrupt, match="cannot be read as"):
        table(data, kind)


def test_other_files_are_refused_with_what_can_be_compared() -> None:
    with pytest.raises(Refused) as refused:
        table("", "txt")
    assert ".parquet" in refused.value.hint


@pytest.mark.parametrize(("kind", "module"), [("csv", "pandas"), ("parquet", "pyarrow.parquet")])
def test_a_missing_package_is_named_with_the_command(
    monkeypatch: pytest.MonkeyPatch, kind: str, module: str
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(Refused) as refused:
        table("a\n", kind)
    assert module.partition(".")[0] in refused.value.message
    assert "pip install 'pipefs[tables]'" in refused.value.hint
