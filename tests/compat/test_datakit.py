"""datakit-data: the real package on one bucket with us, its documentation's examples in our words,
and its commands carried out by us.
"""

from __future__ import annotations

import ast
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipefs.cli.main import cli
from tests.compat.others import Other, other
from tests.mounted import SOURCE
from tests.seaweed import SeaweedServer

Run = Callable[..., Result]
CONFIG = Path("config/datakit-data.json")


@pytest.fixture
def run(ram_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`pipefs` in a project folder my-project."""
    monkeypatch.setenv("PIPEFS_HOME", str(ram_path / "home"))
    monkeypatch.setenv("DATAKIT_HOME", str(ram_path / "datakit"))
    (ram_path / "my-project").mkdir()
    monkeypatch.chdir(ram_path / "my-project")

    def go(*words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == code, (words, done.stdout, done.stderr)
        return done

    return go


def datakit(name: str, seaweed: SeaweedServer, project: Path) -> Other:
    """datakit in a project, with the profile `default` that its plugin asks for."""
    found = other(name, seaweed.environment(), project)
    (project / "nothing").unlink()
    keys = project.parent / "credentials"
    keys.write_text(
        f"[default]\naws_access_key_id = {seaweed.access_key}\n"
        f"aws_secret_access_key = {seaweed.secret_key}\n"
    )
    more = {
        "AWS_SHARED_CREDENTIALS_FILE": str(keys),
        "AWS_CONFIG_FILE": os.devnull,
        "HOME": str(project.parent),
        "DATAKIT_HOME": str(project.parent / "datakit"),
        "XDG_CACHE_HOME": str(project.parent / "cache"),
        "PIPEFS_HOME": str(project.parent / "home"),
    }
    return replace(found, env={**found.env, **more})


def defaults(project: Path, **values: str) -> None:
    folder = project.parent / "datakit" / "plugins" / "datakit-data"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(values))


def keys(seaweed: SeaweedServer, bucket: str, prefix: str) -> list[str]:
    found = seaweed.client().list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
    return [o["Key"].removeprefix(prefix) for o in found if "/.pipefs/" not in o["Key"]]


def told(run: Run, *words: str) -> Any:
    return json.loads(run("project", *words, "--json").stdout)


def test_dk_23_a_project_of_datakit_goes_on_with_us(
    run: Run, seaweed: SeaweedServer, bucket: str
) -> None:
    here = Path.cwd()
    defaults(here, s3_bucket=bucket, sync_status_location=".sync_status/", s3_path_prefix="p/$YEAR")
    theirs = datakit("datakit", seaweed, here)
    theirs.program("datakit", "data", "init")
    made = CONFIG.read_text()
    assert json.loads(made)["s3_bucket"] == bucket
    Path("data/deep").mkdir()
    Path("data/a.csv").write_text("1\n")
    Path("data/deep/big.bin").write_bytes(os.urandom(9 << 20))  # two parts, so no plain MD5
    theirs.program("datakit", "data", "push")
    # What it pushed is neither unknown nor sent again.
    assert told(run, "status")["never_pushed"] == []
    assert told(run, "push", "dryrun")["files"] == []
    Path("data/b.csv").write_text("2\n")
    assert [f["path"] for f in told(run, "push")["files"]] == ["b.csv"]
    assert told(run, "pull")["files"] == []
    said = run("project", "status", "--all").stdout
    assert said.endswith("3 files, in step with the bucket\n")
    # And it still reads what we left: its configuration, and files of ours.
    assert CONFIG.read_text() == made
    Path("data/b.csv").unlink()
    theirs.program("datakit", "data", "pull")
    assert Path("data/b.csv").read_text() == "2\n"
    assert told(run, "push", "dryrun")["files"] == []


def test_dk_examples_of_the_documentation(run: Run, seaweed: SeaweedServer, bucket: str) -> None:
    # datakit data init
    assert "made: data/  config/datakit-data.json  .gitignore" in run("project", "init").stdout
    assert json.loads(CONFIG.read_text()) == {
        "aws_user_profile": "default",
        "s3_bucket": "",
        "s3_path": "my-project",
        "sync_status_location": ".sync_status/",
    }
    assert "data" in Path(".gitignore").read_text()
    # Configure: config/datakit-data.json, by hand or by command.
    assert "no bucket" in run("project", "push", code=4).stderr
    run("project", "config", f"s3_bucket={bucket}")
    # datakit data push; datakit data pull
    Path("data/cities.csv").write_text("city\nParis\n")
    Path("data/draft.csv").write_text("x\n")
    run("project", "push")
    assert keys(seaweed, bucket, "my-project/") == ["cities.csv", "draft.csv"]
    Path("data/cities.csv").unlink()
    run("project", "pull")
    assert Path("data/cities.csv").read_text() == "city\nParis\n"
    # datakit data push dryrun; datakit data push delete dryrun; datakit data push delete
    Path("data/draft.csv").unlink()
    assert "nothing to push" in run("project", "push", "dryrun").stdout
    assert "D  draft.csv" in run("project", "push", "delete", "dryrun").stdout
    assert "draft.csv" in keys(seaweed, bucket, "my-project/")
    run("project", "push", "delete")
    assert keys(seaweed, bucket, "my-project/") == ["cities.csv"]
    # datakit data push --force
    assert "pushed 1 file" in run("project", "push", "--force").stdout
    # Default configurations, prefix and suffix in tandem, for the next project.
    run(
        *("project", "config", "--defaults", "aws_user_profile=default", f"s3_bucket={bucket}"),
        *("s3_path_prefix=projects/2017", "s3_path_suffix=data"),
    )
    Path("../another").mkdir()
    os.chdir("../another")
    assert f"s3://{bucket}/projects/2017/another/data" in run("project", "init").stdout
    Path("data/a.csv").write_text("1\n")
    run("project", "push")
    assert keys(seaweed, bucket, "projects/2017/another/data/") == ["a.csv"]


def installed(folder: Path) -> None:
    """pipefs' entry points as an installation would have them, from its setup.py."""
    tree = ast.parse((SOURCE / "setup.py").read_text())
    (call,) = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and n.keywords and
               ast.unparse(n.func) == "setup"]  # fmt: skip
    (points,) = [k.value for k in call.keywords if k.arg == "entry_points"]
    lines = []
    for group, names in eval(ast.unparse(points)).items():  # our own file
        lines += [f"[{group}]", *names]
    info = folder / "pipefs-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pipefs\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


