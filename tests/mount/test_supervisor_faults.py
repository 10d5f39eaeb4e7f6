"""The supervisor when things go wrong: crashes, hangs, plain umount, its own end.

`docs`: as long as some process holds the descriptor, the kernel keeps the mount; a worker that
dies costs a pause, not an error.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipefs import protocol
from pipefs.errors import PipefsError, TimedOut
from pipefsd.transports.kernel import mount as kernel
from tests.mount.daemons import Daemon, daemon, eventually
from tests.mount.fixedfs import BIG_BYTES, pattern

__all__ = ["daemon"]


def cat(path: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["cat", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def kill_worker(daemon: Daemon) -> int:
    pid = daemon.item().pid
    os.kill(pid, signal.SIGKILL)
    return pid


def await_another(daemon: Daemon, old: int) -> None:
    """Wait for a worker that is not `old`."""

    def replaced() -> bool:
        item = daemon.item()
        return item.state == "live" and item.pid not in (0, old)

    eventually(replaced, "a new worker")


@contextlib.contextmanager
def held_open(path: Path) -> Iterator[int]:
    """A descriptor of `path`; closing it may fail, for its connection may be gone by then."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def umount(*arguments: str | Path) -> None:
    """Without the daemon's help, as an administrator would."""
    if os.geteuid() == 0:
        subprocess.run(["umount", *arguments], check=True)
    else:
        subprocess.run(
            ["fusermount3", "-u", *("-z" if a == "-l" else a for a in arguments)], check=True
        )


def test_a_reader_finishes_although_its_worker_is_killed_again_and_again(daemon: Daemon) -> None:
    daemon.start("crashes=10")
    path = daemon.mount()
    reader = cat(path / "slow")
    assert reader.stdout is not None
    data = b""
    for _ in range(3):
        data += reader.stdout.read(3 << 20)
        await_another(daemon, kill_worker(daemon))
    data += reader.stdout.read()
    assert reader.wait() == 0
    assert data == pattern(0, BIG_BYTES)


def test_a_new_worker_says_in_list_and_status_who_it_is(daemon: Daemon) -> None:
    daemon.start()
    daemon.mount()
    features = daemon.worker().status().features
    await_another(daemon, kill_worker(daemon))
    status = daemon.worker().status()
    assert status.pid == daemon.item().pid
    assert status.features == features


def test_a_crash_loop_ends_in_an_error_for_the_reader_and_not_in_a_hang(daemon: Daemon) -> None:
    daemon.start("crashes=3")
    path = daemon.mount()
    reader = cat(path / "deadly")
    _out, err = reader.communicate(timeout=30)
    assert reader.returncode == 1 and b"deadly" in err
    eventually(lambda: daemon.item().state == "failed", "given up")
    assert daemon.mounts() == []
    listed = daemon.client.mounts()[0]
    assert listed.pid == 0 and listed.last_error.startswith("3 workers died")
    assert (daemon.mount() / "big").read_bytes()[:8] == pattern(0, 8)


def test_without_a_worker_within_the_bound_waiting_readers_get_an_error(daemon: Daemon) -> None:
    daemon.start("restart_s=1.5")
    path = daemon.mount()
    reader = cat(path / "stuck")
    daemon.say("broken", "endpoint down")
    kill_worker(daemon)
    _out, _err = reader.communicate(timeout=30)
    assert reader.returncode == 1
    eventually(lambda: daemon.item().state == "failed", "given up")
    assert "endpoint down" in daemon.log()
    daemon.umount()
    assert daemon.client.mounts() == []


def test_a_worker_that_comes_up_late_but_within_the_bound_goes_on(daemon: Daemon) -> None:
    daemon.start()
    path = daemon.mount()
    reader = cat(path / "slow")
    assert reader.stdout is not None
    data = reader.stdout.read(2 << 20)
    daemon.say("broken", "endpoint down")
    kill_worker(daemon)
    eventually(lambda: "cannot start" in daemon.log(), "a worker failed to start")
    assert daemon.item().state == "restarting"
    daemon.say("broken", "")
    data += reader.stdout.read()
    assert reader.wait() == 0
    assert data == pattern(0, BIG_BYTES)


