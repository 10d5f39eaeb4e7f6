"""create, doctor, set, remove and profiles on a real S3 server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipefs.cli.main import cli
from tests.seaweed import READER_ACCESS_KEY, READER_SECRET_KEY, SeaweedServer, free_ports

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, seaweed: SeaweedServer) -> Run:
    """Run `pipefs` against the server, in a home of its own."""

    def go(*words: str, code: int = 0, home: str = "home", **env: str) -> Result:
        done = CliRunner().invoke(cli, words, env={"PIPEFS_HOME": str(tmp_path / home), **env})
        assert done.exit_code == code, (words, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    return go


def test_create_describes_the_pipe_in_the_bucket(
    run: Run, seaweed: SeaweedServer, bucket: str
) -> None:
    out = run("create", "sales", f"s3://{bucket}/a/sales", "-o", "include=*.csv").stdout
    assert out == f"sales  s3://{bucket}/a/sales · versions kept\nnext: pipefs mount sales\n"
    client = seaweed.client()
    keys = [o["Key"] for o in client.list_objects_v2(Bucket=bucket)["Contents"]]
    assert sorted(keys) == [f"a/sales/.pipefs/{n}" for n in ("README", "format.json", "pipe.json")]
    body = client.get_object(Bucket=bucket, Key="a/sales/.pipefs/pipe.json")["Body"].read()
    described = json.loads(body)
    assert (described["name"], described["options"]) == ("sales", {"include": ["*.csv"]})


def test_another_machine_needs_nothing_but_the_url(
    run: Run, seaweed: SeaweedServer, bucket: str
) -> None:
    endpoint = ("--endpoint-url", seaweed.endpoint_url)
    run("create", "sales", f"s3://{bucket}/x", "-o", "local_only=*.tmp", *endpoint)
    first = json.loads(run("show", "sales", "--json").stdout)
    out = run("create", f"s3://{bucket}/x", home="other").stdout
    assert out.startswith(f"sales  s3://{bucket}/x · made 20")
    second = json.loads(run("show", "sales", "--json", home="other").stdout)
    assert second["pipe_id"] == first["pipe_id"]
    assert second["options"] == {"local_only": ["*.tmp"]}
    assert first["options"]["endpoint_url"] == seaweed.endpoint_url


def test_a_missing_bucket_is_named_with_the_command_that_makes_it(
    run: Run, seaweed: SeaweedServer
) -> None:
    done = run("create", "x", "s3://nosuch-bucket/x", code=5)
    assert f'bucket "nosuch-bucket" does not exist at {seaweed.endpoint_url}' in done.stderr
    assert "pipefs create x s3://nosuch-bucket/x --create-bucket" in done.stderr
    assert run("list").stdout.startswith("no pipes yet")


def test_create_bucket_turns_versioning_on_and_limits_unfinished_uploads(
    run: Run, seaweed: SeaweedServer
) -> None:
    name = "made-by-create"
    assert "bucket made" in run("create", "x", f"s3://{name}/x", "--create-bucket").stdout
    client = seaweed.client()
    assert client.get_bucket_versioning(Bucket=name)["Status"] == "Enabled"
    rules = client.get_bucket_lifecycle_configuration(Bucket=name)["Rules"]
    assert [r["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] for r in rules] == [7]
    again = run("create", "y", f"s3://{name}/y", "--create-bucket").stdout
    assert "bucket made" not in again


def test_a_bucket_without_versions_is_said_and_doctor_fixes_it(
    run: Run, seaweed: SeaweedServer
) -> None:
    plain = seaweed.make_bucket(versioning=False)
    done = run("create", "x", f"s3://{plain}/x")
    assert "VERSIONS NOT KEPT" in done.stdout
    assert "pipefs doctor x --fix" in done.stderr
    assert "put-bucket-versioning" in run("doctor", "x", code=1).stdout
    assert "turned on" in run("doctor", "x", "--fix").stdout
    assert seaweed.client().get_bucket_versioning(Bucket=plain)["Status"] == "Enabled"
    run("doctor", "x")


def test_a_foreign_filled_prefix_is_counted_and_left_alone(
    run: Run, seaweed: SeaweedServer, bucket: str
) -> None:
    client = seaweed.client()
    for n in range(5):
        client.put_object(Bucket=bucket, Key=f"d/{n}.csv", Body=b"x" * 1000)
    out = run("create", "x", f"s3://{bucket}/d").stdout
    assert "holds 5 objects, 5 KB · newest 20" in out
    left = [o["Key"] for o in client.list_objects_v2(Bucket=bucket, Prefix="d/")["Contents"]]
    assert [k for k in left if ".pipefs" not in k] == [f"d/{n}.csv" for n in range(5)]


def test_credentials_that_may_only_read_make_a_pipe_known_here_only(run: Run, bucket: str) -> None:
    reader = {"AWS_ACCESS_KEY_ID": READER_ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": READER_SECRET_KEY}
    done = run("create", "x", f"s3://{bucket}/x", **reader)
    assert "READ-ONLY: your credentials may not write here" in done.stderr
    run("show", "x")


def test_wrong_credentials_end_with_5(run: Run, bucket: str) -> None:
    done = run("create", "x", f"s3://{bucket}/x", code=5, AWS_SECRET_ACCESS_KEY="wrong")
    assert "credentials" in done.stderr
    assert run("list").stdout.startswith("no pipes yet")


def test_a_rule_that_deletes_old_versions_is_announced(
    run: Run, seaweed: SeaweedServer, bucket: str
) -> None:
    rule = {
        "ID": "cleanup",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "NoncurrentVersionExpiration": {"NoncurrentDays": 30},
    }
    seaweed.client().put_bucket_lifecycle_configuration(
        Bucket=bucket,
        LifecycleConfiguration={"Rules": [rule]},  # type: ignore[list-item]  # a plain dict
    )
    assert '"cleanup"' in run("create", "x", f"s3://{bucket}/x").stderr
    done = run("doctor", "x", "--fix", code=1)
    assert "30 days" in done.stdout


def test_set_reaches_the_other_machines(run: Run, bucket: str) -> None:
    run("create", "x", f"s3://{bucket}/x")
    run("set", "x", "exclude=*.bak", "region=us-east-1")
    run("create", f"s3://{bucket}/x", home="other")
    shown = json.loads(run("show", "x", "--json", home="other").stdout)
    assert shown["options"] == {"exclude": ["*.bak"]}


def test_a_team_shares_a_root(run: Run, bucket: str) -> None:
    root = f"s3://{bucket}/pipes"
    for home in ("home", "other"):
        run("profile", "create", "team", "-o", f"root={root}", home=home)
    out = run("--profile", "team", "create", "sales").stdout
    assert out.startswith(f"sales  {root}/sales · versions kept")
    listed = run("--profile", "team", "list", "--remote", home="other").stdout
    assert listed.startswith("sales  made 20")
    assert f"pipefs --profile team create {root}/sales" in listed
    run("--profile", "team", "create", f"{root}/sales", home="other")
    assert "here as sales" in run("--profile", "team", "list", "--remote", home="other").stdout


def test_purge_leaves_no_version_and_no_neighbour_is_touched(
    run: Run, seaweed: SeaweedServer, bucket: str
) -> None:
    client = seaweed.client()
    run("create", "x", f"s3://{bucket}/x")
    for body in (b"1", b"2"):
        client.put_object(Bucket=bucket, Key="x/a", Body=body)
    client.delete_object(Bucket=bucket, Key="x/a")
    client.put_object(Bucket=bucket, Key="xy", Body=b"neighbour")
    run("-y", "remove", "x", "--purge")
    left = client.list_object_versions(Bucket=bucket)
    assert [v["Key"] for v in left.get("Versions", [])] == ["xy"]
    assert left.get("DeleteMarkers", []) == []


@pytest.mark.slow
def test_an_endpoint_that_is_down_ends_with_5(run: Run) -> None:
    nobody = f"http://127.0.0.1:{free_ports(1)[0]}"
    done = run("create", "x", "s3://bucket/x", "--endpoint-url", nobody, code=5)
    assert nobody in done.stderr
    assert run("list").stdout.startswith("no pipes yet")
