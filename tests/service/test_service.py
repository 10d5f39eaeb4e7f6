"""The daemon under a service manager: what it says, keeps, hands on and brings up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipefs.creation import create_pipe
from pipefs.home import resolve_home
from pipefs.registry import Registry
from tests.mounted import Home, eventually
from tests.seaweed import SeaweedServer
from tests.service.manager import Manager
from tests.slowproxy import SlowProxy

Manage = Callable[..., Manager]


@pytest.fixture
def manage(home: Home) -> Iterator[Manage]:
    """`manage(WatchdogSec="2")`: a service manager for this home's daemon."""
    made: list[Manager] = []

    def make(**overrides: str) -> Manager:
        made.append(Manager(home, **overrides))
        return made[-1]

    yield make
    for manager in made:
        manager.close()


def automount(home: Home, *names: str) -> None:
    # In this process: the command line is not what these tests are about.
    place = resolve_home(env=home.env)
    place.make()
    for name in names:
        create_pipe(Registry(place), name, None, {"automount": True})


class Client:
    """A program with a file of the mount open; each line it is given goes through that file."""

    CODE = """
import os, sys
file = open(sys.argv[1], "w+b", buffering=0)
for line in sys.stdin.buffer:
    file.write(line)
    os.fsync(file.fileno())
    print(file.seek(0) or file.read().decode().replace("\\n", " "), flush=True)
"""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.CODE, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
        )

    def begin(self, line: str) -> None:
        """Have it write; a mount that nobody serves makes it wait."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def done(self) -> str:
        """What the whole file has when it has written."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def write(self, line: str) -> str:
        self.begin(line)
        return self.done()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(timeout=20) == 0


def test_ready_comes_when_every_pipe_was_tried_and_one_that_fails_keeps_nobody(
    home: Home, manage: Manage
) -> None:
    automount(home, "sales", "prices")
    blocked = home.path("prices")
    blocked.mkdir(parents=True)
    (blocked / "mine").write_text("in the way")
    manager = manage()
    manager.start()
    assert home.mounts() == [str(home.path("sales"))]
    assert "REFUSED" not in {key for message in manager.messages for key in message}
    status = manager.status()
    assert status.startswith("1 mount, all saved, cache ")
    assert "NOT MOUNTED: prices" in status and "not empty" in status and "\n" not in status
    keys = [key for message in manager.messages for key in message]
    assert keys.index("EXTEND_TIMEOUT_USEC") < keys.index("STATUS") < keys.index("READY")
    # The way is free, and a reload is enough.
    (blocked / "mine").unlink()
    manager.reload()
    assert sorted(home.mounts()) == [str(home.path("prices")), str(home.path("sales"))]
    assert "NOT MOUNTED" not in manager.status()


def test_a_reload_adds_pipes_and_lets_go_of_others_when_they_are_idle(
    home: Home, manage: Manage
) -> None:
    automount(home, "sales")
    manager = manage()
    manager.start()
    home.create("byhand")
    home.mount("byhand")
    automount(home, "prices")
    home.run("set", "sales", "automount=no")
    home.run("set", "byhand", "cache_limit=1G")
    with open(home.path("sales") / "open", "w"):
        manager.reload()
        (reloading,) = [m for m in manager.messages if "RELOADING" in m]
        assert int(reloading["MONOTONIC_USEC"]) > 0
        assert str(home.path("prices")) in home.mounts()
        assert str(home.path("sales")) in home.mounts()
        assert "leaves when idle: sales" in manager.status()
    eventually(lambda: str(home.path("sales")) not in home.mounts(), "sales is unmounted")
    # What somebody mounted by hand is not touched, and told that it has older settings.
    assert str(home.path("byhand")) in home.mounts()
    assert "byhand changed settings count later settings=cache_limit" in manager.log()


def test_a_program_with_an_open_file_outlives_kill_9_of_supervisor_and_workers(
    home: Home, manage: Manage
) -> None:
    automount(home, "sales")
    manager = manage()
    manager.start()
    client = Client(home.path("sales") / "log.txt")
    assert client.write("one") == "one"
    assert [len(held) for held in manager.store.values()] == [2]
    manager.kill()
    client.begin("two")
    manager.start()
    assert client.done() == "one two"
    assert client.write("three") == "one two three"
    client.close()
    assert "sales went on with a mount" in manager.log()
    # They went on with one mount: nothing lies on top of it, and it ends cleanly.
    assert home.mounts() == [str(home.path("sales"))]
    home.flush("sales")
    assert manager.stop() < 60
    assert home.mounts() == []


