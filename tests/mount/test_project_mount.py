"""A project whose data/ is the mount of its pipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipefs.cli.main import cli
from tests.mounted import Home
from tests.seaweed import SeaweedServer


def test_dk_12_what_is_mounted_is_pushed_by_itself(
    home: Home, seaweed: SeaweedServer, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.env.update(seaweed.environment())
    monkeypatch.setenv("PIPEFS_HOME", str(home.home))
    folder = home.base / "my-project"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def run(*words: str) -> str:
        done = CliRunner().invoke(cli, ["project", *words])
        assert done.exit_code == 0, (words, done.stdout, done.stderr)
        return done.stdout

    run("init", "--bucket", bucket)
    (folder / "data" / ".gitkeep").unlink()
    home.run("mount", "my-project", str(folder / "data"))
    Path("data/a.csv").write_text("1")
    said = run("push")
    key = {"Bucket": bucket, "Key": "my-project/a.csv"}
    assert seaweed.client().get_object(**key)["Body"].read() == b"1"
    assert said == "my-project  data/ is mounted and in step by itself · all saved\n"
    seaweed.client().put_object(Bucket=bucket, Key="my-project/b.csv", Body=b"2")
    run("pull", "delete")  # it shows what other tools put there, and deletes nothing
    assert sorted(p.name for p in Path("data").iterdir()) == ["a.csv", "b.csv"]
    assert json.loads(run("status", "--json"))["mounted"] == str(folder / "data")
    home.run("umount", "my-project")
