"""create, list, show, set, remove, doctor and profile on the embedded store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipefs.cli.main import cli
from pipefs.stores.local import LocalStore

Run = Callable[..., Result]


def _environment(home: Path) -> dict[str, str]:
    return {**os.environ, "PIPEFS_HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `pipefs` in a home of its own; `code` is the exit code it must have."""
    monkeypatch.chdir(tmp_path)

    def go(*words: str, code: int = 0, home: str = "home") -> Result:
        env = {"PIPEFS_HOME": str(tmp_path / home)}
        done = CliRunner().invoke(cli, words, env=env)
        assert done.exit_code == code, (words, done.stdout, done.stderr)
        assert "Traceback (most recent" not in done.stderr
        return done

    return go


def test_first_minute_create_says_where_and_what_is_next(run: Run) -> None:
    lines = run("create", "hurdat").stdout.splitlines()
    assert lines[0].startswith("hurdat  embedded store in ")
    assert lines[0].endswith("versions kept")
    assert lines[1] == "next: pipefs mount hurdat"


def test_a_created_pipe_is_listed_and_shown(run: Run) -> None:
    run("create", "a")
    run("create", "b", "-o", "cache_limit=50G", "-o", "include=*.csv,*.tsv")
    assert [line.split()[0] for line in run("list").stdout.splitlines()] == ["a", "b"]
    listed = json.loads(run("list", "--json").stdout)["pipes"]
    assert [(p["name"], p["mounts"]) for p in listed] == [("a", []), ("b", [])]
    shown = json.loads(run("show", "b", "--json").stdout)
    assert shown["options"] == {"cache_limit": "50G", "include": ["*.csv", "*.tsv"]}
    assert shown["settings"]["cache_limit"] == 50 << 30
    assert "*  include" in run("show", "b").stdout


def test_global_options_may_stand_before_and_after_the_command(run: Run) -> None:
    run("create", "a", "-q")
    assert run("--json", "list").stdout == run("list", "--json").stdout
    assert run("-q", "create", "b").stdout == ""


def test_another_machine_adopts_the_pipe_from_its_store(run: Run, tmp_path: Path) -> None:
    url = (tmp_path / "shared").as_uri()
    options = ("-o", "include=*.csv", "-o", 'schema={"pandas":{"sep":";"}}', "-o", "region=here")
    run("create", "sales", url, *options)
    done = run("create", url, home="other")
    assert done.stdout.startswith("sales  ")
    assert "made 20" in done.stdout
    text = (tmp_path / "other" / "config" / "pipes" / "sales.toml").read_text()
    assert "*.csv" in text
    assert "pandas" in text
    assert "here" not in text


def test_create_in_a_filled_folder_says_what_it_found(run: Run, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "old")
    for n in range(3):
        store.put(f"d/{n}.csv", b"x" * 1000)
    store.close()
    line = run("create", "old", (tmp_path / "old").as_uri()).stdout.splitlines()[0]
    assert "holds 3 objects, 3 KB" in line
    assert "newest 20" in line


def test_name_taken_is_refused_with_the_way_out(run: Run) -> None:
    run("create", "a")
    done = run("create", "a", "file:///tmp/elsewhere", code=4)
    assert 'there is a pipe "a" already' in done.stderr
    assert "pipefs remove a" in done.stderr
    assert not Path("/tmp/elsewhere").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["create"], 2, "neither a name nor a URL"),
        (["create", "a b"], 2, "cannot name a pipe"),
        (["create", "x", "http://h/b"], 2, "s3://bucket/prefix"),
        (["create", "x", "file://relative"], 2, "no directory of this machine"),
        (["create", "x", "s3://k:s@b/p"], 2, "must not hold a key"),
        (["create", "x", "s3://-b/p"], 2, "names no bucket"),
        (["create", "x", "-o", "colour=red"], 2, "no setting 'colour'"),
        (["show", "x"], 3, 'no pipe "x"'),
        (["set", "x", "region=a"], 3, 'no pipe "x"'),
        (["-y", "remove", "x"], 3, 'no pipe "x"'),
        (["doctor", "x"], 3, 'no pipe "x"'),
        (["mount", "x"], 3, 'no pipe "x"'),
        (["mount"], 2, "which pipe?"),
        (["umount", "x"], 3, 'no pipe "x"'),
        (["umount", "/nowhere"], 3, "is not mounted"),
        (["status", "x"], 3, 'no pipe "x"'),
        (["flush", "x"], 3, 'no pipe "x"'),
        (["refresh", "x"], 3, 'no pipe "x"'),
        (["flush", "./x"], 3, "not inside a mounted pipe"),
        (["crate", "x"], 2, "Did you mean create"),
        (["list", "--wrong"], 2, "--wrong"),
        (["list", "--remote"], 2, "no root"),
        (["--profile", "nobody", "list"], 3, 'no profile "nobody"'),
        (["--config", "/nowhere.toml", "list"], 2, "/nowhere.toml"),
    ],
)
def test_mistakes_get_a_message_and_the_exit_code(
    run: Run, words: list[str], code: int, said: str
) -> None:
    done = run(*words, code=code)
    assert done.stderr.startswith("pipefs: ")
    assert said in done.stderr
    assert done.stdout == ""


def test_set_changes_this_machine_and_the_store(run: Run, tmp_path: Path) -> None:
    run("create", "a")
    assert "cache_limit" in run("set", "a", "cache_limit=1G", "include=*.csv").stdout
    store = LocalStore(tmp_path / "home" / "stores" / "a")
    described = json.loads(store.get(".pipefs/pipe.json", None, 0, 1 << 20))
    store.close()
    assert described["options"] == {"include": ["*.csv"]}
    run("set", "a", "cache_limit=")
    assert json.loads(run("show", "a", "--json").stdout)["options"] == {"include": ["*.csv"]}
    run("set", "a", "include=", "nothing=", code=2)


