"""pull and push on a real S3 server, from two machines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipefs.cli.main import cli
from pipefs.folder.deciding import Folder
from pipefs.folder.pulling import pull
from pipefs.folder.pushing import push
from pipefs.folder.reports import Options
from pipefs.replica import Replica
from tests.replicas import CountedPipe, home_in, requests
from tests.seaweed import READER_ACCESS_KEY, READER_SECRET_KEY, SeaweedServer

Run = Callable[..., Result]

MANY = 1200
"""More than a page of a listing."""
MAX_UNCHANGED = 12


@pytest.fixture
def run(tmp_path: Path, bucket: str) -> Run:
    """Run `pipefs` on machine `on`, which has the pipe."""
    known: set[str] = set()

    def go(*words: str, on: str = "ann", code: int = 0, **env: str) -> Result:
        env["PIPEFS_HOME"] = str(tmp_path / on)
        if on not in known:
            known.add(on)
            go("create", "sales", f"s3://{bucket}/a/sales", on=on)
        done = CliRunner().invoke(cli, words, env=env)
        assert done.exit_code == code, (words, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    return go


def fill(folder: Path, count: int) -> None:
    for n in range(count):
        place = folder / f"{n % 20:02}" / f"{n}.csv"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"{n}\n" * 50)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_d6_07_two_machines_and_a_file_that_both_change(
    run: Run, tmp_path: Path, seaweed: SeaweedServer, bucket: str
) -> None:
    ann, bob = tmp_path / "a", tmp_path / "b"
    fill(ann, 20)
    (ann / "README.md").write_text("# Sales")
    (ann / "large.bin").write_bytes(os.urandom(20 << 20))  # goes up in parts
    os.utime(ann / "large.bin", ns=(1_700_000_000_123_456_789,) * 2)
    (ann / "large.bin").chmod(0o640)
    assert "pushed 22 files" in run("push", "sales", "--dest", str(ann)).stdout
    head = seaweed.client().head_object(Bucket=bucket, Key="a/sales/00/0.csv")
    assert head["ContentType"] == "text/csv"
    said = run("pull", "sales", "--dest", str(bob), on="bob").stdout
    assert "pulled 22 files" in said and "# Sales" in said
    assert contents(bob) == contents(ann)
    status = (bob / "large.bin").stat()
    assert (status.st_mtime_ns, status.st_mode & 0o777) == (1_700_000_000_123_456_789, 0o640)
    (ann / "00/0.csv").write_text("ann's")
    run("push", "sales", "--dest", str(ann))
    (bob / "00/0.csv").write_text("bob's")
    assert (
        "not pulled: 00/0.csv" in run("push", "sales", "--dest", str(bob), on="bob", code=4).stderr
    )
    run("pull", "sales", "--dest", str(bob), on="bob", code=4)
    run("pull", "sales", "--dest", str(bob), "--merge-mode", "keep", on="bob")
    assert "pushed 1 file" in run("push", "sales", "--dest", str(bob), on="bob").stdout
    assert "lacks 1 change" in run("is-synced", "sales", "--dest", str(ann), code=4).stderr
    run("pull", "sales", "--dest", str(ann))
    assert (ann / "00/0.csv").read_text() == "bob's"


def test_d6_07_an_unchanged_run_costs_a_few_requests_however_many_files(
    tmp_path: Path, seaweed: SeaweedServer, bucket: str
) -> None:
    def machine(name: str) -> tuple[Replica, Folder]:
        pipe = CountedPipe("sales", f"s3://{bucket}/a", "pipe-1")
        return Replica(home_in(tmp_path / f"home-{name}"), pipe), Folder.at(tmp_path / name)

    (here, ann), (there, bob) = machine("ann"), machine("bob")
    fill(tmp_path / "ann", MANY)
    before = requests(here)
    assert len(push(here, ann)) == MANY
    assert requests(here) - before <= MANY + 40
    before = requests(there)
    assert len(pull(there, bob)) == MANY
    assert requests(there) - before <= MANY + 40
    assert contents(tmp_path / "bob") == contents(tmp_path / "ann")
    for replica, folder, again in ((here, ann, push), (there, bob, pull), (here, ann, pull)):
        for options in (Options(), Options(cached=False)):
            before = requests(replica)
            assert len(again(replica, folder, options)) == 0
            cost = requests(replica) - before
            assert cost <= (MAX_UNCHANGED if not options.cached else 3), (again, options)
    here.close()
    there.close()


def test_d6_07_a_push_that_is_killed_goes_on_where_it_was(
    run: Run, tmp_path: Path, seaweed: SeaweedServer, bucket: str
) -> None:
    work, client = tmp_path / "work", seaweed.client()
    fill(work, MANY)
    run("list")  # the machine knows the pipe

    def landed() -> int:
        page = client.list_objects_v2(Bucket=bucket, Prefix="a/sales/", MaxKeys=MANY)
        return sum(".pipefs/" not in o["Key"] for o in page.get("Contents", []))

    child = subprocess.Popen(
        [sys.executable, "-m", "pipefs.cli.main", "push", "sales", "--dest", str(work)],
        env={**os.environ, "PIPEFS_HOME": str(tmp_path / "ann")},
    )
    while landed() < 50:
        assert child.poll() is None
        time.sleep(0.01)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    at_kill = landed()
    assert at_kill < MANY
    told = json.loads(run("push", "sales", "--dest", str(work), "--json").stdout)
    assert not told["failed"] and len(told["files"]) <= MANY - at_kill + 64
    pages = client.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix="a/sales/")
    versions = [v["Key"] for page in pages for v in page.get("Versions", [])]
    assert sum(".pipefs/" not in key for key in versions) == MANY  # none of them twice
    assert "nothing to push" in run("push", "sales", "--dest", str(work)).stdout
    run("pull", "sales", "--dest", str(tmp_path / "other"), on="bob")
    assert contents(tmp_path / "other") == contents(work)


def test_who_may_only_read_pulls_and_cannot_push(run: Run, tmp_path: Path) -> None:
    fill(tmp_path / "a", 1)
    run("push", "sales", "--dest", str(tmp_path / "a"))
    reader = {"AWS_ACCESS_KEY_ID": READER_ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": READER_SECRET_KEY}
    folder = tmp_path / "r"
    run("pull", "sales", "--dest", str(folder), on="reader", **reader)
    assert "nothing" in run("push", "sales", "--dest", str(folder), on="reader", **reader).stdout
    (folder / "00/0.csv").write_text("changed")
    err = run("push", "sales", "--dest", str(folder), on="reader", code=5, **reader).stderr
    assert "your credentials may not write sales" in err
