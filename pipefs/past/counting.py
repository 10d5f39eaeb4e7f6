"""How many rows a table has, without reading it as a table.

A Parquet file says so in its footer: one small request. Of CSV and JSON Lines the records are
counted, which reads the file. Needs no pandas and no pyarrow.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from typing import IO

from pipefs.manifest import Entry
from pipefs.past.reading import Contents

CSV, JSONL, PARQUET = "csv", "jsonl", "parquet"
_SUFFIXES = {
    ".csv": CSV,
    ".tsv": CSV,
    ".tab": CSV,
    ".jsonl": JSONL,
    ".ndjson": JSONL,
    ".parquet": PARQUET,
    ".pq": PARQUET,
}
_TAIL_BYTES = 64 << 10


def table_kind(path: str) -> str | None:
    """csv, jsonl or parquet by a file's name; None: it is no table that we read."""
    name = path.lower().removesuffix(".gz")
    kind = next((k for suffix, k in _SUFFIXES.items() if name.endswith(suffix)), None)
    return None if kind == PARQUET and path.lower().endswith(".gz") else kind


def count_rows(contents: Contents, entry: Entry, *, read: bool) -> int | None:
    """Rows of a table; None where it is none, is damaged, or would have to be read for it.

    Args:
        read: also count the records of CSV (the header is none) and JSON Lines.
    """
    kind = table_kind(entry.path)
    if kind == PARQUET:
        return parquet_rows(contents, entry)
    if kind is None or not read:
        return None
    with contents.open(entry) as file, plain(file, entry.path) as lines:
        try:
            return count_csv(lines) if kind == CSV else sum(1 for line in lines if line.strip())
        except (OSError, EOFError, zlib.error):
            return None  # no gzip, whatever its name says


def plain(file: IO[bytes], path: str) -> IO[bytes]:
    """The file's content unpacked, where its name ends in .gz."""
    if path.lower().endswith(".gz"):
        return gzip.GzipFile(fileobj=file, mode="rb")  # type: ignore[return-value]  # it is one
    return file


def count_csv(lines: IO[bytes]) -> int:
    """Records below the header: a line feed inside quotes ends none, empty lines are none."""
    records, quotes, filled = 0, 0, False
    for line in lines:
        quotes += line.count(b'"')
        filled = filled or bool(line.strip())
        if quotes % 2 == 0:
            records += filled
            filled = False
    return max(0, records + filled - 1)


def parquet_rows(contents: Contents, entry: Entry) -> int | None:
    """The number of rows that a Parquet footer tells; None: no footer of ours to read."""
    start = max(0, entry.size - _TAIL_BYTES)
    tail = contents.range(entry, start, _TAIL_BYTES)
    if len(tail) < 12 or tail[-4:] != b"PAR1":
        return None
    (length,) = struct.unpack("<I", tail[-8:-4])
    begin = entry.size - 8 - length
    if begin < 4:
        return None
    if begin < start:
        tail = contents.range(entry, begin, start - begin) + tail
        start = begin
    return rows_in_footer(tail[begin - start : -8])


def rows_in_footer(footer: bytes) -> int | None:
    """The number of rows in the FileMetaData of a Parquet file; None: it is damaged."""
    try:
        found = _Thrift(footer).number_in_field(_NUM_ROWS)
    except (IndexError, ValueError, RecursionError):
        return None
    return found if found is not None and found >= 0 else None


_NUM_ROWS = 3
"""Field of FileMetaData; before it stand the version and the schema."""
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12


class _Thrift:
    """As much of Thrift's compact protocol as it takes to step over fields."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number_in_field(self, wanted: int) -> int | None:
        """The integer in a field of the struct that starts here; None: there is no such field."""
        field = 0
        while (head := self._byte()) != 0:
            field = field + (head >> 4) if head >> 4 else self._zigzag()
            if field == wanted:
                return self._zigzag()
            self._skip(head & 0x0F, in_list=False)
        return None

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def _zigzag(self) -> int:
        raw = self._varint()
        return (raw >> 1) ^ -(raw & 1)

    def _skip(self, kind: int, *, in_list: bool) -> None:
        if self._at >= len(self._data):
            raise ValueError("the footer ends inside a field")
        if kind in (_TRUE, _FALSE):
            self._at += in_list  # else its value is in the field's head
        elif kind == _BYTE:
            self._at += 1
        elif kind < _DOUBLE:
            self._varint()
        elif kind == _DOUBLE:
            self._at += 8
        elif kind == _BINARY:
            length = self._varint()
            self._at += length
        elif kind in (_LIST, _SET):
            self._skip_list()
        elif kind == _MAP:
            self._skip_map()
        elif kind == _STRUCT:
            while (head := self._byte()) != 0:
                if not head >> 4:
                    self._zigzag()
                self._skip(head & 0x0F, in_list=False)
        else:
            raise ValueError(kind)

    def _skip_list(self) -> None:
        head = self._byte()
        count = head >> 4 if head >> 4 != 15 else self._varint()
        for _ in range(count):
            self._skip(head & 0x0F, in_list=True)

    def _skip_map(self) -> None:
        count = self._varint()
        kinds = self._byte() if count else 0
        for _ in range(count):
            self._skip(kinds >> 4, in_list=True)
            self._skip(kinds & 0x0F, in_list=True)
