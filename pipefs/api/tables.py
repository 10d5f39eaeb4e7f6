"""What the API answers in rows: plain lists that print well, show as tables in Jupyter and become
DataFrames when asked. Pure; pandas is imported when it is asked for."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pipefs.errors import Refused
from pipefs.units import show_size

if TYPE_CHECKING:
    import pandas as pd

Row = TypeVar("Row")

_LONG = ("id", "version", "etag", "checksum", "crc")
"""Columns of which the beginning is enough for people."""
_SHOWN = 60
"""Rows that a notebook or a prompt shows; the middle of longer tables is left out."""


class Table(list[Row]):
    """A list of rows. Indexing, slicing and iterating are those of a list.

    >>> rows = Table([Version("a.csv", "3f2a", size=12)])
    >>> rows[0].path
    'a.csv'
    >>> rows.to_df()["size"].sum()
    np.int64(12)
    """

    def to_df(self) -> pd.DataFrame:
        """One row for each of ours, in their order; columns are the rows' fields.

        Raises:
            Refused: pandas is missing.
        """
        try:
            import pandas as pd
        except ImportError as e:
            hint = "Try: pip install 'pipefs[tables]'"
            raise Refused("a DataFrame needs pandas, which is not installed", hint=hint) from e
        rows = [_fields(row) for row in self]
        return pd.DataFrame(rows, columns=list(dict.fromkeys(n for row in rows for n in row)))

    def _repr_html_(self) -> str:
        if not self:
            return "<i>nothing</i>"
        names = _told(self)
        head = "".join(f"<th>{html.escape(n)}</th>" for n in names)
        body = "".join(
            f'<tr><td colspan="{len(names)}">…</td></tr>'
            if row is None
            else "<tr>" + "".join(f"<td>{html.escape(_text(row, n))}</td>" for n in names) + "</tr>"
            for row in _middle_left_out(self)
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def __repr__(self) -> str:
        if not self:
            return "nothing"
        names = _told(self)
        lines = [
            ["…"] if row is None else [_text(row, n) for n in names]
            for row in _middle_left_out(self)
        ]
        widths = [max(len(row[i]) for row in [names, *lines] if len(row) > 1) for i in
                  range(len(names))]  # fmt: skip
        return "\n".join(
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=False)).rstrip()
            for row in [names, *lines]
        )


def _fields(row: object) -> dict[str, Any]:
    found = {f.name: getattr(row, f.name) for f in dataclasses.fields(cast("Any", row))}
    for name in [n for n, value in found.items() if n == "metrics" and isinstance(value, Mapping)]:
        found.update({f"metric.{k}": v for k, v in found.pop(name).items()})
    return found


def _told(rows: Iterable[object]) -> list[str]:
    """Columns that say something of at least one row."""
    found: dict[str, bool] = {}
    for row in rows:
        for name, value in _fields(row).items():
            found[name] = found.get(name, False) or value not in (None, "", (), {}, False)
    return [name for name, says in found.items() if says]


def _middle_left_out(rows: list[Row]) -> list[Row | None]:
    if len(rows) <= _SHOWN:
        return list(rows)
    return [*rows[: _SHOWN // 2], None, *rows[-_SHOWN // 2 :]]


def _text(row: object, name: str) -> str:
    value = _fields(row).get(name)
    if value is None or value is False:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        if name.endswith(("size", "bytes")):
            return show_size(value)
        if name.endswith("_ns"):
            value = time_of(value) or ""
        elif name == "mode":
            return f"{value:04o}"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%SZ")
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{k}={v}" for k, v in value.items())
    text = "yes" if value is True else str(value)
    return text.removeprefix("sha256:")[:12] if name.endswith(_LONG) else text


def time_of(ns: int) -> datetime | None:
    """ns since the epoch as a moment in UTC; None for 0, which is no time."""
    return datetime.fromtimestamp(ns / 1e9, UTC) if ns else None


# --- rows ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """Something in a folder of a pipe, now or at a moment."""

    path: str
    kind: str
    """file, dir, symlink, or special."""
    size: int = 0
    modified_at: datetime | None = None
    """UTC."""
    version: str = ""
    """VersionId; without versions the ETag."""
    etag: str = ""
    checksum: str = ""
    """`sha256:<hex>` where known."""
    mode: int | None = None
    """Permission bits."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What its author said of it."""
    target: str = ""
    """Of a link: where it leads to."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a file, or the deletion of one."""

    path: str
    version: str
    time: datetime | None = None
    size: int = 0
    etag: str = ""
    latest: bool = False
    deleted: bool = False
    """A delete marker: from then on there was nothing."""


@dataclass(frozen=True, slots=True)
class SnapshotRow:
    """A snapshot."""

    id: str
    tag: str | None
    """The first of its tags."""
    tags: tuple[str, ...]
    time: datetime
    message: str
    author: str
    path: str
    """The folder that it is of; "" is the whole pipe."""
    files: int
    bytes: int
    metrics: Mapping[str, str] = field(default_factory=dict)
    protected: bool = False

    @property
    def name(self) -> str:
        """For `Pipe.get(…, snapshot=…)` and after an @: the tag, else the id."""
        return self.tag or self.id


@dataclass(frozen=True, slots=True)
class Change:
    """A path that is not the same at two moments."""

    status: str
    """added, modified, deleted, renamed, or attributes: only these differ."""
    path: str
    source: str = ""
    """renamed: its path before."""
    old_size: int | None = None
    new_size: int | None = None
    old_version: str = ""
    new_version: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a file, or a commit of a pipe."""

    time: datetime | None
    what: str
    """Of a file: added, changed, deleted, renamed, attributes. Of a pipe: what a commit did."""
    author: str
    """`user@host`; "" is another tool."""
    path: str = ""
    version: str = ""
    size: int = 0
    commit: int = 0
    changes: int = 0
    """Of a commit: how many."""
