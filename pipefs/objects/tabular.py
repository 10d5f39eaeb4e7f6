"""Tables as bytes and back: pandas, polars and Arrow, each by its own writers and readers.

Parquet and Arrow keep every type (pandas' index too). CSV keeps text: numbers and times are what
the reader makes of them, and an index comes back as columns. JSON has one object a row.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipefs.objects.formats import ARROW, CSV, JSON, JSONL, PARQUET, TSV
from pipefs.objects.kinds import ARROW as ARROW_TABLE
from pipefs.objects.kinds import PANDAS, POLARS

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

_SEPARATORS = {CSV: ",", TSV: "\t"}


def write(table: Any, kind: str, form: str) -> bytes:
    """The bytes of a table in one of `formats.TABULAR`. Errors are the packages' own."""
    if form in (JSON, JSONL):
        return _records_as_json(_records(table, kind), lines=form == JSONL)
    writer = {PANDAS: _write_pandas, POLARS: _write_polars, ARROW_TABLE: _write_arrow}[kind]
    return writer(table, form)


def read(data: bytes, kind: str, form: str, options: Mapping[str, Any]) -> Any:
    """A table of this kind. Errors are the packages' own.

    Args:
        options: for the reader, by its own names (`sep`, `usecols`, `columns`, …).
    """
    if form in (JSON, JSONL):
        return _from_records(_records_in(data, lines=form == JSONL), kind)
    reader = {PANDAS: _read_pandas, POLARS: _read_polars, ARROW_TABLE: _read_arrow}[kind]
    return reader(data, form, dict(options))


# --- pandas -------------------------------------------------------------------------------------


def _write_pandas(table: pd.DataFrame, form: str) -> bytes:
    out = io.BytesIO()
    if form == PARQUET:
        table.to_parquet(out, engine="pyarrow")
    elif form == ARROW:
        import pyarrow as pa

        return _write_arrow(pa.Table.from_pandas(table), form)
    else:
        table.to_csv(out, sep=_SEPARATORS[form], index=_has_index(table), encoding="utf-8")
    return out.getvalue()


def _has_index(table: pd.DataFrame) -> bool:
    """Whether the index says more than the number of a row."""
    import pandas as pd

    index = table.index
    return index.nlevels > 1 or index.name is not None or not index.equals(
        pd.RangeIndex(len(table))
    )  # fmt: skip


def _read_pandas(data: bytes, form: str, options: dict[str, Any]) -> pd.DataFrame:
    import pandas as pd

    source = io.BytesIO(data)
    if form == PARQUET:
        return pd.read_parquet(source, engine="pyarrow", **options)
    if form == ARROW:
        return _read_arrow(data, form, {}).to_pandas(**options)
    options.setdefault("sep", _SEPARATORS[form])
    return pd.read_csv(source, **options)


# --- polars -------------------------------------------------------------------------------------


def _write_polars(table: pl.DataFrame, form: str) -> bytes:
    out = io.BytesIO()
    if form == PARQUET:
        table.write_parquet(out)
    elif form == ARROW:
        table.write_ipc(out)
    else:
        table.write_csv(out, separator=_SEPARATORS[form])
    return out.getvalue()


def _read_polars(data: bytes, form: str, options: dict[str, Any]) -> pl.DataFrame:
    import polars as pl

    source = io.BytesIO(data)
    if form == PARQUET:
        return pl.read_parquet(source, **options)
    if form == ARROW:
        return pl.read_ipc(source, **options)
    options.setdefault("separator", options.pop("sep", _SEPARATORS[form]))
    return pl.read_csv(source, **options)


# --- Arrow --------------------------------------------------------------------------------------


def _write_arrow(table: pa.Table | pa.RecordBatch, form: str) -> bytes:
    import pyarrow as pa

    if isinstance(table, pa.RecordBatch):
        table = pa.Table.from_batches([table])
    out = io.BytesIO()
    if form == PARQUET:
        import pyarrow.parquet

        pyarrow.parquet.write_table(table, out)
    elif form == ARROW:
        with pa.ipc.new_file(out, table.schema) as writer:
            writer.write_table(table)
    else:
        import pyarrow.csv

        options = pyarrow.csv.WriteOptions(delimiter=_SEPARATORS[form])
        pyarrow.csv.write_csv(table, out, options)
    return out.getvalue()


def _read_arrow(data: bytes, form: str, options: dict[str, Any]) -> pa.Table:
    import pyarrow as pa

    if form == PARQUET:
        import pyarrow.parquet

        return pyarrow.parquet.read_table(pa.BufferReader(data), **options)
    if form == ARROW:
        with pa.ipc.open_file(pa.BufferReader(data)) as file:
            return file.read_all()
    import pyarrow.csv

    separator = options.pop("sep", _SEPARATORS[form])
    parsing = pyarrow.csv.ParseOptions(delimiter=separator)
    return pyarrow.csv.read_csv(pa.BufferReader(data), parse_options=parsing, **options)


# --- one object a row ---------------------------------------------------------------------------


def _records(table: Any, kind: str) -> list[dict[str, Any]]:
    if kind == PANDAS:
        whole = table.reset_index() if _has_index(table) else table
        if not whole.columns.is_unique:
            raise ValueError("two of its columns have one name")
        rows = whole.astype(object).where(whole.notna(), None).to_dict("records")
        return [{str(k): v for k, v in row.items()} for row in rows]
    rows = table.to_dicts() if kind == POLARS else table.to_pylist()
    return list(rows)


def _records_as_json(records: list[dict[str, Any]], *, lines: bool) -> bytes:
    def text(value: object) -> str:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=as_json)

    if lines:
        return "".join(text(r) + "\n" for r in records).encode()
    return text(records).encode()


def as_json(value: Any) -> object:
    """What JSON has no word for: numbers of numpy, times as ISO 8601. TypeError for the rest."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is nothing that JSON has")


def _records_in(data: bytes, *, lines: bool) -> list[Any]:
    text = data.decode("utf-8-sig")
    found = [json.loads(x) for x in text.split("\n") if x.strip()] if lines else json.loads(text)
    if not isinstance(found, list) or not all(isinstance(r, dict) for r in found):
        raise ValueError("it is no list of objects, so it is no table")
    return found


def _from_records(records: list[Any], kind: str) -> Any:
    if kind == PANDAS:
        import pandas as pd

        return pd.DataFrame.from_records(records)
    if kind == POLARS:
        import polars as pl

        return pl.from_dicts(records, infer_schema_length=None) if records else pl.DataFrame()
    import pyarrow as pa

    return pa.Table.from_pylist(records)
