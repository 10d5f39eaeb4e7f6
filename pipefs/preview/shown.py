"""What a preview tells. Values only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

Read = Callable[[int, int], bytes]
"""(start, length) → the file's bytes there, fewer only at its end."""

HEAD_BYTES = 256 << 10
"""Of a file whose beginning tells enough."""


@dataclass(slots=True)
class Shown:
    """A file at a glance."""

    kind: str
    """csv, tsv, jsonl, parquet, arrow, json, notebook, image, array, text or binary."""
    facts: dict[str, object] = field(default_factory=dict)
    """`rows`, `columns` (name → type), `format`, `width`, `height`, `lines`, …: what is known."""
    header: list[str] = field(default_factory=list)
    """Of a table: names of its columns."""
    rows: list[list[str]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    """Of anything else: its beginning."""
    more: bool = False
    """Whether there is more in the file than is shown."""
    note: str = ""
    """Why it is shown as something plainer than it is."""
