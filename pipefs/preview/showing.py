"""Any file at a glance, by its name and its first bytes.

Reads at most `HEAD_BYTES` (8 MiB of a notebook), of Parquet and Arrow the footer and the pages of
the first rows. Never fails for what is in a file: what cannot be shown as what its name says is
shown as text or as bytes, and `note` says why.
"""

from __future__ import annotations

import ast
import re
import zlib

from pipefs.errors import PipefsError
from pipefs.objects import formats as f
from pipefs.preview import tables, texts
from pipefs.preview.images import image_size
from pipefs.preview.shown import HEAD_BYTES, Read, Shown

_NOTEBOOK_BYTES = 8 << 20
_DUMPED_BYTES = 256
_UNPACKED_BYTES = 4 << 20
_INSTALL = "pip install 'pipefs[tables]'"


def preview(read: Read, size: int, name: str, count: int = 20) -> Shown:
    """What is in a file.

    Args:
        name: decides what to look for; what is there decides what is shown.
        count: rows or lines.
    Raises:
        What `read` raises.
    """
    form = f.format_of(name)
    if form in (f.PARQUET, f.ARROW) and size:
        return _columns(read, size, form, count)
    head = read(0, min(size, HEAD_BYTES))
    whole = len(head) >= size
    if form == f.JSON and name.lower().endswith(".ipynb") and size <= _NOTEBOOK_BYTES:
        head, whole = (head if whole else read(0, size)), True
    image = image_size(head)
    if image is not None:
        kind, width, height = image
        return Shown("image", {"format": kind, "width": width, "height": height})
    if form == f.NPY and (found := _array(head)) is not None:
        return found
    return _text(head, size, name, form, count, whole=whole)


def _columns(read: Read, size: int, form: str, count: int) -> Shown:
    show = tables.of_parquet if form == f.PARQUET else tables.of_arrow
    try:
        return show(read, size, count)
    except (PipefsError, ConnectionError):
        raise
    except ImportError:
        note = f"its rows need pyarrow: {_INSTALL}"
    except Exception as e:  # pyarrow has errors of many kinds
        note = f"it is no {form}: {str(e).splitlines()[0] if str(e) else type(e).__name__}"
    return _binary(read(0, min(size, _DUMPED_BYTES)), size, note)


def _text(head: bytes, size: int, name: str, form: str, count: int, *, whole: bool) -> Shown:
    note, packed = "", f.is_packed(name)
    if packed:
        try:
            content = texts.unpacked(head, _UNPACKED_BYTES)
        except zlib.error:
            return _binary(head, size, "it is no gzip, whatever its name says")
        whole = whole and len(content) < _UNPACKED_BYTES
    else:
        content = head
    text = texts.as_text(content, whole=whole)
    if text is None:
        return _binary(content, 0 if packed else size, "")
    found = _structured(text, name, form, count, whole=whole, size=0 if packed else size)
    if found is not None:
        return found
    if form in f.AS_TEXT - {f.TEXT, f.YAML} and text.strip() and (whole or form != f.JSON):
        note = f"it cannot be read as {form}"
    lines, more = texts.first_lines(text, count)
    facts: dict[str, object] = {"lines": len(text.splitlines())} if whole else {}
    return Shown("text", facts, lines=lines, more=more or not whole, note=note)


def _structured(
    text: str, name: str, form: str, count: int, *, whole: bool, size: int
) -> Shown | None:
    if form in (f.CSV, f.TSV):
        return tables.of_csv(text, form, count, whole=whole, size=size)
    if form == f.JSONL:
        return tables.of_json_lines(text, count, whole=whole)
    if form != f.JSON or not whole:
        return None
    if name.lower().endswith(".ipynb") and (found := texts.notebook(text, count)):
        facts, lines = found
        cells = facts["cells"]
        return Shown("notebook", facts, lines=lines, more=isinstance(cells, int) and cells > count)
    indented = texts.json_lines(text)
    if indented is None:
        return None
    return Shown("json", {}, lines=indented[:count], more=len(indented) > count)


def _array(head: bytes) -> Shown | None:
    """Shape and type of numpy's own format."""
    found = re.match(rb"\x93NUMPY[\x01-\x03]\x00", head)
    if found is None:
        return None
    start = 10 if head[6] == 1 else 12
    length = int.from_bytes(head[8:start], "little")
    try:
        said = ast.literal_eval(head[start : start + length].decode("latin-1").strip())
        shape, dtype = list(said["shape"]), str(said["descr"])
    except (ValueError, SyntaxError, KeyError, TypeError):
        return None
    return Shown("array", {"shape": shape, "dtype": dtype})


def _binary(head: bytes, size: int, note: str) -> Shown:
    dumped = head[:_DUMPED_BYTES]
    more = size > len(dumped) or len(head) > len(dumped)
    return Shown("binary", {}, lines=texts.hex_dump(dumped), more=more, note=note)
