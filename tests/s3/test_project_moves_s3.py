"""Push and pull of projects on a real S3 server, in datakit's words."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import pipefs
from pipefs.cli.main import cli
from tests.promises.promised import promise
from tests.seaweed import SeaweedServer

CONFIG = "config/datakit-data.json"


@pytest.fixture
def machine(
    ram_path: Path, seaweed: SeaweedServer, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder my-project to be in, as datakit's init leaves it, with the bucket filled in."""
    monkeypatch.setenv("PIPEFS_HOME", str(ram_path / "home"))
    monkeypatch.setenv("DATAKIT_HOME", str(ram_path / "datakit"))
    return set_up(ram_path / "my-project", bucket, monkeypatch)


def set_up(folder: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    (folder / "config").mkdir(parents=True)
    content = {"aws_user_profile": "default", "s3_bucket": bucket, "s3_path": "my-project"}
    (folder / CONFIG).write_text(json.dumps({**content, "sync_status_location": ".sync_status/"}))
    (folder / "data").mkdir()
    (folder / "data" / ".gitkeep").touch()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def second(machine: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another clone of the project on another machine; `monkeypatch.chdir` goes there."""
    folder = machine.parent / "second" / "my-project"
    (folder / "config").mkdir(parents=True)
    (folder / "data").mkdir()
    return folder


def run(*words: str, code: int = 0, home: Path | None = None) -> Result:
    env = {"PIPEFS_HOME": str(home)} if home else {}
    done = CliRunner().invoke(cli, ["project", *words], env=env)
    assert done.exit_code == code, (words, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


def told(*words: str, code: int = 0) -> Any:
    return json.loads(run(*words, "--json", code=code).stdout)


def keys(seaweed: SeaweedServer, bucket: str) -> list[str]:
    """Objects of the project, ours left out."""
    found = seaweed.client().list_objects_v2(Bucket=bucket, Prefix="my-project/")
    names = [item["Key"].removeprefix("my-project/") for item in found.get("Contents", [])]
    return [name for name in names if not name.startswith(".pipefs/")]


def put(seaweed: SeaweedServer, bucket: str, name: str, body: bytes) -> str:
    """As another tool does it; the ETag."""
    made = seaweed.client().put_object(Bucket=bucket, Key=f"my-project/{name}", Body=body)
    return made["ETag"].strip('"')


def files(folder: Path) -> dict[str, str]:
    found = (f for f in (folder / "data").rglob("*") if f.is_file())
    return {f.relative_to(folder / "data").as_posix(): f.read_text() for f in found}


def elsewhere(machine: Path, second: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go to the second machine; its git has what the first one committed."""
    for file in (machine / "config").iterdir():
        (second / "config" / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(second)
    monkeypatch.setenv("PIPEFS_HOME", str(second.parent / "home"))


# --- both ways ----------------------------------------------------------------------------


def test_dk_12_dk_13_dk_14_push_and_pull(
    machine: Path, second: Path, seaweed: SeaweedServer, bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    data = machine / "data"
    (data / "deep").mkdir()
    (data / "a.csv").write_text("1\n")
    (data / "deep" / "b.json").write_text("{}")
    assert run("push").stdout == f"my-project  pushed 2 files, 4 B from {data}\n"
    assert keys(seaweed, bucket) == ["a.csv", "deep/b.json"]
    assert run("push").stdout == f"my-project  nothing to push · {data}\n"
    elsewhere(machine, second, monkeypatch)
    assert told("pull")["files"][0]["path"] == "a.csv"
    assert files(second) == {"a.csv": "1\n", "deep/b.json": "{}"}
    # Neither deletes anything.
    (second / "data" / "a.csv").unlink()
    assert told("push")["deleted"] == [] and keys(seaweed, bucket) == ["a.csv", "deep/b.json"]
    (second / "data" / "own.csv").write_text("x")
    assert told("pull")["deleted"] == [] and "own.csv" in files(second)
    monkeypatch.chdir(second / "data" / "deep")  # DK-19: from below
    assert run("push").stdout.startswith("my-project  pushed 1 file")


def test_dk_04_without_a_bucket_nothing_is_moved(machine: Path) -> None:
    run("config", "s3_bucket=")
    (machine / "data" / "a.csv").write_text("1")
    assert "no bucket is named in" in run("push", code=4).stderr
    assert "nothing was pulled" in run("pull", code=4).stderr


def test_dk_15_dk_16_delete_and_dryrun_as_words_and_options(
    machine: Path, seaweed: SeaweedServer, bucket: str
) -> None:
    for name in ("a", "b", "c"):
        (machine / "data" / name).write_text(name)
    run("push")
    (machine / "data" / "a").unlink()
    (machine / "data" / "new").write_text("n")
    for words in (["delete", "dryrun"], ["--delete", "--dryrun"], ["--delete", "-n"]):
        said = run("push", *words).stdout
        assert said.startswith("A  new  1 B\nD  a\n")
        assert "would be pushed: 1 file, 1 B" in said and "would be deleted in the pipe: a" in said
    assert keys(seaweed, bucket) == ["a", "b", "c"]
    assert told("push", "delete")["deleted"] == ["a"]
    assert keys(seaweed, bucket) == ["b", "c", "new"]
    seaweed.client().delete_object(Bucket=bucket, Key="my-project/b")
    assert "D  b" in run("pull", "delete", "dryrun").stdout and "b" in files(machine)
    assert told("pull", "--delete")["deleted"] == ["b"]
    assert sorted(files(machine)) == [".gitkeep", "c", "new"]


@promise(
    "project-delete",
    "Nothing is deleted without `delete`, and what is nowhere else goes only after a "
    "question or with `-y`.",
)
def test_dk_15_what_is_nowhere_else_is_deleted_only_when_meant(
    machine: Path, seaweed: SeaweedServer, bucket: str
) -> None:
    (machine / "data" / "a").write_text("1")
    run("push")
    (machine / "data" / "own").write_text("never pushed")
    err = run("pull", "delete", code=4).stderr
    assert "This deletes 1 file (1 nowhere else) in" in err
    assert "pipefs -y project pull delete" in err and "own" in files(machine)
    run("pull", "delete", "-y")
    assert "own" not in files(machine)
    # Everything, because this side has nothing: not by a slip.
    (machine / "data" / "a").unlink()
    assert "has no files" in run("push", "delete", code=4).stderr
    assert keys(seaweed, bucket) == ["a"]


@promise(
    "project-push",
    "A push of a project goes over nobody's change: where a file changed on both sides "
    "nothing is pushed at all, until it was pulled or `force` is said.",
)
def test_dk_17_force_moves_every_file(machine: Path, seaweed: SeaweedServer, bucket: str) -> None:
    (machine / "data" / "a").write_text("mine")
    run("push")
    put(seaweed, bucket, "a", b"theirs")
    (machine / "data" / "a").write_text("mine again")
    err = run("push", "dryrun", code=4).stderr
    assert "not pulled: a" in err and "pipefs project push --force" in err
    assert "pipefs project pull --force" in run("pull", code=4).stderr
    assert files(machine)["a"] == "mine again"
    assert [f["path"] for f in told("push", "force")["files"]] == ["a"]
    body = seaweed.client().get_object(Bucket=bucket, Key="my-project/a")["Body"].read()
    assert body == b"mine again"
    (machine / "data" / "a").write_text("broken")
    assert "overwrites your changes in a" in run("pull", "--force", code=4).stderr
    run("pull", "--force", "-y")
    assert files(machine)["a"] == "mine again"


def test_dk_14_what_others_put_there_is_no_reason_not_to_push(
    machine: Path, seaweed: SeaweedServer, bucket: str
) -> None:
    (machine / "data" / "a").write_text("1")
    run("push")
    put(seaweed, bucket, "theirs", b"2")
    (machine / "data" / "b").write_text("3")
    assert [f["path"] for f in told("push", "dryrun")["files"]] == ["b"]
    assert [f["path"] for f in told("push")["files"]] == ["b"]
    # But it would be one to delete what was never seen here.
    assert "not pulled: theirs" in run("push", "delete", code=4).stderr
    assert keys(seaweed, bucket) == ["a", "b", "theirs"]


def test_dk_18_other_flags_are_named_and_ignored(machine: Path) -> None:
    (machine / "data" / "a").write_text("1")
    os.symlink(machine / "data" / "a", machine / "data" / "link")
    done = run("push", "--size-only", "exact-timestamps", "no-follow-symlinks")
    assert "--size-only is ignored" in done.stderr and "exact-timestamps is ignored" in done.stderr
    assert "left out, symbolic link: link" in done.stdout
    assert run("push", "quiet").stdout == ""
    assert "'dryrn' is no flag; nothing was done" in run("push", "dryrn", code=2).stderr


def test_dk_24_dk_25_content_types_and_large_files(
    machine: Path, seaweed: SeaweedServer, bucket: str
) -> None:
    data = machine / "data"
    (data / "a.csv").write_text("1")
    (data / "b.unknownkind").write_text("1")
    big = os.urandom(9 << 20)
    (data / "big.json").write_bytes(big)
    run("push")
    client = seaweed.client()
    kinds = {
        name: client.head_object(Bucket=bucket, Key=f"my-project/{name}")["ContentType"]
        for name in ("a.csv", "b.unknownkind", "big.json")
    }
    assert kinds == {
        "a.csv": "text/csv",
        "b.unknownkind": "application/octet-stream",
        "big.json": "application/json",
    }
    answer = client.get_object(Bucket=bucket, Key="my-project/big.json")
    assert answer["Body"].read() == big
    # What was put is known by its ETag: nothing is sent or fetched again.
    assert told("pull", "dryrun")["files"] == told("push", "dryrun")["files"] == []


def test_dk_26_delete_of_a_whole_bucket_is_refused(
    machine: Path, seaweed: SeaweedServer, bucket: str
) -> None:
    run("config", "s3_path=")
    (machine / "data" / "a").write_text("1")
    for direction in ("push", "pull"):
        assert "s3_path is empty" in run(direction, "delete", "-y", code=4).stderr
    run("push")
    assert seaweed.client().head_object(Bucket=bucket, Key="a")["ContentLength"] == 1


def test_dk_27_failures_are_counted_and_the_rest_goes_on(
    machine: Path, seaweed: SeaweedServer, bucket: str
) -> None:
    (machine / "data" / "good").write_text("1")
    run("push")
    put(seaweed, bucket, "bad/below", b"2")
    run("status", "--all")  # the bucket was looked at
    (machine / "data" / "bad").write_text("a file where they have a folder")
    (machine / "data" / "good").write_text("22")
    done = run("push", code=6)
    assert "1 of 2 files were not pushed" in done.stderr and "bad" in done.stderr
    assert "pushed 1 file" in done.stdout
    body = seaweed.client().get_object(Bucket=bucket, Key="my-project/good")["Body"].read()
    assert body == b"22"


# --- whose it is, and what datakit left ---------------------------------------------------


@promise(
    "project-owner",
    "A place in a bucket belongs to the first project that put files there: another one "
    "of the same name is refused with exit code 4, unless it says `--adopt`.",
)
def test_dk_21_no_push_and_no_pull_between_two_projects_of_one_name(
    machine: Path, seaweed: SeaweedServer, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (machine / "data" / "a").write_text("theirs")
    run("push")
    other = set_up(machine.parent / "other" / "my-project", bucket, monkeypatch)
    (other / "data" / "a").write_text("mine")
    for words in (["push"], ["push", "--force"], ["push", "dryrun"], ["pull"], ["status", "--all"]):
        assert 'belongs to another project "my-project"' in run(*words, code=4).stderr
    body = seaweed.client().get_object(Bucket=bucket, Key="my-project/a")["Body"].read()
    assert body == b"theirs"
    run("pull", "--adopt", code=4)  # it is the same project: then `a` is a conflict
    (other / "data" / "a").unlink()
    run("pull")
    assert files(other)["a"] == "theirs"


def test_dk_21_files_that_are_nobodys_are_pulled_and_not_pushed_to(
    machine: Path, seaweed: SeaweedServer, bucket: str
) -> None:
    put(seaweed, bucket, "old", b"1")
    (machine / "data" / "new").write_text("2")
    assert "nothing says that they are this project's" in run("push", code=4).stderr
    assert keys(seaweed, bucket) == ["old"]
    run("pull")
    run("push")  # what was pulled was in step: it is the same project
    assert keys(seaweed, bucket) == ["new", "old"]


@promise(
    "project-markers",
    "What datakit's markers say was in step is neither sent nor fetched again, and its "
    "markers are not touched.",
)
def test_dk_23_a_datakit_project_goes_on_where_it_was(
    machine: Path, seaweed: SeaweedServer, bucket: str
) -> None:
    data, markers = machine / "data", machine / ".sync_status"
    (markers / "deep").mkdir(parents=True)
    (data / "deep").mkdir()
    for name in ("deep/same", "mine", "theirs"):
        (data / name).write_text(name)
        (markers / f"{name}.synced").write_text(put(seaweed, bucket, name, name.encode()))
    put(seaweed, bucket, "theirs", b"newer")
    later = (markers / "mine.synced").stat().st_mtime + 5
    (data / "mine").write_text("changed")
    os.utime(data / "mine", (later, later))
    assert [f["path"] for f in told("push", "dryrun")["files"]] == ["mine"]
    assert [f["path"] for f in told("push")["files"]] == ["mine"]
    assert [f["path"] for f in told("pull")["files"]] == ["theirs"]
    assert files(machine)["theirs"] == "newer"
    assert told("status", "--all")["never_pushed"] == []
    assert run("status", "--all").stdout.endswith("in step with the bucket\n")
    assert (markers / "mine.synced").exists()  # datakit's own business


def test_a_projects_pipe_has_a_past(machine: Path) -> None:
    (machine / "data" / "a").write_text("1")
    run("push")
    pipe = pipefs.Pipe("my-project")
    pipe.snapshot("first")
    (machine / "data" / "a").write_text("22")
    run("push")
    assert [d.path for d in pipe.diff("first")] == ["a"]