def test_a_restart_keeps_the_mounts_and_a_stop_does_not(home: Home, manage: Manage) -> None:
    automount(home, "sales")
    manager = manage()
    manager.start()
    home.create("byhand")
    home.mount("byhand")
    client = Client(home.path("byhand") / "log.txt")
    assert client.write("one") == "one"
    manager.restart()
    assert client.write("two") == "one two"
    client.close()
    assert sorted(home.mounts()) == [str(home.path("byhand")), str(home.path("sales"))]
    assert len(manager.store) == 2
    home.umount("byhand")
    eventually(lambda: list(manager.store) == ["sales"], "its descriptors left the store")
    manager.stop()
    assert home.mounts() == []
    assert manager.said("STOPPING") == ["1"]


def test_a_libfuse_mount_is_there_again_after_a_restart_and_after_kill_9(
    home: Home, manage: Manage
) -> None:
    manager = manage()
    manager.start()
    home.create("portable")
    home.mount("portable", "--transport", "libfuse")
    (home.path("portable") / "a").write_text("kept")
    manager.restart()
    assert (home.path("portable") / "a").read_text() == "kept"
    manager.kill()
    manager.start()
    assert (home.path("portable") / "a").read_text() == "kept"
    assert home.status("portable")["transport"] == "libfuse"
    home.umount("portable")
    manager.restart()
    assert home.mounts() == []


def test_a_restart_whose_store_lost_descriptors_unmounts_instead(
    home: Home, manage: Manage
) -> None:
    automount(home, "sales")
    manager = manage(FileDescriptorStoreMax="1")
    manager.start()
    assert manager.store == {}
    manager.stop(job="restart")
    assert home.mounts() == []
    assert "the store holds 0 of our 2 descriptors" in manager.log()


def test_a_stored_descriptor_whose_mount_is_gone_is_dropped(home: Home, manage: Manage) -> None:
    automount(home, "sales")
    manager = manage()
    manager.start()
    (home.path("sales") / "a").write_text("kept")
    home.flush("sales")
    manager.kill()
    subprocess.run(["umount", "-l", home.path("sales")], check=True)
    manager.start()
    assert "stored descriptor dropped" in manager.log()
    assert (home.path("sales") / "a").read_text() == "kept"
    assert len(manager.store["sales"]) == 2


def test_the_watchdog_is_fed_and_a_worker_that_hangs_is_replaced(
    home: Home, manage: Manage
) -> None:
    automount(home, "sales")
    manager = manage(WatchdogSec="4")
    manager.start()
    manager.wait_for("WATCHDOG", 2)
    worker = home.status("sales")["pid"]
    os.kill(worker, signal.SIGSTOP)
    eventually(lambda: f"replacing its worker pid={worker}" in manager.log(), "it is replaced")
    (home.path("sales") / "a").write_text("served again")
    manager.wait_for("WATCHDOG", len(manager.said("WATCHDOG")) + 2)
    assert home.status("sales")["pid"] != worker


def test_sigterm_during_a_copy_drains_and_nothing_is_lost(
    home: Home, manage: Manage, seaweed: SeaweedServer, bucket: str
) -> None:
    proxy = SlowProxy(seaweed.endpoint_url)
    home.env.update(seaweed.environment())
    url = f"s3://{bucket}/sales"
    home.run("create", "sales", url, "--endpoint-url", proxy.endpoint_url, "-o", "automount=yes")
    manager = manage()
    manager.start()
    proxy.bytes_per_s = 2 << 20
    content = {f"part{n}": os.urandom(1 << 20) for n in range(6)}
    for name, data in content.items():
        (home.path("sales") / name).write_bytes(data)
    manager.stop()
    stopping = manager.messages.index({"STOPPING": "1"})
    keys = {key for message in manager.messages[stopping:] for key in message}
    assert "EXTEND_TIMEOUT_USEC" in keys
    assert any("going up" in status for status in manager.said("STATUS"))
    assert home.mounts() == []
    store = seaweed.client()
    for name, data in content.items():
        found = store.get_object(Bucket=bucket, Key=f"sales/{name}")["Body"].read()
        assert found == data, name
    proxy.down()
