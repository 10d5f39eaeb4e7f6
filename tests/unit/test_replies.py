"""Requests that come again after a worker was replaced happen once."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from pipefs.stores.local import LocalStore
from pipefsd.filesystem import Filesystem
from pipefsd.nodes import ROOT_NODE
from pipefsd.ownership import Ownership
from pipefsd.transports.base import Caller
from tests.machines import Machine


def served(machine: Machine, *, same_mount: bool) -> Filesystem:
    machine.volume.recover(same_mount=same_mount)
    owner = Ownership("stored", 0o022, uid=0, gid=0)
    return Filesystem(machine.volume, owner, read_only=lambda: "", same_mount=same_mount)


def asked(unique: int, *, again: bool = False) -> Caller:
    return Caller(0, 0, 0, 0, unique, again)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "lab1", LocalStore(tmp_path / "store"))


Ask = Callable[[Filesystem, Caller], object]

CHANGES: dict[str, tuple[Ask, type[OSError]]] = {
    "mkdir": (lambda f, c: f.mkdir(c, ROOT_NODE, b"new", 0o755), FileExistsError),
    "symlink": (lambda f, c: f.symlink(c, ROOT_NODE, b"new", b"target"), FileExistsError),
    "mknod": (lambda f, c: f.mknod(c, ROOT_NODE, b"new", stat.S_IFREG | 0o644, 0), FileExistsError),
    "create": (
        lambda f, c: f.create(c, ROOT_NODE, b"new", 0o644, os.O_WRONLY | os.O_EXCL),
        FileExistsError,
    ),
    "unlink": (lambda f, c: f.unlink(c, ROOT_NODE, b"file"), FileNotFoundError),
    "rmdir": (lambda f, c: f.rmdir(c, ROOT_NODE, b"dir"), FileNotFoundError),
    "rename": (
        lambda f, c: f.rename(c, ROOT_NODE, b"file", ROOT_NODE, b"to", 0),
        FileNotFoundError,
    ),
    "setxattr": (
        lambda f, c: f.setxattr(c, ROOT_NODE, b"user.new", b"1", os.XATTR_CREATE),
        FileExistsError,
    ),
    "removexattr": (lambda f, c: f.removexattr(c, ROOT_NODE, b"user.old"), OSError),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_request_that_comes_again_is_answered_as_before(machine: Machine, change: str) -> None:
    ask, refusal = CHANGES[change]
    first = served(machine, same_mount=False)
    first.mknod(asked(1), ROOT_NODE, b"file", stat.S_IFREG | 0o644, 0)
    first.mkdir(asked(2), ROOT_NODE, b"dir", 0o755)
    first.setxattr(asked(3), ROOT_NODE, b"user.old", b"1", 0)
    ask(first, asked(77))
    names = sorted(n for n, _ in machine.volume.children(1, b"", 100))

    second = served(machine, same_mount=True)
    ask(second, asked(77, again=True))

    assert sorted(n for n, _ in machine.volume.children(1, b"", 100)) == names
    with pytest.raises(refusal):
        ask(second, asked(79))


def test_a_created_file_keeps_its_handle_when_the_request_comes_again(machine: Machine) -> None:
    first = served(machine, same_mount=False)
    entry, opened = first.create(asked(5), ROOT_NODE, b"new", 0o644, os.O_WRONLY)

    second = served(machine, same_mount=True)
    again, reopened = second.create(asked(5, again=True), ROOT_NODE, b"new", 0o644, os.O_WRONLY)

    assert (again.node, reopened.fh) == (entry.node, opened.fh)
    second.write(asked(9), again.node, reopened.fh, 0, memoryview(b"data"))
    second.release(asked(11), again.node, reopened.fh, os.O_WRONLY)
    assert machine.volume.outbox().waiting == 1


def test_a_fresh_mount_forgets_the_answers_of_an_older_one(machine: Machine) -> None:
    served(machine, same_mount=False).mkdir(asked(5), ROOT_NODE, b"a", 0o755)
    served(machine, same_mount=False)

    second = served(machine, same_mount=True)
    with pytest.raises(FileExistsError):
        second.mkdir(asked(5, again=True), ROOT_NODE, b"a", 0o755)
