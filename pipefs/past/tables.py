"""Versions of a table as pandas frames, read so that nothing is lost on the way.

CSV comes as text, cell by cell: what is a number is decided when two versions are compared, of both
together. JSON Lines keep their own types. Parquet keeps integers exact where some are missing, and
shows the index that pandas stored as a column. pandas, and for Parquet pyarrow, are imported here,
when a table is first read, and nowhere else in the library.
"""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

import msgspec

from pipefs.errors import Corrupt, Refused
from pipefs.past.counting import CSV, PARQUET, plain, table_kind

if TYPE_CHECKING:
    import pandas as pd

INSTALL = "pip install 'pipefs[tables]'"
_CSV_OPTIONS = ("sep", "encoding", "quotechar", "skiprows", "comment", "na_values")
"""Of the pipe's `schema`, under `pandas`: what `read_csv` is told."""
_SNIFFED_BYTES = 1 << 16
_COUNTERS = ("Unnamed: 0", "index", "__index_level_0__")


@dataclass(frozen=True, slots=True)
class Table:
    """One version of a table."""

    frame: pd.DataFrame
    text: bool = False
    """All cells are text or missing: numbers are still to be recognised."""
    types: Mapping[str, str] = field(default_factory=dict)
    """Type of each column where the file says so."""


def read_table(file: IO[bytes], path: str, schema: Mapping[str, object] | None = None) -> Table:
    """Read a whole table into memory; `path` decides how, by its name.

    Args:
        schema: of the pipe's settings.
    Raises:
        Refused: no table by its name, or pandas or pyarrow is missing.
        Corrupt: it cannot be read as what its name says.
    """
    kind = table_kind(path)
    if kind is None:
        raise Refused(
            f"{path} is no table that can be compared by rows",
            hint="These can: .csv .tsv .jsonl .ndjson (also .gz) .parquet",
        )
    _need(kind)
    try:
        if kind == PARQUET:
            return _parquet(file)
        with plain(file, path) as content:
            return _csv(content, path, schema or {}) if kind == CSV else _json_lines(content)
    except (ValueError, TypeError, EOFError, OSError, zlib.error, csv.Error) as e:
        what = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise Corrupt(f"{path} cannot be read as {kind}: {what}") from e


def _need(kind: str) -> None:
    import importlib

    for module in ("pandas", "pyarrow.parquet") if kind == PARQUET else ("pandas",):
        try:
            importlib.import_module(module)
        except ImportError as e:
            name = module.partition(".")[0]
            raise Refused(
                f"rows are compared with {name}, which is not installed", hint=f"Try: {INSTALL}"
            ) from e


def _csv(content: IO[bytes], path: str, schema: Mapping[str, object]) -> Table:
    import pandas as pd

    data = io.BytesIO(content.read())
    given = schema.get("pandas")
    options: dict[str, Any] = {}
    if isinstance(given, dict):
        options = {k: v for k, v in given.items() if k in _CSV_OPTIONS}
    options.setdefault("sep", _separator(data.read(_SNIFFED_BYTES), path))
    data.seek(0)
    try:
        frame = pd.read_csv(
            data, dtype=object, encoding_errors="surrogateescape", low_memory=False, **options
        )
    except pd.errors.EmptyDataError:
        return Table(pd.DataFrame(), text=True)
    if not isinstance(frame.index, pd.RangeIndex):
        # Rows longer than the header: R writes their names so, and they are cells like others.
        frame = frame.reset_index().astype(object)
    return Table(frame.rename(columns=str), text=True)


def _separator(start: bytes, path: str) -> str:
    """What separates the columns of the first line."""
    if path.lower().removesuffix(".gz").endswith((".tsv", ".tab")):
        return "\t"
    header = start.decode("utf-8", "replace").partition("\n")[0]
    outside = "".join(header.split('"')[::2])
    return max(",;\t|", key=outside.count)


def _json_lines(content: IO[bytes]) -> Table:
    import pandas as pd

    decode = msgspec.json.Decoder().decode
    records = []
    for number, line in enumerate(content, 1):
        if not line.strip():
            continue
        record = decode(line)
        if not isinstance(record, dict):
            raise ValueError(f"line {number} is no object")
        records.append(record)
    names = list(dict.fromkeys(name for record in records for name in record))
    columns = {n: pd.Series([r.get(n) for r in records], dtype=object) for n in names}
    return Table(pd.DataFrame(columns, index=range(len(records))))


def _parquet(file: IO[bytes]) -> Table:
    import pyarrow.parquet as pq

    table = pq.read_table(file)
    if len(set(table.column_names)) < len(table.column_names):
        raise ValueError("two of its columns have one name")
    frame = table.to_pandas(integer_object_nulls=True, ignore_metadata=True)
    types = {column.name: str(column.type) for column in table.schema}
    return Table(frame.rename(columns=str), types=types)


def counts_rows(name: str, values: pd.Series) -> bool:
    """Whether a column is the row number that pandas wrote as a nameless index: no content."""
    if name not in _COUNTERS:
        return False
    return [str(v) for v in values] == [str(n) for n in range(len(values))]