def test_dk_29_datakit_runs_our_commands(
    run: Run, seaweed: SeaweedServer, bucket: str, ram_path: Path
) -> None:
    installed(ram_path / "installed")
    ours = datakit("datakit-core", seaweed, Path.cwd())
    site = next(p for p in sys.path if p.endswith("site-packages"))
    places = [str(ram_path / "installed"), str(SOURCE), site]
    ours = replace(ours, env={**ours.env, "PYTHONPATH": os.pathsep.join(places)})
    assert "data push" in ours.program("datakit", "--help")
    ours.program("datakit", "data", "init", "--batch", "--bucket", bucket)
    Path("data/a.csv").write_text("1\n")
    assert "would be pushed: 1 file" in ours.program("datakit", "data", "push", "dryrun")
    assert "pushed 1 file" in ours.program("datakit", "data", "push")
    assert keys(seaweed, bucket, "my-project/") == ["a.csv"]
    Path("data/a.csv").unlink()
    assert "pulled 1 file" in ours.program("datakit", "data", "pull", "--force")
    assert "1 file, nothing to push" in ours.program("datakit", "data", "status")
    ours.program("datakit", "data", "push", "dryrn", code=2)
    # Where datakit-data is installed as well, its commands are its own.
    both = datakit("datakit", seaweed, Path.cwd())
    both = replace(both, env={**both.env, "PYTHONPATH": os.pathsep.join(places)})
    script = "from datakit.main import main; main(['data', 'status', '--help'])"
    assert "by pipefs" not in both.python(script)
