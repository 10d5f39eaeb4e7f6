"""ls and cat of a bucket that pipefs never wrote to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipefs.cli.main import cli
from pipefs.moments import show_moment
from pipefs.stores.s3 import S3Settings, S3Store
from tests.pastmoments import Filler
from tests.promises.promised import promise
from tests.seaweed import READER_ACCESS_KEY, READER_SECRET_KEY, SeaweedServer

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, seaweed: SeaweedServer) -> Run:
    """`pipefs` by somebody who may only read."""
    env = {
        "PIPEFS_HOME": str(tmp_path / "home"),
        "AWS_ACCESS_KEY_ID": READER_ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": READER_SECRET_KEY,
    }

    def go(*words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(cli, words, env=env)
        assert done.exit_code == code, (words, done.stdout, done.stderr)
        return done

    return go


def test_any_moment_of_a_plain_bucket_is_listed_and_read(
    run: Run, seaweed: SeaweedServer, bucket: str
) -> None:
    store = S3Store(bucket, "data", S3Settings(engine="boto3"))
    filler = Filler(store, seaweed.client())
    filler.put("q3.csv", b"first")
    filler.put("2026/jan.csv", b"1")
    first = show_moment(filler.state()[0])
    filler.put("q3.csv", b"second")
    filler.delete("2026/jan.csv")
    second = show_moment(filler.state()[0])
    run("create", "sales", f"s3://{bucket}/data")
    assert run("ls", "-R", f"sales@{first}").stdout == "2026/\nq3.csv\n2026/jan.csv\n"
    assert (
        run("ls", "-R", f"sales@{second}").stdout == run("ls", "-R", "sales").stdout == "q3.csv\n"
    )
    assert run("cat", f"sales@{first}/q3.csv").stdout == "first"
    assert run("cat", f"sales@{first}/2026/jan.csv").stdout == "1"
    assert run("cat", "sales/q3.csv").stdout == "second"
    run("cat", f"sales@{second}/2026/jan.csv", code=3)
    whole = json.loads(run("ls", "--versions", "-R", "sales", "--json").stdout)
    assert [v["key"] for v in whole["versions"]] == ["2026/jan.csv", "q3.csv", "q3.csv"]
    assert [v["key"] for v in whole["delete_markers"]] == ["2026/jan.csv"]
    store.close()


@promise(
    "moment-unversioned",
    "On a bucket without versioning there is no moment.",
)
def test_a_bucket_without_versions_has_a_present_and_no_past(
    run: Run, seaweed: SeaweedServer
) -> None:
    bucket = seaweed.make_bucket(versioning=False)
    seaweed.client().put_object(Bucket=bucket, Key="d/x", Body=b"1")
    run("create", "plain", f"s3://{bucket}")
    assert run("ls", "-R", "plain").stdout == "d/\nd/x\n"
    assert run("cat", "plain/d/x").stdout == "1"
    assert "has no versioning" in run("ls", "plain@@now", code=5).stderr
    assert "has no versioning" in run("ls", "--versions", "plain", code=5).stderr
