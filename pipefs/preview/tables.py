"""The first rows of a table, and its columns. CSV and JSON Lines need no package."""

from __future__ import annotations

import csv
import io
import itertools
import json
from typing import Any

from pipefs.preview.ranged import RangedFile
from pipefs.preview.shown import Read, Shown

MAX_CELL = 1000
"""Characters of a cell; what is longer is cut, also in JSON."""


def of_csv(text: str, kind: str, count: int, *, whole: bool, size: int) -> Shown | None:
    """The first rows of CSV or TSV text; None: it cannot be read as a table.

    Args:
        whole: the text is the whole file, so rows can be counted.
        size: of the file, in bytes (unpacked), to estimate the rows from; 0: not known.
    """
    separator = "\t" if kind == "tsv" else _separator(text)
    lines = text if whole else text[: text.rfind("\n") + 1] or text
    try:
        rows = list(csv.reader(io.StringIO(lines, newline=""), delimiter=separator))
    except csv.Error:
        return None
    rows = [row for row in rows if row]
    if not rows:
        return Shown(kind, {"rows": 0})
    header, body = rows[0], rows[1:]
    facts: dict[str, object] = {"columns": len(header)}
    if whole:
        facts["rows"] = len(body)
    elif size:
        facts["rows_about"] = _rounded(len(body) * size / len(lines.encode()))
    cut = [[_cut(cell) for cell in row] for row in body[:count]]
    return Shown(kind, facts, list(map(_cut, header)), cut, more=not whole or len(body) > count)


def _separator(text: str) -> str:
    outside = "".join(text.partition("\n")[0].split('"')[::2])
    return max(",;\t|", key=outside.count)


def _rounded(number: float) -> int:
    """Two digits: an estimate looks like one."""
    return int(float(f"{number:.1e}"))


def of_json_lines(text: str, count: int, *, whole: bool) -> Shown | None:
    """The first objects as rows; None: they are no objects, one a line."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not whole and len(lines) > 1 and not text.endswith("\n"):
        lines.pop()
    try:
        records = [json.loads(line) for line in lines[:count]]
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(r, dict) for r in records):
        return None
    header = list(dict.fromkeys(name for r in records for name in r))
    rows = [[_cell(r.get(name)) for name in header] for r in records]
    facts: dict[str, object] = {"columns": len(header)}
    if whole:
        facts["rows"] = len(lines)
    return Shown("jsonl", facts, header, rows, more=not whole or len(lines) > count)


def of_parquet(read: Read, size: int, count: int) -> Shown:
    """The first rows, by the footer and the pages that hold them.

    Raises:
        ImportError: pyarrow is missing. Whatever it raises for what is no Parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = pa.PythonFile(RangedFile(read, size), mode="r")
    # Page by page: a column of a row group may be large, and a few rows are wanted.
    with pq.ParquetFile(source, buffer_size=64 << 10, pre_buffer=False) as file:
        rows = file.metadata.num_rows
        batch = (
            next(file.iter_batches(batch_size=count, use_threads=False), None) if count else None
        )
        schema = file.schema_arrow
    return _of_arrow("parquet", schema, [batch] if batch is not None else [], rows, count)


def of_arrow(read: Read, size: int, count: int) -> Shown:
    """The same of an Arrow file (Feather). Errors as `of_parquet`."""
    import pyarrow as pa

    with pa.ipc.open_file(pa.PythonFile(RangedFile(read, size), mode="r")) as file:
        batches = (file.get_batch(n) for n in range(file.num_record_batches))
        first = next(batches, None)
        rows = None if file.num_record_batches > 1 else (first.num_rows if first else 0)
        return _of_arrow("arrow", file.schema, [first] if first else [], rows, count)


def _of_arrow(kind: str, schema: Any, batches: list[Any], rows: int | None, count: int) -> Shown:
    facts: dict[str, object] = {"columns": {f.name: str(f.type) for f in schema}}
    if rows is not None:
        facts["rows"] = rows
    found = itertools.chain.from_iterable(b.slice(0, count).to_pylist() for b in batches)
    shown = [[_cell(v) for v in row.values()] for row in itertools.islice(found, count)]
    more = rows is None or rows > len(shown)
    return Shown(kind, facts, [f.name for f in schema], shown, more=more)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return _cut(value)
    if isinstance(value, dict | list | bool):
        return _cut(json.dumps(value, ensure_ascii=False, default=str))
    return _cut(str(value))


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CELL else text[: MAX_CELL - 1] + "…"


def columns_of(read: Read, size: int, form: str) -> list[str]:
    """Names of the columns of a Parquet or Arrow file, nested ones with dots. Errors as
    `of_parquet`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = pa.PythonFile(RangedFile(read, size), mode="r")
    if form == "parquet":
        schema = pq.read_schema(source)
    else:
        with pa.ipc.open_file(source) as file:
            schema = file.schema
    return [name for field in schema for name in _names_in(field)]


def _names_in(field: Any) -> list[str]:
    import pyarrow as pa

    names = [str(field.name)]
    if pa.types.is_struct(field.type):
        inner = (field.type.field(n) for n in range(field.type.num_fields))
        names += [f"{field.name}.{name}" for part in inner for name in _names_in(part)]
    return names
