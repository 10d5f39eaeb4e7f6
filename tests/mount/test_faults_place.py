"""Where and how a pipe is mounted: what is wrong there, and what the user is told."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from pipefs.db import FORMAT
from pipefs.lmdbenv import open_env
from pipefs.statedb.format import FORMAT_KEY
from pipefs.statedb.tables import META, write_meta
from tests.mounted import NOBODY, PROGRAM, SOURCE, Home, eventually

NAMESPACE = ("unshare", "--mount", "--propagation", "private", "sh", "-ec")


@pytest.fixture
def made(home: Home) -> Home:
    home.create("p")
    return home


# --- names -----------------------------------------------------------------------------------


def test_an_unknown_pipe_ends_with_3_and_names_the_near_ones(made: Home) -> None:
    for words in (("mount", "q"), ("status", "q"), ("flush", "q"), ("umount", "q"), ("show", "q")):
        done = made.run(*words, code=3)
        assert '"q"' in done.stderr
        assert "pipefs" in done.stderr.splitlines()[-1]


def test_a_taken_or_impossible_name_is_refused_before_anything_is_made(made: Home) -> None:
    done = made.run("create", "p", code=4)
    assert '"p"' in done.stderr
    for name in ("-x", "a b", ".hidden", "x" * 64, "über"):
        done = made.run("create", "--", name, code=2)
        assert "starts with a letter or digit" in done.stderr
    listed = json.loads(made.run("list", "--json").stdout)["pipes"]
    assert [p["name"] for p in listed] == ["p"]


# --- places ----------------------------------------------------------------------------------


def test_mount_points_that_are_missing_full_or_no_folder_are_refused(made: Home) -> None:
    full, file = made.base / "full", made.base / "file"
    full.mkdir()
    (full / "mine.txt").write_text("stays")
    file.write_text("a file")
    done = made.run("mount", "p", str(made.base / "nowhere"), code=3)
    assert f"mkdir -p {made.base}/nowhere" in done.stderr
    done = made.run("mount", "p", str(full), code=4)
    assert "not empty" in done.stderr
    assert "mine.txt" in done.stderr
    done = made.run("mount", "p", str(file), code=2)
    assert "not a directory" in done.stderr
    assert made.mounts() == []
    assert (full / "mine.txt").read_text() == "stays"


def test_a_pipe_mounted_already_is_told_with_its_place(made: Home) -> None:
    path = made.mount("p")
    done = made.run("mount", "p", code=4)
    assert str(path) in done.stderr
    assert "pipefs umount p" in done.stderr
    other = made.base / "other"
    other.mkdir()
    made.run("mount", "p", str(other), code=4)
    assert made.mounts() == [str(path)]
    made.create("q")
    done = made.run("mount", "q", str(path), code=4)
    assert "already a mount point" in done.stderr


def test_a_dead_mount_point_is_recovered_by_the_next_mount(made: Home) -> None:
    path = made.mount("p")
    (path / "x").write_text("kept")
    made.kill_all()
    with pytest.raises(OSError):
        os.listdir(path)
    made.mount("p")
    assert (path / "x").read_text() == "kept"
    assert made.mounts() == [str(path)]


def test_plain_umount_by_root_loses_nothing_and_leaves_no_daemon_behind(made: Home) -> None:
    path = made.mount("p")
    (path / "x").write_text("kept")
    subprocess.run(["umount", path], check=True, timeout=30)
    assert made.mounts() == []
    eventually(lambda: "nothing is mounted" in made.run("status").stdout, "it is noticed")
    made.mount("p")
    assert (path / "x").read_text() == "kept"
    made.flush("p")


def test_umount_of_a_mount_in_use_names_who_uses_it(made: Home) -> None:
    path = made.mount("p")
    (path / "x").write_text("x")
    sleeper = subprocess.Popen(["sleep", "60"], cwd=path)
    try:
        done = made.run("umount", "p", code=4)
        assert f"sleep ({sleeper.pid})" in done.stderr
        assert (path / "x").read_text() == "x"
    finally:
        sleeper.kill()
        sleeper.wait()
    made.umount("p")


def test_umount_with_a_waiting_outbox_says_what_waits_and_where_it_goes(home: Home) -> None:
    home.create("p", "", "quiet_period=1h")
    path = home.mount("p")
    (path / "a").write_bytes(bytes(2000))
    (path / "b").write_bytes(bytes(3000))
    done = home.run("umount", "p", "--no-wait")
    assert done.stdout == (
        "p  unmounted · 2 files (5 KB) could not go up; they wait in the outbox and go up at the "
        "next mount\n"
    )
    assert "2 changes wait in the outbox" in home.run("status", "p").stdout
    home.mount("p")
    assert home.umount("p") == "p  unmounted\n"
    assert "all saved" in home.run("status", "p").stdout


def test_a_home_inside_a_mount_is_refused_by_every_command(made: Home) -> None:
    path = made.mount("p")
    for words in (("create", "x"), ("list",), ("mount", "p"), ("status",)):
        done = made.run(*words, code=4, PIPEFS_HOME=str(path / "home"))
        assert f"lies inside the pipefs mount {path}" in done.stderr
        assert "local disk" in done.stderr
    assert os.listdir(path) == []


# --- processes and versions ------------------------------------------------------------------


def test_a_second_supervisor_is_refused_and_names_the_first(made: Home) -> None:
    made.mount("p")
    pid = made.supervisor()
    done = subprocess.run(
        [PROGRAM[0], "-m", "pipefsd.main"],
        env=made.env,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 4
    assert f"pid {pid}" in done.stderr
    made.create("q")
    made.mount("q")
    assert made.supervisor() == pid  # A later mount joins it.


def test_state_of_a_newer_version_is_refused_and_says_which(made: Home) -> None:
    made.mount("p")
    made.umount("p")
    made.kill_all()
    _write_format(made, FORMAT + 7)
    done = made.run("mount", "p", code=4)
    assert f"format {FORMAT + 7}" in done.stderr
    assert f"knows up to {FORMAT}" in done.stderr
    assert made.mounts() == []
    _write_format(made, FORMAT)
    made.mount("p")


def _write_format(home: Home, number: int) -> None:
    """As a later version of pipefs would have left the state."""
    folder = home.state("p") / "tree"
    env, handles = open_env(folder, [META], map_size_bytes=1 << 30, sync=True, lock=False)
    with env.begin(write=True) as txn:
        write_meta(txn, handles[META], FORMAT_KEY, number)
    env.close()


# --- the machine -----------------------------------------------------------------------------


def _in_namespace(home: Home, preparation: str, *words: str) -> subprocess.CompletedProcess[str]:
    """`pipefs WORDS…` in a mount namespace of its own, after a shell script as root."""
    return subprocess.run(
        [*NAMESPACE, preparation, str(home.base), *PROGRAM, *words],
        env=home.env,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_without_dev_fuse_the_message_says_how_to_get_it(made: Home) -> None:
    hide = 'mkdir -p "$0/dev" && mount --bind "$0/dev" /dev && exec "$@"'
    (made.base / "dev").mkdir()
    for device in ("null", "urandom"):
        (made.base / "dev" / device).touch()
    bind = "".join(f'mount --bind /dev/{d} "$0/dev/{d}" && ' for d in ("null", "urandom"))
    done = _in_namespace(made, bind + hide, "mount", "p")
    assert done.returncode != 0
    assert "/dev/fuse" in done.stderr
    assert "modprobe fuse" in done.stderr
    assert "Traceback" not in done.stderr


SUPERVISOR_OF_NOBODY = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.mount.fixedfs import drop_privileges
from pipefsd import main
drop_privileges(int(sys.argv[2]))
sys.exit(main.main(["--joined"]))
"""
"""Privileges go after the imports: the interpreter of a test machine may lie in root's home."""


