"""`pipefs config import`: files as d6tpipe, datakit and other machines wrote them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from pipefs.folder.places import folder_of
from pipefs.home import resolve_home
from pipefs.registry import Registry
from pipefs.types import AccessKey, Credentials

Run = Callable[..., Result]


def _registry(tmp_path: Path, profile: str | None = None) -> Registry:
    return Registry(resolve_home(env={"PIPEFS_HOME": str(tmp_path / "home")}, profile=profile))


def _local(tmp_path: Path, name: str, **more: Any) -> dict[str, Any]:
    """A pipe as d6tpipe has it, but in a store of this machine."""
    url = (tmp_path / "stores" / name).as_uri()
    return {
        "name": name,
        "protocol": "file",
        "location": "here",
        "options": {"remotepath": f"{url}/", "include": "*.csv|*.xls*"},
        "schema": {"pandas": {"sep": ";"}},
        **more,
    }


@pytest.fixture
def d6tpipe(tmp_path: Path) -> Path:
    """Two profiles: a local one with TinyDB's table of pipes, and what a server told of another."""
    base = tmp_path / "d6tpipe"
    pulled = base / "files" / "default" / "weather"
    pulled.mkdir(parents=True)
    (pulled / "a.csv").write_text("1\n")
    (base / "files" / "team").mkdir()
    keys = {"read": {"key": "AKIAR", "secret": "r"}, "write": {"key": "AKIAW", "secret": "w"}}
    child = {"name": "eu", "data": {**_local(tmp_path, "eu"), "parent": "weather"}}
    row = {"updated_at": "{TinyDate}:2019-03-01T12:00:00", "action": "push", "sync": ["a.csv"]}
    local: dict[str, Any] = {
        "_default": {},
        "pipes": {
            "1": child,
            "2": _local(tmp_path, "weather", credentials=keys),
            "3": {"name": "old", "protocol": "ftp", "location": "ftp.example.org"},
        },
        "weather-files": {"1": {**row, "remote": [], "local": []}},
        "weather-cfg": {"1": {"name": "weather", "pipe": {"protocol": "s3", "id": 7}}},
    }
    told = {**_local(tmp_path, "prices"), "id": 12, "owner": "ann", "role": "read"}
    served = {"prices-cfg": {"1": {"name": "prices", "pipe": told}}}
    profiles = {}
    for name, tables in (("default", local), ("team", served)):
        folder = base / "files" / name
        (folder / ".filedb.json").write_text(json.dumps(tables))
        profiles[name] = {
            "server": "https://pipe.example.org",
            "filereporoot": str(base),
            "filerepo": str(folder),
            "filedb": str(folder / ".filedb.json"),
            "key": "uuid",
        }
    (base / "cfg.json").write_text(json.dumps(profiles))
    return base


def test_d6_36_what_d6tpipe_has_is_taken_over(run: Run, d6tpipe: Path, tmp_path: Path) -> None:
    planned = run("config", "import", "--from", "d6tpipe", "-n", code=6)
    assert "would be made" in planned.stdout
    assert not (tmp_path / "home" / "config").exists()
    done = run("config", "import", "--from", "d6tpipe", code=6)
    states = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert " made  " in states["weather"]
    assert "keys stored" in states["weather"]
    assert "no stores of the kind ftp" in states["old"]
    assert "profile team · without id, owner" in states["prices"]
    weather = _registry(tmp_path).get("weather")
    assert weather.credentials() == Credentials(AccessKey("AKIAR", "r"), AccessKey("AKIAW", "w"))
    assert weather.settings.include == ("*.csv", "*.xls*")
    assert weather.settings.schema == {"pandas": {"sep": ";"}}
    eu = _registry(tmp_path).get("eu")
    assert (eu.settings.parent, eu.url) == ("weather", (tmp_path / "stores" / "eu").as_uri())
    assert _registry(tmp_path, "team").get("prices").settings.read_only
    # Again is as it was.
    again = run("config", "import", str(d6tpipe / "cfg.json"), code=6).stdout
    assert {line.split()[0]: "as it was" in line for line in again.splitlines()}["weather"]


def test_d6_38_files_that_d6tpipe_pulled_stay_where_they_are(
    run: Run, d6tpipe: Path, tmp_path: Path
) -> None:
    run("config", "import", "--from", "d6tpipe", code=6)
    home = resolve_home(env={"PIPEFS_HOME": str(tmp_path / "home")})
    folder = folder_of(home, _registry(tmp_path).get("weather"))
    assert folder == d6tpipe / "files" / "default" / "weather"
    assert "pulled to" in run("list", "--local").stdout
    described = json.loads(
        next((tmp_path / "stores" / "weather" / ".pipefs").glob("pipe.json")).read_text()
    )
    assert "dir" not in described["options"]  # a place on this machine


