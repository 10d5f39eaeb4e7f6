"""Snapshots of a pipe that is not mounted."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipefs.errors import Busy
from pipefs.home import Home as HomeFolders
from pipefs.home import resolve_home
from pipefs.pastmessages import Restore, TakeSnapshot
from pipefs.registry import Registry
from pipefs.session import Session
from tests.mounted import Home


@pytest.fixture
def pipe(home: Home, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Session]:
    """Opens the unmounted pipe `p`, in which nothing is yet."""
    home.run("create", "p")
    monkeypatch.setenv("PIPEFS_HOME", str(home.home))

    def open_session() -> Session:
        folders: HomeFolders = resolve_home()
        return Session(folders, Registry(folders).get("p"))

    return open_session


def _write(session: Session, name: bytes, data: bytes) -> None:
    volume = session.keeper.volume
    node = volume.create(1, name, 0o644, 0, 0, handle=1)
    volume.write(node.ino, 0, memoryview(data), wait=True)
    volume.close_write(node.ino, 1)


def test_what_waits_goes_up_and_is_in_the_snapshot(pipe: Callable[[], Session]) -> None:
    with pipe() as session:
        _write(session, b"a", b"one")
    with pipe() as session:
        taken = session.snapshot(TakeSnapshot(tag="v1"))
        assert (taken.files, taken.bytes, taken.uploads) == (1, 3, 1)
    with pipe() as session:
        assert session.snapshot(TakeSnapshot(tag="v2")).unchanged


def test_a_restore_is_in_the_store_when_it_returns(pipe: Callable[[], Session]) -> None:
    with pipe() as session:
        _write(session, b"a", b"one")
        session.snapshot(TakeSnapshot(tag="v1"))
        session.keeper.volume.unlink(1, b"a")
        _write(session, b"b", b"new")
        done = session.restore(Restore("v1"))
        assert (done.files, done.removed) == (["a"], ["b"])
        live = {o.key for o in session.store.list() if not o.key.startswith(".pipefs/")}
        assert live == {"a"}
        undone = session.restore(Restore(done.before))
        assert (undone.files, undone.removed) == (["b"], ["a"])


def test_only_one_has_the_state(pipe: Callable[[], Session]) -> None:
    with pipe(), pytest.raises(Busy), pipe():
        pass