def test_remove_asks_and_without_a_terminal_needs_yes(run: Run, tmp_path: Path) -> None:
    run("create", "a")
    done = run("remove", "a", code=4)
    assert "pipefs -y remove a" in done.stderr
    assert "stays" in run("-y", "remove", "a").stdout
    assert (tmp_path / "home" / "stores" / "a").is_dir()
    assert "made 20" in run("create", "a").stdout


def test_purge_deletes_every_version(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    run("create", "a", folder.as_uri())
    store = LocalStore(folder)
    store.put("x", b"1")
    store.put("x", b"2")
    store.delete("x")
    run("remove", "a", "--purge", code=4)
    assert "versions deleted" in run("-y", "remove", "a", "--purge").stdout
    assert list(store.list_versions()) == []
    store.close()


def test_purge_of_an_embedded_store_leaves_no_folder(run: Run, tmp_path: Path) -> None:
    run("create", "a")
    run("-y", "remove", "a", "--purge")
    assert not (tmp_path / "home" / "stores" / "a").exists()


def test_a_profile_gives_new_pipes_their_root_and_lists_what_is_there(
    run: Run, tmp_path: Path
) -> None:
    root = (tmp_path / "team").as_uri()
    run("profile", "create", "team", "-o", f"root={root}")
    assert (
        run("--profile", "team", "create", "sales")
        .stdout.splitlines()[0]
        .startswith(f"sales  {root}/sales")
    )
    assert run("list").stdout.startswith("no pipes yet")
    run("profile", "create", "guests", "-o", f"root={root}")
    assert f"create {root}/sales" in run("--profile", "guests", "list", "--remote").stdout
    found = json.loads(run("--profile", "team", "list", "--remote", "--json").stdout)["pipes"]
    assert [(p["name"], p["here"]) for p in found] == [("sales", "sales")]
    assert "next: pipefs --profile team mount" in run("--profile", "team", "create", "b").stdout


def test_profiles_are_made_changed_and_forgotten(run: Run) -> None:
    run("profile", "create", "team", "-o", "region=a")
    run("profile", "create", "team", code=4)
    run("profile", "set", "team", "engine=boto3", "region=")
    assert json.loads(run("profile", "show", "team", "--json").stdout)["options"] == {
        "engine": "boto3"
    }
    run("--profile", "team", "create", "a")
    run("-y", "profile", "remove", "team", code=4)
    run("-y", "--profile", "team", "remove", "a")
    run("-y", "profile", "remove", "team")
    run("profile", "show", "team", code=3)


def test_doctor_judges_machine_and_store(run: Run) -> None:
    run("create", "a")
    checks = json.loads(run("doctor", "a", "--json").stdout)["checks"]
    levels = {c["what"]: c["level"] for c in checks}
    assert levels["python packages"] == "ok"
    assert levels["versioning"] == "ok"
    assert levels["conditional put"] == "ok"
    assert levels["clock"] == "ok"
    assert levels[".pipefs/pipe.json"] == "ok"


def test_doctor_finds_a_pipe_that_is_another_one(run: Run, tmp_path: Path) -> None:
    run("create", "a")
    store = LocalStore(tmp_path / "home" / "stores" / "a")
    store.put(".pipefs/pipe.json", b'{"name": "a", "pipe_id": "other"}')
    store.close()
    done = run("doctor", "a", code=1)
    assert "another pipe" in done.stdout
    assert "1 of" in done.stderr


def test_a_store_of_a_newer_format_is_refused_and_not_registered(run: Run, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "new")
    store.put(".pipefs/format.json", b'{"format": 9}')
    store.close()
    assert "format 9" in run("create", "a", (tmp_path / "new").as_uri(), code=4).stderr
    assert run("list").stdout.startswith("no pipes yet")


def test_nothing_mounted_is_said_and_is_json_too(run: Run) -> None:
    assert run("status").stdout.startswith("nothing is mounted")
    assert json.loads(run("status", "--json").stdout) == {"mounts": []}
    run("create", "a")
    assert run("status", "a").stdout == "a  not mounted · all saved\n"
    assert '"a" is not mounted' in run("flush", "a", code=4).stderr
    assert "is not mounted" in run("umount", "a", code=4).stderr


def test_list_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys, pipefs.cli.main as m\n"
        "try: m.cli.main(['list'])\n"
        "except SystemExit: pass\n"
        "heavy = {'boto3', 'botocore', 'pandas', 'lmdb', 'obstore', 'rich', 'numpy'}\n"
        "print(*(heavy & set(sys.modules)), file=sys.stderr, end='')"
    )
    env = _environment(tmp_path)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_module_runs_as_a_program(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipefs.cli.main", "show", "x"],
        env=_environment(tmp_path), capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith('pipefs: there is no pipe "x"')


def test_a_bug_is_one_line_and_its_traceback_is_kept(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(_: object) -> None:
        raise ZeroDivisionError("by hand")

    monkeypatch.setattr("pipefs.registry.Registry.names", bug)
    done = run("list", code=1)
    log = tmp_path / "home" / "state" / "log" / "pipefs.log"
    assert "internal error: ZeroDivisionError: by hand" in done.stderr
    assert str(log) in done.stderr
    assert "in bug" in log.read_text()


def test_a_reader_that_goes_away_is_no_error(run: Run, tmp_path: Path) -> None:
    run("create", "a")
    env = {
        **os.environ,
        "PIPEFS_HOME": str(tmp_path / "home"),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "pipefs.cli.main", "list"],
        env=env, stdout=write, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