def test_pipes_of_another_machine(run: Run, tmp_path: Path) -> None:
    run("create", "a", (tmp_path / "sa").as_uri(), "-o", "cache_limit=1G")
    run("create", "b", (tmp_path / "sb").as_uri())
    (tmp_path / "pipes.json").write_text(run("list", "--json").stdout)
    run("-y", "remove", "a")
    done = run("config", "import", "pipes.json").stdout.splitlines()
    assert [line.split()[:2] for line in done] == [["a", "made"], ["b", "is"]]
    assert _registry(tmp_path).get("a").options == {"cache_limit": "1G"}
    (tmp_path / "other.json").write_text(json.dumps({"a": {"url": (tmp_path / "sc").as_uri()}}))
    for words in (["-n"], []):  # a preview says what would happen
        assert "and stays there" in run("config", "import", "other.json", *words, code=6).stdout


def test_a_project_of_datakit_becomes_a_pipe(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "storms" / "config" / "datakit-data.json"
    config.parent.mkdir(parents=True)
    config.write_text(
        json.dumps({"s3_bucket": "data", "s3_path": "2026/storms", "aws_user_profile": "lab"})
    )
    row = json.loads(run("config", "import", str(config), "-n", "--json").stdout)["pipes"]
    assert row == [
        {
            "name": "storms",
            "profile": "",
            "state": "would be made",
            "detail": "s3://data/2026/storms",
        }
    ]


def test_dk_06_defaults_of_datakit(run: Run, tmp_path: Path) -> None:
    file = tmp_path / ".datakit" / "plugins" / "datakit-data" / "config.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"s3_bucket": "data", "s3_path_prefix": "projects", "x": ""}))
    assert "projects" in run("config", "import", "--from", "datakit", "-n").stdout
    run("config", "import", "--from", "datakit")
    found = json.loads((tmp_path / "home" / "config" / "project.json").read_text())
    assert found == {"s3_bucket": "data", "s3_path_prefix": "projects"}


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        (None, 2, "there is no file"),
        ("[1]", 2, "no table"),
        ("[" * 100_000, 2, "nested too deeply"),
        ("{}", 3, "describes no pipe"),
        ('{"default": {"filedb": "/nowhere/x.json"}}', 3, "describes no pipe"),
        ('{"x": {"colour": "red"}}', 6, "1 pipe of 1 not taken over"),
    ],
)
def test_what_cannot_be_imported(
    run: Run, tmp_path: Path, text: str | None, code: int, said: str
) -> None:
    if text is not None:
        (tmp_path / "f.json").write_text(text)
    assert said in run("config", "import", "f.json", code=code).stderr


def test_d6_37_load_and_update(run: Run, tmp_path: Path) -> None:
    run("config", "region=eu-west-1", "cache_limit=1G")
    assert run("config", "show", "region").stdout == "eu-west-1\n"
    assert run("config", "region").stdout == "eu-west-1\n"
    (tmp_path / "s.yaml").write_text("cache_limit: 2G\nexclude: [tmp*]\n")
    assert "2G" in run("config", "-f", "s.yaml", "-n").stdout
    assert "1G" in run("config").stdout
    run("config", "set", "-f", "s.yaml")
    found = json.loads(run("config", "--json").stdout)["defaults"]
    assert found == {"region": "eu-west-1", "cache_limit": "2G", "exclude": ["tmp*"]}
    assert "nothing to set" in run("config", "set", code=2).stderr
    assert "Did you mean region" in run("config", "show", "regoin", code=2).stderr


@pytest.mark.parametrize(
    ("database", "code", "said"),
    [
        (
            '{"pipes": {"1": 5, "2": {"name": ["a"], "parent": [1]}}}',
            6,
            "is not allowed",
        ),
        ("[" * 100_000, 2, "no database of d6tpipe"),
        (None, 2, "no database of d6tpipe"),  # would be read to the end of it
    ],
)
def test_a_database_that_no_d6tpipe_wrote(
    run: Run, tmp_path: Path, database: str | None, code: int, said: str
) -> None:
    file = tmp_path / "db.json" if database else Path("/dev/zero")
    if database:
        file.write_text(database)
    (tmp_path / "cfg.json").write_text(json.dumps({"default": {"filedb": str(file)}}))
    done = run("config", "import", "--from", "d6tpipe", str(tmp_path / "cfg.json"), code=code)
    assert said in done.stdout + done.stderr
