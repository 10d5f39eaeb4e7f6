"""Any file at a glance: what it is, its first rows, and nothing more of it read."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from pipefs.cli.main import cli
from pipefs.preview.images import image_size
from pipefs.preview.showing import preview
from pipefs.preview.shown import HEAD_BYTES, Shown
from pipefs.stores.local import LocalStore
from tests.pasts import open_past, put_files, take
from tests.promises.promised import promise


def look(data: bytes, name: str, count: int = 20) -> Shown:
    return preview(lambda start, length: data[start : start + length], len(data), name, count)


def test_csv_has_its_rows_and_columns() -> None:
    shown = look(b'name;wind\n"A;da";35\n\nBo;110\n', "s.csv", 1)
    assert (shown.kind, shown.header, shown.rows) == ("csv", ["name", "wind"], [["A;da", "35"]])
    assert shown.facts == {"columns": 2, "rows": 2} and shown.more
    assert look(b"", "s.csv").facts == {"rows": 0}
    assert look(gzip.compress(b"a\tb\n1\t2\n"), "s.tsv.gz").rows == [["1", "2"]]


@promise(
    "preview-bounded",
    "`pipefs preview` reads 256 KiB of a file, of a notebook 8 MiB, and of Parquet the "
    "footer and the pages of the rows it shows; nothing in a file makes it fail, or moves "
    "the cursor.",
)
def test_of_a_long_csv_the_beginning_is_read_and_rows_are_estimated() -> None:
    data = b"a,b\n" + b"1,2\n" * 1_000_000
    asked = 0

    def read(start: int, length: int) -> bytes:
        nonlocal asked
        asked += length
        return data[start : start + length]

    shown = preview(read, len(data), "s.csv", 3)
    assert shown.rows == [["1", "2"]] * 3 and shown.more
    assert shown.facts == {"columns": 2, "rows_about": 1_000_000}
    assert asked == HEAD_BYTES


def test_parquet_has_types_and_reads_only_pages_of_the_first_rows() -> None:
    out = io.BytesIO()
    rng = np.random.default_rng(1)
    table = pa.table({"n": np.arange(400_000), "x": rng.random(400_000), "s": ["y"] * 400_000})
    pq.write_table(table, out, row_group_size=200_000)
    data, asked = out.getvalue(), 0

    def read(start: int, length: int) -> bytes:
        nonlocal asked
        asked += length
        return data[start : start + length]

    shown = preview(read, len(data), "s.parquet", 2)
    assert shown.facts == {
        "columns": {"n": "int64", "x": "double", "s": "string"},
        "rows": 400_000,
    }
    assert [row[0] for row in shown.rows] == ["0", "1"] and shown.more
    assert asked < len(data) / 3
    assert look(b"no parquet at all", "s.parquet").note.startswith("it is no parquet: ")


def test_json_lines_arrow_and_arrays() -> None:
    shown = look(b'{"a": 1}\n{"a": {"b": [2]}, "c": true}\n', "x.jsonl")
    assert (shown.header, shown.rows) == (["a", "c"], [["1", ""], ['{"b": [2]}', "true"]])
    out = io.BytesIO()
    with pa.ipc.new_file(out, pa.schema([("a", pa.int64())])) as writer:
        writer.write_table(pa.table({"a": [1, 2]}))
    shown = look(out.getvalue(), "x.feather")
    assert (shown.kind, shown.facts["rows"], shown.rows) == ("arrow", 2, [["1"], ["2"]])
    out = io.BytesIO()
    np.save(out, np.zeros((3, 4), dtype="f4"))
    assert look(out.getvalue(), "x.npy").facts == {"shape": [3, 4], "dtype": "<f4"}


def test_json_is_indented_and_what_is_none_says_so() -> None:
    shown = look(b'{"a":[1,2]}', "x.json", 3)
    assert shown.lines == ["{", '  "a": [', "    1,"] and shown.more
    shown = look(b'{"a":[1,2', "x.json")
    assert (shown.kind, shown.note) == ("text", "it cannot be read as json")


def test_notebook_cells_as_text() -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Storms\n", "of 2026"]},
        {
            "cell_type": "code",
            "execution_count": 3,
            "source": "x = 1\nx",
            "outputs": [
                {"output_type": "stream", "text": ["one\n"]},
                {"output_type": "execute_result", "data": {"text/plain": "1", "image/png": "…"}},
                {"output_type": "error", "ename": "KeyError", "evalue": "'y'"},
            ],
        },
    ]
    book = {"cells": cells, "metadata": {"kernelspec": {"display_name": "Python 3"}}}
    shown = look(json.dumps(book).encode(), "x.ipynb")
    assert shown.kind == "notebook" and shown.facts == {"cells": 2, "kernel": "Python 3"}
    assert shown.lines == [
        *("# Storms", "of 2026", "", "In [3]: x = 1", "        x", "    one", "    1"),
        *("    [image/png]", "    KeyError: 'y'", ""),
    ]
    assert look(b"[]", "x.ipynb").kind == "json"


def _png(width: int, height: int) -> bytes:
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))


def test_images_say_format_and_size() -> None:
    exif = b"\xff\xe1" + struct.pack(">H", 10) + b"Exif\0\0\0\0"
    frame = b"\xff\xc2" + struct.pack(">HBHH", 17, 8, 480, 640)
    tags = struct.pack("<HHHII", 2, 256, 3, 1, 30) + struct.pack("<HHII", 257, 4, 1, 20)
    bitmap = b"BM" + bytes(12) + struct.pack("<Iii", 40, 7, -5)
    for head, found in [
        (_png(640, 480), ("PNG", 640, 480)),
        (b"GIF89a" + struct.pack("<HH", 3, 4), ("GIF", 3, 4)),
        (b"\xff\xd8" + exif + frame, ("JPEG", 640, 480)),
        (b"II*\0" + struct.pack("<I", 8) + tags, ("TIFF", 30, 20)),
        (bitmap, ("BMP", 7, 5)),
        (b"RIFF....WEBPVP8X" + bytes(8) + b"\x0f\0\0" + b"\x07\0\0", ("WebP", 16, 8)),
        (b'<?xml version="1.0"?>\n<svg width="20px" height="10">', ("SVG", 20, 10)),
        (b'<svg viewBox="0 0 4 5">', ("SVG", 4, 5)),
        (b"<html><body><svg width='1' height='1'>", None),
        (b"\x89PNG\r\n\x1a\n", None),
        (b"BMW has some cars and more than that", None),
        (b"\xff\xd8\xff", None),
    ]:
        assert image_size(head) == found
    assert look(_png(2, 1), "photo").facts == {"format": "PNG", "width": 2, "height": 1}


def test_text_and_bytes() -> None:
    shown = look("gr\u00fcn\nzwei".encode(), "notes", 1)
    assert (shown.kind, shown.lines, shown.facts) == ("text", ["gr\u00fcn"], {"lines": 2})
    long = ("\u00fc" * HEAD_BYTES).encode()
    assert look(long, "long.txt").lines[0].startswith("\u00fc")  # cut inside a character
    assert look("zwei".encode("utf-16"), "x.txt").lines == ["zwei"]
    shown = look(bytes(range(64, 84)) + bytes(400), "x.bin")
    assert shown.kind == "binary" and shown.more
    assert shown.lines[0] == (
        "00000000  40 41 42 43 44 45 46 47  48 49 4a 4b 4c 4d 4e 4f  |@ABCDEFGHIJKLMNO|"
    )
    assert look(b"no gzip", "x.csv.gz").note == "it is no gzip, whatever its name says"
    assert look(b"", "empty").facts == {"lines": 0}


# --- the command --------------------------------------------------------------------------------

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def go(*words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(cli, words, env={"PIPEFS_HOME": str(tmp_path / "home")})
        assert done.exit_code == code, (words, done.stdout, done.stderr)
        return done

    store = LocalStore(tmp_path / "sales")
    go("create", "sales", (tmp_path / "sales").as_uri())
    past = open_past(store)
    take(past, put_files(store, {"d/q3.csv": b"a,b\n1,2\n", "evil": b"\x1b[2Jx\n"}), tag="v1")
    store.put("d/q3.csv", b"a,b\n3,4\n")
    return go


def test_t4_21_preview_in_the_terminal_now_and_then(run: Run) -> None:
    assert run("preview", "sales/d/q3.csv").stdout == (
        "sales/d/q3.csv  csv · 8 B · 2 columns · 1 row\na  b\n3  4\n"
    )
    assert "1  2" in run("preview", "sales@v1/d/q3.csv").stdout
    found = json.loads(run("preview", "--json", "sales@v1/d/q3.csv").stdout)
    assert (found["kind"], found["cells"], found["rows"]) == ("csv", [["1", "2"]], 1)


def test_what_a_file_holds_cannot_move_the_cursor(run: Run) -> None:
    assert "\x1b" not in run("preview", "sales/evil").stdout
    assert "\\x1b[2Jx" in run("preview", "sales/evil").stdout


def test_what_is_no_file_says_what_to_do(run: Run) -> None:
    assert "pipefs ls sales/d" in run("preview", "sales/d", code=2).stderr
    assert "sales/PATH" in run("preview", "sales", code=2).stderr
    assert "is not there" in run("preview", "sales/none", code=3).stderr
