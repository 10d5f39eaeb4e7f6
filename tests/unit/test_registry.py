"""The registry: pipes are added, found, changed and forgotten; layers; what is refused."""

from __future__ import annotations

import multiprocessing
import stat
from pathlib import Path

import pytest

from pipefs.config import load_config
from pipefs.errors import (
    AlreadyExists,
    Corrupt,
    NewerFormat,
    NotFound,
    PipefsError,
    UsageError,
)
from pipefs.home import Home, resolve_home
from pipefs.registry import Registry, profile_names, write_profile


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return resolve_home(env={"PIPEFS_HOME": str(tmp_path)})


@pytest.fixture
def registry(home: Home) -> Registry:
    return Registry(home)


def test_an_added_pipe_is_found_again(registry: Registry, home: Home) -> None:
    registry.add("sales", "s3://b/sales", "id-1", {"cache_limit": "50G", "include": ["*.csv"]})
    found = Registry(home).get("sales")
    assert (found.name, found.url, found.pipe_id) == ("sales", "s3://b/sales", "id-1")
    assert found.settings.cache_limit_bytes == 50 << 30
    assert found.options == {"cache_limit": "50G", "include": ["*.csv"]}
    assert [p.name for p in registry.list()] == ["sales"]
    assert stat.S_IMODE((home.config / "pipes" / "sales.toml").stat().st_mode) == 0o600


def test_a_taken_name_is_refused_and_nothing_changes(registry: Registry) -> None:
    registry.add("x", "s3://b/1", "1", {})
    with pytest.raises(AlreadyExists, match="s3://b/1") as caught:
        registry.add("x", "s3://b/2", "2", {})
    assert "pipefs remove x" in caught.value.hint
    assert registry.get("x").url == "s3://b/1"


def test_an_unknown_pipe_gets_near_names_and_the_way_to_the_list(registry: Registry) -> None:
    registry.add("hurricanes", "s3://b/1", "1", {})
    with pytest.raises(NotFound, match="huricanes") as caught:
        registry.get("huricanes")
    assert "hurricanes" in caught.value.hint
    assert "pipefs list" in caught.value.hint


def test_update_changes_and_unsets(registry: Registry) -> None:
    registry.add("x", "s3://b/1", "1", {"region": "a", "engine": "boto3"})
    changed = registry.update("x", {"automount": True}, unset=("region",))
    assert changed.options == {"engine": "boto3", "automount": True}
    assert registry.get("x").pipe_id == "1"


def test_a_bad_update_leaves_the_file_alone(registry: Registry) -> None:
    registry.add("x", "s3://b/1", "1", {"region": "a"})
    with pytest.raises(UsageError):
        registry.update("x", {"kms_key": "alias/k"})
    assert registry.get("x").options == {"region": "a"}


def test_a_removed_pipe_is_gone_and_its_name_free(registry: Registry) -> None:
    registry.add("x", "s3://b/1", "1", {})
    registry.remove("x")
    assert registry.names() == []
    with pytest.raises(NotFound):
        registry.remove("x")
    registry.add("x", "s3://b/2", "2", {})


def test_layers_are_file_profile_parent_pipe(tmp_path: Path) -> None:
    home = resolve_home(env={"PIPEFS_HOME": str(tmp_path)}, profile="team")
    home.config_file.parent.mkdir(parents=True)
    home.config_file.write_text('[defaults]\nregion = "file"\nengine = "boto3"\nsse = "AES256"\n')
    write_profile(home, "team", {"region": "profile", "addressing": "path", "root": "s3://b/p"})
    registry = Registry(home, load_config(home.config_file))
    registry.add("base", "s3://b/1", "1", {"region": "parent", "mountpoint": "/mnt/p"})
    registry.add("child", "s3://b/2", "2", {"parent": "base", "snapdir": "visible"})
    settings = registry.get("child").settings
    assert (settings.engine, settings.sse) == ("boto3", "AES256")
    assert (settings.addressing, settings.region, settings.snapdir) == ("path", "parent", "visible")
    assert settings.mountpoint == ""
    assert registry.new_url("new") == "s3://b/p/new"


def test_parents_in_a_circle_are_refused(registry: Registry) -> None:
    registry.add("a", "s3://b/1", "1", {})
    registry.add("b", "s3://b/2", "2", {"parent": "a"})
    with pytest.raises(UsageError, match="circle"):
        registry.update("a", {"parent": "b"})
    with pytest.raises(NotFound, match="nobody"):
        registry.update("a", {"parent": "nobody"})


def test_without_a_root_a_new_pipe_is_an_embedded_store(registry: Registry, home: Home) -> None:
    assert registry.new_url("x") == home.embedded_store("x").as_uri()


def test_root_is_refused_for_a_pipe(registry: Registry) -> None:
    with pytest.raises(UsageError, match="profile"):
        registry.add("x", "s3://b/1", "1", {"root": "s3://b/p"})


def test_one_broken_file_does_not_hide_the_others(registry: Registry, home: Home) -> None:
    registry.add("good", "s3://b/1", "1", {})
    (home.config / "pipes" / "bad.toml").write_text("url =")
    problems: list[PipefsError] = []
    assert [p.name for p in registry.list(problems)] == ["good"]
    assert "bad.toml" in problems[0].message
    with pytest.raises(UsageError):
        registry.list()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", Corrupt),
        ('format = 2\nurl = "s3://b"', NewerFormat),
        ('pipe_id = "x"', UsageError),
        ('url = "s3://b"\n[settings]\nregoin = "x"', UsageError),
        ('url = "s3://b"\nsettings = 3', UsageError),
    ],
)
def test_a_file_we_cannot_use_is_named(
    registry: Registry, home: Home, text: str, error: type[PipefsError]
) -> None:
    registry.add("x", "s3://b/1", "1", {})
    (home.config / "pipes" / "x.toml").write_text(text)
    with pytest.raises(error, match=r"x\.toml"):
        registry.get("x")


def test_profiles_are_registries_of_their_own(tmp_path: Path) -> None:
    env = {"PIPEFS_HOME": str(tmp_path)}
    home = resolve_home(env=env)
    write_profile(home, "team", {}, create=True)
    team = Registry(resolve_home(env=env, profile="team"))
    team.add("x", "s3://b/1", "1", {})
    assert Registry(home).names() == []
    assert team.names() == ["x"]
    assert profile_names(home) == ["team"]
    with pytest.raises(AlreadyExists, match="team"):
        write_profile(home, "team", {}, create=True)


def test_an_unknown_profile_gets_near_names(tmp_path: Path) -> None:
    env = {"PIPEFS_HOME": str(tmp_path)}
    write_profile(resolve_home(env=env), "team", {}, create=True)
    with pytest.raises(NotFound, match="taem") as caught:
        Registry(resolve_home(env=env, profile="taem")).defaults()
    assert "team" in caught.value.hint


def _set_one(folder: str, key: str, value: str) -> None:
    Registry(resolve_home(env={"PIPEFS_HOME": folder})).update("x", {key: value})


def test_changes_of_several_processes_are_all_kept(registry: Registry, tmp_path: Path) -> None:
    registry.add("x", "s3://b/1", "1", {})
    wanted = {"region": "r", "dir": "d", "endpoint_url": "http://e", "aws_profile": "p", "sse": ""}
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_set_one, args=(str(tmp_path), key, value))
        for key, value in wanted.items()
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [w.exitcode for w in workers] == [0] * len(workers)
    assert registry.get("x").options == wanted
