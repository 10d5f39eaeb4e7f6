"""Projects on a real S3 server: whose a place is, push and pull, what datakit left there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import pipefs
from pipefs.cli.main import cli
from tests.seaweed import READER_ACCESS_KEY, READER_SECRET_KEY, SeaweedServer

Run = Callable[..., Result]
CONFIG = "config/datakit-data.json"


@pytest.fixture
def machine(
    ram_path: Path, seaweed: SeaweedServer, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder my-project to be in, and defaults that name the bucket."""
    monkeypatch.setenv("PIPEFS_HOME", str(ram_path / "home"))
    monkeypatch.setenv("DATAKIT_HOME", str(ram_path / "datakit"))
    settings = ram_path / "datakit" / "plugins" / "datakit-data"
    settings.mkdir(parents=True)
    (settings / "config.json").write_text(json.dumps({"s3_bucket": bucket}))
    folder = ram_path / "my-project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def run(*words: str, code: int = 0) -> Result:
    done = CliRunner().invoke(cli, ["project", *words])
    assert done.exit_code == code, (words, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


def told(*words: str, code: int = 0) -> Any:
    return json.loads(run(*words, "--json", code=code).stdout)


def keys(seaweed: SeaweedServer, bucket: str, prefix: str = "my-project/") -> list[str]:
    """Objects of the project, ours left out."""
    found = seaweed.client().list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
    names = [item["Key"].removeprefix(prefix) for item in found]
    return [name for name in names if not name.startswith(".pipefs/")]


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / CONFIG).read_text())
    return found


def configured(folder: Path, bucket: str, path: str = "my-project") -> None:
    """A project as datakit leaves it, without anything of ours."""
    content = {"aws_user_profile": "default", "s3_bucket": bucket, "s3_path": path}
    (folder / "config").mkdir(parents=True)
    (folder / CONFIG).write_text(json.dumps({**content, "sync_status_location": ".sync_status/"}))
    (folder / "data").mkdir()


def copied(folder: Path, to: Path) -> Path:
    """As git does it: the configuration, and no data."""
    (to / "config").mkdir(parents=True)
    for file in (folder / "config").iterdir():
        (to / "config" / file.name).write_bytes(file.read_bytes())
    return to


# --- whose a place is ---------------------------------------------------------------------


