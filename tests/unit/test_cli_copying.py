"""cp and mv inside a store, and listings by time."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from pipefs.stores.local import LocalStore

Run = Callable[..., Result]


@pytest.fixture
def sales(run: Run, tmp_path: Path) -> Run:
    """A pipe with a.csv, d/b.csv and d/e/c.csv, and another pipe beside it."""
    run("create", "sales", (tmp_path / "store").as_uri())
    run("create", "prices")
    (tmp_path / "src" / "d" / "e").mkdir(parents=True)
    for name in ("a.csv", "d/b.csv", "d/e/c.csv"):
        (tmp_path / "src" / name).write_text(f"{name}\n")
    run("put", "src", "sales/")
    return run


def names(run: Run, target: str = "sales") -> list[str]:
    found = json.loads(run("ls", "-R", target, "--json").stdout)["entries"]
    return sorted(e["path"] for e in found if e["kind"] == "file")


def test_d6_73_files_are_copied_inside_the_store(sales: Run, tmp_path: Path) -> None:
    assert sales("cp", "sales/a.csv", "sales/x.csv", "-n").stdout.startswith("sales  would copy")
    assert names(sales) == ["a.csv", "d/b.csv", "d/e/c.csv"]
    assert sales("cp", "sales/a.csv", "sales/x.csv").stdout == "sales  copied to x.csv, 6 B\n"
    sales("cp", "sales/a.csv", "sales/d/")
    sales("cp", "sales/a.csv", "sales/d/b.csv", "sales/new/")
    sales("cp", "-r", "sales/d/e", "sales/new")
    expected = [
        "a.csv",
        "d/a.csv",
        "d/b.csv",
        "d/e/c.csv",
        "new/a.csv",
        "new/b.csv",
        "new/e/c.csv",
        "x.csv",
    ]
    assert names(sales) == expected
    assert sales("cat", "sales/new/e/c.csv").stdout == "d/e/c.csv\n"
    store = LocalStore(tmp_path / "store")
    assert {o.key for o in store.list("new/")} == {"new/a.csv", "new/b.csv", "new/e/c.csv"}
    store.close()


def test_d6_73_out_of_a_snapshot_and_into_another_pipe(sales: Run) -> None:
    sales("snapshot", "sales", "v1")
    sales("rm", "-r", "sales/d")
    sales("cp", "-r", "sales@v1/d", "sales/")
    assert names(sales) == ["a.csv", "d/b.csv", "d/e/c.csv"]
    sales("cp", "-r", "sales@v1/d", "prices/")
    assert names(sales, "prices") == ["d/b.csv", "d/e/c.csv"]
    assert sales("cat", "prices/d/b.csv").stdout == "d/b.csv\n"


def test_d6_73_moving_leaves_nothing_behind(sales: Run, tmp_path: Path) -> None:
    sales("mv", "sales/a.csv", "sales/z.csv")
    sales("mv", "sales/d", "sales/archive/")
    assert names(sales) == ["archive/d/b.csv", "archive/d/e/c.csv", "z.csv"]
    assert "d/" not in sales("ls", "sales").stdout.splitlines()
    sales("mv", "sales/archive/d/b.csv", "prices/")
    assert names(sales, "prices") == ["b.csv"]
    assert names(sales) == ["archive/d/e/c.csv", "z.csv"]


def test_two_files_of_one_name_are_both_kept(sales: Run) -> None:
    sales("cp", "sales/a.csv", "sales/d/a.csv")
    done = sales("mv", "sales/a.csv", "sales/d/a.csv", "sales/new/", code=2)
    assert "a.csv and d/a.csv would both become new/a.csv" in done.stderr
    assert names(sales) == ["a.csv", "d/a.csv", "d/b.csv", "d/e/c.csv"]


def test_a_file_moved_to_where_it_is_by_another_pipes_name_stays(run: Run, tmp_path: Path) -> None:
    """The copy would be the file itself, and then the old place is deleted."""
    run("create", "whole", (tmp_path / "store").as_uri())
    run("create", "part", (tmp_path / "store" / "d").as_uri())
    (tmp_path / "b.csv").write_text("b\n")
    run("put", str(tmp_path / "b.csv"), "whole/d/e/b.csv")
    assert "where it is to go" in run("mv", "whole/d/e/b.csv", "part/e/b.csv", code=2).stderr
    assert "into itself" in run("mv", "whole/d/e", "part/", code=2).stderr
    assert (tmp_path / "store" / "d" / "e" / "b.csv").read_text() == "b\n"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["cp", "sales/a.csv"], 2, "from where to where"),
        (["cp", "sales/a.csv", "sales/a.csv"], 2, "where it is to go"),
        (["cp", "sales/d", "sales/x/"], 2, "-r"),
        (["cp", "-r", "sales/d", "sales/d/e/"], 2, "into itself"),
        (["cp", "sales/d/b.csv", "sales/a.csv/x"], 4, "a.csv is no folder"),
        (["mv", "sales/d/b.csv", "sales/a.csv/"], 4, "a.csv is no folder"),
        (["mv", "sales", "sales/d/"], 2, "into itself"),
        (["mv", "sales@v1/a.csv", "sales/x"], 2, "never changes"),
        (["cp", "sales/a.csv", "sales@v1/x"], 2, "never changes"),
        (["cp", "sales/none", "sales/x"], 3, "is not there"),
        (["cp", "nothing/a", "sales/x"], 3, 'no pipe "nothing"'),
    ],
)
def test_what_is_not_copied(sales: Run, words: list[str], code: int, said: str) -> None:
    sales("snapshot", "sales", "v1")
    assert said in sales(*words, code=code).stderr
    assert names(sales) == ["a.csv", "d/b.csv", "d/e/c.csv"]


def test_d6_73_what_is_listed_may_be_of_a_time(sales: Run, tmp_path: Path) -> None:
    for name, when in (("old.csv", 1_600_000_000), ("new.csv", 1_700_000_000)):
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (when, when))
        sales("put", name, "sales/t/")
    assert sales("ls", "sales/t", "--since", "2021-01-01").stdout == "new.csv\n"
    assert sales("ls", "sales/t", "--until", "2021-01-01").stdout == "old.csv\n"
    between = sales("ls", "-R", "sales", "--since", "2020-01-01", "--until", "2022-01-01").stdout
    assert between == "t/old.csv\n"
    assert "is no time" in sales("ls", "sales", "--since", "soon", code=2).stderr
