"""Text, JSON and notebooks as lines, and what is no text as a hex dump. Pure."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from typing import Any

_HEX_BYTES = 16
_OUTPUT_LINES = 10
"""Of a notebook's output."""


def unpacked(head: bytes, limit: int) -> bytes:
    """The beginning of what a gzip file holds, as far as its beginning tells.

    Raises:
        zlib.error: no gzip.
    """
    return zlib.decompressobj(wbits=31).decompress(head, limit)


def as_text(head: bytes, *, whole: bool) -> str | None:
    """Bytes as UTF-8 (UTF-16 with its mark); None: they are no text.

    Args:
        whole: nothing was cut off the end; else an unfinished last character is left out.
    """
    if b"\0" in head and head[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        return None
    try:
        if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return head[: len(head) // 2 * 2].decode("utf-16")
        return head.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        if not whole and e.start >= len(head) - 3 and e.start > 0:
            return head[: e.start].decode("utf-8-sig")
        return None


def first_lines(text: str, count: int) -> tuple[list[str], bool]:
    """The first lines, and whether there are more."""
    found = text.splitlines()
    return found[:count], len(found) > count


def json_lines(text: str) -> list[str] | None:
    """JSON, indented; None: it is none."""
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False).splitlines()
    except (ValueError, RecursionError):
        return None


def notebook(text: str, count: int) -> tuple[dict[str, object], list[str]] | None:
    """(facts, the first cells as lines) of a Jupyter notebook; None: it is none."""
    try:
        found = json.loads(text)
        cells = found["cells"]
        if not isinstance(cells, list):
            return None
        spec = (found.get("metadata") or {}).get("kernelspec") or {}
        lines = [line for cell in cells[:count] for line in _cell(cell)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    facts: dict[str, object] = {"cells": len(cells)}
    if spec.get("display_name"):
        facts["kernel"] = str(spec["display_name"])
    return facts, lines


def _cell(cell: dict[str, Any]) -> Iterator[str]:
    source = _joined(cell.get("source")).splitlines()
    if cell.get("cell_type") != "code":
        yield from source
        yield ""
        return
    number = cell.get("execution_count")
    mark = f"In [{' ' if number is None else number}]: "
    for n, line in enumerate(source or [""]):
        yield (mark if n == 0 else " " * len(mark)) + line
    for output in cell.get("outputs") or []:
        yield from _output(output)
    yield ""


def _output(output: dict[str, Any]) -> Iterator[str]:
    if output.get("output_type") == "error":
        yield f"    {output.get('ename')}: {output.get('evalue')}"
        return
    data = output.get("data") or {}
    text = _joined(output.get("text") or data.get("text/plain")).splitlines()
    for line in text[:_OUTPUT_LINES]:
        yield f"    {line}"
    if len(text) > _OUTPUT_LINES:
        yield f"    … {len(text) - _OUTPUT_LINES} lines more"
    for kind in data:
        if kind.startswith("image/"):
            yield f"    [{kind}]"


def _joined(text: Any) -> str:
    return "".join(text) if isinstance(text, list) else text or ""


def hex_dump(data: bytes) -> list[str]:
    """Offset, bytes and, where they are ASCII, characters."""
    lines = []
    for at in range(0, len(data), _HEX_BYTES):
        piece = data[at : at + _HEX_BYTES]
        half = [piece[:8].hex(" "), piece[8:].hex(" ")]
        shown = "".join(chr(b) if 32 <= b < 127 else "." for b in piece)
        lines.append(f"{at:08x}  {half[0]:<23}  {half[1]:<23}  |{shown}|")
    return lines
