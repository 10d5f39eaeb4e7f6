"""`pipefs diff`: trees and tables of two moments, for people and for programs."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from pipefs.cli.app import App
from pipefs.cli.diffoutput import sizes_text
from pipefs.cli.main import cli
from pipefs.manifest import Entry
from pipefs.past.opened import Past
from pipefs.stores.local import LocalStore
from tests import pasts

Run = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> App:
    """A home with the pipe `hurdat` in an embedded store."""
    monkeypatch.setenv("PIPEFS_HOME", str(tmp_path / "home"))
    app = App()
    app.home().make()
    app.registry().add("hurdat", (tmp_path / "store").as_uri(), "id", {})
    return app


@pytest.fixture
def past(home: App, tmp_path: Path) -> Iterator[Past]:
    store = LocalStore(tmp_path / "store")
    yield pasts.open_past(store)
    store.close()


@pytest.fixture
def run(home: App) -> Run:
    def go(*words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == code, (words, done.stdout, done.stderr)
        return done

    return go


def parquet(frame: pd.DataFrame) -> bytes:
    file = io.BytesIO()
    frame.to_parquet(file)
    return file.getvalue()


def storms(rows: int, unknown: int) -> pd.DataFrame:
    status = ["UNKNOWN"] * unknown + ["HURRICANE", "STORM"] * (rows // 2)
    frame = pd.DataFrame({"status": status})
    return frame.assign(wind=range(len(frame)))


STORMS = storms(400, 115)


@pytest.fixture
def transcript(past: Past) -> Past:
    """`raw`, and `clean` with fewer storms and a note."""
    old = {"storms.parquet": parquet(STORMS), "list.csv": b"id,x\n1,a\n2,b\n", "kept": b"k"}
    entries = pasts.put_files(past.store, old)
    pasts.take(past, entries, tag="raw")
    kept = [e for e in entries if e.path == "kept"]
    clean = STORMS[STORMS["status"] != "UNKNOWN"]
    new = {
        "storms.parquet": parquet(clean),
        "list.csv": b"id,x\n1,a\n2,c\n3,d\n",
        "notes.md": b"x" * 2000,
    }
    pasts.take(past, [*pasts.put_files(past.store, new), *kept], tag="clean")
    return past


# --- trees --------------------------------------------------------------------------------------


def test_diff_as_in_the_transcript(run: Run, transcript: Past) -> None:
    lines = run("diff", "hurdat", "raw", "clean").stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["M", "list.csv"],
        ["A", "notes.md"],
        ["M", "storms.parquet"],
    ]
    assert lines[1].split(maxsplit=2)[2] == "2 KB"
    assert lines[2].endswith("   rows 515 → 400")
    assert "rows" not in lines[0]  # not without being asked: it reads the file


def test_stat_counts_csv_too_and_ends_with_a_summary(run: Run, transcript: Past) -> None:
    lines = run("diff", "hurdat", "raw", "clean", "--stat").stdout.splitlines()
    assert lines[0].endswith("rows 2 → 3")
    assert lines[-1].startswith("1 added · 2 modified · 1 the same · +2 KB -")


def test_dws_39_same_different_added_removed(run: Run, transcript: Past) -> None:
    found = json.loads(run("diff", "hurdat", "clean", "raw", "--json").stdout)
    assert found["summary"] == {
        "added": 0,
        "modified": 2,
        "deleted": 1,
        "renamed": 0,
        "attributes": 0,
        "same": 1,
    }
    assert (found["name"], found["from"], found["to"]) == ("hurdat", "clean", "raw")


def test_t4_13_json_has_status_key_and_etag(run: Run, transcript: Past) -> None:
    found = json.loads(run("diff", "hurdat@raw", "clean", "--json").stdout)
    changes = {c["path"]: c for c in found["changes"]}
    assert {p: c["status"] for p, c in changes.items()} == {
        "list.csv": "modified",
        "notes.md": "added",
        "storms.parquet": "modified",
    }
    assert changes["storms.parquet"]["rows"] == [515, 400]
    assert changes["notes.md"]["new"]["key"] == "notes.md"
    assert len(changes["notes.md"]["new"]["etag"]) == 32
    assert "old" not in changes["notes.md"]
    old, new = changes["list.csv"]["old"], changes["list.csv"]["new"]
    assert old["version"] != new["version"]


@pytest.mark.parametrize(
    "words",
    [
        ["hurdat", "raw", "clean"],
        ["hurdat@raw", "hurdat@clean"],
        ["hurdat@raw", "clean"],
        ["hurdat", "raw", "latest"],
        ["hurdat", "raw", "hurdat@clean"],
        ["hurdat@raw", "latest"],
    ],
)
def test_all_forms_name_the_same_two_moments(run: Run, transcript: Past, words: list[str]) -> None:
    assert run("diff", *words, "--name-only").stdout == "list.csv\nnotes.md\nstorms.parquet\n"


def test_t4_14_ids_by_their_beginning(run: Run, transcript: Past) -> None:
    raw = transcript.catalog.find("raw").id
    out = run("diff", "hurdat", raw[:7], raw[:12].upper()).stdout
    assert "are the same" in out
    done = run("diff", "hurdat", "0" * 6, code=3)
    assert "no snapshot '000000'" in done.stderr


def test_a_path_narrows_it(run: Run, transcript: Past) -> None:
    assert run("diff", "hurdat/list.csv", "raw", "clean", "--name-only").stdout == "list.csv\n"
    assert run("diff", "hurdat@raw/list.csv", "clean", "--name-only").stdout == "list.csv\n"
    done = run("diff", "hurdat/nothing", "raw", "clean", code=3)
    assert "nothing is neither in raw nor in clean" in done.stderr


def test_two_folders_of_one_snapshot(run: Run, past: Past) -> None:
    files = {"a/x": b"1", "a/y": b"2", "b/x": b"1", "b/y": b"3"}
    pasts.take(past, pasts.put_files(past.store, files), tag="v1")
    assert run("diff", "hurdat@v1/a", "hurdat@v1/b", "--name-only").stdout == "b/y\n"


def test_t4_15_a_snapshot_of_a_folder_and_one_of_all(run: Run, past: Past) -> None:
    files = {"a/x": b"1", "b/y": b"2"}
    pasts.take(past, pasts.put_files(past.store, files), tag="all")
    pasts.take(past, pasts.put_files(past.store, {"a/x": b"9"}), tag="part", path="a")
    out = run("diff", "hurdat", "all", "part").stdout.splitlines()
    assert [line.split()[:2] for line in out[:-1]] == [["M", "a/x"]]
    assert out[-1] == "compared below a, of which both snapshots are"


def test_t4_15_snapshots_of_two_folders(run: Run, past: Past) -> None:
    for top, content in (("a", b"1"), ("b", b"2")):
        pasts.take(past, pasts.put_files(past.store, {f"{top}/x": content}), tag=top, path=top)
    out = run("diff", "hurdat", "a", "b").stdout.splitlines()
    assert out == ["D a/   1 file, 1 B", "A b/   1 file, 1 B"]


def test_folders_are_one_line_unless_each_file_is_wanted(run: Run, past: Past) -> None:
    old = pasts.put_files(past.store, {"old/a": b"1", "old/b": b"22", "gone/c": b"333"})
    new = pasts.put_files(past.store, {"new/a": b"1", "new/b": b"22", "more/d": b"4444"})
    pasts.take(past, old, tag="v1")
    pasts.take(past, new, tag="v2")
    assert run("diff", "hurdat", "v1", "v2").stdout.splitlines() == [
        "D gone/         1 file, 3 B",
        "A more/         1 file, 4 B",
        "R old/ → new/   2 files, 3 B",
    ]
    full = run("diff", "hurdat", "v1", "v2", "-R").stdout
    assert "R old/a → new/a" in full
    assert run("diff", "hurdat", "v1", "v2", "--name-only").stdout.splitlines() == [
        "gone/c",
        "more/d",
        "new/a",
        "new/b",
    ]


def test_what_a_line_says_of_each_kind(run: Run, past: Past) -> None:
    def at(**more: object) -> Entry:
        fields: dict[str, object] = {"path": "f", "size": 5, "etag": "a" * 32, "mode": 0o100644}
        return Entry(**{**fields, **more})  # type: ignore[arg-type]  # each has its field's type

    def said(old: Entry, new: Entry) -> str:
        pasts.take(past, pasts.in_order([old]))
        pasts.take(past, pasts.in_order([new]))
        first, second = past.catalog.kept()[1], past.catalog.kept()[0]
        return run("diff", "hurdat", first.short, second.short).stdout.strip()

    link = Entry(path="f", kind="symlink", target="there", size=5)
    assert said(at(), at(mode=0o100600)) == "m f   mode 644 → 600"
    assert said(at(), at(xattrs={"user.a": "YQ=="})) == "m f   attributes user.a"
    assert said(at(uid=1), at(uid=2)) == "m f   uid 1 → 2"
    assert said(at(), at(etag="b" * 32)) == "M f   5 B"
    assert said(at(), at(etag="b" * 32 + "-3")) == "M f   5 B   perhaps the same bytes"
    assert said(at(), link) == "M f   file → symlink"
    assert said(link, Entry(path="f", kind="symlink", target="here", size=4)) == (
        "M f   → there → → here"
    )
    assert said(at(path="a%01%"), at(path="a%01%", uid=5, mode=0o100600)) == (
        "m a\\x01%   mode 644 → 600"
    )


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (12_100_000, 11_900_000, "12.1 MB → 11.9 MB"),
        (2000, 2000, "2 KB"),
        (2_000_000, 3_000_000, "2 MB → 3 MB"),
        (12_000_100, 12_000_200, "12,000,100 B → 12,000,200 B"),
        (0, 5, "0 B → 5 B"),
        (5_012_000_000, 5_013_000_000, "5.012 GB → 5.013 GB"),
        (999, 1000, "999 B → 1 KB"),
    ],
)
def test_sizes_show_that_they_changed(old: int, new: int, text: str) -> None:
    assert sizes_text(old, new) == text


def test_live_is_the_present(run: Run, transcript: Past) -> None:
    out = run("diff", "hurdat", "raw", "--name-only").stdout
    assert out == run("diff", "hurdat", "raw", "live", "--name-only").stdout
    # A machine that is new to a pipe starts from its newest snapshot.
    assert out == "list.csv\nnotes.md\nstorms.parquet\n"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["diff"], 2, "missing argument"),
        (["diff", "nopipe", "a"], 3, 'no pipe "nopipe"'),
        (["diff", "hurdat", "a", "b", "c"], 2, "one moment too many"),
        (["diff", "hurdat", "nosuch"], 3, "no snapshot 'nosuch'"),
        (["diff", "hurdat@raw", "other@raw"], 2, "two pipes"),
        (["diff", "hurdat", "raw", "--key", "id"], 2, "--key is for --rows"),
        (["diff", "hurdat", "raw", "clean", "--rows", "no.csv"], 3, "no.csv is no file in raw"),
        (["diff", "hurdat", "raw", "raw", "--rows", "kept"], 4, "no table"),
        (["diff", "hurdat", "raw", "raw", "--rows", "list.csv", "--key", "z"], 3, "no column 'z'"),
    ],
)
def test_mistakes_say_what_to_do(
    run: Run, transcript: Past, words: list[str], code: int, said: str
) -> None:
    assert said in run(*words, code=code).stderr


# --- tables -------------------------------------------------------------------------------------


def test_rows_as_in_the_transcript(run: Run, transcript: Past) -> None:
    out = run("diff", "hurdat", "raw", "clean", "--rows", "storms.parquet").stdout
    assert out == "- 115 rows removed (status = 'UNKNOWN')   ~ 0 changed   + 0 added\n"


def test_rows_of_all_tables_that_changed(run: Run, transcript: Past) -> None:
    assert run("diff", "hurdat", "raw", "clean", "--rows").stdout.splitlines() == [
        "list.csv",
        "  - 0 rows removed   ~ 1 changed (x 1; by id)   + 1 added (id = 3)",
        "storms.parquet",
        "  - 115 rows removed (status = 'UNKNOWN')   ~ 0 changed   + 0 added",
    ]
    assert "no table differs" in run("diff", "hurdat", "raw", "raw", "--rows").stdout


def test_rows_for_programs(run: Run, transcript: Past) -> None:
    done = run("diff", "hurdat", "raw", "clean", "--json", "--rows", "list.csv", "--key", "id")
    (found,) = json.loads(done.stdout)["tables"]
    assert (found["path"], found["rows"], found["key"]) == ("list.csv", [2, 3], ["id"])
    assert (found["removed"], found["changed"], found["added"]) == (0, 1, 1)
    assert found["added_where"] == {"column": "id", "value": 3}


def test_columns_that_came_and_went_have_a_line(run: Run, past: Past) -> None:
    for tag, text in (("v1", b"id,a\n1,2\n"), ("v2", b"b,id\n5,1\n"), ("v3", b"id,b\n1,5\n")):
        pasts.take(past, pasts.put_files(past.store, {"t.csv": text}), tag=tag)
    assert run("diff", "hurdat", "v1", "v2", "--rows", "t.csv").stdout.splitlines() == [
        "+ column b   - column a",
        "- 0 rows removed   ~ 0 changed   + 0 added",
    ]
    assert run("diff", "hurdat", "v2", "v3", "--rows", "t.csv").stdout == "the same rows\n"
