"""Which of the objects that can be kept something is, without importing the package it is from."""

from __future__ import annotations

import sys
from typing import Any

from pipefs.errors import UsageError

BYTES, TEXT, JSON, NUMPY = "bytes", "text", "json", "numpy"
PANDAS, POLARS, ARROW = "pandas", "polars", "arrow"
TABLES = frozenset({PANDAS, POLARS, ARROW})
ALL = (BYTES, TEXT, JSON, NUMPY, PANDAS, POLARS, ARROW)

_CLASSES = (
    (PANDAS, "pandas", "DataFrame"),
    (POLARS, "polars", "DataFrame"),
    (ARROW, "pyarrow", "Table"),
    (ARROW, "pyarrow", "RecordBatch"),
    (NUMPY, "numpy", "ndarray"),
)
_PLAIN: dict[type, str] = {bytes: BYTES, str: TEXT, dict: JSON, list: JSON}
_NEARLY = {
    ("pandas", "Series"): "a Series: make it a table with .to_frame()",
    ("polars", "Series"): "a Series: make it a table with .to_frame()",
    ("polars", "LazyFrame"): "a LazyFrame: .collect() it first",
}


def kind_of(obj: object) -> str:
    """One of `ALL`; "" of an object that is none of them."""
    if isinstance(obj, bytes | bytearray | memoryview):
        return BYTES
    if isinstance(obj, str):
        return TEXT
    if isinstance(obj, dict | list | tuple | int | float | None):
        return JSON
    for kind, module, name in _CLASSES:
        # An object of a package is there only if the package is.
        found = getattr(sys.modules.get(module), name, None)
        if isinstance(found, type) and isinstance(obj, found):
            return kind
    return ""


def advice_for(obj: object) -> str:
    """What to do with an object of no kind."""
    module = type(obj).__module__.partition(".")[0]
    nearly = _NEARLY.get((module, type(obj).__name__))
    if nearly:
        return f"It is {nearly}"
    if module.startswith("dask"):
        return "It is dask's: obj.to_parquet('pipefs://NAME/PATH') writes it, part by part"
    return (
        "What can be kept: bytes, str, dict and list (JSON), numpy arrays, and tables of pandas, "
        "polars and pyarrow. Anything else: put its bytes, or write a file and put_file it"
    )


def wanted(want: Any) -> str:
    """The kind that a caller names by a word (`ALL`) or by a class (`pd.DataFrame`, `bytes`).

    Raises:
        UsageError: none of them.
    """
    if isinstance(want, str) and want in ALL:
        return want
    if isinstance(want, type):
        plain: str | None = _PLAIN.get(want)
        if plain:
            return plain
        module = want.__module__.partition(".")[0]
        for kind, package, name in _CLASSES:
            if (module, want.__name__) == (package, name):
                return kind
    raise UsageError(f"{want!r} is nothing that can be asked for", hint=f"One of: {', '.join(ALL)}")
