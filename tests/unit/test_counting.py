"""Rows counted without a table, and past files read whole."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipefs.errors import Conflict, NotFound, Refused
from pipefs.manifest import Entry
from pipefs.past import reading
from pipefs.past.counting import count_csv, count_rows, parquet_rows, rows_in_footer, table_kind
from pipefs.past.reading import Contents
from pipefs.stores.local import LocalStore
from tests import pasts


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    store = LocalStore(tmp_path / "store")
    yield store
    store.close()


def put(store: LocalStore, path: str, content: bytes) -> Entry:
    (entry,) = pasts.put_files(store, {path: content})
    return entry


def parquet(table: pa.Table, **options: object) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("a.csv", "csv"),
        ("d/A.CSV.GZ", "csv"),
        ("a.tsv", "csv"),
        ("a.ndjson", "jsonl"),
        ("a.jsonl.gz", "jsonl"),
        ("a.parquet", "parquet"),
        ("a.parquet.gz", None),
        ("a.json", None),
        ("csv", None),
    ],
)
def test_a_table_is_known_by_its_name(path: str, kind: str | None) -> None:
    assert table_kind(path) == kind


@pytest.mark.parametrize("rows", [0, 1, 100_000])
def test_a_parquet_footer_tells_the_rows(store: LocalStore, rows: int) -> None:
    table = pa.table(
        {
            "i": pa.array(range(rows), pa.int64()),
            "s": pa.array([str(n) for n in range(rows)]),
            "l": pa.array([[n] for n in range(rows)], pa.list_(pa.int32())),
            "m": pa.array([{"a": n, "b": [True]} for n in range(rows)],
                          pa.struct([("a", pa.int8() if rows < 2 else pa.int64()),
                                     ("b", pa.list_(pa.bool_()))])),
            "t": pa.array(list(range(rows)), pa.timestamp("us", "UTC")),
            "d": pa.array(list(range(rows)), pa.decimal128(10, 2)),
        }
    )  # fmt: skip
    for options in ({}, {"row_group_size": 1000}, {"version": "1.0", "compression": "gzip"}):
        entry = put(store, "a.parquet", parquet(table, **options))
        assert count_rows(Contents(store), entry, read=False) == rows


def test_a_footer_longer_than_the_first_request(store: LocalStore) -> None:
    wide = pa.table({f"a rather long name of a column {n}": [1, 2, 3] for n in range(4000)})
    entry = put(store, "wide.parquet", parquet(wide))
    assert parquet_rows(Contents(store), entry) == 3


def test_a_damaged_footer_tells_nothing(store: LocalStore) -> None:
    good = bytearray(parquet(pa.table({"a": [1, 2], "b": ["x", "y"]})))
    length = int.from_bytes(good[-8:-4], "little")
    assert parquet_rows(Contents(store), put(store, "a.parquet", b"PAR1")) is None
    assert parquet_rows(Contents(store), put(store, "a.parquet", b"")) is None
    assert parquet_rows(Contents(store), put(store, "a.parquet", bytes(good[:-1]))) is None
    bad = put(store, "a.parquet", bytes(good[: -length - 8] + b"\x15" * length + good[-8:]))
    assert parquet_rows(Contents(store), bad) is None


def test_any_damage_of_a_footer_comes_to_an_end() -> None:
    good = parquet(pa.table({"a": [1, 2], "b": ["x", "y"]}))
    length = int.from_bytes(good[-8:-4], "little")
    footer = good[-8 - length : -8]
    assert rows_in_footer(footer) == 2
    for at in range(length):
        for value in (0, 0xFF, 0x9C, 0x1B):
            rows_in_footer(footer[:at] + bytes([value]) + footer[at + 1 :])


_texts = st.text(st.sampled_from('a",\n\r é'), max_size=6)


@given(st.lists(st.tuples(_texts, _texts), max_size=8))
def test_csv_records_are_counted_as_pandas_reads_them(rows: list[tuple[str, str]]) -> None:
    file = io.StringIO(newline="")
    csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([("h", "i"), *rows])
    data = file.getvalue().encode()
    assert count_csv(io.BytesIO(data)) == len(pd.read_csv(io.BytesIO(data)))


def test_csv_and_json_lines_are_counted_only_when_they_may_be_read(store: LocalStore) -> None:
    text = b"a,b\n1,2\n\n3,4"
    for path, content, rows in [
        ("a.csv", text, 2),
        ("a.csv.gz", gzip.compress(text), 2),
        ("a.jsonl", b'{"a":1}\n\n{"a":2}\n{"a":3}', 3),
        ("empty.csv", b"", 0),
        ("broken.csv.gz", b"no gzip", None),
        ("a.txt", b"a\nb\n", None),
    ]:
        entry = put(store, path, content)
        assert count_rows(Contents(store), entry, read=False) is None
        assert count_rows(Contents(store), entry, read=True) == rows


def test_a_past_file_is_read_whole_in_pieces(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PIECE_BYTES", 1000)
    for size in (0, 1, 999, 1000, 1001, 12_345):
        content = bytes(n % 251 for n in range(size))
        entry = put(store, "a", content)
        store.put("a", b"newer")
        with Contents(store).open(entry) as file:
            assert file.read() == content


def test_what_is_not_in_the_store_is_said_so(store: LocalStore) -> None:
    with pytest.raises(Refused, match="not in the store yet"):
        Contents(store).open(Entry(path="a", size=5))
    with pytest.raises(NotFound):
        Contents(store).open(Entry(path="a", size=5, version="0" * 16, etag="e"))
    entry = put(store, "a", b"12345")
    entry.size = 9
    with pytest.raises(Conflict):
        Contents(store).range(entry, 0, 9)


def test_what_is_only_here_is_read_here(store: LocalStore) -> None:
    here = Contents(store, lambda entry: io.BytesIO(entry.path.encode()))
    dirty = Entry(path="a.csv", size=5)
    assert here.range(dirty, 2, 2) == b"cs"
    with here.open(dirty) as file:
        assert file.read() == b"a.csv"
    entry = put(store, "b", b"12345")
    assert here.range(entry, 2, 2) == b"34"