def test_a_service_that_hangs_at_the_start_is_given_up(daemon: Daemon) -> None:
    daemon.start("start_s=1")
    daemon.say("broken", "hang")
    with pytest.raises(TimedOut, match="not ready within 1 s"):
        daemon.mount()
    assert daemon.mounts() == [] and daemon.client.mounts() == []
    eventually(lambda: len(daemon.processes()) == 1, "only the supervisor is left")


def test_a_service_that_dies_at_the_start_is_an_error_of_the_mount(daemon: Daemon) -> None:
    daemon.start()
    daemon.say("broken", "die")
    with pytest.raises(PipefsError, match="exit code 7"):
        daemon.mount()
    assert daemon.mounts() == []


def test_plain_umount_by_root_brings_the_outbox_up_and_forgets_the_mount(daemon: Daemon) -> None:
    daemon.start()
    path = daemon.mount()
    pid = daemon.item().pid
    daemon.say("outbox", "1")
    umount(path)
    eventually(lambda: daemon.item().state == "unmounting", "noticed")
    assert Path(f"/proc/{pid}").exists()
    daemon.say("outbox", "0")
    eventually(lambda: not daemon.client.mounts(), "forgotten")
    assert not path.exists() and not Path(f"/proc/{pid}").exists()
    assert "ERROR" not in daemon.log()


def test_an_aborted_connection_is_cleared_away_and_can_be_mounted_again(daemon: Daemon) -> None:
    daemon.start()
    mine = daemon.folder / "mine"
    mine.mkdir()
    path = daemon.mount(directory=mine)
    kernel.abort(kernel.connection_id(path))
    eventually(lambda: not daemon.client.mounts(), "forgotten")
    assert os.listdir(path) == []
    assert daemon.mount(directory=mine) == path


