"""What data scientists read and write `pipefs://` with. Each test is one program's own example."""

from __future__ import annotations

import warnings
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import zarr

from pipefs.fsspec_driver import PipeFileSystem
from pipefs.home import resolve_home
from pipefs.manifest import Entry
from pipefs.registry import Registry
from pipefs.stores.local import LocalStore
from tests.pasts import in_order, open_past, take


@pytest.fixture
def store(ram_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    monkeypatch.setenv("PIPEFS_HOME", str(ram_path / "home"))
    Registry(resolve_home()).add("sales", (ram_path / "store").as_uri(), "", {})
    return LocalStore(ram_path / "store")


@pytest.fixture
def fs(store: LocalStore) -> PipeFileSystem:
    return PipeFileSystem(skip_instance_cache=True)


def quarter(number: int, rows: int = 1000) -> pd.DataFrame:
    rng = np.random.default_rng(number)
    region = np.resize(["EU", "US", "JP"], rows)
    return pd.DataFrame({"q": number, "region": region, "revenue": rng.integers(0, 99, rows)})


def snapshot(fs: PipeFileSystem, store: LocalStore, tag: str) -> None:
    """What the pipe has now, under a tag."""
    with fs._reach_of("sales").present() as now:
        found = [item for item in now.walk() if item.is_file]
    entries = [
        Entry(path=i.path, version=i.version_id, size=i.size, etag=i.etag, mtime=1) for i in found
    ]
    take(open_past(store), in_order(entries), tag=tag)


def test_pandas_reads_and_writes(fs: PipeFileSystem, store: LocalStore) -> None:
    frame = quarter(3)
    frame.to_parquet("pipefs://sales/2026/q3.parquet")
    frame.to_csv("pipefs://sales/2026/q3.csv.gz", index=False)
    snapshot(fs, store, "v1")
    quarter(4).to_parquet("pipefs://sales/2026/q3.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet("pipefs://sales@v1/2026/q3.parquet"), frame)
    pd.testing.assert_frame_equal(pd.read_csv("pipefs://sales@v1/2026/q3.csv.gz"), frame)
    assert (pd.read_parquet("pipefs://sales/2026/q3.parquet").q == 4).all()
    assert store.get("2026/q3.parquet", None, 0, 4) == b"PAR1"


def test_pyarrow_datasets(fs: PipeFileSystem, store: LocalStore) -> None:
    import pyarrow as pa

    both = pd.concat([quarter(1), quarter(2)])
    pq.write_to_dataset(pa.table(both), "sales/years", partition_cols=["q"], filesystem=fs)
    found = ds.dataset("sales/years", filesystem=fs, partitioning="hive")
    assert found.count_rows() == 2000
    us = found.to_table(filter=(ds.field("q") == 2) & (ds.field("region") == "US"))
    assert us["revenue"].to_pylist() == quarter(2).query("region == 'US'").revenue.to_list()


def test_duckdb_queries_a_snapshot(fs: PipeFileSystem, store: LocalStore) -> None:
    for number in (1, 2):
        quarter(number).to_parquet(f"pipefs://sales/q{number}.parquet")
    snapshot(fs, store, "books")
    fs.rm("sales/q2.parquet")
    with duckdb.connect() as db:
        db.register_filesystem(fs)
        rows = db.sql(
            "SELECT q, sum(revenue)::INT FROM 'pipefs://sales@books/*.parquet' "
            "GROUP BY q ORDER BY q"
        ).fetchall()
        db.sql("COPY (SELECT 1 AS a) TO 'pipefs://sales/out.csv'")
    assert rows == [(n, int(quarter(n).revenue.sum())) for n in (1, 2)]
    assert fs.cat("sales/out.csv") == b"a\n1\n"


def test_zarr_arrays(fs: PipeFileSystem, store: LocalStore) -> None:
    values = np.arange(64.0).reshape(8, 8)
    with warnings.catch_warnings():
        # zarr says that it runs a file system without async in threads.
        warnings.simplefilter("ignore")
        array = zarr.open_array(
            "pipefs://sales/grid.zarr", mode="w", shape=(8, 8), chunks=(4, 4), dtype="f8"
        )
        array[:] = values
        snapshot(fs, store, "grid")
        array[0, 0] = -1
        then = zarr.open_array("pipefs://sales@grid/grid.zarr", mode="r")
        now = zarr.open_array("pipefs://sales/grid.zarr", mode="r")
        assert (then[:] == values).all()
        assert now[0, 0] == -1 and now[7, 7] == 63


@pytest.mark.slow
def test_dask_processes_read_one_pinned_snapshot(
    fs: PipeFileSystem, store: LocalStore, tmp_path: Path
) -> None:
    """Two worker processes that know no pipe of ours: what they need travels with their tasks."""
    import dask
    import dask.dataframe as dd
    from dask.distributed import Client, LocalCluster

    for number in range(1, 5):
        quarter(number).to_parquet(f"pipefs://sales/q{number}.parquet")
    snapshot(fs, store, "books")
    with dask.config.set({"distributed.nanny.pre-spawn-environ.PIPEFS_HOME": str(tmp_path / "no")}):
        cluster = LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
        )
    with cluster, Client(cluster):
        plan = dd.read_parquet("pipefs://sales@latest/*.parquet")
        fs.pipe("sales/q1.parquet", b"replaced meanwhile")
        snapshot(fs, store, "later")
        sums = plan.groupby("q").revenue.sum().compute()
        lines = dd.read_parquet("pipefs://sales@books/*.parquet")
        lines.to_parquet("pipefs://sales/out")
    assert sums.to_dict() == {n: int(quarter(n).revenue.sum()) for n in range(1, 5)}
    assert len(pd.read_parquet("pipefs://sales/out")) == 4000
