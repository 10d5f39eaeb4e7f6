"""What comes instead where libfuse 2 cannot carry an operation."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from tests.mounted import Home, eventually
from tests.promises.conftest import TRANSPORTS, Mounted
from tests.promises.promised import (
    EXCHANGE,
    NOREPLACE,
    Twin,
    opened,
    promise,
    rename2,
    tried,
)

on_libfuse = pytest.mark.parametrize("mounted", ["libfuse"], indirect=True)


@promise(
    "libfuse-rename-flags",
    "On libfuse 2 `RENAME_NOREPLACE` and `RENAME_EXCHANGE` are `EINVAL`, and nothing is renamed.",
)
@on_libfuse
def test_rename_has_no_flags(twin: Twin) -> None:
    (twin.ours / "x").touch()
    (twin.ours / "y").touch()
    assert tried(rename2, twin.ours / "x", twin.ours / "z", NOREPLACE) == "EINVAL"
    assert tried(rename2, twin.ours / "x", twin.ours / "y", EXCHANGE) == "EINVAL"
    assert sorted(os.listdir(twin.ours)) == ["x", "y"]


@promise(
    "libfuse-tmpfile",
    "On libfuse 2 `O_TMPFILE` is `EOPNOTSUPP`.",
)
@on_libfuse
def test_files_have_names_from_the_start(twin: Twin) -> None:
    assert tried(os.open, twin.ours, os.O_TMPFILE | os.O_RDWR) == "EOPNOTSUPP"


@promise(
    "libfuse-seek-data",
    "On libfuse 2 `SEEK_DATA` and `SEEK_HOLE` take a file for data up to its end.",
)
@on_libfuse
def test_a_file_is_all_data(twin: Twin) -> None:
    with opened(twin.ours / "x", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, 1 << 20)
        assert os.lseek(fd, 0, os.SEEK_HOLE) == 1 << 20
        assert os.lseek(fd, 5000, os.SEEK_DATA) == 5000


@promise(
    "libfuse-acl",
    "On libfuse 2 access lists are `EOPNOTSUPP`, and a mount with `acl=yes` is refused.",
)
@on_libfuse
def test_there_are_no_access_lists(mounted: Mounted, twin: Twin) -> None:
    assert tried(os.getxattr, twin.ours, "system.posix_acl_access") == "EOPNOTSUPP"
    mounted.home.run("create", "lists")
    refused = mounted.home.run("mount", "lists", "-o", "acl=yes", *TRANSPORTS["libfuse"], code=4)
    assert "access lists" in refused.stderr


@promise(
    "libfuse-killed-worker",
    "On libfuse 2 the mount of a killed worker is made anew: handles and locks from before "
    "are `ENOTCONN` or gone, names and bytes are there.",
)
def test_a_killed_worker_takes_its_handles_along() -> None:
    home = Home()
    try:
        home.create("p", "", "quiet_period=1h")
        root = home.base / "p"
        root.mkdir()
        home.run("mount", "p", str(root), *TRANSPORTS["libfuse"])
        (root / "x").write_text("kept")
        with open(root / "x") as held:
            worker = home.status("p")["pid"]
            os.kill(worker, signal.SIGKILL)
            eventually(lambda: _reads(root / "x") == "kept", "it is mounted again")
            with pytest.raises(OSError) as caught:
                os.fsync(held.fileno())
            assert caught.value.errno == errno.ENOTCONN
    finally:
        home.close()


def _reads(path: Path) -> object:
    return tried(path.read_text)
