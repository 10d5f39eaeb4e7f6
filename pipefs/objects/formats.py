"""Which format a file's name means. Pure, and imports nothing heavy."""

from __future__ import annotations

PARQUET, ARROW, CSV, TSV, JSONL = "parquet", "arrow", "csv", "tsv", "jsonl"
JSON, YAML, NPY, NPZ, TEXT, BYTES = "json", "yaml", "npy", "npz", "text", "bytes"

TABULAR = frozenset({PARQUET, ARROW, CSV, TSV, JSONL, JSON})
"""What a table can be written as."""
AS_TEXT = frozenset({CSV, TSV, JSONL, JSON, YAML, TEXT})
"""Formats that are UTF-8 text, and that `.gz` packs."""

_TEXT_NAMES = "txt text md rst log html htm xml svg toml ini cfg sql py r jl sh js css tex bib"
_FOREIGN_NAMES = (
    "pkl pickle joblib xlsx xls ods h5 hdf5 hdf nc zarr orc avro sqlite db duckdb mat sav dta "
    "sas7bdat rds zip tar tgz bz2 xz zst 7z pdf docx pptx png jpg jpeg gif tif tiff webp bmp mp3 "
    "mp4 wav"
)

_SUFFIXES = {
    ".parquet": PARQUET,
    ".pq": PARQUET,
    ".arrow": ARROW,
    ".feather": ARROW,
    ".ipc": ARROW,
    ".csv": CSV,
    ".tsv": TSV,
    ".tab": TSV,
    ".jsonl": JSONL,
    ".ndjson": JSONL,
    ".json": JSON,
    ".geojson": JSON,
    ".ipynb": JSON,
    ".yaml": YAML,
    ".yml": YAML,
    ".npy": NPY,
    ".npz": NPZ,
    **{f".{name}": TEXT for name in _TEXT_NAMES.split()},
}
_FOREIGN = frozenset(f".{name}" for name in _FOREIGN_NAMES.split())
"""Names that mean a format which nothing here writes."""


def format_of(path: str) -> str:
    """The format that a name means, `.gz` aside; "" where it means none that is known here."""
    return _SUFFIXES.get(suffix_of(path.lower().removesuffix(".gz")), "")


def is_packed(path: str) -> bool:
    return path.lower().endswith(".gz")


def is_foreign(path: str) -> bool:
    """Whether a name means a format that is known, and that nothing here writes."""
    return suffix_of(path) in _FOREIGN


def suffix_of(path: str) -> str:
    """The last suffix of a name, lower case, with its dot; "" where it has none."""
    name = path.rpartition("/")[2].lower()
    stem, dot, last = name.rpartition(".")
    return dot + last if stem and dot else ""
