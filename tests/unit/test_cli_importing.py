"""`pipefs import`: files and folders into a pipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import pipefs
from pipefs.cli.main import cli


@pytest.fixture(autouse=True)
def pipe(ram_path: Path, monkeypatch: pytest.MonkeyPatch) -> pipefs.Pipe:
    monkeypatch.setenv("PIPEFS_HOME", str(ram_path / "home"))
    return pipefs.create("sales")


@pytest.fixture
def raw(ram_path: Path) -> Path:
    folder = ram_path / "raw"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.csv").write_text("1")
    (folder / "deep" / "b.csv").write_text("22")
    return folder


def run(*words: str, code: int = 0) -> Result:
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == code, (words, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


def test_d6_29_import_copies_or_moves(pipe: pipefs.Pipe, raw: Path) -> None:
    said = run("import", "sales", str(raw / "a.csv"), str(raw / "deep" / "b.csv")).stdout
    assert said == "sales  2 files, 3 B\n"
    assert pipe.scan_remote() == ["a.csv", "b.csv"]
    run("import", "sales", str(raw), "--subdir", "runs/one")
    assert pipe.scan_remote("runs*") == ["runs/one/a.csv", "runs/one/deep/b.csv"]
    assert run("import", "sales", str(raw), "--subdir", "m", "--move").stdout.endswith("here\n")
    assert pipe.scan_remote("m/*") == ["m/a.csv", "m/deep/b.csv"]
    assert not raw.exists()


def test_a_preview_changes_nothing(pipe: pipefs.Pipe, raw: Path) -> None:
    said = run("import", "sales", str(raw), "--move", "-n").stdout
    assert f"{raw}/deep/b.csv → deep/b.csv\n" in said and "would import 2 files, 3 B" in said
    assert pipe.scan_remote() == [] and (raw / "a.csv").exists()
    told = json.loads(run("import", "sales", str(raw), "--json").stdout)
    assert [f["path"] for f in told["files"]] == ["a.csv", "deep/b.csv"]
    assert all(f["version"] for f in told["files"]) and not told["moved"]


def test_what_cannot_be_imported(pipe: pipefs.Pipe, raw: Path, ram_path: Path) -> None:
    (raw / "deep" / "a.csv").write_text("3")
    err = run("import", "sales", str(raw / "a.csv"), str(raw / "deep" / "a.csv"), code=2).stderr
    assert "would both be a.csv" in err
    (ram_path / "empty").mkdir()
    run("import", "sales", str(ram_path / "empty"), code=3)
    run("import", "none", str(raw), code=3)
    pipe.put("x", "a.csv/x")
    run("import", "sales", str(raw), "--move", code=4)
    assert (raw / "a.csv").exists() and (raw / "deep" / "b.csv").exists()


def test_a_file_of_the_pipes_own_store_is_not_moved_into_it(ram_path: Path) -> None:
    run("create", "mine", (ram_path / "store").as_uri())
    (ram_path / "store" / "d").mkdir()
    (ram_path / "store" / "d" / "a.csv").write_text("1")
    (ram_path / "link").symlink_to(ram_path / "store")
    source = str(ram_path / "link" / "d")
    said = run("import", "mine", source, "--subdir", "d", "--move", code=4).stderr
    assert "in the store of mine itself" in said
    assert (ram_path / "store" / "d" / "a.csv").read_text() == "1"
