"""What the registry knows: pipes with files here, parents and children, folders of profiles."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from pipefs.errors import Refused
from pipefs.folder.places import folder_of
from pipefs.home import Home, resolve_home
from pipefs.registry import Registry
from pipefs.stores.local import LocalStore

Run = Callable[..., Result]


def test_d6_01_a_pipe_is_a_name_for_a_place_in_a_store(run: Run, tmp_path: Path) -> None:
    run("create", "my-pipe", (tmp_path / "s").as_uri())
    assert run("list").stdout.split()[:2] == ["my-pipe", (tmp_path / "s").as_uri()]
    assert "at most 63" in run("create", "my/pipe", code=2).stderr


def test_d6_04_pipes_with_files_on_this_machine(run: Run, user_home: Home) -> None:
    assert run("list", "--local").stdout.startswith("no pipes yet")
    for name in ("pulled", "mounted", "bare"):
        run("create", name)
    assert run("list", "--local").stdout == "no pipe has files here\n"
    folder = folder_of(user_home, Registry(user_home).get("pulled"))
    folder.mkdir(parents=True)
    assert run("list", "--local").stdout == "no pipe has files here\n"  # an empty folder
    (folder / "a.csv").write_text("1")
    (user_home.pipe_state("mounted") / "tree").mkdir(parents=True)
    lines = run("list", "--local").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["mounted", "pulled"]
    assert lines[0].endswith("cached")
    assert lines[1].endswith("pulled to ~/home/pipes/pulled")
    found = json.loads(run("list", "--local", "--json").stdout)["pipes"]
    assert [(p["name"], p["folder"], p["cached"]) for p in found] == [
        ("mounted", "", True),
        ("pulled", str(folder), False),
    ]
    run("list", "--local", "--remote", code=2)


def test_d6_03_details_and_parents_only(run: Run, tmp_path: Path) -> None:
    root = (tmp_path / "team").as_uri()
    run("profile", "create", "team", "-o", f"root={root}")
    run("--profile", "team", "create", "vendor", "-o", "include=*.csv,*.xls")
    run("--profile", "team", "create", "eu", "-o", "parent=vendor")
    team = ("--profile", "team", "list")
    assert [line.split()[0] for line in run(*team).stdout.splitlines()] == ["eu", "vendor"]
    parents = run(*team, "--parents-only", "--details").stdout
    assert parents.startswith("vendor ")
    assert "    include=*.csv,*.xls\n" in parents
    assert "eu " not in parents
    remote = json.loads(run(*team, "--remote", "--details", "--json").stdout)["pipes"]
    assert {p["name"]: p["options"] for p in remote} == {
        "vendor": {"include": ["*.csv", "*.xls"]},
        "eu": {},
    }
    told = run(*team, "--remote", "--details").stdout
    assert f"{root}/vendor\n    include=*.csv,*.xls" in told


def test_d6_03_a_root_that_is_a_folder_is_no_store_itself(run: Run, tmp_path: Path) -> None:
    run("profile", "create", "team", "-o", f"root={(tmp_path / 'team').as_uri()}")
    done = run("--profile", "team", "list", "--remote", code=5)
    assert "the root" in done.stderr
    assert not (tmp_path / "team").exists()
    run("--profile", "team", "create", "sales")
    (tmp_path / "team" / "notes.txt").write_text("no pipe")
    (tmp_path / "team" / "plain").mkdir()
    found = json.loads(run("--profile", "team", "list", "--remote", "--json").stdout)["pipes"]
    assert [p["name"] for p in found] == ["sales"]
    assert sorted(p.name for p in (tmp_path / "team").iterdir()) == ["notes.txt", "plain", "sales"]


def test_d6_51_a_child_lies_below_its_parents_prefix(user_home: Home) -> None:
    registry = Registry(user_home)
    registry.add("vendor", "s3://b/vendor", "1", {"region": "eu-west-1", "dir": "/data/vendor"})
    assert registry.new_url("eu", "vendor") == "s3://b/vendor/eu"
    child = registry.add("eu", "s3://b/vendor/eu", "2", {"parent": "vendor"})
    assert child.settings.region == "eu-west-1"
    # The same object is the same file, whichever of the two was pulled.
    assert folder_of(user_home, child) == Path("/data/vendor/eu")
    other = registry.add("us", "s3://b/us", "3", {"parent": "vendor"})
    assert folder_of(user_home, other) == user_home.stores.parent / "pipes" / "us"
    grandchild = registry.add("de", "s3://b/vendor/eu/de", "4", {"parent": "eu"})
    assert folder_of(user_home, grandchild) == Path("/data/vendor/eu/de")
    registry.update("vendor", {"dir": "data"})
    assert (
        folder_of(user_home, registry.get("us"))
        == user_home.stores.parent / "pipes" / "us" / "data"
    )


def test_d6_51_embedded_children_lie_beside_their_parent(run: Run, user_home: Home) -> None:
    run("create", "vendor", "-o", 'schema={"pandas":{"sep":";"}}')
    run("create", "eu", "-o", "parent=vendor")
    child = Registry(user_home).get("eu")
    assert child.url == user_home.embedded_store("eu").as_uri()
    assert child.settings.schema == {"pandas": {"sep": ";"}}


def test_d6_51_a_parent_with_children_is_not_removed(run: Run, user_home: Home) -> None:
    run("create", "vendor")
    run("create", "eu", "-o", "parent=vendor")
    for words in (["remove", "vendor"], ["remove", "vendor", "--purge"]):
        done = run("-y", *words, code=4)
        assert '"vendor" is the parent of eu' in done.stderr
        assert "pipefs set eu parent=" in done.stderr
    with pytest.raises(Refused):
        Registry(user_home).remove("vendor")
    store = LocalStore(user_home.embedded_store("vendor"))
    assert [o.key for o in store.list(".pipefs/pipe")] == [".pipefs/pipe.json"]
    store.close()
    run("set", "eu", "parent=")
    run("-y", "remove", "vendor", "--purge")


def test_d6_35_the_folders_of_a_profile(run: Run, user_home: Home, tmp_path: Path) -> None:
    assert run("profile", "dir").stdout == f"{tmp_path}/home/pipes\n"
    run("profile", "create", "team")
    assert run("profile", "dir", "team").stdout == f"{tmp_path}/home/pipes/@team\n"
    assert run("--profile", "team", "profile", "dir").stdout == f"{tmp_path}/home/pipes/@team\n"
    run("--profile", "team", "create", "a")
    team = resolve_home(env={"PIPEFS_HOME": str(tmp_path / "home")}, profile="team")
    assert folder_of(team, Registry(team).get("a")) == tmp_path / "home/pipes/@team/a"
    folders = json.loads(run("profile", "dir", "team", "--json").stdout)
    assert folders["state"] == str(user_home.state / "profiles" / "team")
    assert "profile create taem" in run("profile", "dir", "taem", code=3).stderr


def test_d6_35_a_profile_is_made_by_its_first_use(run: Run) -> None:
    run("--profile", "team", "create", "a")
    assert run("profile", "list").stdout.split()[0] == "team"
    assert run("list").stdout.startswith("no pipes yet")