def test_an_unprivileged_user_without_fusermount3_is_told_what_to_install(made: Home) -> None:
    (made.base / "bin").mkdir()
    made.home.joinpath("mnt").mkdir(exist_ok=True)
    made.base.chmod(0o755)
    subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", made.home], check=True)
    device = (
        'mkdir "$0/dev" && mount -t tmpfs none "$0/dev" && mknod "$0/dev/fuse" c 10 229 && '
        'chmod 666 "$0/dev/fuse" && mount --bind "$0/dev/fuse" /dev/fuse && '
        'PATH="$0/bin" exec "$@"'
    )
    supervisor = subprocess.Popen(
        [
            *(*NAMESPACE, device, str(made.base), PROGRAM[0], "-c", SUPERVISOR_OF_NOBODY),
            *(str(SOURCE), str(NOBODY)),
        ],
        env=made.env,
        cwd="/",
        stderr=subprocess.PIPE,
    )
    try:
        socket = made.home / "run" / "supervisor.sock"
        eventually(lambda: socket.exists() or supervisor.poll() is not None, "it listens")
        done = made.run("mount", "p", code=4)
        assert "fusermount3 is not installed" in done.stderr
        assert "apt-get install fuse3" in done.stderr
    finally:
        supervisor.kill()
        supervisor.communicate()


def test_every_refusal_is_a_message_with_a_next_step_and_no_traceback(made: Home) -> None:
    for words, code in [
        (("mount",), 2),
        (("umount",), 2),
        (("mount", "p", "-o", "quiet_period=soon"), 2),
        (("mount", "p", "-o", "nonsense=1"), 2),
        (("umount", "p"), 4),
        (("flush", "p"), 4),
        (("refresh", "p"), 4),
        (("mont", "p"), 2),
    ]:
        done = made.run(*words, code=code)
        assert done.stderr.startswith("pipefs: "), words
        assert len(done.stderr.strip().splitlines()) > 1, (words, done.stderr)


def test_the_log_is_where_the_messages_say(made: Home) -> None:
    made.mount("p")
    assert "mounted" in made.log()
    assert Path(made.home / "state" / "log" / "pipefsd.log").stat().st_mode & 0o077 == 0
