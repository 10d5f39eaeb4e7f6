"""mount, umount, status, flush, refresh and remove through a real daemon and kernel."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipefs.cli.main import cli
from pipefs.client import NotRunning, SupervisorClient
from pipefs.detach import detach
from pipefs.errors import Refused
from pipefs.home import resolve_home
from pipefs.mountinfo import PIPEFS_TYPE, read_mounts
from pipefs.stores.local import LocalStore
from tests.mounted import eventually, processes_of

Run = Callable[..., Result]

CONTRACT_KEYS = [
    *("name", "path", "pid", "transport", "features", "state", "snapshot"),
    *("dirty_files", "dirty_bytes", "uploading_files", "uploading_bytes", "conflicts"),
    *("cache_bytes", "cache_hit_ratio", "last_error"),
]


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of its own; whatever is mounted below it at the end is taken away first."""
    base = Path(tempfile.mkdtemp(prefix="pipefs-cli-"))
    monkeypatch.setenv("PIPEFS_HOME", str(base / "home"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    yield base
    os.chdir("/")
    with contextlib.suppress(NotRunning):
        SupervisorClient(resolve_home()).shutdown()
    # It answers first and then puts its house in order.
    eventually(lambda: not processes_of(base / "home"), "the daemon has ended")
    for entry in read_mounts():
        if entry.path.startswith(f"{base}/"):
            subprocess.run(["umount", "-l", entry.path], check=False)
    shutil.rmtree(base)


@pytest.fixture
def run(folder: Path) -> Run:
    def go(*words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == code, (words, done.stdout, done.stderr)
        return done

    return go


def _mounted(folder: Path) -> list[str]:
    return [e.path for e in read_mounts() if e.path.startswith(f"{folder}/")]


def test_first_minute_create_mount_write_flush_come_back(run: Run, folder: Path) -> None:
    run("create", "hurdat")
    path = folder / "home" / "mnt" / "hurdat"
    assert run("mount", "hurdat").stdout.startswith(f"hurdat  {path} · ready in ")
    (path / "a.csv").write_text("1,2\n")
    assert "safe to unplug: no (hurdat)" in run("status").stdout
    assert run("flush", "hurdat").stdout.startswith("hurdat  all saved")
    assert "all saved" in run("status").stdout
    assert "safe to unplug: yes" in run("status").stdout
    assert run("umount", "hurdat").stdout == "hurdat  unmounted\n"
    assert _mounted(folder) == []
    store = LocalStore(folder / "home" / "stores" / "hurdat")
    assert store.get("a.csv", None, 0, 100) == b"1,2\n"
    store.close()
    run("mount", "hurdat")
    assert (path / "a.csv").read_text() == "1,2\n"


def test_status_json_is_one_object_with_the_keys_of_the_contract(run: Run, folder: Path) -> None:
    run("create", "a")
    mounted = json.loads(run("mount", "a", "--json").stdout)["mounted"]
    (found,) = json.loads(run("status", "--json").stdout)["mounts"]
    assert list(found)[: len(CONTRACT_KEYS)] == CONTRACT_KEYS
    assert (found["name"], found["state"], found["snapshot"]) == ("a", "live", None)
    assert found["path"] == mounted[0]["path"] == str(folder / "home" / "mnt" / "a")
    os.kill(found["pid"], 0)


def test_a_pipe_is_mounted_in_a_given_folder_once(run: Run, folder: Path) -> None:
    run("create", "a")
    place = folder / "place with spaces"
    place.mkdir()
    run("mount", "a", str(place))
    assert _mounted(folder) == [str(place)]
    assert "already mounted" in run("mount", "a", code=4).stderr
    assert str(place) in run("list").stdout
    run("umount", str(place))
    assert _mounted(folder) == []


def test_a_mount_point_that_is_missing_is_refused_with_the_command(run: Run, folder: Path) -> None:
    run("create", "a")
    done = CliRunner().invoke(cli, ["mount", "a", str(folder / "nowhere")])
    assert done.exit_code != 0
    assert "does not exist" in done.stderr
    assert "mkdir" in done.stderr


def test_several_pipes_are_mounted_and_unmounted_at_once(run: Run, folder: Path) -> None:
    for name in ("a", "b"):
        run("create", name)
    run("mount", "a")
    assert run("mount", "--all").stdout.startswith("b  ")
    assert len(_mounted(folder)) == 2
    assert "nothing to mount" in run("mount", "--all").stdout
    run("umount", "--all")
    assert _mounted(folder) == []
    assert run("umount", "--all").stdout == "nothing is mounted\n"


def test_read_only_refuses_writes(run: Run, folder: Path) -> None:
    run("create", "a")
    run("mount", "a", "-o", "ro")
    with pytest.raises(OSError, match="Read-only"):
        (folder / "home" / "mnt" / "a" / "x").write_text("x")
    assert "read-only" in run("status").stdout


def test_targets_inside_the_mount_need_no_name(run: Run, folder: Path) -> None:
    run("create", "a")
    run("mount", "a")
    os.chdir(folder / "home" / "mnt" / "a")
    Path("d").mkdir()
    Path("d/x").write_text("x")
    assert run("flush", "./d").stdout.startswith("a/d  all saved")
    assert run("flush", ".").stdout.startswith("a  all saved")
    assert run("refresh", "a", "--full").stdout.startswith("a  ")


def test_a_home_inside_a_mount_is_refused(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("create", "a")
    run("mount", "a")
    with monkeypatch.context() as patch:
        patch.setenv("PIPEFS_HOME", str(folder / "home" / "mnt" / "a" / "h"))
        done = run("create", "b", code=4)
    assert "lies inside the pipefs mount" in done.stderr
    assert not (folder / "home" / "mnt" / "a" / "h").exists()


def test_a_mounted_pipe_is_not_removed(run: Run, folder: Path) -> None:
    run("create", "a")
    run("mount", "a")
    assert "pipefs umount a" in run("-y", "remove", "a", code=4).stderr
    run("umount", "a")
    run("-y", "remove", "a")
    assert not (folder / "home" / "state" / "pipes" / "a").exists()


def test_what_waits_in_the_outbox_is_said_and_keeps_the_pipe(run: Run, folder: Path) -> None:
    run("create", "a", "-o", "quiet_period=1h")
    run("mount", "a")
    (folder / "home" / "mnt" / "a" / "x").write_text("only here")
    assert "outbox" in run("umount", "a", "--no-wait").stdout
    assert "not mounted · 1 change waits in the outbox" in run("status", "a").stdout
    assert "not in the store yet" in run("-y", "remove", "a", code=4).stderr
    run("mount", "a")
    run("flush", "a")
    run("umount", "a")
    run("-y", "remove", "a")


def test_flush_gives_up_after_its_timeout_with_124(run: Run, folder: Path) -> None:
    run("create", "a")
    run("mount", "a")
    (folder / "home" / "mnt" / "a" / "big").write_bytes(os.urandom(1 << 20) * 64)
    run("flush", "a", "--timeout", "0", code=124)
    run("flush", "a")


def _kill_daemon(run: Run) -> None:
    """kill -9 of supervisor and worker: nobody holds the kernel descriptor any more."""
    supervisor = SupervisorClient(resolve_home()).ping().pid
    (found,) = json.loads(run("status", "--json").stdout)["mounts"]
    for pid in (supervisor, found["pid"]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    while True:
        try:
            os.statvfs(found["path"])
        except OSError:
            return
        time.sleep(0.05)


def test_doctor_judges_a_dead_mount_by_whose_it_is(run: Run, folder: Path) -> None:
    run("create", "a")
    run("mount", "a")
    path = str(folder / "home" / "mnt" / "a")
    _kill_daemon(run)

    def level(code: int) -> str:
        checks = json.loads(run("doctor", "--json", code=code).stdout)["checks"]
        return next(str(check["level"]) for check in checks if check["what"] == path)

    with pytest.MonkeyPatch.context() as elsewhere:
        elsewhere.setenv("PIPEFS_HOME", str(folder / "other"))
        assert level(code=0) == "note"
    assert level(code=1) == "bad"


def test_a_dead_mount_of_another_home_goes_only_where_it_is_named(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("create", "a")
    run("mount", "a")
    path = str(folder / "home" / "mnt" / "a")
    _kill_daemon(run)
    monkeypatch.setenv("PIPEFS_HOME", str(folder / "other"))
    told = run("doctor", "--fix").stdout
    assert re.search(f"^note +{path} +dead mount", told, re.MULTILINE)
    assert f"pipefs umount {path}" in told
    assert _mounted(folder) == [path]
    run("umount", path)
    assert _mounted(folder) == []


def test_a_dead_mount_that_somebody_else_took_away_is_away(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("create", "a")
    run("mount", "a")
    _kill_daemon(run)
    (entry,) = [e for e in read_mounts() if e.path in _mounted(folder)]
    with monkeypatch.context() as without_tools:
        without_tools.setenv("PATH", str(folder))
        with pytest.raises(Refused, match="could not be removed"):
            detach(entry)
    detach(entry)
    detach(entry)


@pytest.mark.parametrize("words", [("umount", "a"), ("doctor", "--fix")])
def test_a_dead_mount_is_taken_away(run: Run, folder: Path, words: tuple[str, ...]) -> None:
    run("create", "a")
    run("mount", "a")
    path = folder / "home" / "mnt" / "a"
    (path / "x").write_text("kept")
    _kill_daemon(run)
    assert _mounted(folder) == [str(path)]
    run(*words)
    assert _mounted(folder) == []
    run("mount", "a")
    assert (path / "x").read_text() == "kept"


def test_foreground_stays_until_it_is_interrupted(run: Run, folder: Path) -> None:
    run("create", "a")
    child = subprocess.Popen(
        [sys.executable, "-m", "pipefs.cli.main", "mount", "a", "--foreground"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    assert child.stdout is not None
    assert child.stdout.readline().startswith("a  ")
    assert any(e.fstype == PIPEFS_TYPE for e in read_mounts() if e.path in _mounted(folder))
    assert child.poll() is None
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=60)[0] == "a  unmounted\n"
    assert child.returncode == 0
    assert _mounted(folder) == []
