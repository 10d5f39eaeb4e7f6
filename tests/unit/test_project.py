"""Projects without a bucket: their files, their configuration, datakit's words and markers."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipefs.cli.main import cli
from pipefs.errors import NotFound, Refused, UsageError
from pipefs.folder.deciding import Folder, Sides
from pipefs.folder.states import Local, Remote, Scan
from pipefs.project import owner
from pipefs.project.flags import parse_flags
from pipefs.project.layout import ignore
from pipefs.project.markers import left_out, read_markers, taken_over
from pipefs.project.settings import Project, find_project, new_config, read_project
from pipefs.stores.local import LocalStore
from tests.promises.promised import promise

CONFIG = "config/datakit-data.json"


@pytest.fixture(autouse=True)
def place(ram_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """We are in a folder my-project, of a user without any settings."""
    monkeypatch.setenv("PIPEFS_HOME", str(ram_path / "home"))
    monkeypatch.setenv("DATAKIT_HOME", str(ram_path / "datakit"))
    folder = ram_path / "my-project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def run(*words: str, code: int = 0) -> Result:
    done = CliRunner().invoke(cli, ["project", *words])
    assert done.exit_code == code, (words, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / CONFIG).read_text())
    return found


def write(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def datakit_defaults(folder: Path, **values: str) -> None:
    write(folder.parent / "datakit" / "plugins" / "datakit-data" / "config.json", values)


# --- init ----------------------------------------------------------------


def test_dk_01_init_makes_the_project(place: Path) -> None:
    said = run("init").stdout
    assert said.startswith("my-project  no bucket yet\nmade: data/  config/datakit-data.json")
    assert (place / "data" / ".gitkeep").read_bytes() == b""
    assert config_of(place)["s3_path"] == "my-project"


@promise(
    "project-config",
    "`pipefs project` reads and writes `config/datakit-data.json` with datakit's keys "
    "alone, and `init` leaves one that is there as it is.",
)
def test_dk_01_init_leaves_a_configuration_unchanged(place: Path) -> None:
    text = '{"s3_bucket": "", "s3_path": "x/y",\n "note": "by hand"}'
    (place / "config").mkdir()
    (place / CONFIG).write_text(text)
    assert "was there and stays as it is" in run("init").stdout
    assert (place / CONFIG).read_text() == text
    assert (place / "data" / ".gitkeep").exists()
    err = run("init", "--bucket", "other", code=4).stderr
    assert "pipefs project config s3_bucket=other" in err
    assert (place / CONFIG).read_text() == text


def test_dk_01_a_preview_of_init_makes_nothing(place: Path) -> None:
    assert "would be a project" in run("init", "-n").stdout
    assert list(place.iterdir()) == []
    told = json.loads(run("init", "--json").stdout)
    assert (told["project"], told["url"], told["pipe"]) == ("my-project", None, None)
    assert told["made"] == ["data/", CONFIG, ".gitignore"]


def test_dk_02_the_configuration_has_datakits_keys_and_defaults(place: Path) -> None:
    run("init")
    assert config_of(place) == {
        "aws_user_profile": "default",
        "s3_bucket": "",
        "s3_path": "my-project",
        "sync_status_location": ".sync_status/",
    }


def test_dk_03_the_profile_is_that_of_the_aws_files(place: Path) -> None:
    run("init")
    assert read_project(place).aws_profile == ""  # what the AWS files and variables choose
    run("config", "aws_user_profile=other_profile")
    assert read_project(place).aws_profile == "other_profile"


def test_dk_05_the_folder_in_the_bucket_is_the_projects_name(place: Path) -> None:
    run("init")
    run("config", "s3_bucket=my-data")
    assert read_project(place).url == "s3://my-data/my-project"
    run("config", "s3_path=projects/x/")
    assert read_project(place).url == "s3://my-data/projects/x"
    run("config", "s3_path=")
    assert read_project(place).url == "s3://my-data"


def test_dk_06_defaults_of_datakit_count_until_there_are_own(place: Path) -> None:
    datakit_defaults(place, aws_user_profile="other_profile", s3_bucket="")
    run("init")
    assert config_of(place)["aws_user_profile"] == "other_profile"
    run("config", "--defaults", "aws_user_profile=mine")
    (place / CONFIG).unlink()
    run("init")
    assert config_of(place)["aws_user_profile"] == "mine"


def test_dk_06_defaults_of_datakit_are_taken_over(place: Path) -> None:
    datakit_defaults(place, s3_bucket="archive", s3_path_prefix="projects")
    said = run("config", "--import-datakit").stdout
    assert "archive" in said and "projects" in said
    datakit_defaults(place, s3_bucket="changed since")
    values = json.loads(run("config", "--defaults", "--json").stdout)["values"]
    assert values == {"s3_bucket": "archive", "s3_path_prefix": "projects"}


def test_dk_06_a_profile_has_defaults_of_its_own(place: Path) -> None:
    CliRunner().invoke(cli, ["profile", "create", "team"])
    run("config", "--defaults", "aws_user_profile=mine")
    team = ["--profile", "team", "project"]
    CliRunner().invoke(cli, [*team, "config", "--defaults", "aws_user_profile=ours"])
    assert CliRunner().invoke(cli, [*team, "init"]).exit_code == 0
    assert config_of(place)["aws_user_profile"] == "ours"


@pytest.mark.parametrize(
    ("values", "path"),
    [
        pytest.param({"s3_path_prefix": "projects/2017"}, "projects/2017/my-project", id="dk_07"),
        pytest.param({"s3_path_suffix": "data/"}, "my-project/data", id="dk_08"),
        pytest.param(
            {"s3_path_prefix": "/projects/2017/", "s3_path_suffix": "data"},
            "projects/2017/my-project/data",
            id="dk_09",
        ),
    ],
)
def test_dk_07_dk_08_dk_09_prefix_and_suffix(
    place: Path, values: dict[str, str], path: str
) -> None:
    run("config", "--defaults", *(f"{k}={v}" for k, v in values.items()))
    run("init")
    assert config_of(place)["s3_path"] == path
    assert not [key for key in config_of(place) if key.startswith("s3_path_")]
    # Of new projects only.
    run("config", "--defaults", "s3_path_prefix=elsewhere")
    assert read_project(place).s3_path == path


def test_dk_10_placeholders(place: Path) -> None:
    day = datetime(2026, 3, 9, tzinfo=UTC)
    values = {
        "s3_bucket": "data-$USERNAME",
        "s3_path": "$PROJECTNAME",
        "s3_path_prefix": "projects/$YEAR/$MONTH-$DAY",
        "extra": ["$YEAR"],
    }
    made = new_config(place, values, now=day, user="anna")
    assert made["s3_bucket"] == "data-anna"
    assert made["s3_path"] == "projects/2026/03-09/my-project"
    assert made["extra"] == ["$YEAR"]  # only texts


def test_dk_11_the_first_init_on_a_terminal_asks(place: Path) -> None:
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "pipefs.cli.main", "project", "init"],
        stdin=theirs,
        stderr=theirs,
        stdout=subprocess.PIPE,
        text=True,
    )
    os.close(theirs)
    os.write(ours, b"\n\nprojects/$YEAR\n\n\n")
    said, _ = child.communicate(timeout=60)
    os.close(ours)
    assert child.returncode == 0 and "no bucket yet" in said
    assert config_of(place)["s3_path"] == f"projects/{datetime.now(UTC).year}/my-project"
    values = json.loads(run("config", "--defaults", "--json").stdout)["values"]
    assert values == {
        "aws_user_profile": "default",
        "s3_path_prefix": "projects/$YEAR",
        "sync_status_location": ".sync_status/",
    }


def test_dk_11_without_a_terminal_nothing_is_asked(place: Path) -> None:
    run("init")  # a runner has no terminal
    assert "no defaults" in run("config", "--defaults").stdout


# --- where, and what is in it ----------------------------------------------------------------


def test_dk_19_a_project_is_found_from_below(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    err = run("status", code=3).stderr
    assert "is in no project" in err and "pipefs project init" in err
    run("init")
    deep = place / "analysis" / "deep"
    deep.mkdir(parents=True)
    assert find_project(deep).root == place
    monkeypatch.chdir(deep)
    run("status")
    monkeypatch.chdir(place / "data")
    assert "is the data of the project" in run("init", code=4).stderr


def test_dk_19_a_broken_configuration_is_named(place: Path) -> None:
    (place / "config").mkdir()
    (place / CONFIG).write_text("{")
    assert "datakit-data.json is no JSON" in run("status", code=2).stderr
    (place / CONFIG).write_text("[" * 200_000)
    assert "datakit-data.json is no JSON" in run("status", code=2).stderr
    (place / CONFIG).write_text('{"s3_bucket": 7}')
    assert "s3_bucket is no text" in run("status", code=2).stderr


def test_dk_20_data_stays_out_of_git_and_its_folder_in(place: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=place, check=True)
    run("init")
    (place / "data" / "big.csv").write_text("1")
    (place / ".sync_status").mkdir()
    (place / ".sync_status" / "big.csv.synced").write_text("x")
    listed = subprocess.run(
        ["git", "ls-files", "-o", "--exclude-standard"],
        cwd=place,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert listed == [".gitignore", CONFIG, "data/.gitkeep"]


def test_dk_20_lines_that_are_there_are_not_written_twice(place: Path) -> None:
    file = place / ".gitignore"
    file.write_text("*.pyc\ndata/")
    assert ignore(file, ".sync_status/")
    assert file.read_text() == "*.pyc\ndata/\n.sync_status/\n"
    assert not ignore(file, ".sync_status/")


# --- words ----------------------------------------------------------------


def test_dk_18_words_with_and_without_dashes() -> None:
    flags = parse_flags(["delete", "--dryrun", "force", "no-progress", "--no-follow-symlinks"])
    assert flags.delete and flags.dry_run and flags.force
    assert not flags.progress and not flags.follow_links
    assert parse_flags(["dry-run"]).dry_run and parse_flags(["--only-show-errors"]).quiet
    ignored = parse_flags(["size-only", "--exact-timestamps", "no-guess-mime-type"]).ignored
    assert list(ignored) == ["size-only", "--exact-timestamps", "no-guess-mime-type"]
    with pytest.raises(UsageError, match="nothing was done") as caught:
        parse_flags(["dryrn"])
    assert "dryrun" in caught.value.hint


def test_dk_28_the_configuration_is_shown_set_and_checked(place: Path) -> None:
    run("init")
    assert "s3_bucket             (missing)" in run("config").stdout
    done = run("verify", code=1)
    assert "BAD  configuration  no bucket is named" in done.stdout
    assert "Did you mean s3_bucket" in run("config", "s3_buket=x", code=2).stderr
    run("config", "s3_bucket=a/b")
    assert "is not the name of a bucket" in run("verify", code=1).stdout


def test_dk_21_of_two_claims_at_once_one_wins(ram_path: Path) -> None:
    store = LocalStore(ram_path / "store")
    first, second = (Project(ram_path / n / "p", s3_bucket="bucket", s3_path="p") for n in "12")
    for project in (first, second):
        assert owner.look(store, project, lambda: False).whose is owner.Whose.FREE
    mine = owner.claim(store, first)
    with pytest.raises(Refused, match="belongs to another project"):
        owner.claim(store, second)
    assert not (second.root / owner.IDENTITY).exists()
    # An interrupted claim is taken up: the id was written here first.
    assert owner.claim(store, first) == mine
    assert owner.look(store, first, lambda: False).whose is owner.Whose.OURS
    # At another place it is another id.
    moved = Project(first.root, s3_bucket="bucket", s3_path="elsewhere")
    assert owner.read_identity(moved) == ""


# --- datakit's markers ----------------------------------------------------------------


def mark(project: Path, path: str, etag: str, time_s: int) -> None:
    file = project / ".sync_status" / f"{path}.synced"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(etag)
    os.utime(file, (time_s, time_s))


def test_dk_22_dk_23_status_reads_markers_without_a_bucket(place: Path) -> None:
    run("init")
    data = place / "data"
    for name in ("pushed.csv", "changed.csv", "new.csv"):
        (data / name).write_text(name)
        os.utime(data / name, (1000, 1000))
    mark(place, "pushed.csv", "e1", 2000)
    mark(place, "changed.csv", "e2", 2000)
    os.utime(data / "changed.csv", (3000, 3000))
    said = run("status", "--filepaths").stdout.splitlines()
    assert said[0].endswith("last pushed 1970-01-01T00:33:20Z")
    assert said[1:5] == [
        "1 file never pushed",
        "  new.csv",
        "1 file modified since",
        "  changed.csv",
    ]
    told = json.loads(run("status", "--json").stdout)
    assert (told["files"], told["never_pushed"], told["remote"]) == (3, ["new.csv"], None)


def test_dk_23_markers_beside_the_data_are_no_data(place: Path) -> None:
    run("init")
    run("config", "sync_status_location=data/")
    (place / "data" / "a.csv").write_text("1")
    (place / "data" / "a.csv.synced").write_text('"e1"')
    project = read_project(place)
    assert read_markers(project)["a.csv"].etag == "e1"
    assert left_out(project) == (".gitkeep", "*.synced")
    assert json.loads(run("status", "--json").stdout)["files"] == 1


@pytest.mark.parametrize("location", ["/", "../..", "aside"])
def test_dk_23_markers_outside_of_the_project_are_not_looked_for(
    place: Path, location: str
) -> None:
    """A clone brings its configuration along: `/` would have the whole disk looked through."""
    run("init")
    (place / "aside").symlink_to("/")
    run("config", f"sync_status_location={location}")
    said = run("status", code=2).stderr
    assert "is outside of the project" in said
    assert "config sync_status_location=.sync_status/" in said
    run("config", "sync_status_location=")
    run("status")


def test_dk_23_a_marker_is_a_small_file_and_no_link(place: Path) -> None:
    run("init")
    mark(place, "long.csv", "e" * 5000, 1000)
    (place / ".sync_status" / "a.csv.synced").symlink_to("/dev/zero")
    (found,) = read_markers(read_project(place)).items()
    assert (found[0], len(found[1].etag)) == ("long.csv", 256)


def test_dk_23_markers_say_what_was_in_step(place: Path) -> None:
    run("init")
    for path in ("same", "mine", "theirs", "both", "other-size"):
        mark(place, path, f"etag-{path}", 2000)
    mark(place, "old-datakit", "", 2000)
    markers = read_markers(read_project(place))
    before, after = 1_000 * 10**9, 3_000 * 10**9
    local = {
        "same": Local(4, before),
        "mine": Local(4, after),
        "theirs": Local(4, before),
        "both": Local(4, after),
        "other-size": Local(5, before),
        "old-datakit": Local(4, before),
    }
    remote = {
        path: Remote(4, before, version=f"v-{path}", etag=f"etag-{path}")
        for path in ("same", "mine", "other-size", "old-datakit")
    } | {path: Remote(4, after, version="v2", etag="newer") for path in ("theirs", "both")}
    sides = Sides(Folder("/x"), Scan(local), {}, remote, 0)
    known = taken_over(markers, sides, 0)
    assert sorted(known) == ["both", "mine", "other-size", "same", "theirs"]
    assert [p for p, k in sorted(known.items()) if k.size == 4] == ["same", "theirs"]
    seen = [p for p, k in sorted(known.items()) if k.remote_is_same(remote[p])]
    assert seen == ["mine", "other-size", "same"]


def test_no_project_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="in no project"):
        find_project(tmp_path)
