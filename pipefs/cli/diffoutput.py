"""How the differences of two trees, and of two tables, look to people and to programs. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipefs.cli.output import printable, table
from pipefs.cli.pasts import time_text_ns
from pipefs.manifest import Entry, names_in
from pipefs.past.comparing import ADDED, ATTRIBUTES, DELETED, MODIFIED, RENAMED, Difference
from pipefs.past.renaming import folded
from pipefs.units import show_count, show_size

if TYPE_CHECKING:
    from pipefs.past.rows import RowDifference, Shared

LETTERS = {ADDED: "A", MODIFIED: "M", DELETED: "D", RENAMED: "R", ATTRIBUTES: "m"}
Rows = Mapping[str, tuple[int | None, int | None]]
"""Path → rows of a table before and now."""

_KEPT = ("kind", "key", "version", "size", "etag", "checksum", "mode", "mtime", "target")


def shown_path(path: str) -> str:
    """A path of a manifest as a person would type it."""
    return printable(b"/".join(names_in(path)).decode("utf-8", "surrogateescape"))


def worth_a_line(d: Difference) -> bool:
    """A directory's time changes with every name in it, which has a line of its own."""
    return not (d.kind == ATTRIBUTES and d.is_dir and d.attributes == ("mtime",))


# --- trees --------------------------------------------------------------------------------------


def lines_of(differences: Sequence[Difference], rows: Rows, *, recursive: bool) -> list[str]:
    """`M storms.parquet   12.1 MB → 11.9 MB   rows 49,105 → 48,990`, one a path; a directory that
    is new, gone or renamed as a whole is one line unless `recursive`."""
    found = [(d, 0, 0) for d in differences] if recursive else folded(differences)
    cells = []
    for d, files, size in found:
        name = shown_path(d.path) + ("/" if d.is_dir else "")
        if d.kind == RENAMED and d.old is not None:
            name = f"{shown_path(d.old.path)}{'/' if d.is_dir else ''} → {name}"
        details = [_what_changed(d, files, size), _rows_text(rows.get(d.path))]
        cells.append([f"{LETTERS[d.kind]} {name}", *filter(None, details)])
    return table(cells, gap=3)


def _what_changed(d: Difference, files: int, size: int) -> str:
    if d.is_dir and d.kind != ATTRIBUTES:
        counted = f"{show_count(files, 'file')}, {show_size(size)}" if files else ""
        return counted if d.kind != MODIFIED else _kinds_text(d)
    if d.old is None or d.new is None or d.kind == RENAMED:
        return _content_text(d.entry)
    if d.kind == ATTRIBUTES:
        return "   ".join(_attribute_text(a, d.old, d.new) for a in d.attributes)
    if d.old.kind != d.new.kind:
        return _kinds_text(d)
    if d.new.kind != "file":
        return f"{_content_text(d.old)} → {_content_text(d.new)}"
    return sizes_text(d.old.size, d.new.size) + ("   perhaps the same bytes" if d.unsure else "")


def _kinds_text(d: Difference) -> str:
    return f"{d.old.kind} → {d.new.kind}" if d.old and d.new else ""


def _content_text(entry: Entry) -> str:
    if entry.kind == "file":
        return show_size(entry.size)
    return f"→ {shown_path(entry.target)}" if entry.kind == "symlink" else entry.kind


def _attribute_text(name: str, old: Entry, new: Entry) -> str:
    one, two = getattr(old, name), getattr(new, name)
    if name == "mode":
        return f"mode {(one or 0) & 0o7777:o} → {(two or 0) & 0o7777:o}"
    if name == "mtime":
        before, after = time_text_ns(one or 0), time_text_ns(two or 0)
        return f"time {before} → {after}" if before != after else f"time {after}"
    if name == "xattrs":
        names = sorted(k for k in {*(one or {}), *(two or {})} if _of(one, k) != _of(two, k))
        return f"attributes {', '.join(map(printable, names))}"
    return f"{name} {one} → {two}"


def _of(xattrs: Mapping[str, str] | None, name: str) -> str | None:
    return (xattrs or {}).get(name)


def sizes_text(old: int, new: int) -> str:
    """`12.1 MB → 11.9 MB`: with as many digits as it takes to see the change."""
    one, two = show_size(old), show_size(new)
    if one == two and old != new:
        power = min(4, int(math.log10(max(old, new)) / 3))
        for digits in range(1, 4):
            unit = ("B", "KB", "MB", "GB", "TB")[power]
            one, two = (f"{n / 1000**power:.{digits}f} {unit}" for n in (old, new))
            if one != two:
                break
        else:
            one, two = f"{old:,} B", f"{new:,} B"
    return one if old == new else f"{one} → {two}"


def _rows_text(rows: tuple[int | None, int | None] | None) -> str:
    if rows is None or rows == (None, None):
        return ""
    old, new = ("?" if n is None else f"{n:,}" for n in rows)
    return f"rows {old}" if old == new else f"rows {old} → {new}"


