"""The list of snapshots as a table."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pipefs.past.frames import COLUMNS, to_dataframe
from pipefs.stores.local import LocalStore
from tests import pasts


def test_t4_12_snapshots_as_a_dataframe_newest_first(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    past = pasts.open_past(store)
    entries = pasts.put_files(store, {"a.csv": b"123", "d/b.csv": b"45"})
    first = pasts.take(past, entries, tag="v1", message="raw", metrics={"auc": "0.5", "by": "x"})
    second = pasts.take(past, entries[1:], path="d", metrics={"auc": "0.75"})
    frame = to_dataframe(past.catalog.kept())
    assert list(frame.columns) == [*COLUMNS, "metric.auc", "metric.by"]
    assert list(frame["id"]) == [second.id, first.id]
    assert list(frame["tag"].fillna("")) == ["", "v1"]
    assert list(frame["time"]) == [
        pd.Timestamp("2026-11-28T13:00Z"),
        pd.Timestamp("2026-11-28T12:00Z"),
    ]
    assert list(frame["path"]) == ["d", ""]
    assert list(frame["bytes"]) == [2, 5]
    assert frame["metric.auc"].max() == 0.75
    assert list(frame["metric.by"].isna()) == [True, False]
    store.close()


def test_without_snapshots_the_columns_are_there() -> None:
    frame = to_dataframe([])
    assert list(frame.columns) == list(COLUMNS)
    assert len(frame) == 0
