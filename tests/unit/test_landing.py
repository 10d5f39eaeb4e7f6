"""A file that goes up in the very moment in which it is looked at or read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipefs.stores.local import LocalStore
from tests.machines import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path / "a", LocalStore(tmp_path / "store"))
    made.write("f", b"old")
    made.sync()
    made.write("f", b"longer and new")
    yield made
    made.close()


@pytest.mark.parametrize("moment", ["get", "stat"])
def test_who_looks_while_a_file_goes_up_never_sees_what_it_was_before(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    files, ino = machine.volume.files, machine.ino("f")
    ask = getattr(files, moment)

    def landing(asked: int) -> object:
        """Another thread's upload lands between two steps of the one that looks."""
        monkeypatch.undo()
        assert machine.upload(ino)
        return ask(asked)

    monkeypatch.setattr(files, moment, landing)
    if moment == "stat":
        node = machine.volume.inode(ino)
        assert (node.size, node.content and node.content.size) == (14, 14)
    else:
        parts, release = machine.volume.read(ino, 0, 0, 100, stream=1, wait=True)
        assert b"".join(parts) == b"longer and new"
        assert release is not None
        release()
    assert files.get(ino) is None
