"""The examples of T4's documentation in pipefs's words, on a real S3 server: typed, and in pandas.

T4 put a DataFrame with metadata, read versions of it, took and listed snapshots, compared them, and
got a file of one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import fsspec
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from pipefs.cli.main import cli
from tests.seaweed import READER_ACCESS_KEY, READER_SECRET_KEY, SeaweedServer

Run = Callable[..., Result]

STORMS = pd.DataFrame({"name": ["Ada", "Bo"], "wind": [35, 110]})


@pytest.fixture
def run(tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`pipefs`, with the pipe "examples" in a bucket."""
    monkeypatch.setenv("PIPEFS_HOME", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def go(*words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == code, (words, done.stdout, done.stderr)
        return done

    go("create", "examples", f"s3://{bucket}/examples")
    return go


def test_t4_examples_of_the_documentation(run: Run, seaweed: SeaweedServer, bucket: str) -> None:
    # t4.put(df, "examples/storms.parquet", meta={"source": "NOAA"})
    place = "pipefs://examples/storms.parquet"
    fs = fsspec.filesystem("pipefs")
    with fs.open(place, "wb", metadata={"source": "NOAA"}) as file:
        STORMS.to_parquet(file)
    key = {"Bucket": bucket, "Key": "examples/storms.parquet"}
    first = seaweed.client().head_object(**key)
    assert first["Metadata"]["source"] == "NOAA"
    # df, meta = t4.get("examples/storms.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(place), STORMS)
    assert run("meta", "examples/storms.parquet").stdout == "source  NOAA\n"
    # t4.put_file("notes.md", "examples/"); t4.put_file("raw/", "examples/raw/")
    Path("notes.md").write_text("as downloaded")
    Path("raw/2026").mkdir(parents=True)
    Path("raw/2026/a.csv").write_text("a\n1\n")
    run("put", "notes.md", "examples/")
    run("put", "raw/", "examples/raw/")
    # t4.snapshot("examples", "raw"); a version more; t4.ls
    run("snapshot", "examples", "raw", "-m", "as downloaded")
    STORMS.assign(wind=0).to_parquet(place)
    run("rm", "examples/notes.md")
    versions = json.loads(run("ls", "--versions", "--json", "examples/storms.parquet").stdout)
    assert [v["latest"] for v in versions["versions"]] == [True, False]
    assert versions["versions"][1]["version"] == first["VersionId"]
    # t4.list_snapshots("bucket", contains="examples/raw/")
    (listed,) = json.loads(run("snapshots", "--json", "examples").stdout)["snapshots"]
    assert (listed["tag"], listed["message"]) == ("raw", "as downloaded")
    # t4.diff("bucket", "latest", hash)
    changes = json.loads(run("diff", "--json", "examples", "raw").stdout)["changes"]
    assert {c["path"]: c["status"] for c in changes} == {
        "storms.parquet": "modified",
        "notes.md": "deleted",
    }
    # t4.get_file("examples/notes.md", ".", snapshot=hash), and by a part of it
    run("get", f"examples@{listed['id'][:8]}/notes.md", "then.md")
    assert Path("then.md").read_text() == "as downloaded"
    # t4.get("examples/storms.parquet", snapshot=hash), and version=
    pd.testing.assert_frame_equal(pd.read_parquet("pipefs://examples@raw/storms.parquet"), STORMS)
    run("get", "examples/storms.parquet", "v1.parquet", "--version", first["VersionId"])
    pd.testing.assert_frame_equal(pd.read_parquet("v1.parquet"), STORMS)
    # t4.search("source:NOAA"), t4.search over contents
    hits = json.loads(run("search", "--json", "examples", "downloaded").stdout)["hits"]
    assert {h["path"] or h["kind"] for h in hits} == {"snapshot"}
    found = json.loads(run("search", "--json", "examples", "column:wind").stdout)["hits"]
    assert [h["path"] for h in found] == ["storms.parquet"]


def test_t4_20_who_may_read_and_write_is_what_s3_says(
    run: Run, seaweed: SeaweedServer, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("notes.md").write_text("as downloaded")
    run("put", "notes.md", "examples/")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER_ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", READER_SECRET_KEY)
    run("get", "examples/notes.md", "back.md")
    assert Path("back.md").read_text() == "as downloaded"
    denied = run("put", "notes.md", "examples/other.md", code=5).stderr
    assert "your credentials may not write examples" in denied
    denied = run("rm", "examples/notes.md", code=5).stderr
    assert "your credentials may not write examples" in denied
