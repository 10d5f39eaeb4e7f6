"""Objects as files: what comes back is what was put, whatever it is called."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipefs.errors import Corrupt, UsageError
from pipefs.objects.codec import decode, encode, needs_metadata
from pipefs.objects.metadata import headers_for, meta_of, that_fit, xattrs_for
from pipefs.stores.s3_metadata import encode_metadata

STORMS = pd.DataFrame(
    {
        "name": ["Ada", "Bo", None],
        "wind": [35, 110, 65],
        "pressure": [1003.5, None, 990.25],
        "at": pd.to_datetime(["2026-09-01T12:00Z", "2026-09-02T00:00Z", None]),
    }
)


def test_t4_02_formats_are_chosen_by_type() -> None:
    table = {"a": [1, 2], "b": ["x", "y"]}
    for obj, form, kind in [
        (b"\x00\x01", "bytes", "bytes"),
        ("text", "text", "text"),
        ({"a": 1}, "json", "json"),
        ([1, 2], "json", "json"),
        (np.eye(3), "npy", "numpy"),
        (pd.DataFrame(table), "parquet", "pandas"),
        (pl.DataFrame(table), "parquet", "polars"),
        (pa.table(table), "parquet", "arrow"),
    ]:
        data, headers = encode(obj, "data/thing")
        assert (headers["pipefs-format"], headers["pipefs-object"].split()[0]) == (form, kind)
        back = decode(data, "data/thing", headers)
        assert type(back) is type(obj)
        assert str(back) == str(obj)


def test_t4_02_a_frame_keeps_types_and_index() -> None:
    indexed = STORMS.set_index("name")
    for path in ("storms.parquet", "storms", "storms.feather"):
        data, headers = encode(indexed, path)
        pd.testing.assert_frame_equal(decode(data, path, headers), indexed)


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "tsv", "jsonl", "ndjson", "json", "jsonl.gz"])
@pytest.mark.parametrize("kind", ["pandas", "polars", "arrow"])
def test_t4_02_tables_as_text(suffix: str, kind: str) -> None:
    frame = pd.DataFrame({"name": ["Ada", 'B"o,\n'], "wind": [35, 110], "f": [0.1, 2.5]})
    table = {"pandas": frame, "polars": pl.from_pandas(frame), "arrow": pa.table(frame)}[kind]
    data, headers = encode(table, f"storms.{suffix}")
    assert data == encode(table, f"storms.{suffix}")[0]
    back = decode(data, f"storms.{suffix}", headers)
    assert type(back) is type(table)
    pd.testing.assert_frame_equal(
        decode(data, f"storms.{suffix}", headers, want=pd.DataFrame), frame, check_dtype=False
    )


def test_t4_02_what_a_name_alone_says() -> None:
    plain = b"name;wind\nAda;35\n"
    assert decode(plain, "a.csv", options={"sep": ";"}).wind.tolist() == [35]
    assert decode(b'{"a": [1]}', "a.json") == {"a": [1]}
    assert decode(gzip.compress(b'{"a":1}\n{"a":2}\n'), "a.jsonl.gz", want="json") == [
        {"a": 1},
        {"a": 2},
    ]
    assert decode("gr\u00fcn".encode(), "notes.md") == "gr\u00fcn"
    assert decode(b"\xff\xfe", "photo.jpg") == b"\xff\xfe"
    assert decode(b"a: [1, 2]\n", "conf.yaml") == {"a": [1, 2]}
    assert not needs_metadata("a.parquet") and needs_metadata("a")


def test_t4_02_arrays_by_name() -> None:
    data, headers = encode({"x": np.arange(3), "y": np.eye(2)}, "a.npz")
    back = decode(data, "a.npz", headers)
    assert back["x"].tolist() == [0, 1, 2] and back["y"].shape == (2, 2)


class Model:
    pass


@pytest.mark.parametrize(
    ("obj", "path", "said", "hint"),
    [
        (Model(), "m", "Model cannot be put", "put its bytes"),
        (STORMS["wind"], "w.parquet", "pandas.Series cannot", "to_frame"),
        (STORMS, "storms.xlsx", "cannot be put as storms.xlsx", ".parquet"),
        (STORMS, "storms.parquet.gz", "storms.parquet.gz", ".parquet"),
        (STORMS, "storms.txt", "storms.txt", ".csv"),
        ({"a": 1}, "a.pkl", "a.pkl", ".json"),
        ({"a": 1}, "a.csv", "a.csv", ".json"),
        ("text", "a.parquet", "a.parquet", ".txt"),
        (np.eye(2), "a.csv", "a.csv", ".npy"),
        ({1: "a"}, "a.json", "names in JSON are text, and 1 is none", ""),
        ({"a": float("nan")}, "a.json", "cannot be written as json", ""),
        ({"a": {1, 2}}, "a.json", "JSON has nothing for set", ""),
        (np.array([object()]), "a.npy", "cannot be written as npy", ""),
        ({"a": 1}, "a.jsonl", "need a list", ""),
        ("text", "a/", "names no file", "a/NAME"),
    ],
)
def test_t4_01_what_cannot_be_put_says_why(obj: object, path: str, said: str, hint: str) -> None:
    with pytest.raises(UsageError) as e:
        encode(obj, path)
    assert said in e.value.message and hint in e.value.hint


def test_t4_01_bytes_and_text_stay_what_they_are() -> None:
    inside = io.BytesIO()
    STORMS.to_parquet(inside)
    data, headers = encode(inside.getvalue(), "storms.parquet")
    assert decode(data, "storms.parquet", headers) == inside.getvalue()
    assert decode(data, "storms.parquet", headers, want="pandas").wind.tolist() == [35, 110, 65]
    data, headers = encode("a,b\n1,2\n", "t.csv")
    assert (data, decode(data, "t.csv", headers)) == (b"a,b\n1,2\n", "a,b\n1,2\n")
    assert decode(data, "t.csv", headers, want="pandas").a.tolist() == [1]


def test_a_mark_of_other_bytes_does_not_count() -> None:
    # A program wrote the file through a mount; its attributes stayed.
    _, headers = encode(STORMS, "storms")
    assert decode(b"not a table", "storms", headers) == b"not a table"
    assert decode(b'{"a": 1}', "storms.json", headers) == {"a": 1}


def test_what_is_damaged_and_what_is_of_another_kind() -> None:
    with pytest.raises(Corrupt, match=r"a\.parquet cannot be read as parquet"):
        decode(b"no parquet", "a.parquet")
    with pytest.raises(Corrupt, match="cannot be read as json"):
        decode(b"{", "a.json")
    with pytest.raises(UsageError, match="cannot be read as numpy"):
        decode(b"{}", "a.json", want="numpy")
    with pytest.raises(UsageError, match="nothing that can be asked for"):
        decode(b"{}", "a.json", want=set)


def test_nothing_is_unpickled() -> None:
    out = io.BytesIO()
    np.save(out, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(Corrupt):
        decode(out.getvalue(), "a.npy")


# --- metadata -----------------------------------------------------------------------------------

META: dict[str, Any] = {
    "author": "maria",
    "place": "M\u00fcnchen",
    "rows": 12,
    "tags": ["a", "b"],
    "Title Case": "x",
    "mode": "fast",
}


def test_t4_05_metadata_are_object_metadata_and_attributes() -> None:
    headers = encode(STORMS, "s.parquet", META)[1]
    sent = encode_metadata(that_fit(headers))  # what any S3 tool shows
    assert sent["author"] == "maria"
    assert json.loads(headers["pipefs-meta"]) == {
        k: META[k] for k in ("rows", "tags", "Title Case", "mode")
    }
    xattrs = xattrs_for(headers)
    assert xattrs[b"user.author"] == b"maria"
    assert meta_of(headers) == META == meta_of({}, xattrs)


def test_t4_05_attributes_changed_later_win_and_others_metadata_count() -> None:
    xattrs = xattrs_for(headers_for({"author": "maria"})) | {b"user.author": b"bo"}
    assert meta_of(headers_for({"author": "maria"}), xattrs) == {"author": "bo"}
    assert meta_of({"mtime": "1.5", "mode": "33188", "campaign": "may"}) == {"campaign": "may"}
    assert meta_of({"campaign": "may"}, {b"trusted.x": b"1"}) == {"campaign": "may"}


def test_t4_05_what_is_too_long_for_s3_is_kept_in_the_commit() -> None:
    headers = encode("x", "x", {"text": "y" * 3000, "n": 1})[1]
    assert sorted(that_fit(headers)) == ["pipefs-format", "pipefs-object"]
    assert meta_of({}, xattrs_for(headers)) == {"text": "y" * 3000, "n": 1}


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        ({1: "a"}, "names of text"),
        ({"pipefs-format": "a"}, "cannot name metadata"),
        ({"a": {1, 2}}, "whatever JSON can"),
        ({"a": "y" * 70_000}, "more than 60,000 bytes"),
    ],
)
def test_t4_05_metadata_that_cannot_be(meta: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        headers_for(meta)


def test_t4_03_what_t4_put_is_read() -> None:
    out = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}), out)
    mark = {"helium": json.dumps({"target": "pyarrow", "user_meta": {"by": "t4"}})}
    assert decode(out.getvalue(), "data/frame", mark).a.tolist() == [1]
    assert meta_of(mark) == {"by": "t4"}
    mark = {"helium": json.dumps({"target": "unicode", "user_meta": {}})}
    assert decode(b"text", "data/t", mark) == "text"
    # As `put_file` of T4 leaves it: no target, and the name decides.
    assert decode(b"[1]", "a.json", {"helium": '{"user_meta": {}}'}) == [1]


def test_packages_are_imported_when_an_object_of_theirs_is_met() -> None:
    heavy = ["pandas", "numpy", "pyarrow", "polars", "yaml"]
    code = (
        "import sys; from pipefs.objects.codec import decode, encode\n"
        "encode({'a': 1}, 'a.json'); decode(b'x', 'a.txt')\n"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert said.stdout.strip() == "[]"
