"""Snapshots as a pandas table, for notebooks. pandas is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pipefs.catalog import Snapshot

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("id", "tag", "tags", "time", "message", "author", "path", "files", "bytes", "protected")


def to_dataframe(snapshots: Iterable[Snapshot]) -> pd.DataFrame:
    """One row a snapshot, in the order given.

    `time` is a UTC timestamp, `tag` the first of `tags` or missing; each metric that one of them
    has is a column `metric.NAME`, of numbers where all are.
    """
    import pandas as pd

    snapshots = list(snapshots)
    frame = pd.DataFrame([_row(s) for s in snapshots], columns=list(COLUMNS))
    frame["time"] = pd.to_datetime(frame["time"], utc=True, format="ISO8601")
    for name in dict.fromkeys(m for s in snapshots for m in s.body.metrics):
        values = pd.Series([s.body.metrics.get(name) for s in snapshots], dtype=object)
        try:
            frame[f"metric.{name}"] = pd.to_numeric(values)
        except (ValueError, TypeError):
            frame[f"metric.{name}"] = values
    return frame


def _row(snapshot: Snapshot) -> tuple[object, ...]:
    body = snapshot.body
    return (
        snapshot.id,
        snapshot.tags[0] if snapshot.tags else None,
        list(snapshot.tags),
        body.time,
        body.message,
        body.author,
        body.path,
        body.files,
        body.bytes,
        snapshot.protected,
    )
