"""The worker's control socket: who is answered, with what, and what a client's end does."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipefs import protocol
from pipefs.client import NotRunning, WorkerClient
from pipefs.errors import Corrupt, PipefsError, UsageError
from pipefsd import control
from pipefsd.control import ClientGone, ControlServer, Progress, Result

Start = Callable[[control.Handler], WorkerClient]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    servers: list[ControlServer] = []

    def run(handler: control.Handler) -> WorkerClient:
        server = ControlServer(tmp_path / "worker.sock", handler)
        server.start()
        servers.append(server)
        return WorkerClient(server.path)

    yield run
    for server in servers:
        server.stop()


def pong(request: protocol.WorkerRequest, progress: Progress) -> Result:
    return protocol.Pong(1, "test")


def connect(client: WorkerClient) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    connection.connect(str(client.socket))
    return connection


def test_the_socket_is_for_its_owner_only(start: Start) -> None:
    client = start(pong)
    assert stat.S_IMODE(os.stat(client.socket).st_mode) == 0o600


def test_a_request_gets_its_progress_and_then_its_result(start: Start) -> None:
    def flush(request: protocol.WorkerRequest, progress: Progress) -> Result:
        assert request == protocol.Flush("a/b", 5.0)
        progress({"files": 2, "bytes": 20})
        progress({"files": 1, "bytes": 10})
        return {"files": 2}

    seen: list[protocol.FlushProgress] = []
    result = start(flush).flush("a/b", timeout_s=5.0, progress=seen.append)
    assert result.files == 2
    assert seen == [protocol.FlushProgress(2, 20), protocol.FlushProgress(1, 10)]


def test_an_error_arrives_as_its_own_class_with_its_hint(start: Start) -> None:
    def fail(request: protocol.WorkerRequest, progress: Progress) -> Result:
        raise Corrupt("block 7 is not what it was", hint="pipefs check")

    with pytest.raises(Corrupt, match="block 7") as caught:
        start(fail).refresh()
    assert caught.value.hint == "pipefs check"


def test_a_bug_in_a_handler_is_answered_and_the_connection_goes_on(start: Start) -> None:
    def divide(request: protocol.WorkerRequest, progress: Progress) -> Result:
        return {"files": 1 // 0} if isinstance(request, protocol.Flush) else protocol.Pong(3, "x")

    client = start(divide)
    with pytest.raises(PipefsError, match="ZeroDivisionError"):
        client.flush()
    assert client.ping().pid == 3


def test_one_connection_carries_several_requests(start: Start) -> None:
    with connect(start(pong)) as connection:
        for _ in range(3):
            connection.sendall(protocol.encode_request(protocol.Ping()))
            assert b'"pid":1' in connection.recv(4096)


def test_nonsense_is_a_usage_error_and_the_connection_goes_on(start: Start) -> None:
    with connect(start(pong)) as connection:
        connection.sendall(b"{}\n")
        reply = protocol.decode_reply(connection.recv(4096))
        assert reply.error is not None and reply.error.kind == UsageError.__name__
        connection.sendall(protocol.encode_request(protocol.Ping()))
        assert b'"ok":true' in connection.recv(4096)


def test_an_endless_line_is_cut_off(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_LINE_BYTES", 1000)
    with connect(start(pong)) as connection:
        connection.sendall(b"x" * 2000)
        assert b"longer than" in connection.recv(4096)
        assert connection.recv(4096) == b""


def test_a_client_that_hangs_up_ends_the_work_it_asked_for(start: Start) -> None:
    ended = threading.Event()

    def endless(request: protocol.WorkerRequest, progress: Progress) -> Result:
        try:
            while True:
                progress({"files": 1, "bytes": 1})
        except ClientGone:
            ended.set()
            raise

    client = start(endless)
    with connect(client) as connection:
        connection.sendall(protocol.encode_request(protocol.Flush()))
        connection.recv(10)
    assert ended.wait(10)


def test_a_slow_request_does_not_hold_up_another_client(start: Start) -> None:
    release = threading.Event()

    def handler(request: protocol.WorkerRequest, progress: Progress) -> Result:
        if isinstance(request, protocol.Flush):
            release.wait(10)
            return {"files": 0}
        return protocol.Pong(1, "x")

    client = start(handler)
    slow = threading.Thread(target=client.flush)
    slow.start()
    assert client.ping().pid == 1
    release.set()
    slow.join()


def test_more_clients_than_the_bound_are_told_so(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "MAX_CONNECTIONS", 2)
    client = start(pong)
    with connect(client) as first, connect(client) as second:
        for connection in (first, second):
            connection.sendall(protocol.encode_request(protocol.Ping()))
            connection.recv(4096)
        with connect(client) as third:
            assert b"too many" in third.recv(4096)
    # Both are forgotten once their threads have seen the hangup.
    for _ in range(500):
        try:
            client.ping()
            return
        except PipefsError:
            pass
    raise AssertionError("the places of clients that left are not given back")


def test_another_user_is_refused(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    client = start(pong)
    if os.geteuid() == 0:
        said = said_to_nobody(client)
    else:
        # The daemon becomes the other user instead, for we cannot.
        mine = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
        with connect(client) as connection:
            said = connection.recv(4096).decode()
    assert '"Refused"' in said and "you are uid" in said


def said_to_nobody(client: WorkerClient) -> str:
    # Everything in the way of another user is opened, so that only the check of the peer is left.
    for folder in (Path(client.socket), *Path(client.socket).parents):
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(0o777)
    script = (
        "import os, socket, sys; s = socket.socket(socket.AF_UNIX);"
        "os.setgid(65534); os.setuid(65534); s.connect(sys.argv[1]);"
        "print(s.recv(4096).decode())"
    )
    command = [sys.executable, "-c", script, str(client.socket)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_socket_left_by_a_dead_process_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "worker.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    server = ControlServer(path, pong)
    server.start()
    assert WorkerClient(path).ping().version == "test"
    server.stop()


def test_stop_hangs_up_and_removes_the_socket(start: Start, tmp_path: Path) -> None:
    server = ControlServer(tmp_path / "other.sock", pong)
    server.start()
    client = WorkerClient(server.path)
    with connect(client) as connection:
        connection.sendall(protocol.encode_request(protocol.Ping()))
        connection.recv(4096)
        server.stop()
        assert connection.recv(4096) == b""
    assert not server.path.exists()
    with pytest.raises(NotRunning):
        client.ping()


def test_the_socket_of_a_later_daemon_at_the_same_path_stays(tmp_path: Path) -> None:
    path = tmp_path / "worker.sock"
    first, second = ControlServer(path, pong), ControlServer(path, pong)
    first.start()
    path.unlink()  # its home was deleted and made again
    second.start()
    first.stop()
    assert WorkerClient(path).ping().pid == 1
    second.stop()
    assert not path.exists()
