"""A machine that is new to a pipe starts from its newest snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipefs import tree
from pipefs.check import Problem, check
from pipefs.past import checkpoint
from pipefs.past.checkpoint import start_from_snapshot
from pipefs.past.manifests import ManifestStore
from pipefs.past.taking import Wanted
from pipefs.stores.base import Store
from pipefs.stores.local import LocalStore
from tests.machines import Machine, machines, sync_all
from tests.unit.test_taking import taker


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = LocalStore(tmp_path / "store")
    yield store
    store.close()


@pytest.fixture
def pair(store: Store, tmp_path: Path) -> Iterator[list[Machine]]:
    with machines(tmp_path, store, "old", "new") as both:
        yield both


def _tree_with_everything(m: Machine) -> None:
    for directory in ("d", "d/deep", "empty"):
        m.mkdir(directory)
    for path in ("top", "d/a", "d/deep/b"):
        m.write(path, path.encode())
    m.link("d/a", "also-a")
    m.symlink("s", "d/a")
    m.mkfifo("pipe")
    m.link("s", "s2")
    m.link("pipe", "d/pipe2")
    m.chmod("top", 0o600)
    m.sync()


def problems(m: Machine) -> list[Problem]:
    with m.db.view() as v:
        return list(check(v))


def _start(m: Machine) -> bool:
    return start_from_snapshot(m.db, m.volume.inos, m.store, ManifestStore(m.store, None))


def test_it_has_the_tree_and_goes_on_from_there(pair: list[Machine]) -> None:
    old, new = pair
    _tree_with_everything(old)
    taker(old).take(Wanted(tag="v1"))
    old.mv("d", "e")
    old.write("later", b"x")
    old.sync()
    assert _start(new)
    assert not new.follower.must_relist()
    new.sync()
    assert new.tree() == old.tree()
    assert new.linked() == old.linked()
    assert new.linked() == {("also-a", "e/a"), ("s", "s2"), ("e/pipe2", "pipe")}
    assert new.modes() == old.modes()
    assert new.follower.catalog().find("v1") == old.follower.catalog().find("v1")
    assert problems(new) == []
    new.write("from-new", b"y")
    new.rm("also-a")
    sync_all(old, new)
    old.reconcile()
    new.reconcile()
    sync_all(old, new)
    assert new.tree() == old.tree()


def test_its_own_next_snapshot_costs_what_changed(pair: list[Machine]) -> None:
    old, new = pair
    _tree_with_everything(old)
    taker(old).take(Wanted(tag="v1"))
    assert _start(new)
    assert taker(new).take(Wanted(tag="v2")).unchanged


def test_without_a_snapshot_the_log_is_read(pair: list[Machine]) -> None:
    old, new = pair
    _tree_with_everything(old)
    assert not _start(new)
    new.sync()
    assert new.tree() == old.tree()


def test_a_snapshot_of_a_directory_is_not_the_pipe(pair: list[Machine]) -> None:
    old, new = pair
    _tree_with_everything(old)
    taker(old).take(Wanted(path="d", tag="of-d"))
    assert not _start(new)


def test_a_log_that_was_deleted_is_not_gone_on_with(pair: list[Machine], store: Store) -> None:
    old, new = pair
    _tree_with_everything(old)
    taker(old).take(Wanted(tag="v1"))
    for item in list(store.list(".pipefs/commits/")):
        store.delete(item.key)
    assert not _start(new)


def test_known_state_is_never_replaced(pair: list[Machine]) -> None:
    old, new = pair
    _tree_with_everything(old)
    taker(old).take(Wanted(tag="v1"))
    new.write("mine", b"not up yet")
    assert not _start(new)
    assert new.read("mine") == b"not up yet"


def test_a_death_half_way_is_begun_again(
    pair: list[Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = pair
    _tree_with_everything(old)
    taker(old).take(Wanted(tag="v1"))

    def dies(self: object, bulk: checkpoint.Bulk) -> None:
        bulk.commit()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint._Filler, "add_links", dies)
        _start(new)
    new.kill()
    with new.db.view() as v:
        assert v.count("names") > 0
        assert tree.number(v, "commit") == 0
    assert _start(new)
    new.sync()
    assert new.tree() == old.tree()
    assert problems(new) == []


def test_a_part_that_is_gone_falls_back_to_the_log(pair: list[Machine], store: Store) -> None:
    old, new = pair
    _tree_with_everything(old)
    taken = taker(old).take(Wanted(tag="v1")).snapshot
    for item in list(store.list(".pipefs/manifests/")):
        if taken.body.root not in item.key:
            store.delete(item.key)
    assert not _start(new)
    new.sync()
    assert new.tree() == old.tree()
    assert problems(new) == []
