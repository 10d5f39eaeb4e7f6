"""Pipes mounted through libfuse: workers that die, users, other machines, a missing library."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.mount.daemons import NOBODY, fresh_daemon
from tests.mount.fixedfs import pattern
from tests.mounted import Home, eventually
from tests.seaweed import SeaweedServer


@pytest.fixture(scope="module")
def machine() -> Iterator[Home]:
    home = Home(transport="libfuse")
    try:
        home.create("p")
        yield home
    finally:
        home.close()


@pytest.fixture
def mount(machine: Home) -> Path:
    """The pipe, mounted, whatever the test before did."""
    return machine.path("p") if machine.mounts() else machine.mount("p")


def _answers(path: Path) -> bool:
    with suppress(OSError):
        return path.is_mount() and bool(os.listdir(path))
    return False


def test_status_names_the_transport_and_what_a_crash_does(machine: Home, mount: Path) -> None:
    status = machine.status("p")
    assert status["transport"] == "libfuse"
    assert {"FUSE 7.19", "128 KiB writes"} <= {*status["features"]}
    assert "libfuse: 128 KiB reads, a crash interrupts open files" in machine.run("status").stdout


def test_a_worker_that_dies_interrupts_open_files_and_the_mount_answers_again(
    machine: Home, mount: Path
) -> None:
    (mount / "written").write_bytes(b"before")
    with open(mount / "written", "rb", buffering=0) as file:
        os.kill(machine.status("p")["pid"], signal.SIGKILL)
        eventually(lambda: _answers(mount), "the mount answers again")
        with pytest.raises(OSError):
            file.read()
    assert (mount / "written").read_bytes() == b"before"
    (mount / "after").write_bytes(b"goes on")
    assert len(machine.mounts()) == 1
    eventually(lambda: "served again" in machine.log(), "the log tells of it")
    machine.flush("p")


def test_a_supervisor_that_dies_leaves_a_dead_mount_which_the_next_one_replaces(
    machine: Home, mount: Path
) -> None:
    (mount / "kept").write_bytes(b"kept")
    os.kill(machine.supervisor(), signal.SIGKILL)
    eventually(lambda: not machine.processes(), "the worker left")
    with pytest.raises(OSError):
        os.listdir(mount)
    machine.mount("p")
    assert (mount / "kept").read_bytes() == b"kept"


def test_a_busy_mount_stays_and_a_terminated_daemon_drains_it(machine: Home, mount: Path) -> None:
    with open(mount / "busy", "wb") as file:
        file.write(b"x")
        refused = machine.run("umount", "p", code=None)
        assert refused.returncode != 0
        assert "in use" in refused.stderr
    (mount / "last").write_bytes(b"last words")
    os.kill(machine.supervisor(), signal.SIGTERM)
    eventually(lambda: not machine.processes(), "the daemon ended")
    assert machine.mounts() == []
    assert "changes wait in the outbox" not in machine.log()
    machine.mount("p")
    assert (mount / "last").read_bytes() == b"last words"


def test_a_missing_library_is_named_with_its_package(make_home: Callable[..., Home]) -> None:
    home = make_home({"FUSE_LIBRARY_PATH": "/nowhere/libfuse.so.2"})
    home.create("p")
    refused = home.run("mount", "p", "--transport", "libfuse", code=None)
    assert refused.returncode != 0
    assert "libfuse 2, which is not installed" in refused.stderr
    assert "apt-get install libfuse2" in refused.stderr
    assert home.mounts() == []
    # The other transport needs no library.
    assert os.listdir(home.mount("p")) == []


def test_a_change_of_another_machine_is_seen_and_an_open_file_keeps_its_version(
    seaweed: SeaweedServer, make_home: Callable[..., Home]
) -> None:
    bucket = seaweed.make_bucket()
    here, there = make_home(seaweed.environment()), make_home(seaweed.environment())
    here.transport = "libfuse"
    there.create("p", f"s3://{bucket}/p", "quiet_period=0s")
    theirs = there.mount("p")
    (theirs / "file").write_bytes(b"first" * 1000)
    (theirs / "goes").write_bytes(b"")
    there.flush("p")
    here.run("create", f"s3://{bucket}/p")
    ours = here.mount("p")
    with open(ours / "file", "rb", buffering=0) as old:
        assert old.read(5) == b"first"
        (theirs / "file").write_bytes(b"other" * 1000)
        (theirs / "goes").rename(theirs / "moved")
        (theirs / "folder").mkdir()
        (theirs / "folder" / "new").write_bytes(b"new")
        there.flush("p")
        eventually(lambda: (ours / "moved").exists(), "the new name is seen")
        eventually(lambda: not (ours / "goes").exists(), "the old name is gone")
        eventually(lambda: (ours / "file").read_bytes() == b"other" * 1000, "the new bytes")
        assert os.pread(old.fileno(), 5, 4000) == b"first"
    assert (ours / "folder" / "new").read_bytes() == b"new"
    assert (ours / "file").read_bytes() == b"other" * 1000


def test_an_ordinary_user_mounts_reads_and_unmounts() -> None:
    uid = NOBODY if os.geteuid() == 0 else 0
    with fresh_daemon(uid=uid) as daemon:
        daemon.start()
        path = daemon.mount(transport="libfuse")
        reader = daemon.inside("head", "-c", "1000", path / "big")
        assert reader.communicate()[0] == pattern(0, 1000)
        os.kill(daemon.item().pid, signal.SIGKILL)

        def again() -> bool:
            said, _ = daemon.inside("head", "-c", "1000", path / "big").communicate()
            return said == pattern(0, 1000)

        eventually(again, "the mount answers again")
        daemon.umount()
        assert not path.exists()


def test_fusermount_is_there_under_the_name_that_libfuse_2_looks_for() -> None:
    said = subprocess.run(["fusermount", "--version"], capture_output=True, text=True, check=True)
    assert "fusermount" in said.stdout
