"""The supervisor in ordinary life: mounting, unmounting, refusing, joining, leaving."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipefs import protocol
from pipefs.errors import (
    AlreadyExists,
    Busy,
    NotFound,
    Refused,
    StoreUnavailable,
    TimedOut,
    UsageError,
)
from tests.mount.daemons import NOBODY, Daemon, daemon, eventually, fresh_daemon
from tests.mount.fixedfs import BIG_BYTES, NAMES, pattern

__all__ = ["daemon"]


def test_a_mount_answers_when_the_request_returns_and_its_directory_goes_with_it(
    daemon: Daemon,
) -> None:
    daemon.start()
    path = daemon.mount()
    assert path == daemon.home.mountpoint("sales")
    assert sorted(os.listdir(path)) == sorted(n.decode() for n in NAMES)
    status = daemon.worker().status()
    assert (status.pid, status.path) == (daemon.item().pid, str(path))
    assert "resend" in status.features
    gone = daemon.umount()
    assert (gone.name, gone.path, gone.remaining_files) == ("sales", str(path), 0)
    assert not path.exists()
    assert daemon.client.mounts() == []
    assert not Path(daemon.home.worker_socket("sales")).exists()


def test_the_worker_is_told_to_stop_and_stops_its_service(daemon: Daemon) -> None:
    daemon.start()
    daemon.mount()
    pid = daemon.item().pid
    daemon.umount()
    assert (daemon.home.state / "stopped").read_text() == str(pid)
    assert daemon.processes() == [daemon.client.ping().pid]


def test_two_pipes_are_two_processes_and_one_umount_leaves_the_other(daemon: Daemon) -> None:
    daemon.start()
    sales, prices = daemon.mount("sales"), daemon.mount("prices")
    assert daemon.item("sales").pid != daemon.item("prices").pid
    daemon.umount("sales")
    assert (prices / "big").read_bytes()[:64] == pattern(0, 64)
    assert not sales.exists()


def test_a_worker_keeps_no_descriptor_of_another_mount_or_of_the_supervisor(
    daemon: Daemon,
) -> None:
    daemon.start()
    daemon.mount("sales")
    daemon.mount("prices")
    for name in ("sales", "prices"):
        folder = Path(f"/proc/{daemon.item(name).pid}/fd")
        targets = [os.readlink(entry) for entry in folder.iterdir()]
        assert targets.count("/dev/fuse") == 1
        assert not any("supervisor.lock" in target for target in targets)


def test_a_missing_explicit_directory_is_an_error_that_says_mkdir(daemon: Daemon) -> None:
    daemon.start()
    with pytest.raises(NotFound) as caught:
        daemon.mount(directory=daemon.folder / "absent")
    assert caught.value.hint == f"mkdir -p {daemon.folder}/absent"
    assert not (daemon.folder / "absent").exists()


def test_a_directory_with_content_is_refused_and_keeps_it(daemon: Daemon) -> None:
    daemon.start()
    full = daemon.folder / "full"
    full.mkdir()
    (full / "precious").write_text("mine")
    with pytest.raises(Refused, match=r"not empty.*'precious'"):
        daemon.mount(directory=full)
    assert (full / "precious").read_text() == "mine"


def test_a_file_or_relative_path_is_no_mount_point(daemon: Daemon) -> None:
    daemon.start()
    (daemon.folder / "file").write_text("")
    with pytest.raises(UsageError, match="not a directory"):
        daemon.mount(directory=daemon.folder / "file")
    with pytest.raises(UsageError, match="not an absolute path"):
        daemon.mount(directory="somewhere")


def test_an_explicit_directory_stays_after_umount(daemon: Daemon) -> None:
    daemon.start()
    mine = daemon.folder / "mine"
    mine.mkdir()
    assert daemon.mount(directory=mine) == mine
    assert daemon.umount(name=None, directory=str(mine)).path == str(mine)
    assert os.listdir(mine) == []


def test_a_pipe_or_directory_that_is_taken_is_refused_by_name(daemon: Daemon) -> None:
    daemon.start()
    path = daemon.mount("sales")
    with pytest.raises(AlreadyExists, match=f"sales is already mounted on {path}"):
        daemon.mount("sales")
    with pytest.raises(AlreadyExists, match="already a mount point: pipe sales"):
        daemon.mount("prices", directory=path)
    assert [m.name for m in daemon.client.mounts()] == ["sales"]


def test_unknown_pipes_and_options_are_refused(daemon: Daemon) -> None:
    daemon.start()
    with pytest.raises(NotFound, match="sale"):
        daemon.mount("sale")
    with pytest.raises(UsageError, match="no setting 'colour'"):
        daemon.mount(options={"colour": "red"})
    with pytest.raises(NotFound, match="sales is not mounted"):
        daemon.umount()
    assert not daemon.home.mountpoint("sales").exists()


def test_a_service_that_cannot_start_leaves_nothing_mounted_and_says_why(daemon: Daemon) -> None:
    daemon.start()
    daemon.say("broken", "endpoint down")
    with pytest.raises(StoreUnavailable, match="endpoint down") as caught:
        daemon.mount()
    assert caught.value.hint == "wait"
    assert daemon.mounts() == [] and daemon.client.mounts() == []
    assert not daemon.home.mountpoint("sales").exists()
    daemon.say("broken", "")
    daemon.mount()


def test_a_read_only_mount_warns_and_refuses_writes(daemon: Daemon) -> None:
    daemon.start()
    mounted = daemon.client.mount(protocol.Mount("sales", read_only=True))
    assert mounted.warnings == ["READ-ONLY"]
    with pytest.raises(OSError, match="Read-only file system"):
        Path(mounted.path, "new").touch()


def test_umount_names_who_keeps_the_mount_busy_and_serves_on(daemon: Daemon) -> None:
    daemon.start()
    path = daemon.mount()
    shell = subprocess.Popen(["sleep", "60"], cwd=path)
    try:
        with pytest.raises(Busy, match=rf"sleep \({shell.pid}\)"):
            daemon.umount()
        assert (path / "big").read_bytes()[:8] == pattern(0, 8)
        assert daemon.item().state == "live"
    finally:
        shell.kill()
        shell.wait()
    daemon.umount()


def test_a_busy_mount_still_gets_new_workers_after_a_refused_umount(daemon: Daemon) -> None:
    daemon.start()
    path = daemon.mount()
    with (path / "big").open("rb") as held:
        with pytest.raises(Busy):
            daemon.umount()
        os.kill(daemon.item().pid, signal.SIGKILL)
        assert held.read(64) == pattern(0, 64)
    daemon.umount()


def test_umount_says_what_remains_and_wait_insists(daemon: Daemon) -> None:
    daemon.start()
    path = daemon.mount()
    daemon.say("outbox", "3")
    with pytest.raises(TimedOut, match="3 files"):
        daemon.umount(wait=True, timeout_s=0.5)
    assert path.is_mount()
    gone = daemon.umount(wait=None, timeout_s=0.5)
    assert (gone.remaining_files, gone.remaining_bytes) == (3, 300)
    daemon.mount()
    assert daemon.umount(wait=False).remaining_files == 3


def test_a_slow_umount_does_not_hold_up_anything_else(daemon: Daemon) -> None:
    daemon.start()
    daemon.mount("sales")
    daemon.say("outbox", "1")
    slow = threading.Thread(target=daemon.umount, kwargs={"wait": True, "timeout_s": None})
    slow.start()
    daemon.mount("prices")
    assert {m.name for m in daemon.client.mounts()} == {"sales", "prices"}
    assert slow.is_alive()
    daemon.say("outbox", "0")
    slow.join()
    assert [m.name for m in daemon.client.mounts()] == ["prices"]


def test_hanging_up_on_umount_wait_leaves_the_pipe_mounted(daemon: Daemon) -> None:
    daemon.start()
    path = daemon.mount()
    daemon.say("outbox", "1")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(daemon.home.supervisor_socket))
        client.sendall(protocol.encode_request(protocol.Umount("sales", wait=True)))
        assert b'"progress"' in client.recv(4096)
    eventually(lambda: "hung up" in daemon.log(), "the supervisor sees that nobody waits")
    daemon.say("outbox", "0")
    daemon.worker().flush()
    assert path.is_mount() and daemon.item().state == "live"
    daemon.umount()


def test_flush_and_refresh_reach_the_service_of_the_pipe(daemon: Daemon) -> None:
    daemon.start()
    daemon.mount()
    daemon.say("outbox", "2")
    seen: list[protocol.FlushProgress] = []
    assert daemon.worker().flush(progress=seen.append).files == 2
    assert seen == [protocol.FlushProgress(2, 200)]
    assert daemon.worker().refresh(full=True).changed == 3


def test_a_second_supervisor_is_refused_and_names_the_first(daemon: Daemon) -> None:
    daemon.start()
    second = daemon.spawn(pipe=True)
    _out, err = second.communicate(timeout=20)
    assert second.returncode == 4
    assert f"pid {daemon.client.ping().pid}" in err.decode()


def test_a_second_joined_supervisor_leaves_the_first_alone(daemon: Daemon) -> None:
    daemon.start()
    path = daemon.mount()
    assert daemon.spawn("--joined").wait(timeout=20) == 0
    assert path.is_mount()


def test_a_joined_supervisor_ends_when_nothing_is_mounted(daemon: Daemon) -> None:
    daemon.start("idle_exit_s=1")
    daemon.mount()
    assert daemon.process is not None
    time.sleep(1.5)
    assert daemon.process.poll() is None
    daemon.umount()
    assert daemon.process.wait(timeout=20) == 0
    assert not Path(daemon.home.supervisor_socket).exists()


def test_foreground_mounts_logs_here_and_ends_with_its_mount(daemon: Daemon) -> None:
    there = daemon.folder / "there"
    there.mkdir()
    process = daemon.spawn("--foreground", "sales", str(there), pipe=True)
    eventually(there.is_mount, "mounted")
    eventually(lambda: daemon.client.mounts_or_none(), "listed")
    eventually(lambda: daemon.item().state == "live", "live")
    daemon.umount()
    _out, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert " INFO sales mounted " in err.decode()


def test_automount_pipes_appear_at_the_start_and_at_sighup(daemon: Daemon) -> None:
    from pipefs.registry import Registry

    Registry(daemon.home).update("sales", {"automount": True})
    daemon.start()
    eventually(daemon.home.mountpoint("sales").is_mount, "sales is mounted")
    Registry(daemon.home).update("prices", {"automount": True})
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    eventually(daemon.home.mountpoint("prices").is_mount, "prices is mounted")


def test_an_unprivileged_user_mounts_reads_survives_a_crash_and_unmounts() -> None:
    # Not root already: then every daemon of these tests is unprivileged.
    uid = NOBODY if os.geteuid() == 0 else 0
    with fresh_daemon(uid=uid) as daemon:
        daemon.start()
        path = daemon.mount()
        reader = daemon.inside("cat", path / "slow")
        assert reader.stdout is not None
        data = reader.stdout.read(1 << 20)
        os.kill(daemon.item().pid, signal.SIGKILL)
        data += reader.stdout.read()
        assert reader.wait() == 0
        assert data == pattern(0, BIG_BYTES)
        mounts = Path(f"/proc/{daemon.item().pid}/mountinfo")
        assert (
            f"{path} " in mounts.read_text()
            and f"user_id={uid or os.getuid()}," in mounts.read_text()
        )
        daemon.umount()
        assert not path.exists()


def test_a_daemon_started_by_a_command_outlives_the_terminal_of_that_command(
    daemon: Daemon,
) -> None:
    script = (
        "from pipefs.client import connect_or_start; from pipefs.home import resolve_home;"
        "print('pid', connect_or_start(resolve_home()).ping().pid, flush=True); input()"
    )
    child, terminal = pty.fork()
    if child == 0:
        os.execve(sys.executable, [sys.executable, "-c", script], daemon.env)
    said = b""
    while not said.endswith(b"\n"):
        said += os.read(terminal, 1024)
    os.close(terminal)
    _pid, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGHUP
    assert daemon.client.ping().pid == int(said.split()[-1])
    daemon.client.shutdown()


def test_the_program_ends_with_a_message_and_the_exit_code_of_its_error(daemon: Daemon) -> None:
    daemon.start()
    second = subprocess.run(
        [sys.executable, "-m", "pipefsd.main"], env=daemon.env, capture_output=True, text=True
    )
    assert second.returncode == 4
    first, hint = second.stderr.splitlines()
    assert first.startswith("pipefsd: another pipefsd already serves this home (pid ")
    assert hint.startswith("         Talk to it with")