def test_two_umounts_at_the_same_time_both_succeed(daemon: Daemon) -> None:
    daemon.start()
    daemon.mount()
    daemon.say("outbox", "1")
    remaining: list[int] = []

    def leave(wait_s: float) -> None:
        remaining.append(daemon.umount(timeout_s=wait_s).remaining_files)

    threads = [threading.Thread(target=leave, args=(s,)) for s in (30.0, 0.5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert len(remaining) == 2 and 1 in remaining
    assert daemon.client.mounts() == [] and daemon.mounts() == []


def test_umount_waits_through_a_crash_of_the_worker(daemon: Daemon) -> None:
    daemon.start()
    daemon.mount()
    daemon.say("outbox", "1")
    gone: list[protocol.Unmounted] = []
    thread = threading.Thread(target=lambda: gone.append(daemon.umount(wait=True)))
    thread.start()
    await_another(daemon, kill_worker(daemon))
    assert daemon.mounts()
    daemon.say("outbox", "0")
    thread.join(timeout=20)
    assert gone[0].remaining_files == 0 and daemon.mounts() == []


def test_mounting_again_after_plain_umount_does_not_wait_for_the_outbox(daemon: Daemon) -> None:
    daemon.start()
    path = daemon.mount()
    daemon.say("outbox", "1")
    # Several times: the request may come before or after the daemon notices.
    for _ in range(5):
        umount(path)
        assert (daemon.mount() / "big").stat().st_size == BIG_BYTES


def test_a_lazily_detached_mount_gives_way_to_a_new_one(daemon: Daemon) -> None:
    daemon.start()
    path = daemon.mount()
    with held_open(path / "big") as held:
        umount("-l", path)
        assert os.read(held, 8) == pattern(0, 8)
        assert daemon.mount() == path
        assert (path / "big").read_bytes()[-8:] == pattern(BIG_BYTES - 8, 8)
    assert len(daemon.client.mounts()) == 1


def test_sigterm_unmounts_everything_even_what_is_in_use(daemon: Daemon) -> None:
    daemon.start()
    daemon.mount("prices")
    path = daemon.mount("sales")
    assert daemon.process is not None
    with held_open(path / "big"):
        daemon.process.terminate()
        assert daemon.process.wait(timeout=30) == 0
    assert daemon.mounts() == [] and daemon.processes() == []
    assert os.listdir(daemon.home.run) == []
    assert os.listdir(daemon.home.mounts) == []


def test_sigterm_waits_for_outboxes_and_a_second_one_cuts_that_short(daemon: Daemon) -> None:
    daemon.start()
    path = daemon.mount()
    daemon.say("outbox", "2")
    assert daemon.process is not None
    daemon.process.terminate()
    eventually(lambda: not daemon.home.supervisor_socket.exists(), "stopping")
    assert path.is_mount()
    daemon.process.terminate()
    assert daemon.process.wait(timeout=30) == 0
    assert "files=2" in daemon.log()


def test_shutdown_by_request_unmounts_and_ends(daemon: Daemon) -> None:
    daemon.start()
    daemon.mount()
    daemon.client.shutdown()
    assert daemon.process is not None
    assert daemon.process.wait(timeout=20) == 0
    assert daemon.mounts() == []


def test_signals_meant_for_the_supervisor_do_not_end_a_worker(daemon: Daemon) -> None:
    daemon.start()
    path = daemon.mount()
    pid = daemon.item().pid
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, number)
    assert (path / "big").read_bytes()[:8] == pattern(0, 8)
    assert daemon.item().pid == pid


@pytest.mark.parametrize("explicit", [False, True], ids=["default", "explicit"])
def test_a_mount_left_dead_by_a_killed_supervisor_is_recovered(
    daemon: Daemon, explicit: bool
) -> None:
    daemon.start()
    directory = daemon.folder / "mine" if explicit else ""
    if explicit:
        (daemon.folder / "mine").mkdir()
    path = daemon.mount(directory=directory)
    assert daemon.process is not None
    daemon.process.kill()
    daemon.process.wait()
    eventually(lambda: not daemon.processes(), "the worker leaves by itself")
    with pytest.raises(OSError) as caught:
        os.listdir(path)
    # Which of the two depends on what ended the connection.
    assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    daemon.start()
    assert daemon.mount(directory=directory) == path
    assert len(daemon.mounts()) == 1
    assert (path / "big").read_bytes()[:8] == pattern(0, 8)


def test_a_worker_without_supervisor_serves_while_its_outbox_goes_up(daemon: Daemon) -> None:
    daemon.start()
    path = daemon.mount()
    daemon.say("outbox", "1")
    assert daemon.process is not None
    daemon.process.kill()
    daemon.process.wait()
    assert (path / "big").read_bytes()[:8] == pattern(0, 8)
    daemon.say("outbox", "0")
    eventually(lambda: not daemon.processes(), "the worker leaves by itself")
    assert "the supervisor died" in daemon.log()


def test_the_log_has_one_line_an_event_with_time_level_and_pipe(daemon: Daemon) -> None:
    daemon.start()
    daemon.mount()
    daemon.umount()
    for line in daemon.log().splitlines():
        time, level, pipe = line.split(" ")[:3]
        assert time.endswith("Z") and level == "INFO" and pipe in ("-", "sales")


def test_a_client_that_talks_nonsense_gets_an_error_and_harms_nobody(daemon: Daemon) -> None:
    import socket

    daemon.start()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(daemon.home.supervisor_socket))
        client.sendall(b"hello\n")
        assert b'"UsageError"' in client.recv(4096)
        client.sendall(protocol.encode_request(protocol.Ping()))
        assert b'"pid"' in client.recv(4096)
