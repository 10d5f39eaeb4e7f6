"""What a pipe's `schema` says of one file: free JSON in d6tpipe's manner. Pure.

{"pandas": {"sep": ";"},                      for every table that pandas reads
 "xls": {"pandas": {"sheet_name": "2026"}},   for files with this suffix
 "files": {"q3*.csv": {"pandas": {"sep": "|"}}}}   for files whose path matches
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Any

READERS = ("pandas", "polars", "arrow", "dask")
_OF_TEXT = "sep delimiter decimal thousands encoding quotechar skiprows comment header names"
_TEXT_ONLY = frozenset([*_OF_TEXT.split(), "index_col", "na_values", "parse_dates", "dtype"])
"""What only readers of text tables take."""


def options_for(schema: Mapping[str, Any], path: str, want: Any = None) -> dict[str, Any]:
    """Options for the reader of a file, the narrowest rule last.

    Args:
        want: `pandas`, `polars`, `arrow`, or a class of theirs; None: pandas.
    """
    reader = _reader(want)
    suffix = _suffix(path)
    layers = [schema, schema.get(suffix, {})]
    files = schema.get("files")
    for pattern, rule in files.items() if isinstance(files, Mapping) else ():
        if fnmatch.fnmatchcase(path, pattern):
            layers.append(rule)
    found: dict[str, Any] = {}
    for layer in layers:
        options = layer.get(reader) if isinstance(layer, Mapping) else None
        if isinstance(options, Mapping):
            found.update(options)
    if suffix in ("parquet", "pq", "arrow", "feather"):
        # One schema is often for text and Parquet of the same table.
        found = {k: v for k, v in found.items() if k not in _TEXT_ONLY}
    return found


def _reader(want: Any) -> str:
    name = want if isinstance(want, str) else getattr(want, "__module__", "").partition(".")[0]
    name = {"pyarrow": "arrow"}.get(name, name)
    return name if name in READERS else "pandas"


def _suffix(path: str) -> str:
    name = path.rpartition("/")[2].lower().removesuffix(".gz")
    return name.rpartition(".")[2] if "." in name else ""
