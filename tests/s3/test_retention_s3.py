"""Pruning and locking on a real S3 server."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipefs import catalog as cat
from pipefs.cli.main import cli
from pipefs.errors import AccessDenied, Refused
from pipefs.past import pruning
from pipefs.past.lifecycle import dangerous_rules
from pipefs.past.locking import hold
from pipefs.stores.opening import open_store
from tests.kept import Pipe, later
from tests.promises.promised import promise
from tests.seaweed import READER_ACCESS_KEY, READER_SECRET_KEY, SeaweedServer

PREFIX = "team/sales"


@pytest.fixture
def locked_bucket(seaweed: SeaweedServer) -> str:
    """A bucket with Object Lock."""
    name = f"lock-{uuid.uuid4().hex[:12]}"
    seaweed.client().create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    return name


@pytest.fixture
def make_pipe(tmp_path: Path) -> Iterator[Callable[[str], Pipe]]:
    made: list[Pipe] = []

    def make(bucket: str) -> Pipe:
        made.append(Pipe(tmp_path / str(len(made)), open_store(f"s3://{bucket}/{PREFIX}")))
        return made[-1]

    yield make
    for pipe in made:
        pipe.close()
        pipe.store.close()


@pytest.fixture
def run(tmp_path: Path, seaweed: SeaweedServer) -> Callable[..., Result]:
    def go(*words: str, code: int = 0, **env: str) -> Result:
        done = CliRunner().invoke(cli, words, env={"PIPEFS_HOME": str(tmp_path / "home"), **env})
        assert done.exit_code == code, (words, done.stdout, done.stderr)
        return done

    return go


def contents(pipe: Pipe) -> list[bytes]:
    return sorted(pipe.store.get(v.key, v.version_id, 0, 99) for v in pipe.versions())


def fill(pipe: Pipe) -> None:
    for name in ("a", "b &<c>", "ü"):
        pipe.write(name, b"1 " + name.encode())
    pipe.snapshot("v1")
    pipe.write("a", b"2")
    pipe.write("a", b"3")
    pipe.write("gone", b"g")
    pipe.rm("gone")


def test_a_prune_on_s3_leaves_what_is_needed(
    make_pipe: Callable[[str], Pipe], bucket: str, seaweed: SeaweedServer
) -> None:
    seaweed.client().put_object(Bucket=bucket, Key="team/other", Body=b"1")
    seaweed.client().put_object(Bucket=bucket, Key="team/other", Body=b"2")
    pipe = make_pipe(bucket)
    fill(pipe)
    done = pipe.prune(later() + 2 * 10**9)
    assert contents(pipe) == sorted([b"1 a", b"3", b"1 b &<c>", "1 ü".encode()])
    assert (done.deleted_markers, done.locked) == (1, 0)
    assert list(pipe.store.list_versions("gone")) == []
    others = seaweed.client().list_object_versions(Bucket=bucket, Prefix="team/other")
    assert len(others["Versions"]) == 2
    pipe.check()


@promise(
    "retention-null",
    "A version without an id of its own (`null`) is never deleted by a prune.",
)
def test_objects_from_before_versioning_are_never_touched(
    make_pipe: Callable[[str], Pipe], seaweed: SeaweedServer
) -> None:
    bucket = seaweed.make_bucket(versioning=False)
    client = seaweed.client()
    client.put_object(Bucket=bucket, Key=f"{PREFIX}/old", Body=b"null version")
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    pipe = make_pipe(bucket)
    pipe.machine.reconcile()
    pipe.write("old", b"new")
    pipe.write("old", b"newer")
    found = pipe.survey(later() + 2 * 10**9)
    assert [(h.versions, h.bytes) for h in found.held if h.kind == "unsure"] == [(1, 12)]
    pipe.prune(later() + 2 * 10**9)
    assert contents(pipe) == [b"newer", b"null version"]


@promise(
    "retention-locked",
    "Where the bucket has Object Lock, nobody can delete a version that a protected snapshot names "
    "before its hold is taken off.",
)
def test_t4_23_a_protected_picture_is_held_by_the_store_itself(
    make_pipe: Callable[[str], Pipe],
    locked_bucket: str,
    seaweed: SeaweedServer,
    run: Callable[..., Result],
) -> None:
    pipe = make_pipe(locked_bucket)
    fill(pipe)
    pipe.snapshot("v2")
    run("create", "sales", f"s3://{locked_bucket}/{PREFIX}")
    said = run("protect", "sales@v1").stdout
    assert said.startswith("v1  protected · ")
    assert "locked in the store" in said
    # Not even who may delete versions can damage it: each version and each of its own objects.
    view = pipe.past().view("v1")
    held = [(e.object_key, e.version or "") for e in view.entries() if e.kind == "file"]
    made = pipe.past().catalog.find("v1")
    held.append(
        (cat.object_key(made.id), pipe.store.head(cat.object_key(made.id)).version_id or "")
    )
    client = seaweed.client()
    for key, version in held:
        with pytest.raises(client.exceptions.ClientError, match="AccessDenied"):
            client.delete_object(Bucket=locked_bucket, Key=f"{PREFIX}/{key}", VersionId=version)
    run("-y", "forget", "sales@v1", code=4)
    pipe.prune(later() + 2 * 10**9)
    pipe.check()
    # Overwriting and deleting in the usual way goes on.
    pipe.write("a", b"4")
    pipe.rm("b &<c>")
    pipe.check()
    # What another protected snapshot names stays locked.
    run("protect", "sales@v2")
    assert "stay for other protected snapshots" in run("unprotect", "sales@v1").stdout
    with pytest.raises(AccessDenied):
        pipe.store.delete_version("ü", dict(held)["ü"])
    run("unprotect", "sales@v2")
    pipe.store.delete_version("ü", dict(held)["ü"])


def test_t4_23_a_rule_that_would_expire_versions_is_found(
    make_pipe: Callable[[str], Pipe], bucket: str, seaweed: SeaweedServer
) -> None:
    pipe = make_pipe(bucket)
    assert dangerous_rules(pipe.store) == []
    rule: Any = {
        "ID": "cleanup",
        "Status": "Enabled",
        "Filter": {"Prefix": "team/"},
        "NoncurrentVersionExpiration": {"NoncurrentDays": 30},
    }
    seaweed.client().put_bucket_lifecycle_configuration(
        Bucket=bucket, LifecycleConfiguration={"Rules": [rule]}
    )
    (sentence,) = dangerous_rules(pipe.store)
    assert '"cleanup" deletes old versions for good after 30 days' in sentence


def test_what_object_lock_holds_is_counted_and_left(
    make_pipe: Callable[[str], Pipe], locked_bucket: str
) -> None:
    pipe = make_pipe(locked_bucket)
    pipe.write("a", b"1")
    pipe.write("a", b"22")
    pipe.write("a", b"333")
    pipe.write("b", b"b")
    (old,) = [v for v in pipe.versions("a") if v.size == 1]
    pipe.store.hold_version("a", old.version_id or "", hold=True)
    (gone,) = pipe.versions("b")
    pipe.store.hold_version("b", gone.version_id or "", hold=True)
    pipe.rm("b")
    done = pipe.prune(later() + 2 * 10**9)
    assert (done.locked, done.deleted_markers) == (2, 0)
    assert contents(pipe) == [b"1", b"333", b"b"]
    assert pipe.files() == {"a": b"333"}, "b is still deleted: its marker stayed"


def test_protecting_where_there_is_no_object_lock_is_a_flag(
    make_pipe: Callable[[str], Pipe], bucket: str, run: Callable[..., Result]
) -> None:
    pipe = make_pipe(bucket)
    fill(pipe)
    run("create", "sales", f"s3://{bucket}/{PREFIX}")
    assert run("protect", "sales@v1").stdout == "v1  protected\n"
    run("-y", "forget", "sales@v1", code=4)


def test_a_version_that_is_gone_cannot_be_locked_and_is_named(
    make_pipe: Callable[[str], Pipe], locked_bucket: str, run: Callable[..., Result]
) -> None:
    pipe = make_pipe(locked_bucket)
    fill(pipe)
    run("create", "sales", f"s3://{locked_bucket}/{PREFIX}")
    entry = next(e for e in pipe.past().view("v1").entries() if e.path == "ü")
    pipe.store.delete_version("ü", entry.version or "")
    done = run("protect", "sales@v1", code=6)
    assert "ü is gone from the store" in done.stderr
    assert pipe.past().catalog.find("v1").protected
    found = hold(pipe.past(), pipe.past().catalog.find("v1"), on=True)
    assert (found.missing, found.failures) == (["ü"], 0)


def test_a_pipe_inside_another_is_not_pruned(
    make_pipe: Callable[[str], Pipe], bucket: str, tmp_path: Path
) -> None:
    pipe = make_pipe(bucket)
    fill(pipe)
    outer = Pipe(tmp_path / "outer", open_store(f"s3://{bucket}/team"))
    outer.write("x", b"1")
    with pytest.raises(Refused, match="inside the pipe s3://"):
        pipe.prune(later() + 2 * 10**9)
    assert outer.prune(later() + 2 * 10**9).nested == ["sales/"]
    assert b"2" in contents(pipe)
    outer.close()
    outer.store.close()


def test_who_may_not_delete_versions_is_told_so(
    make_pipe: Callable[[str], Pipe],
    bucket: str,
    run: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipe = make_pipe(bucket)
    fill(pipe)
    run("create", "sales", f"s3://{bucket}/{PREFIX}")
    reader = {"AWS_ACCESS_KEY_ID": READER_ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": READER_SECRET_KEY}
    assert "live files" in run("prune", "sales", **reader).stdout, "a survey needs no rights"
    run("prune", "sales", "-y", code=5, **reader)
    run("tag", "sales@v1", "x", code=5, **reader)


def test_snapshots_of_other_systems_hold_their_versions(
    make_pipe: Callable[[str], Pipe],
    bucket: str,
    run: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipe = make_pipe(bucket)
    fill(pipe)
    run("create", "sales", f"s3://{bucket}/{PREFIX}")
    run("export", "sales", "v1", "--format", "dws")
    run("-y", "forget", "sales@v1")
    for name in ("store_clock", "local_clock"):
        monkeypatch.setattr(pruning, name, lambda *_: later() + 2 * 10**9)
    found = json.loads(run("prune", "sales", "--json").stdout)["report"]
    assert [h["versions"] for h in found["held"] if h["kind"] == "foreign"] == [1]
    run("prune", "sales", "-y")
    assert b"1 a" in contents(pipe)
