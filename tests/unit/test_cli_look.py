"""ls and cat on the embedded store: now, in snapshots, at any moment."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipefs.cli.main import cli
from pipefs.manifest import Entry
from pipefs.moments import show_moment
from pipefs.past.looking import lines, stored_now
from pipefs.stores.base import Store
from pipefs.stores.local import LocalStore
from tests.machines import UnversionedStore
from tests.pasts import in_order, open_past, put_files, take

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def go(*words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(cli, words, env={"PIPEFS_HOME": str(tmp_path / "home")})
        assert done.exit_code == code, (words, done.stdout, done.stderr)
        assert "Traceback (most recent" not in done.stderr
        return done

    return go


@pytest.fixture
def store(run: Run, tmp_path: Path) -> Store:
    """The store of the pipe "sales", in three states."""
    store = LocalStore(tmp_path / "sales")
    run("create", "sales", (tmp_path / "sales").as_uri())
    return store


@pytest.fixture
def moments(store: Store) -> list[str]:
    """@TIME after each of the three states."""
    noted = []

    def note() -> None:
        noted.append(show_moment(time.time_ns()))

    metadata = {"mode": "33152", "mtime": "1700000000"}
    store.put("q3.csv", b"first", metadata=metadata)
    store.put("2026/jan.csv", b"1")
    store.put("2026/eu/x", b"22")
    note()
    store.put("q3.csv", b"second, longer")
    store.delete("2026/jan.csv")
    note()
    store.delete("2026/eu/x")
    store.put("new.csv", b"1")
    note()
    return noted


def test_ls_shows_the_names_of_now(run: Run, moments: list[str]) -> None:
    assert run("ls", "sales").stdout == "new.csv\nq3.csv\n"
    assert run("ls", "sales/q3.csv").stdout == "q3.csv\n"


def test_ls_shows_any_moment(run: Run, moments: list[str]) -> None:
    first, second, third = moments
    assert run("ls", f"sales@{first}").stdout == "2026/\nq3.csv\n"
    assert run("ls", f"sales@{first}/2026").stdout == "eu/\njan.csv\n"
    assert run("ls", "-R", f"sales@{first}").stdout == (
        "2026/\nq3.csv\n2026/eu/\n2026/jan.csv\n2026/eu/x\n"
    )
    assert run("ls", "-R", f"sales@{second}/2026").stdout == "eu/\neu/x\n"
    assert run("ls", f"sales@{third}").stdout == "new.csv\nq3.csv\n"
    assert run("ls", "sales@@now").stdout == "new.csv\nq3.csv\n"
    assert run("ls", "sales@@1d").stdout == ""


def test_ls_long_has_modes_sizes_and_times(run: Run, moments: list[str]) -> None:
    lines = run("ls", "-l", f"sales@{moments[0]}").stdout.splitlines()
    assert lines[0].split()[0] == "drwxr-xr-x"
    assert lines[0].endswith(" 2026/")
    assert lines[1] == "-rw-------  5 B  2023-11-14 22:13Z  q3.csv"


def test_ls_json_names_versions(run: Run, store: Store, moments: list[str]) -> None:
    said = json.loads(run("ls", f"sales@{moments[0]}", "--json").stdout)
    assert (said["name"], said["snapshot"], said["path"]) == ("sales", moments[0], "")
    folder, file = said["entries"]
    assert (folder["path"], folder["kind"], folder["version"]) == ("2026", "dir", None)
    versions = {v.version_id: v for v in store.list_versions("q3.csv")}
    assert versions[file["version"]].etag == file["etag"]
    assert (file["path"], file["kind"], file["size"]) == ("q3.csv", "file", 5)
    assert (file["mode"], file["time"]) == ("0600", "2023-11-14T22:13:20Z")


def test_cat_gives_the_bytes_of_the_moment(run: Run, moments: list[str]) -> None:
    assert run("cat", "sales/q3.csv").stdout == "second, longer"
    assert run("cat", f"sales@{moments[0]}/q3.csv").stdout == "first"
    assert run("cat", f"sales@{moments[1]}/q3.csv").stdout == "second, longer"
    assert run("cat", f"sales@{moments[0]}/2026/eu/x").stdout == "22"


def test_cat_gives_large_and_empty_files_whole(run: Run, store: Store) -> None:
    data = bytes(range(256)) * 4 * 9216  # more than one piece
    store.put("large", data)
    store.put("empty", b"")
    assert run("cat", "sales/large").stdout_bytes == data
    assert run("cat", "sales@@now/large").stdout_bytes == data
    assert run("cat", "sales@@now/empty").stdout_bytes == b""


def test_what_is_not_there_ends_with_3_and_what_is_wrong_with_2(
    run: Run, moments: list[str]
) -> None:
    first = moments[0]
    for words in (
        ("ls", "sales/nosuch"),
        ("cat", f"sales@{first}/nosuch"),
        ("cat", f"sales@{first}/q3.csv/below"),
        ("ls", f"sales@{first}/q3.csv/below"),
        ("ls", "--versions", "sales/nosuch"),
    ):
        assert "is not there" in run(*words, code=3).stderr
    assert "there is no snapshot" in run("ls", "sales@nosuch", code=3).stderr
    assert "there is no pipe" in run("ls", "nosuch", code=3).stderr.replace(
        "no such", "there is no"
    )
    assert "is still to come" in run("ls", "sales@@2999-01-01", code=3).stderr
    assert "is no time" in run("ls", "sales@@2x", code=2).stderr
    assert "is a directory" in run("cat", f"sales@{first}/2026", code=2).stderr
    assert "history" in run("ls", "--versions", f"sales@{first}", code=2).stderr


def test_snapshots_are_looked_into_by_tag_and_id(run: Run, store: Store) -> None:
    past = open_past(store)
    made = take(past, put_files(store, {"a.csv": b"1", "d/b.csv": b"22"}), tag="v1")
    store.put("a.csv", b"changed")
    for name in ("v1", "latest", made.id[:10]):
        assert run("ls", f"sales@{name}").stdout == "a.csv\nd/\n"
        assert run("ls", "-R", f"sales@{name}/d").stdout == "b.csv\n"
        assert run("cat", f"sales@{name}/a.csv").stdout == "1"
    assert run("cat", "sales/a.csv").stdout == "changed"


def test_links_are_followed_inside_a_snapshot(run: Run, store: Store, tmp_path: Path) -> None:
    entries = put_files(store, {"d/file": b"bytes"})
    links = {"link": "d/file", "dir": "d", "d/up": "../link", "out": "/etc/passwd", "loop": "loop"}
    entries += [Entry(path=p, kind="symlink", target=t, size=len(t)) for p, t in links.items()]
    take(open_past(store), in_order(entries), tag="v1")
    for path in ("link", "dir/file", "d/up", "dir/up"):
        assert run("cat", f"sales@v1/{path}").stdout == "bytes"
    assert run("ls", "sales@v1/dir").stdout == "file\nup -> ../link\n"
    assert run("ls", "-R", "sales@v1/dir").stdout == "file\nup -> ../link\n"
    assert run("ls", "-l", "sales@v1/link").stdout.endswith("link -> d/file\n")
    for path in ("out", "loop"):
        run("cat", f"sales@v1/{path}", code=3)


def test_t4_08_ls_lists_versions_and_delete_markers(
    run: Run, store: Store, moments: list[str]
) -> None:
    """Row T4-08: ls(path, recursive=False)."""
    said = json.loads(run("ls", "--versions", "sales", "--json").stdout)
    assert said["prefixes"] == ["2026"]
    assert said["delete_markers"] == []
    assert [(v["key"], v["size"], v["latest"]) for v in said["versions"]] == [
        ("new.csv", 1, True),
        ("q3.csv", 14, True),
        ("q3.csv", 5, False),
    ]
    whole = json.loads(run("ls", "--versions", "-R", "sales", "--json").stdout)
    assert "prefixes" not in whole
    assert {v["key"] for v in whole["versions"]} == {
        *("new.csv", "q3.csv", "2026/jan.csv", "2026/eu/x"),
    }
    gone = [(v["key"], v["latest"]) for v in whole["delete_markers"]]
    assert gone == [("2026/eu/x", True), ("2026/jan.csv", True)]
    known = {v.version_id: v for v in store.list_versions()}
    for version in whole["versions"]:
        assert known[version["version"]].etag == version["etag"]
        assert version["time"].endswith("Z")
    assert all(known[v["version"]].is_delete_marker for v in whole["delete_markers"])


def test_versions_of_one_file_are_listed_newest_first(run: Run, moments: list[str]) -> None:
    lines = [line.split() for line in run("ls", "--versions", "sales/q3.csv").stdout.splitlines()]
    assert [(line[2:4], line[4]) for line in lines] == [
        (["14", "B"], "latest"),
        (["5", "B"], lines[1][4]),
    ]
    assert [line[-1] for line in lines] == ["q3.csv", "q3.csv"]
    lines = run("ls", "--versions", "sales/2026").stdout.splitlines()
    assert lines[0] == "eu/"
    assert lines[1].split()[2:4] == ["deleted", "latest"]


def test_a_bucket_without_versions_shows_its_present(tmp_path: Path) -> None:
    store = UnversionedStore(LocalStore(tmp_path / "store"))
    for key in ("a/b", "a/c/d", "e", "empty/", ".pipefs/x"):
        store.put(key, b"1" if not key.endswith("/") else b"")
    view = stored_now(store, [])
    assert [e.path for e in lines(view, [], recursive=True)] == [
        *("a", "e", "empty", "a/b", "a/c", "a/c/d"),
    ]
    view = stored_now(store, [b"a"])
    assert [e.path for e in lines(view, [b"a"], recursive=False)] == ["a/b", "a/c"]
