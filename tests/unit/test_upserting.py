"""Pipes from descriptions: ours, and those that d6tpipe's users have."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from pipefs.errors import NotFound, UsageError
from pipefs.home import resolve_home
from pipefs.registry import Registry
from pipefs.types import AccessKey, Credentials
from pipefs.upserting import Description, description_of, upsert

Run = Callable[..., Result]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(resolve_home(env={"PIPEFS_HOME": str(tmp_path / "home")}))


READ, WRITE = {"key": "AKIAR", "secret": "r"}, {"key": "AKIAW", "secret": "w"}


def test_d6_49_every_setting_of_d6tpipe_has_its_place() -> None:
    """As `upsert_pipe` of d6tpipe takes it; remotepath is a whole URL there, or a path."""
    told = {
        "name": "vendor-x",
        "protocol": "s3",
        "location": "d6tpipe-vendor-x",
        "credentials": {"read": READ, "write": WRITE},
        "options": {
            "remotepath": "s3://d6tpipe-vendor-x/data/",
            "dir": "some/dir/",
            "include": "*.csv|*.xls*",
            "exclude": "*private*|test*",
            "encrypted": False,
        },
        "schema": {"pandas": {"sep": ","}},
        "parent": "vendors",
        "role": "read",
    }
    found = description_of(told)
    assert found == Description(
        "vendor-x",
        "s3://d6tpipe-vendor-x/data",
        {
            "schema": {"pandas": {"sep": ","}},
            "parent": "vendors",
            "dir": "some/dir/",
            "include": ["*.csv", "*.xls*"],
            "exclude": ["*private*", "test*"],
            "read_only": True,
        },
        Credentials(AccessKey("AKIAR", "r"), AccessKey("AKIAW", "w")),
    )
    told["options"] = {"remotepath": "data/"}
    assert description_of(told).url == "s3://d6tpipe-vendor-x/data"
    told["options"] = {}
    assert description_of(told).url == "s3://d6tpipe-vendor-x"


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"protocol": "sftp", "name": "a"}, "no stores of the kind sftp"),
        ({"options": {"encrypted": True}, "name": "a"}, "is encrypted"),
        ({"include": "*"}, "has no name"),
        ({"name": "a", "options": ["x"]}, "options is no table"),
        ({"name": "a", "colour": "red"}, "no setting 'colour'"),
        ({"name": "a", "root": "s3://b"}, "no setting 'root'"),
        ({"name": "a", "credentials": {"key": "x"}}, "secret_access_key"),
    ],
)
def test_what_is_no_description_is_named(told: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        description_of(told)


def test_d6_45_a_pipe_is_made_or_changed(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "weather.json"
    url = (tmp_path / "store").as_uri()
    file.write_text(json.dumps({"name": "weather", "url": url, "options": {"include": "*.csv"}}))
    assert "would be made at file://" in run("set", "-f", "weather.json", "-n").stdout
    assert run("list").stdout.startswith("no pipes")
    assert run("set", "-f", "weather.json").stdout.startswith(f"weather  {url}")
    assert run("set", "-f", "weather.json").stdout == "weather  as it was\n"
    planned = run("set", "-f", "weather.json", "exclude=tmp*", "-n")
    assert planned.stdout == "weather  exclude=tmp*\n"
    assert run("set", "-f", "weather.json", "exclude=tmp*").stdout == "weather  exclude=tmp*\n"
    shown = json.loads(run("show", "weather", "--json").stdout)
    assert shown["options"] == {"include": ["*.csv"], "exclude": ["tmp*"]}
    # What show prints is a description too.
    file.write_text(json.dumps(shown))
    assert run("set", "-f", "weather.json").stdout == "weather  as it was\n"
    assert "already" in run("create", "-f", "weather.json", code=4).stderr
    file.write_text(json.dumps({"name": "weather", "url": "file:///elsewhere"}))
    assert "stays there" in run("set", "-f", "weather.json", code=4).stderr


def test_d6_46_from_yaml_with_keys_and_of_several_pipes(
    run: Run, tmp_path: Path, registry: Registry
) -> None:
    (tmp_path / "pipes.yaml").write_text(
        "weather:\n"
        f"  url: {(tmp_path / 'w').as_uri()}\n"
        "  schema: {pandas: {sep: ';'}}\n"
        "  credentials:\n"
        "    read: {key: AKIAR, secret: r}\n"
        "prices:\n"
        f"  url: {(tmp_path / 'p').as_uri()}\n"
    )
    assert "Name one of weather, prices" in run("create", "-f", "pipes.yaml", code=2).stderr
    run("create", "weather", "-f", "pipes.yaml", "-o", "region=eu-west-1")
    pipe = registry.get("weather")
    assert (pipe.settings.schema, pipe.settings.region) == ({"pandas": {"sep": ";"}}, "eu-west-1")
    assert pipe.credentials() == Credentials(read=AccessKey("AKIAR", "r"))
    (tmp_path / "creds.json").write_text(json.dumps({"credentials": {"write": WRITE}}))
    assert "keys stored" in run("set", "weather", "-f", "creds.json").stdout
    assert "there is no file" in run("set", "weather", "-f", "none.json", code=2).stderr


def test_keys_of_a_pipe_that_could_not_be_made_do_not_stay(registry: Registry) -> None:
    told = {"name": "x", "url": "s3://-b/p", "credentials": READ}
    with pytest.raises(UsageError):
        upsert(registry, description_of(told))
    assert registry.vault.names() == []
    with pytest.raises(NotFound, match='"x"'):
        upsert(registry, description_of({"name": "x"}), create=False)


def test_d6_52_some_settings_change_and_the_others_stay(run: Run) -> None:
    run("create", "a", "-o", "include=*.csv", "-o", "cache_limit=1G")
    assert run("set", "a", "include=*.tsv", "-n").stdout == "a  would have include=*.tsv\n"
    assert json.loads(run("show", "a", "--json").stdout)["options"]["include"] == ["*.csv"]
    run("set", "a", "include=*.tsv")
    assert json.loads(run("show", "a", "--json").stdout)["options"] == {
        "include": ["*.tsv"],
        "cache_limit": "1G",
    }
    assert "nothing to set" in run("set", "a", code=2).stderr
