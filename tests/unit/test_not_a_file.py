"""What is no regular file never gets bytes of its own, whoever still takes it for one.

A kernel that has not heard yet of another machine's change asks for the file that it knows by a
name, and comes to the directory or link that has the name now.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipefs.ranges import Ranges
from pipefs.stores.local import LocalStore
from pipefsd.filesystem import Filesystem
from pipefsd.nodes import ROOT_NODE
from pipefsd.ownership import Ownership
from pipefsd.transports.base import Caller
from tests.machines import Machine, machines, objects, sync_all

MADE: dict[str, Callable[[Machine], None]] = {
    "directory": lambda m: m.mkdir("b"),
    "symlink": lambda m: m.symlink("b", "target"),
    "fifo": lambda m: m.mkfifo("b"),
}
CHANGES: dict[str, Callable[[Machine, int], object]] = {
    "open": lambda m, ino: m.volume.open_write(ino, 7, truncate=False, wait=True),
    "open and truncate": lambda m, ino: m.volume.open_write(ino, 7, truncate=True, wait=True),
    "truncate": lambda m, ino: m.volume.truncate(ino, 5, wait=True),
    "write": lambda m, ino: m.volume.write(ino, 0, memoryview(b"data"), wait=True),
    "allocate": lambda m, ino: Ranges(m.volume).allocate(ino, 0, 4096, 0, wait=True),
}
CREATED = {
    "write": os.O_CREAT | os.O_WRONLY,
    "truncate": os.O_CREAT | os.O_WRONLY | os.O_TRUNC,
    "read": os.O_CREAT | os.O_RDONLY,
}


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[list[Machine]]:
    store = LocalStore(tmp_path / "store")
    with machines(tmp_path, store, "here", "there") as both:
        yield both
    store.close()


def _is_untouched(machine: Machine) -> bool:
    node = machine.inode("b")
    assert machine.problems() == []
    assert machine.volume.files.inos() == []
    machine.sync()
    assert objects(machine.store) == {}
    return node.content is None and not stat.S_ISREG(node.mode)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", MADE)
def test_a_change_of_its_bytes_is_refused_and_leaves_nothing(
    pair: list[Machine], kind: str, change: str
) -> None:
    here, _ = pair
    MADE[kind](here)
    with pytest.raises(OSError) as refused:
        CHANGES[change](here, here.ino("b"))
    assert refused.value.errno == errno.ESTALE
    assert _is_untouched(here)
    here.kill()
    assert _is_untouched(here)


@pytest.mark.parametrize("flags", CREATED)
@pytest.mark.parametrize("kind", MADE)
def test_a_create_that_finds_it_at_the_name_asks_for_another_lookup(
    pair: list[Machine], kind: str, flags: str
) -> None:
    here, _ = pair
    owner = Ownership("stored", 0o022, uid=0, gid=0)
    served = Filesystem(here.volume, owner, read_only=lambda: "")
    MADE[kind](here)
    with pytest.raises(OSError) as refused:
        served.create(Caller(0, 0, 0), ROOT_NODE, b"b", 0o644, CREATED[flags])
    assert refused.value.errno == errno.ESTALE
    assert _is_untouched(here)
    # No handle of that request counts: what is removed now is gone at once.
    ino = here.ino("b")
    (served.rmdir if kind == "directory" else served.unlink)(Caller(0, 0, 0), ROOT_NODE, b"b")
    with here.db.view() as v:
        assert [int.from_bytes(k, "big") for k, _ in v.scan("orphans")] == []
    assert here.volume.files.get(ino) is None


def test_a_directory_that_both_made_comes_to_rest_though_one_was_taken_for_a_file(
    pair: list[Machine],
) -> None:
    here, there = pair
    for machine in pair:
        machine.mkdir("b")
        with pytest.raises(OSError):
            machine.volume.open_write(machine.ino("b"), 7, truncate=True, wait=True)
    sync_all(here, there)
    with pytest.raises(OSError):
        here.volume.open_write(here.ino("b"), 7, truncate=True, wait=True)
    sync_all(here, there)
    assert here.tree() == there.tree() == {"b": None}
    assert objects(here.store) == {}