def counts(differences: Sequence[Difference]) -> Counter[str]:
    """How many files (and links) of each kind of difference there are."""
    return Counter(d.kind for d in differences if not d.is_dir)


def summary_text(differences: Sequence[Difference], same: int | None) -> str:
    """`1 added · 2 modified · 12 the same · +2 KB -200 KB`."""
    found = counts(differences)
    words = {ATTRIBUTES: "with other attributes"}
    parts = [f"{found[k]:,} {words.get(k, k)}" for k in LETTERS if found[k]]
    if same is not None:
        parts.append(f"{same:,} the same")
    more = less = 0
    for d in differences:
        old, new = (e.size if e and e.kind == "file" else 0 for e in (d.old, d.new))
        more, less = more + max(0, new - old), less + max(0, old - new)
    sizes = [f"+{show_size(more)}"] * bool(more) + [f"-{show_size(less)}"] * bool(less)
    return " · ".join([*parts, " ".join(sizes)] if sizes else parts)


def as_json(d: Difference, rows: Rows) -> dict[str, object]:
    """One difference for programs; fields that have nothing to say are left out."""
    found: dict[str, object] = {"status": d.kind, "path": d.path}
    if d.kind == RENAMED and d.old is not None:
        found["from"] = d.old.path
    for side, entry in (("old", d.old), ("new", d.new)):
        if entry is not None:
            found[side] = {**_fields(entry), "key": entry.object_key}
    if d.attributes:
        found["attributes"] = list(d.attributes)
    if d.unsure:
        found["unsure"] = True
    if d.within:
        found["within"] = True
    if d.path in rows:
        found["rows"] = list(rows[d.path])
    return found


def _fields(entry: Entry) -> dict[str, object]:
    found = {name: getattr(entry, name) for name in _KEPT}
    return {k: v for k, v in found.items() if v not in (None, "") or k in ("version", "etag")}


# --- tables -------------------------------------------------------------------------------------


def row_lines(d: RowDifference) -> list[str]:
    """`- 115 rows removed (status = 'UNKNOWN')   ~ 0 changed   + 0 added`, below what became of
    the columns."""
    columns = [f"+ column {printable(c)}" for c in d.columns_added]
    columns += [f"- column {printable(c)}" for c in d.columns_removed]
    columns += [f"~ column {printable(c)}: {a} → {b}" for c, (a, b) in d.retyped.items()]
    lines = ["   ".join(columns)] if columns else []
    if d.same_rows and not columns:
        lines.append("the same rows in another order" if d.reordered else "the same rows")
    else:
        removed = f"- {show_count(len(d.removed), 'row')} removed{_where(d.removed_where)}"
        changed = f"~ {len(d.changed_to):,} changed{_which(d)}"
        added = f"+ {len(d.added):,} added{_where(d.added_where)}"
        lines.append(f"{removed}   {changed}   {added}")
    if d.left_out:
        lines.append(f"not compared: {', '.join(map(printable, d.left_out))} (numbers the rows)")
    return lines


def _where(shared: Shared | None) -> str:
    if shared is None:
        return ""
    if shared.value is None:
        return f" ({printable(shared.column)} is missing)"
    value = shared.value
    text = repr(value) if isinstance(value, str) else str(value)
    return f" ({printable(shared.column)} = {printable(text[:60])})"


def _which(d: RowDifference) -> str:
    if not d.changed_cells:
        return ""
    names = sorted(d.changed_cells, key=lambda c: -d.changed_cells[c])
    shown = [f"{printable(c)} {d.changed_cells[c]:,}" for c in names[:3]]
    more = [f"{len(names) - 3} more columns"] if len(names) > 3 else []
    return f" ({', '.join([*shown, *more])}; by {', '.join(map(printable, d.key))})"


def rows_json(path: str, d: RowDifference) -> dict[str, object]:
    """The difference of two versions of a table for programs."""
    return {
        "path": path,
        "rows": [d.old_rows, d.new_rows],
        "key": d.key,
        "removed": len(d.removed),
        "changed": len(d.changed_to),
        "added": len(d.added),
        "removed_where": _shared_json(d.removed_where),
        "added_where": _shared_json(d.added_where),
        "changed_cells": d.changed_cells,
        "columns_added": d.columns_added,
        "columns_removed": d.columns_removed,
        "columns_retyped": {c: list(types) for c, types in d.retyped.items()},
        "left_out": d.left_out,
        "reordered": d.reordered,
    }


def _shared_json(shared: Shared | None) -> dict[str, Any] | None:
    if shared is None:
        return None
    value = shared.value
    if hasattr(value, "item"):
        value = value.item()  # of numpy: Python's own
    plain = value if isinstance(value, str | int | float | None) else str(value)
    return {"column": shared.column, "value": plain}