def test_dk_21_a_second_project_of_one_name_is_refused(
    machine: Path, seaweed: SeaweedServer, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("init")
    raw = seaweed.client().get_object(Bucket=bucket, Key="my-project/.pipefs/project.json")
    owner = json.loads(raw["Body"].read())
    assert owner["project"] == json.loads((machine / "config/pipefs.json").read_text())["project"]
    other = machine.parent / "other" / "my-project"
    other.mkdir(parents=True)
    monkeypatch.chdir(other)
    err = run("init", code=4).stderr
    assert 'belongs to another project "my-project"' in err and "--adopt" in err
    assert list(other.iterdir()) == []
    run("init", "--path", "another-project")
    assert config_of(other)["s3_path"] == "another-project"
    assert told("init")["whose"] == "ours"


def test_dk_21_a_clone_of_the_project_is_the_project(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("init")
    clone = copied(machine, machine.parent / "clone" / "my-project")
    monkeypatch.chdir(clone)
    assert told("init")["whose"] == "ours"
    (clone / "config/pipefs.json").unlink()  # as if it had not been committed
    run("init", code=4)
    run("init", "--adopt")
    assert told("init")["whose"] == "ours"


def test_dk_21_a_template_brings_no_id_along(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("init")
    next_one = copied(machine, machine.parent / "next")
    monkeypatch.chdir(next_one)
    run("config", "s3_path=next")
    assert told("init")["whose"] == "free"
    first, second = (
        json.loads((f / "config/pipefs.json").read_text())["project"] for f in (machine, next_one)
    )
    assert first != second


def test_dk_21_a_new_project_takes_no_place_that_has_files(
    machine: Path, seaweed: SeaweedServer, bucket: str
) -> None:
    seaweed.client().put_object(Bucket=bucket, Key="my-project/old.csv", Body=b"1")
    err = run("init", code=4).stderr
    assert "holds 1 file already" in err and "pipefs project init --path FOLDER" in err
    assert list(machine.iterdir()) == [] and keys(seaweed, bucket) == ["old.csv"]
    run("init", "--adopt")
    assert told("init")["whose"] == "ours"


def test_dk_01_init_makes_a_pipe_that_everything_works_on(machine: Path, bucket: str) -> None:
    said = run("init").stdout
    assert said.startswith(f"my-project  s3://{bucket}/my-project\nmade: data/")
    pipe = pipefs.Pipe("my-project")
    pipe.put("1", "a.csv")
    pipe.snapshot("raw")
    assert [s.tag for s in pipe.snapshots()] == ["raw"]
    assert pipe.dirpath == machine / "data"
    # The place on this machine is nobody else's business.
    described = pipefs.Pipe("my-project").settings
    assert described["dir"] == str(machine / "data")
    other = {"PIPEFS_HOME": str(machine.parent / "second")}
    adopted = CliRunner().invoke(cli, ["create", f"s3://{bucket}/my-project"], env=other)
    assert adopted.exit_code == 0
    shown = CliRunner().invoke(cli, ["show", "my-project", "--json"], env=other)
    assert json.loads(shown.stdout)["options"] == {}


def test_dk_01_init_works_where_the_bucket_does_not(machine: Path) -> None:
    name = "made-by-project-init"
    done = run("init", "--bucket", name)
    assert "does not exist" in done.stderr and "pipefs project init --create-bucket" in done.stderr
    assert config_of(machine)["s3_bucket"] == name
    run("init", "--create-bucket")
    assert told("init")["whose"] == "ours"


# --- status, verify -----------------------------------------------------------------------


def test_dk_22_status_compares_with_the_bucket(
    machine: Path, seaweed: SeaweedServer, bucket: str
) -> None:
    configured_ = {name: f"{name}\n".encode() for name in ("same", "mine", "theirs", "both")}
    (machine / "config").mkdir()
    content = {"s3_bucket": bucket, "s3_path": "my-project", "sync_status_location": ".sync/"}
    (machine / CONFIG).write_text(json.dumps(content))
    (machine / "data").mkdir()
    (machine / ".sync").mkdir()
    client = seaweed.client()
    for name, body in {**configured_, "differ": b"x", "gone-here": b"y"}.items():
        made = client.put_object(Bucket=bucket, Key=f"my-project/{name}", Body=body)
        if name in configured_:
            (machine / "data" / name).write_bytes(body)
            (machine / ".sync" / f"{name}.synced").write_text(made["ETag"].strip('"'))
    for name in ("theirs", "both"):
        client.put_object(Bucket=bucket, Key=f"my-project/{name}", Body=b"newer there")
    for name in ("mine", "both", "differ", "only-here"):
        file = machine / "data" / name
        file.write_text("newer here")
        os.utime(file, (4_000_000_000, 4_000_000_000))
    found = told("status", "--all")["remote"]
    assert found == {
        "only_local": ["only-here"],
        "only_remote": ["gone-here"],
        "changed_local": ["mine"],
        "changed_remote": ["theirs"],
        "conflict": ["both"],
        "differ": ["differ"],
    }
    said = run("status", "--remote", "--filepaths").stdout
    assert "1 file changed on both sides (conflict)\n  both\n" in said
    # Looking made no pipe of it, and left nothing there.
    everything = client.list_objects_v2(Bucket=bucket)["Contents"]
    assert [o["Key"] for o in everything if ".pipefs" in o["Key"]] == []
    assert json.loads(CliRunner().invoke(cli, ["list", "--json"]).stdout) == {"pipes": []}


def test_dk_28_verify_looks_at_bucket_versions_and_place(
    machine: Path, seaweed: SeaweedServer
) -> None:
    run("init")
    said = run("verify").stdout
    assert "ok  versioning" in said and "ok  place" in said and said.endswith("all is well\n")
    plain = seaweed.make_bucket(versioning=False)
    run("config", f"s3_bucket={plain}")
    done = run("verify", code=1)
    assert "pipefs project verify --fix" in done.stdout
    assert "pipefs project verify --fix" in run("push").stderr  # keeps no versions
    assert "BAD  versioning" in done.stdout and "is free" in done.stdout
    run("verify", "--fix")
    assert seaweed.client().get_bucket_versioning(Bucket=plain)["Status"] == "Enabled"
    run("config", "s3_bucket=not-there-at-all")
    said = run("verify", code=1).stdout
    assert "does not exist" in said and "pipefs project init --create-bucket" in said


def test_dk_03_the_profile_of_the_configuration_is_used(
    machine: Path, seaweed: SeaweedServer, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = machine.parent / "credentials"
    file.write_text(
        f"[other_profile]\naws_access_key_id = {seaweed.access_key}\n"
        f"aws_secret_access_key = {seaweed.secret_key}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    done = run("init", "--aws-profile", "nobody")
    assert "not looked at" in done.stderr and "nobody" in done.stderr
    run("config", "aws_user_profile=other_profile")
    (machine / "data" / "a").write_text("1")
    run("push")
    assert keys(seaweed, bucket) == ["a"]
    assert pipefs.Pipe("my-project").settings["aws_profile"] == "other_profile"


def test_dk_03_who_may_only_read_is_told(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER_ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", READER_SECRET_KEY)
    done = run("init")
    assert "not allowed in bucket" in done.stderr
    assert not (machine / "config/pipefs.json").exists()
