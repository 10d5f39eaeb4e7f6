"""A snapshot brought back: every kind of thing, over every other, and nobody's change is lost."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pipefs.conflicts import Effects
from pipefs.db import StateDB
from pipefs.errors import NotFound
from pipefs.past.keeper import Keeper
from pipefs.past.manifests import ManifestStore
from pipefs.past.restoring import Restored
from pipefs.past.taking import Wanted
from pipefs.past.views import PastView
from pipefs.records import Inode
from pipefs.stores.local import LocalStore
from pipefs.stores.wrap import CountingStore
from tests.machines import Machine, machines, sync_all

BIG = bytes(range(256)) * 1024


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CountingStore]:
    store = CountingStore(LocalStore(tmp_path / "store"))
    yield store
    store.close()


@pytest.fixture
def pair(store: CountingStore, tmp_path: Path) -> Iterator[list[Machine]]:
    with machines(tmp_path, store, "here", "there") as both:
        yield both


def keeper(m: Machine) -> Keeper:
    return Keeper(m.volume, m.follower, ManifestStore(m.store, None), author=f"user@{m.name}")


def take(m: Machine, tag: str) -> PastView:
    m.sync()
    keeper(m).take(Wanted(tag=tag))
    return view(m, tag)


def view(m: Machine, tag: str) -> PastView:
    from pipefs.past.opened import view_of

    return view_of(ManifestStore(m.store, None), m.follower.catalog().find(tag))


def restore(m: Machine, past: PastView, *paths: str, **more: bool) -> Restored:
    def orphaned(node: Inode) -> None:
        m.volume.forget_orphan(node.ino)

    names: Sequence[Sequence[bytes]] = [p.encode().split(b"/") for p in paths] or [[]]
    return keeper(m).restore(past, names, orphaned=orphaned, **more)


def everything(m: Machine) -> dict[str, tuple[object, ...]]:
    """Path → all that a restore brings back; hard links as the set of their paths."""
    found, names = {}, {}
    for path, node in m.walk():
        names.setdefault(node.ino, set()).add(path)
        shown = m.read_inode(node) if node.is_file else node.target
        times = (node.mtime_ns, node.atime_ns or node.mtime_ns)
        kept = (node.mode, node.uid, node.gid, node.rdev, times, node.xattrs or None)
        found[path] = (node.ino, shown, *kept)
    return {path: (frozenset(names[ino]), *rest) for path, (ino, *rest) in found.items()}


def fill(m: Machine) -> None:
    """Something of every kind."""
    for directory in ("d", "d/deep", "empty"):
        m.mkdir(directory)
    m.write("big", BIG)
    for path in ("d/a", "d/deep/b", "nothing-in-it"):
        m.write(path, path.encode() if path != "nothing-in-it" else b"")
    m.link("d/a", "also")
    m.link("d/a", "d/deep/too")
    m.symlink("link", "d/a")
    m.link("link", "link2")
    m.mkfifo("fifo")
    m.volume.mknod(1, b"null", stat.S_IFCHR | 0o620, 0x103, 1, 2)
    m.chmod("d/deep/b", 0o4711)
    m.volume.set_attributes(m.ino("big"), uid=12, gid=34, mtime_ns=5, atime_ns=10**18)
    m.volume.set_attributes(m.ino("d"), mode=0o1750, mtime_ns=-7)
    m.sync()


def set_xattr(db: StateDB, ino: int, name: bytes, value: bytes) -> None:
    from pipefs import tree
    from pipefs.records import Dirty

    with db.update() as t:
        node = tree.need(t, ino)
        node.xattrs = {**(node.xattrs or {}), name: value}
        node.dirty |= Dirty.ANNOUNCE
        tree.put_inode(t, node)


def remove_all(m: Machine) -> None:
    for path, node in sorted(m.walk(), reverse=True):
        (m.rmdir if node.is_dir else m.rm)(path)


def test_all_that_was_there_is_there_again_on_every_machine(
    pair: list[Machine], store: CountingStore
) -> None:
    here, there = pair
    fill(here)
    set_xattr(here.db, here.ino("d/a"), b"user.x", b"\0y")
    past = take(here, "v1")
    wanted = everything(here)
    remove_all(here)
    here.sync()
    assert everything(here) == {}
    done = restore(here, past)
    assert everything(here) == wanted
    assert sorted(done.files) == sorted(
        path for path, (_, _, mode, *_) in wanted.items() if not stat.S_ISDIR(int(str(mode)))
    )
    sync_all(here, there)
    assert everything(there) == wanted
    assert restore(here, past).files == []


def test_everything_is_restored_over_something_of_another_kind(pair: list[Machine]) -> None:
    here, _ = pair
    fill(here)
    past, wanted = take(here, "v1"), everything(here)
    here.rm("big")
    here.mkdir("big")
    here.write("big/inside", b"x")
    for path in ("also", "link", "fifo", "null"):
        here.rm(path)
    here.symlink("also", "nowhere")
    here.mkdir("link")
    here.write("fifo", b"a file")
    here.mkfifo("null")
    for path in ("d/deep/b", "d/deep/too", "d/deep", "d/a", "d"):
        (here.rmdir if path in ("d", "d/deep") else here.rm)(path)
    here.write("d", b"a file now")
    here.write("extra", b"x")
    here.sync()
    changed = everything(here)
    would = restore(here, past, dry_run=True)
    assert everything(here) == changed
    done = restore(here, past)
    assert everything(here) == wanted
    assert (would.files, would.removed) == (done.files, done.removed)
    assert {"big/inside", "big", "extra", "d", "link"} <= set(done.removed)


def test_a_restore_moves_no_bytes_and_what_it_replaced_comes_back(
    pair: list[Machine], store: CountingStore
) -> None:
    here, _ = pair
    here.write("big", BIG)
    first = take(here, "v1")
    here.write("big", BIG[::-1])
    second = take(here, "v2")
    here.lose_cache()
    versions = {o.version_id for o in store.list_versions("big")}
    for past, data in ((first, BIG), (second, BIG[::-1]), (first, BIG)):
        before = read_bytes(store), sent_bytes(store)
        restore(here, past)
        here.sync()
        moved = read_bytes(store) - before[0] + sent_bytes(store) - before[1]
        assert moved < len(BIG) / 10
        assert here.store.get("big", None, 0, 1 << 20) == data
    assert {o.version_id for o in store.list_versions("big")} >= set(versions)


def read_bytes(store: CountingStore) -> int:
    return store.counts()["get"].bytes_in


def sent_bytes(store: CountingStore) -> int:
    return store.counts()["put"].bytes_out


def test_a_part_is_restored_with_the_directories_above_it(pair: list[Machine]) -> None:
    here, _ = pair
    fill(here)
    set_xattr(here.db, here.ino("d"), b"user.of-d", b"1")
    past, wanted = take(here, "v1"), everything(here)
    remove_all(here)
    here.write("else", b"stays")
    restore(here, past, "d/deep/b")
    found = everything(here)
    assert sorted(found) == ["d", "d/deep", "d/deep/b", "else"]
    assert found["d/deep/b"] == wanted["d/deep/b"]
    for path in ("d", "d/deep"):
        assert (found[path][2:5], found[path][-1]) == (wanted[path][2:5], wanted[path][-1])
    with pytest.raises(NotFound):
        restore(here, past, "d/nothing")
    restore(here, past, "d", keep_extra=True)
    assert here.read("d/a") == b"d/a"
    assert here.read("else") == b"stays"


def test_a_change_elsewhere_and_a_restore_here_are_both_kept(pair: list[Machine]) -> None:
    here, there = pair
    here.write("a", b"old")
    here.write("gone", b"was here")
    past = take(here, "v1")
    here.write("a", b"newer")
    here.rm("gone")
    sync_all(here, there)
    there.write("a", b"theirs, which nobody here knows yet")
    there.write("gone", b"made there")
    there.sync()
    restore(here, past)
    sync_all(here, there)
    for machine in (here, there):
        assert machine.read("a") == b"theirs, which nobody here knows yet"
        assert machine.read("gone") == b"made there"
        assert {b"old", b"was here"} <= set(machine.contents())


def test_what_was_done_before_an_error_is_told(pair: list[Machine]) -> None:
    here, _ = pair
    for name in ("a", "b"):
        here.write(name, b"old")
    past = take(here, "v1")
    for name in ("a", "b"):
        here.write(name, b"new")
    told: list[Effects] = []

    def ends(count: int) -> None:
        raise ConnectionError("nobody waits any more")

    with pytest.raises(ConnectionError):
        keeper(here).restore(
            past, [[]], orphaned=lambda _node: None, progress=ends, tell=told.append
        )
    assert (here.read("a"), here.read("b")) == (b"old", b"new")
    assert [e.entries for e in told] == [{(1, b"a")}]
