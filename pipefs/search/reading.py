"""What can be found in a file: its text, the names of its columns. Pure, but for `read`."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from pipefs.errors import PipefsError
from pipefs.objects import formats as f
from pipefs.preview import tables, texts
from pipefs.preview.shown import Read

TEXT_BYTES = 1 << 20
"""Of a text file; a table's cells say less, and are more."""
TABLE_BYTES = 128 << 10
_NAMELESS_BYTES = 256 << 10
"""A file whose name says nothing is looked into if it is no larger."""


def is_worth_reading(path: str, size: int) -> bool:
    """Whether a file may hold text or columns, by its name and size."""
    if not size or f.is_foreign(path):
        return False
    form = f.format_of(path)
    if form in (f.NPY, f.NPZ):
        return False
    return bool(form) or size <= _NAMELESS_BYTES


def words_of(path: str, size: int, read: Read) -> tuple[Sequence[str], str]:
    """(names of columns, text) of a file; nothing of what is neither, or damaged.

    Raises:
        What `read` raises.
    """
    form = f.format_of(path)
    if form in (f.PARQUET, f.ARROW):
        return _columns(read, size, form), ""
    tabular = form in (f.CSV, f.TSV, f.JSONL)
    bound = TABLE_BYTES if tabular else TEXT_BYTES
    is_notebook = path.lower().endswith(".ipynb")
    head = read(0, min(size, 8 * bound if is_notebook else bound))
    whole = len(head) >= size
    if f.is_packed(path):
        try:
            head = texts.unpacked(head, bound)
        except zlib.error:
            return (), ""
        whole = False
    text = texts.as_text(head, whole=whole)
    if text is None:
        return (), ""
    if is_notebook and (book := texts.notebook(text, 1 << 20)) is not None:
        return (), "\n".join(book[1])[:bound]
    return _header(text, form, whole=whole), text


def _header(text: str, form: str, *, whole: bool) -> Sequence[str]:
    if form in (f.CSV, f.TSV):
        found = tables.of_csv(text, form, 0, whole=whole, size=0)
    elif form == f.JSONL:
        found = tables.of_json_lines(text, 100, whole=whole)
    else:
        return ()
    return found.header if found is not None else ()


def _columns(read: Read, size: int, form: str) -> Sequence[str]:
    try:
        return tables.columns_of(read, size, form)
    except PipefsError:
        raise
    except Exception:
        # Damaged, or pyarrow is missing, whose errors are of many kinds: it is found by its name.
        return ()
