"""The client's side of the control socket, against a peer that speaks the real protocol."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipefs import client, protocol
from pipefs.client import NotRunning, SupervisorClient, WorkerClient, connect_or_start
from pipefs.errors import Busy, Corrupt, NotFound, PipefsError, TimedOut
from pipefs.home import Home, resolve_home

Answer = Callable[[bytes], list[bytes]]


@contextmanager
def peer(path: Path, answer: Answer) -> Iterator[list[bytes]]:
    """Serve one connection at `path`; yields the lines it was sent."""
    seen: list[bytes] = []
    server = socket.socket(socket.AF_UNIX)
    path.parent.mkdir(parents=True, exist_ok=True)
    server.bind(str(path))
    server.listen()

    def serve() -> None:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection, connection.makefile("rb") as lines:
            for line in lines:
                seen.append(line)
                with contextlib.suppress(BrokenPipeError):  # It may hang up in the middle.
                    for part in answer(line):
                        connection.sendall(part)
                return

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield seen
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(10)
        path.unlink()
        with contextlib.suppress(OSError):
            path.parent.rmdir()  # The short folder under /tmp, where the path was too long.


@pytest.fixture
def sock(tmp_path: Path) -> Path:
    return resolve_home(env={"PIPEFS_HOME": str(tmp_path)}).worker_socket("x")


def test_a_result_arrives_after_its_progress(sock: Path) -> None:
    steps: list[int] = []

    def answer(line: bytes) -> list[bytes]:
        assert protocol.decode_worker_request(line) == protocol.Flush("a", 5.0)
        return [
            protocol.encode_progress(protocol.FlushProgress(2, 20)),
            protocol.encode_progress(protocol.FlushProgress(1, 10)),
            protocol.encode_result(protocol.Flushed(2, 20, 0.5)),
        ]

    with peer(sock, answer):
        done = WorkerClient(sock).flush("a", timeout_s=5, progress=lambda p: steps.append(p.files))
    assert (done.files, steps) == (2, [2, 1])


def test_lines_are_put_together_from_pieces(sock: Path) -> None:
    whole = protocol.encode_progress(protocol.FlushProgress(1, 1)) + protocol.encode_result(
        protocol.Refreshed(7)
    )
    with peer(sock, lambda _: [whole[i : i + 3] for i in range(0, len(whole), 3)]):
        assert WorkerClient(sock).refresh().changed == 7


def test_an_error_is_raised_again_as_its_class(sock: Path) -> None:
    with (
        peer(sock, lambda _: [protocol.encode_error(Busy("held", hint="wait"))]),
        pytest.raises(Busy, match="held") as caught,
    ):
        WorkerClient(sock).refresh()
    assert caught.value.hint == "wait"


def test_nobody_there_is_not_running(sock: Path) -> None:
    with pytest.raises(NotRunning, match=r"worker-x"):
        WorkerClient(sock).ping()


def test_a_daemon_that_dies_before_it_answers_is_not_running(sock: Path) -> None:
    with peer(sock, lambda _: [b'{"ok":']), pytest.raises(NotRunning, match="before it answered"):
        WorkerClient(sock).ping()


def test_a_daemon_that_stays_silent_is_a_timeout(sock: Path) -> None:
    hold = threading.Event()

    def silent(_line: bytes) -> list[bytes]:
        hold.wait(30)
        return []

    with peer(sock, silent):
        with pytest.raises(TimedOut, match="did not answer in time"):
            WorkerClient(sock).ping(timeout_s=0.2)
        hold.set()


def test_nonsense_is_corrupt(sock: Path) -> None:
    with peer(sock, lambda _: [b"hello\n"]), pytest.raises(Corrupt):
        WorkerClient(sock).ping()


def test_no_supervisor_means_no_mounts(tmp_path: Path) -> None:
    home = resolve_home(env={"PIPEFS_HOME": str(tmp_path)})
    assert SupervisorClient(home).mounts_or_none() == []
    with pytest.raises(NotRunning):
        SupervisorClient(home).mounts()


def test_mount_sends_what_the_contract_says(tmp_path: Path) -> None:
    home = resolve_home(env={"PIPEFS_HOME": str(tmp_path)})
    request = protocol.Mount("sales", "/mnt/s", "v1", True, "kernel", {"umask": "077"})
    answer = protocol.encode_error(NotFound("no such snapshot"))
    with peer(home.supervisor_socket, lambda _: [answer]) as seen, pytest.raises(NotFound):
        SupervisorClient(home).mount(request)
    assert protocol.decode_supervisor_request(seen[0]) == request


@pytest.fixture
def broken_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home, and a `pipefsd` in front of the path that cannot start."""
    package = tmp_path / "path" / "pipefsd"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "main.py").write_text(
        "import os, sys\nprint('cannot start:', sys.argv[1:], os.getcwd())\nsys.exit(3)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "path"), *sys.path]))
    return resolve_home(env={"PIPEFS_HOME": str(tmp_path / "home")}, profile="team")


def test_a_daemon_that_does_not_come_up_is_quoted(broken_daemon: Home) -> None:
    with pytest.raises(PipefsError) as caught:
        connect_or_start(broken_daemon, config_file="/etc/x.toml")
    message = caught.value.message
    assert "could not start (exit code 3)" in message
    assert "['--joined', '--profile', 'team', '--config', '/etc/x.toml'] /" in message
    assert str(broken_daemon.logs / "pipefsd.log") in caught.value.hint


def test_a_supervisor_that_answers_is_joined_not_started(tmp_path: Path) -> None:
    home = resolve_home(env={"PIPEFS_HOME": str(tmp_path)})
    pong = protocol.encode_result(protocol.Pong(os.getpid(), "1"))
    with peer(home.supervisor_socket, lambda _: [pong]):
        assert isinstance(connect_or_start(home), SupervisorClient)
    assert not (home.logs / "pipefsd.log").exists()


def test_an_endless_line_is_cut_off(sock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.protocol, "MAX_LINE_BYTES", 1 << 16)
    with peer(sock, lambda _: [b"x" * (1 << 18)]), pytest.raises(Corrupt, match="endless"):
        WorkerClient(sock).ping()
