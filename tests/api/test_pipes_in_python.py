"""`import pipefs`: which pipe, its settings, its folder; d6tpipe's words."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pandas as pd
import pytest

import pipefs
from pipefs import Pipe
from pipefs.errors import (
    AlreadyExists,
    NotFound,
    ReadOnly,
    Refused,
    UsageError,
)
from pipefs.stores.local import LocalStore

# --- which pipe ---------------------------------------------------------------------------------


def test_d6_01_a_pipe_by_name(pipe: Pipe) -> None:
    again = Pipe("sales", mode="new", sortby="mod")
    assert (again.name, again.url, again.mode, again.sortby) == ("sales", pipe.url, "new", "mod")
    assert "sales" in repr(again)
    with pytest.raises(NotFound, match=r"no pipe .salse"):
        Pipe("salse")
    with pytest.raises(UsageError, match="no mode"):
        Pipe("sales", mode="some")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="can be sorted"):
        Pipe("sales").files(sortby="colour")


def test_importing_costs_nothing_and_has_all_its_names() -> None:
    assert set(pipefs.__all__) <= set(dir(pipefs))
    for name in pipefs.__all__:
        assert getattr(pipefs, name) is not None
    with pytest.raises(AttributeError):
        pipefs.nothing  # noqa: B018


def test_d6_03_and_04_pipes_are_listed(pipe: Pipe, home: Path, ram_path: Path) -> None:
    other = pipefs.create("weather")
    assert pipefs.list_pipes() == ["sales", "weather"]
    rows = pipefs.list_pipes(names_only=False)
    assert [(r.name, r.url) for r in rows] == [("sales", pipe.url), ("weather", other.url)]  # type: ignore[union-attr]
    assert pipefs.list_local_pipes() == []
    other.put("1", "a.txt")
    other.pull()
    assert pipefs.list_local_pipes() == ["weather"]
    pipefs.create("eu", parent="weather")
    assert pipefs.list_pipes() == ["eu", "sales", "weather"]
    assert pipefs.list_pipes(parent_only=True) == ["sales", "weather"]


def test_d6_03_pipes_of_a_team_are_found_below_its_root(ram_path: Path) -> None:
    from pipefs.home import resolve_home
    from pipefs.profiles import write_profile

    write_profile(resolve_home(), "team", {"root": (ram_path / "root").as_uri()}, create=True)
    pipefs.create("sales", profile="team")
    assert pipefs.list_pipes(remote=True, profile="team") == ["sales"]
    assert pipefs.list_pipes() == []
    assert Pipe("sales", profile="team").url == (ram_path / "root" / "sales").as_uri()


def test_d6_32_everything_works_without_a_server(pipe: Pipe) -> None:
    assert pipefs.upsert_pipe({"name": "sales", "options": {"exclude": "*.tmp"}}).settings[
        "exclude"
    ] == ("*.tmp",)
    with pytest.raises(AlreadyExists, match="stays there"):
        pipefs.upsert_pipe({"name": "sales", "url": "file:///elsewhere"})
    with pytest.raises(UsageError, match="no name"):
        pipefs.upsert_pipe({"url": "file:///x"})


def test_d6_45_and_46_upserting_from_a_file(ram_path: Path) -> None:
    file = ram_path / "pipes.yaml"
    file.write_text(
        "weather:\n  options: {include: '*.csv|*.xls*'}\n  schema: {pandas: {sep: ';'}}"
    )
    made = pipefs.upsert_pipe_json(file, "weather")
    assert (made.name, made.schema) == ("weather", {"pandas": {"sep": ";"}})
    assert made.settings["include"] == ("*.csv", "*.xls*")
    one = ram_path / "one.json"
    one.write_text('{"name": "one"}')
    assert pipefs.upsert_pipe_json(one).name == "one"
    with pytest.raises(UsageError, match="no file"):
        pipefs.upsert_pipe_json(ram_path / "none.json")


def test_d6_49_and_52_settings_travel_with_the_pipe(pipe: Pipe, ram_path: Path) -> None:
    pipe.update_settings({"include": ["*.csv"], "schema": {"pandas": {"sep": ";"}}})
    pipe.update_settings({"include": None, "cache_limit": "1G"})
    assert pipe.settings["include"] == () and pipe.settings["cache_limit"] == 1 << 30
    again = pipefs.create("copy", pipe.url)
    assert again.schema == {"pandas": {"sep": ";"}}
    assert again.settings["cache_limit"] is None  # a matter of each machine
    with pytest.raises(UsageError, match="no setting"):
        pipe.update_settings({"colour": "red"})
    assert Pipe("sales").settings == pipe.settings


def test_d6_51_a_child_inherits_its_parents_settings(pipe: Pipe) -> None:
    pipe.update_settings({"schema": {"pandas": {"sep": ";"}}, "exclude": ["*.tmp"]})
    child = pipefs.create("child", parent="sales", exclude=["*.bak"])
    assert (child.schema, child.settings["exclude"]) == ({"pandas": {"sep": ";"}}, ("*.bak",))


def test_d6_70_several_pipes_at_once(pipe: Pipe) -> None:
    other = pipefs.create("weather")
    pipe.put("1", "a.txt")
    other.put("2", "a.txt")
    assert (pipe.get("a.txt")[0], other.get("a.txt")[0]) == ("1", "2")


# --- d6tpipe: folders ---------------------------------------------------------------------------


def test_d6_22_dirpath_and_dir(pipe: Pipe, home: Path) -> None:
    assert pipe.dirpath == home / "pipes" / "sales" and pipe.dirpath.is_dir()
    assert pipe.dir == f"{home}/pipes/sales/"


def test_d6_50_the_folder_may_be_in_a_subdirectory(pipe: Pipe, home: Path) -> None:
    pipe.update_settings({"dir": "raw/2026"})
    assert pipe.dirpath == home / "pipes" / "sales" / "raw" / "2026" and pipe.dirpath.is_dir()


def test_d6_19_files_that_are_here(pipe: Pipe) -> None:
    for number, name in enumerate(["b.csv", "a.csv", "d/c.txt"]):
        pipe.put("x" * (3 - number), name)
        time.sleep(0.002)
    assert pipe.files() == []
    assert pipe.files(check_exists=False) == ["a.csv", "b.csv", "d/c.txt"]
    pipe.pull(["a.csv", "d/c.txt", "b.csv"])
    assert pipe.files() == ["a.csv", "b.csv", "d/c.txt"]
    assert pipe.files(sortby="mod") == ["b.csv", "a.csv", "d/c.txt"]
    assert pipe.files(sortby="size") == ["d/c.txt", "a.csv", "b.csv"]
    assert pipe.files("*.csv", exclude="b*") == ["a.csv"]
    found = pipe.files()[0]
    assert (found.size, found.version) == (2, pipe.versions("a.csv")[0].version)
    assert found.modified_at.year >= 2026


def test_d6_20_filepaths(pipe: Pipe) -> None:
    pipe.put("1", "d/a.csv")
    pipe.pull()
    assert pipe.filepaths() == [pipe.dirpath / "d/a.csv"]
    assert pipe.filepaths(aspathlib=False) == [f"{pipe.dir}d/a.csv"]


def test_d6_21_the_newest_file(pipe: Pipe) -> None:
    pipe.put(pd.DataFrame({"a": [1]}), "z.csv")
    time.sleep(0.002)
    pipe.put(pd.DataFrame({"a": [2]}), "a.csv")
    pipe.pull()
    assert pd.read_csv(pipe.dirpath / pipe.files(sortby="mod")[-1])["a"][0] == 2


def test_d6_17_and_18_scans(pipe: Pipe, store: LocalStore) -> None:
    pipe.put("1", "a.csv")
    (pipe.dirpath / "here.csv").write_text("abc")
    assert (pipe.scan_remote(), pipe.scan_local()) == (["a.csv"], ["here.csv"])
    store.put("tool.csv", b"22")
    assert pipe.scan_remote() == ["a.csv"]
    assert pipe.scan_remote(cached=False) == ["a.csv", "tool.csv"]
    rows = pipe.scan_remote(attributes=True, sortby="size")
    assert [(r.filename, r.size, r.crc) for r in rows] == [
        ("a.csv", 1, "c4ca4238a0b923820dcc509a6f75849b"),
        ("tool.csv", 2, "b6d767d2f8ed5d21a44b0e5886680cb9"),
    ]
    frame = pipe.scan_local(attributes=True).to_df()
    assert frame["filename"].tolist() == ["here.csv"] and frame["size"].sum() == 3


def test_d6_25_deleting_here(pipe: Pipe) -> None:
    pipe.put("1", "d/a.csv")
    pipe.put("1", "b.csv")
    pipe.pull()
    (pipe.dirpath / "mine.txt").write_text("x")
    (pipe.dirpath / "b.csv").write_text("changed here, and nowhere else")
    with pytest.raises(Refused, match="deletes 3 files"):
        pipe.delete_files_local()
    assert pipe.delete_files_local(confirm=False, delete_all=False) == ["d/a.csv"]
    assert pipe.scan_local() == ["b.csv", "mine.txt"] and not (pipe.dirpath / "d").exists()
    assert pipe.delete_files_local(["mine.txt", "none"], confirm=False) == ["mine.txt"]
    assert pipe.scan_remote() == ["b.csv", "d/a.csv"]


def test_d6_26_deleting_there_keeps_versions(pipe: Pipe) -> None:
    pipe.put("1", "a.csv")
    pipe.put("1", "b.csv")
    assert pipe.delete_files_remote("a.csv", confirm=False) == ["a.csv"]
    assert pipe.scan_remote() == ["b.csv"]
    assert [v.deleted for v in pipe.versions("a.csv")] == [True, False]
    with pytest.raises(Refused):
        pipe.delete_files_remote()
    assert pipe.delete_files_remote(confirm=False) == ["b.csv"]


def test_d6_27_deleting_on_both_sides(pipe: Pipe) -> None:
    pipe.put("1", "a.csv")
    pipe.put("1", "b.csv")
    pipe.pull()
    (pipe.dirpath / "mine.txt").write_text("x")
    assert pipe.delete_files(["a.csv"], confirm=False) == ["a.csv"]
    assert (pipe.scan_remote(), pipe.scan_local()) == (["b.csv"], ["b.csv", "mine.txt"])
    assert pipe.delete_files(confirm=False) == ["b.csv"]
    assert (pipe.scan_remote(), pipe.scan_local()) == ([], ["mine.txt"])


def test_d6_28_reset(pipe: Pipe) -> None:
    pipe.put("1", "a.csv")
    pipe.pull()
    (pipe.dirpath / "a.csv").write_text("mine")
    (pipe.dirpath / "b.csv").write_text("mine")
    pipe.reset()
    assert ((pipe.dirpath / "a.csv").read_text(), pipe.scan_local()) == ("1", ["a.csv", "b.csv"])
    pipe.reset(delete=True)
    assert pipe.scan_local() == ["a.csv"] and pipe.mode == "default"


def test_d6_29_importing(pipe: Pipe, ram_path: Path) -> None:
    raw = ram_path / "raw"
    (raw / "deep").mkdir(parents=True)
    (raw / "a.csv").write_text("1")
    (raw / "deep" / "b.csv").write_text("2")
    assert pipe.import_file(raw / "a.csv") == "a.csv"
    assert pipe.import_files([raw / "a.csv", raw / "deep/b.csv"], "flat") == [
        "flat/a.csv",
        "flat/b.csv",
    ]
    assert pipe.import_dir(raw, "all", move=True) == ["all/a.csv", "all/deep/b.csv"]
    assert not (raw / "a.csv").exists()
    assert pipe.scan_local() == ["a.csv", "all/a.csv", "all/deep/b.csv", "flat/a.csv", "flat/b.csv"]
    with pytest.raises(NotFound):
        pipe.import_file(raw / "none")
    with pytest.raises(NotFound):
        pipe.import_dir(raw / "none")
    (pipe.dirpath / "x").mkdir()
    (ram_path / "x").write_text("")
    with pytest.raises(AlreadyExists):
        pipe.import_file(ram_path / "x")
    with pytest.raises(UsageError, match="two files"):
        pipe.import_files([ram_path / "x", pipe.dirpath / "flat" / ".." / "x"])


def test_d6_30_writing_straight_into_the_folder(pipe: Pipe) -> None:
    (pipe.dirpath / "deep").mkdir()
    pd.DataFrame({"a": [1]}).to_csv(pipe.dirpath / "deep" / "new.csv", index=False)
    assert pipe.scan_local() == ["deep/new.csv"]


def test_d6_31_offline(pipe: Pipe, ram_path: Path) -> None:
    pipe.put(pd.DataFrame({"a": [1]}), "a.csv", meta={"who": "Ann"})
    pipe.put("2", "b.txt")
    pipe.snapshot("raw")
    pipe.pull(["a.csv"])
    pipe.schema = {"pandas": {"nrows": 1}}
    again = Pipe("sales", offline=True)
    (ram_path / "store").rename(ram_path / "away")  # the store is out of reach
    assert again.files() == ["a.csv"]
    assert again.scan_remote() == ["a.csv", "b.txt"]
    assert again.read("a.csv")["a"].tolist() == [1]
    assert again.meta("a.csv") == {"who": "Ann"}
    assert [s.tag for s in again.snapshots()] == ["raw"]
    assert again.schema == {"pandas": {"nrows": 1}}
    with pytest.raises(Refused, match="not on this machine"):
        again.get("b.txt")
    with pytest.raises(ReadOnly):
        again.put("x", "c.txt")
    with pytest.raises(Refused, match="offline"):
        again.pull()


def test_d6_53_reading_by_the_schema(pipe: Pipe) -> None:
    pipe.schema = {
        "pandas": {"sep": ";"},
        "files": {"old/*": {"pandas": {"sep": "|", "names": ["a", "b"]}}},
        "polars": {"separator": ";"},
    }
    pipe.put("a;b\n1;2\n", "t.csv")
    pipe.put("1|2\n", "old/t.csv")
    pipe.put(pd.DataFrame({"a": [1], "b": [2]}), "t.parquet")
    assert pipe.read("t.csv").to_dict("list") == {"a": [1], "b": [2]}
    assert pipe.read("t.csv", usecols=["b"]).to_dict("list") == {"b": [2]}
    assert pipe.read("old/t.csv").to_dict("list") == {"a": [1], "b": [2]}
    assert pipe.read("t.parquet", columns=["a"]).to_dict("list") == {"a": [1]}
    assert pd.read_csv(io.BytesIO(pipe.get_bytes("t.csv")), **pipe.schema["pandas"]).size == 2
