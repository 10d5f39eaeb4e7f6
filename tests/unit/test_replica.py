"""The second copy of a pipe's tree: what it shows, what it costs, and who shares it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipefs.commits import Change
from pipefs.errors import NotFound, UsageError
from pipefs.replica import Replica
from pipefs.stores.local import LocalStore
from tests.machines import Machine
from tests.replicas import home_in, replica_of, requests


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def machine(tmp_path: Path, store: LocalStore) -> Iterator[Machine]:
    found = Machine(tmp_path / "machine", store, name="m")
    yield found
    found.close()


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Replica]:
    found = replica_of(tmp_path / "home", tmp_path / "store")
    yield found
    found.close()


def shown(replica: Replica, prefix: str = "") -> dict[str, str]:
    with replica.opened() as now:
        return {i.path: i.kind for i in now.walk(prefix)}


def test_it_shows_what_a_mount_wrote(machine: Machine, replica: Replica) -> None:
    machine.mkdir("d")
    machine.write("d/b.csv", b"two")
    machine.write("a.csv", b"1")
    machine.symlink("to", "a.csv")
    machine.link("a.csv", "d/again.csv")
    machine.mkfifo("fifo")
    machine.chmod("a.csv", 0o600)
    machine.sync()
    assert shown(replica) == {
        "a.csv": "file",
        "d": "dir",
        "d/again.csv": "file",
        "d/b.csv": "file",
        "fifo": "special",
        "to": "symlink",
    }
    assert list(shown(replica, "d")) == ["d", "d/again.csv", "d/b.csv"]
    assert list(shown(replica, "d/b.csv")) == ["d/b.csv"]
    assert shown(replica, "nothing/here") == {}
    with replica.opened() as now:
        a, again, to = now.entry("a.csv"), now.entry("d/again.csv"), now.entry("to")
        assert now.links_of("a.csv") == ["d/again.csv"]
        assert now.position() == machine.follower.position()
        assert now.entry("none") is None and now.entry("a.csv/x") is None
    assert a is not None and again is not None and to is not None
    assert (a.size, a.mode, a.key, a.etag) == (1, 0o600, "a.csv", machine.store.head("a.csv").etag)
    assert (again.link_of, again.version) == ("a.csv", a.version)
    assert to.target == "a.csv"
    assert replica.store.get(a.key, a.version_id, 0, 10) == b"1"


def test_it_follows_renames_and_removals(machine: Machine, replica: Replica) -> None:
    machine.mkdir("d")
    machine.write("d/a", b"a")
    machine.write("d/b", b"b")
    machine.sync()
    assert list(shown(replica)) == ["d", "d/a", "d/b"]
    machine.mv("d", "e")
    machine.rm("e/b")
    machine.sync()
    assert list(shown(replica)) == ["e", "e/a"]


def test_a_new_machine_starts_from_the_newest_snapshot(
    machine: Machine, replica: Replica, tmp_path: Path
) -> None:
    from pipefs.past.keeper import Keeper
    from pipefs.past.manifests import ManifestStore
    from pipefs.past.taking import Wanted

    for number in range(20):
        machine.write(f"f{number:02}", b"x" * number)
        machine.sync()
    manifests = ManifestStore(machine.store, tmp_path / "m")
    Keeper(machine.volume, machine.follower, manifests, author="u@m").take(Wanted(tag="v1"))
    machine.write("later", b"more")
    machine.sync()
    assert len(shown(replica)) == 21
    # Not one of the twenty commits before the snapshot is read.
    assert requests(replica, "get") < 12


def test_where_nothing_is_new_it_costs_two_requests(machine: Machine, replica: Replica) -> None:
    machine.write("a", b"1")
    machine.sync()
    assert list(shown(replica)) == ["a"]
    before = requests(replica)
    assert list(shown(replica)) == ["a"]
    assert requests(replica) - before == 2


def test_what_other_tools_wrote_is_found_by_a_listing(store: LocalStore, replica: Replica) -> None:
    store.put("a", b"1")
    assert list(shown(replica)) == ["a"]
    store.put("b", b"2")
    store.put("a", b"three")
    assert list(shown(replica)) == ["a"]  # the last listing is young
    with replica.opened(cached=False) as now:
        assert [(i.path, i.size) for i in now.walk()] == [("a", 5), ("b", 1)]
    store.delete("a")
    with replica.opened(cached=False) as now:
        assert [i.path for i in now.walk()] == ["b"]


def test_offline_shows_what_was_last_seen(store: LocalStore, replica: Replica) -> None:
    with pytest.raises(NotFound, match="nothing is known"), replica.opened(offline=True):
        pass
    store.put("a", b"1")
    shown(replica)
    store.put("b", b"1")
    before = requests(replica)
    with replica.opened(offline=True) as now:
        assert [i.path for i in now.walk()] == ["a"]
    assert requests(replica) == before


def test_capabilities_are_found_out_once_a_day(tmp_path: Path, replica: Replica) -> None:
    assert replica.capabilities.conditional_put
    assert requests(replica, "probe") == 1
    other = replica_of(tmp_path / "home", tmp_path / "store")
    assert other.capabilities == replica.capabilities
    assert requests(other) == 0
    os.utime(replica.folder / "capabilities.json", (time.time() - 90_000,) * 2)
    again = replica_of(tmp_path / "home", tmp_path / "store")
    assert again.capabilities.writable
    assert requests(again, "probe") == 1


def test_a_damaged_copy_is_made_anew(machine: Machine, replica: Replica) -> None:
    machine.write("a", b"1")
    machine.sync()
    assert list(shown(replica)) == ["a"]
    data = replica.folder / "tree" / "data.mdb"
    data.write_bytes(b"\0" * data.stat().st_size)
    assert list(shown(replica)) == ["a"]


def test_the_log_may_be_deleted(machine: Machine, replica: Replica, store: LocalStore) -> None:
    machine.write("a", b"1")
    machine.symlink("to", "a")
    machine.sync()
    assert list(shown(replica)) == ["a", "to"]
    for found in list(store.list(".pipefs/")):
        store.delete(found.key)
    assert list(shown(replica)) == ["a", "to"]
    machine.follower.check_log()
    machine.sync()
    with replica.opened() as now:
        assert [i.path for i in now.walk()] == ["a", "to"]
        assert now.position() == machine.follower.position()
    assert sorted(machine.tree()) == ["a", "to"]


def test_commits_reach_other_machines(
    machine: Machine, replica: Replica, store: LocalStore
) -> None:
    made = store.put("d/a.csv", b"1")
    change = Change(op="put", path="d/a.csv", version=made.version_id, etag=made.etag, size=1)
    with replica.opened() as now:
        assert now.commit([change]) == now.position().number
        assert now.entry("d/a.csv") is not None
        assert now.commit([]) == 0
    machine.follow()
    assert machine.tree() == {"d": None, "d/a.csv": b"1"}
    assert machine.problems() == []


def test_many_names_are_walked_in_order(replica: Replica) -> None:
    paths = [*(f"many/{number:04}" for number in range(1200)), "many.csv"]
    with replica.opened() as now:
        now.commit([Change(op="put", path=p, version="v", etag="e") for p in paths])
        paths = [i.path for i in now.walk()]
    assert len(paths) == 1202
    assert paths == sorted(paths, key=lambda p: p.encode().split(b"/"))


@pytest.mark.parametrize("path", ["a//b", "../x", "a/./b", ".pipefs/x", "a/.snapshots/b", "a\0b"])
def test_paths_that_no_file_has(replica: Replica, path: str) -> None:
    with replica.opened() as now, pytest.raises(UsageError, match=r"no path|belongs to pipefs"):
        now.entry(path)


def test_blocks_of_one_thread_nest(store: LocalStore, replica: Replica) -> None:
    with replica.opened() as outer:
        store.put("a", b"1")
        with replica.opened(cached=False) as inner:
            assert inner is outer
            assert inner.entry("a") is not None


def test_threads_and_replicas_take_turns(store: LocalStore, tmp_path: Path) -> None:
    store.put("a", b"1")
    replicas = [replica_of(tmp_path / "home", tmp_path / "store") for _ in range(4)]
    found: list[list[str]] = []

    def look(replica: Replica) -> None:
        found.extend(list(shown(replica)) for _ in range(5))

    threads = [threading.Thread(target=look, args=(r,)) for r in replicas for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [["a"]] * 40


def _hold(home: Path, store: Path, ready: threading.Event) -> None:
    with replica_of(home, store).opened():
        ready.set()
        time.sleep(60)


def test_the_death_of_who_has_it_open_frees_it(store: LocalStore, tmp_path: Path) -> None:
    store.put("a", b"1")
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    child = context.Process(target=_hold, args=(tmp_path / "home", tmp_path / "store", ready))
    child.start()
    assert ready.wait(30)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert list(shown(replica_of(tmp_path / "home", tmp_path / "store"))) == ["a"]


def test_pipes_of_one_id_at_two_places_are_two_copies(tmp_path: Path) -> None:
    LocalStore(tmp_path / "one").put("a", b"")
    LocalStore(tmp_path / "two").put("b", b"")
    home = tmp_path / "home"
    assert home_in(home).cache in replica_of(home, tmp_path / "one").folder.parents
    assert list(shown(replica_of(home, tmp_path / "one"))) == ["a"]
    assert list(shown(replica_of(home, tmp_path / "two"))) == ["b"]
