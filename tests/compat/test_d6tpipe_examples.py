"""The examples of d6tpipe's documentation in pipefs's words, on a real S3 server.

d6tpipe registered a pipe, pulled and pushed its folder with filters and previews, opened the most
recent file, read several with pandas and dask by the pipe's schema, and imported folders.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dask.dataframe as dd
import pandas as pd
import pytest
from click.testing import CliRunner, Result

import pipefs
from pipefs import Pipe
from pipefs.cli.main import cli
from pipefs.errors import Conflict

DAYS = [f"2026-01-{day:02}" for day in range(1, 5)]


def _go(*words: str, code: int = 0) -> Result:
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == code, (words, done.stdout, done.stderr)
    return done


@pytest.fixture(name="vendor")
def _vendor(tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipe]:
    """A machine whose pipe "vendor" has four days of data, pushed from its folder."""
    monkeypatch.setenv("PIPEFS_HOME", str(tmp_path / "vendor"))
    # api.upsert_pipe({"name": "vendor", "protocol": "s3", "location": bucket, "options": {…}})
    settings = {"schema": {"pandas": {"sep": ";", "parse_dates": ["day"]}, "dask": {"sep": ";"}}}
    pipe = pipefs.create("vendor", f"s3://{bucket}/vendor", **settings)
    for number, day in enumerate(DAYS):
        frame = pd.DataFrame({"day": [day], "sales": [number]})
        frame.to_csv(pipe.dirpath / f"sales-{day}.csv", sep=";", index=False)
    (pipe.dirpath / "README.md").write_text("Daily sales.\n")
    (pipe.dirpath / "machinedata.bin").write_bytes(b"\0" * 10)
    assert len(pipe.push_preview()) == 6
    assert pipe.scan_remote() == []
    assert len(pipe.push()) == 6
    yield pipe
    pipe.close()


@pytest.fixture(name="pipe")
def _pipe(
    vendor: Pipe, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Pipe]:
    """Another machine, which set up nothing but the place."""
    monkeypatch.setenv("PIPEFS_HOME", str(tmp_path / "user"))
    pipe = pipefs.create(None, f"s3://{bucket}/vendor")
    yield pipe
    pipe.close()


def test_d6tpipe_pull_filters_and_most_recent(pipe: Pipe) -> None:
    # pipe.pull_preview(); pipe.pull(include="*.csv"); pipe.pull(exclude=…)
    assert pipe.name == "vendor"
    assert sum(f.size for f in pipe.pull_preview(include="*.csv|*.xls*")) < 200
    assert len(pipe.pull(include="*.csv|*.xls*", exclude="*01-01*")) == 3
    assert not (pipe.dirpath / "machinedata.bin").exists()
    assert list(pipe.pull(["machinedata.bin"])) == ["machinedata.bin"]
    # pipe.pull(nrecent=…), pipe.files(include=…, sortby="mod")[-1]
    assert len(pipe.pull(nrecent=1, mode="all")) == 1
    pipe.pull()
    newest = pipe.files(include="*.csv", sortby="mod")[-1]
    assert pd.read_csv(pipe.dirpath / newest, **pipe.schema["pandas"])["sales"].tolist() == [3]
    # df = dd.read_csv(pipe.filepaths(include="*.csv"), **pipe.schema["dask"])
    paths = [str(path) for path in pipe.filepaths(include="*.csv")]
    frame = dd.read_csv(paths, **pipe.schema["dask"]).compute()
    assert sorted(frame["sales"]) == [0, 1, 2, 3]
    assert pipe.read(newest)["day"].tolist() == [pd.Timestamp("2026-01-04")]
    assert pipe.is_synced()


def test_d6tpipe_push_import_and_conflicts(pipe: Pipe, vendor: Pipe, tmp_path: Path) -> None:
    pipe.pull()
    # df.to_csv(pipe.dirpath/"new.csv"); pipe.import_dir(…); pipe.push()
    (pipe.dirpath / "new.csv").write_text("day;sales\n2026-01-05;4\n")
    (tmp_path / "more/2025").mkdir(parents=True)
    (tmp_path / "more/2025/old.csv").write_text("day;sales\n2025-12-31;9\n")
    assert pipe.import_dir(tmp_path / "more") == ["2025/old.csv"]
    assert sorted(pipe.push_preview()) == sorted(pipe.push()) == ["2025/old.csv", "new.csv"]
    assert list(pipe.push()) == []
    # PushError: the remote has changes that were not pulled
    (vendor.dirpath / "mine.csv").write_text("a\n")
    with pytest.raises(Conflict, match=r"new\.csv"):
        vendor.push()
    vendor.pull()
    assert list(vendor.push()) == ["mine.csv"]
    # PullError: changed on both sides, and merge_mode
    (vendor.dirpath / "new.csv").write_text("day;sales\n2026-01-05;5\n")
    vendor.push()
    (pipe.dirpath / "new.csv").write_text("mine\n")
    with pytest.raises(Conflict, match=r"new\.csv"):
        pipe.pull(cached=False)
    pipe.pull(merge_mode="keep", cached=False)
    assert (pipe.dirpath / "new.csv").read_text() == "mine\n"
    pipe.pull(["new.csv"], merge_mode="overwrite")
    assert (pipe.dirpath / "new.csv").read_text().endswith(";5\n")
    # pipe.remove_orphans()
    pipe.delete_files_remote(["machinedata.bin"], confirm=False)
    assert pipe.remove_orphans(dryrun=True)["local"] == ["machinedata.bin"]
    assert (pipe.dirpath / "machinedata.bin").exists()
    pipe.remove_orphans(dryrun=False)
    assert not (pipe.dirpath / "machinedata.bin").exists()


def test_d6tpipe_commands(pipe: Pipe, tmp_path: Path) -> None:
    # d6tpipe list remote; pull --pipe P --preview; pull; scan; push
    assert "vendor" in _go("list").stdout
    assert "sales-2026-01-01.csv" in _go("pull", "vendor", "--preview").stdout
    first = _go("pull", "vendor")
    assert "Daily sales." in first.stdout + first.stderr
    _go("is-synced", "vendor")
    (pipe.dirpath / "b.csv").write_text("1")
    assert "b.csv" in _go("push", "vendor", "--preview").stdout
    _go("push", "vendor")
    assert "b.csv" in _go("ls", "vendor").stdout
    _go("put", str(pipe.dirpath / "b.csv"), "vendor/c.csv")
    _go("is-synced", "vendor", code=4)
    _go("pull", "vendor", "--include", "*.csv", "--exclude", "sales*")
    assert (pipe.dirpath / "c.csv").exists()
