"""Snapshots are taken of exactly one commit, and cost what changed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipefs import catalog, manifest
from pipefs.catalog import Snapshot
from pipefs.commits import Change
from pipefs.errors import Conflict, NotFound, UsageError
from pipefs.manifest import Root
from pipefs.past import manifests
from pipefs.past.building import build
from pipefs.past.manifests import ManifestStore
from pipefs.past.opened import Past
from pipefs.past.taking import Taker, Wanted
from pipefs.past.walking import BaseSource, walk
from pipefs.stores.base import Store
from pipefs.stores.local import LocalStore
from tests.machines import Machine, machines, sync_all


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = LocalStore(tmp_path / "store")
    yield store
    store.close()


@pytest.fixture
def pair(store: Store, tmp_path: Path) -> Iterator[list[Machine]]:
    with machines(tmp_path, store, "here", "there") as both:
        yield both


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Borders every few entries, so that small trees have many parts."""
    monkeypatch.setattr(manifest, "MIN_ENTRIES", 2)
    monkeypatch.setattr(manifest, "MEAN_ENTRIES", 3)


def taker(m: Machine) -> Taker:
    manifests = ManifestStore(m.store, None)
    return Taker(m.db, m.store, m.follower, manifests, author=f"user@{m.name}")


def past(store: Store) -> Past:
    found = Past(store, author="x@y", writer="w", folder=None)
    found.refresh()
    return found


def test_a_snapshot_has_every_file_as_it_was(pair: list[Machine], store: Store) -> None:
    here, _ = pair
    here.mkdir("d")
    here.write("d/a", b"one")
    here.write("b", b"two")
    here.sync()
    taken = taker(here).take(Wanted(tag="v1", message="first"))
    here.write("b", b"changed")
    here.rm("d/a")
    here.sync()
    view = past(store).view("v1")
    found = {e.path: e for e in view.entries()}
    assert sorted(found) == ["b", "d", "d/a"]
    for path, data in (("b", b"two"), ("d/a", b"one")):
        entry = found[path]
        assert store.get(entry.object_key, entry.version, 0, 99) == data
    assert taken.snapshot.body.message == "first"
    assert (taken.snapshot.body.files, taken.snapshot.body.bytes) == (2, 6)


def test_the_other_machine_learns_of_it_from_the_log(pair: list[Machine]) -> None:
    here, there = pair
    here.write("a", b"x")
    here.sync()
    taken = taker(here).take(Wanted(tag="v1")).snapshot
    assert there.follower.catalog().snapshots == {}
    there.sync()
    assert there.follower.catalog().find("v1") == taken
    assert there.follower.catalog().find(taken.id[:6]) == taken
    assert there.follower.catalog().find("latest") == taken


def test_nothing_changed_gives_the_tag_to_the_one_that_is_there(pair: list[Machine]) -> None:
    here, _ = pair
    here.write("a", b"x")
    here.sync()
    first = taker(here).take(Wanted(tag="v1"))
    again = taker(here).take(Wanted(tag="v2"))
    assert (first.unchanged, again.unchanged) == (False, True)
    assert again.snapshot.id == first.snapshot.id
    assert again.snapshot.tags == ["v1", "v2"]
    assert taker(here).take(Wanted(tag="v1")).unchanged


def test_a_tag_names_one_snapshot_only(pair: list[Machine], store: Store) -> None:
    here, _ = pair
    here.write("a", b"x")
    here.sync()
    first = taker(here).take(Wanted(tag="v1")).snapshot
    here.write("a", b"y")
    here.sync()
    with pytest.raises(Conflict, match="belongs to"):
        taker(here).take(Wanted(tag="v1"))
    moved = taker(here).take(Wanted(tag="v1", move_tag=True)).snapshot
    assert moved.id != first.id
    assert past(store).catalog.find("v1").id == moved.id
    assert past(store).catalog.snapshots[first.id].tags == []


@pytest.mark.parametrize("tag", ["latest", "live", "abcdef1", "-x", "a/b", "dws-x", "x" * 129])
def test_a_name_that_cannot_be_a_tag_is_refused(pair: list[Machine], tag: str) -> None:
    with pytest.raises(UsageError):
        taker(pair[0]).take(Wanted(tag=tag))


def test_a_snapshot_of_a_directory_holds_that_directory_only(
    pair: list[Machine], store: Store
) -> None:
    here, _ = pair
    for directory in ("d", "e", "d/deep"):
        here.mkdir(directory)
    for path in ("d/a", "d/deep/b", "e/c", "top"):
        here.write(path, path.encode())
    here.sync()
    taken = taker(here).take(Wanted(path="d", tag="of-d")).snapshot
    view = past(store).view("of-d")
    assert [e.path for e in view.entries()] == ["d", "d/a", "d/deep", "d/deep/b"]
    assert (taken.body.entries, taken.body.files) == (4, 2)
    assert view.at([b"d", b"deep", b"b"]).size == 8
    assert [name for name, _ in view.children(1, b"", 99)] == [b"d"]
    with pytest.raises(FileNotFoundError):
        view.at([b"top"])
    here.write("top", b"outside")
    here.sync()
    assert taker(here).take(Wanted(path="d")).unchanged
    with pytest.raises(NotFound):
        taker(here).take(Wanted(path="nothing/there"))


def test_two_machines_take_one_at_the_same_moment(pair: list[Machine], store: Store) -> None:
    here, there = pair
    here.write("a", b"x")
    sync_all(here, there)
    one = taker(here).take(Wanted(tag="one")).snapshot
    there.write("b", b"y")
    there.sync()
    two = taker(there).take(Wanted(tag="two")).snapshot
    assert two.body.parent == one.id
    assert {e.path for e in past(store).view("two").entries()} == {"a", "b"}
    assert {e.path for e in past(store).view("one").entries()} == {"a"}


def test_parts_that_did_not_change_are_shared(
    pair: list[Machine], store: Store, small_parts: None
) -> None:
    here, _ = pair
    for n in range(60):
        here.write(f"f{n:02}", b"%d" % n)
    here.sync()
    taker(here).take(Wanted(tag="v1"))
    here.write("f30", b"changed")
    here.sync()
    taker(here).take(Wanted(tag="v2"))
    before = [p.part for p in past(store).view("v1").root.parts]
    after = [p.part for p in past(store).view("v2").root.parts]
    assert len(before) > 8
    assert len(set(after) - set(before)) == 1


def test_hard_links_and_special_files_are_in_it(pair: list[Machine], store: Store) -> None:
    here, _ = pair
    here.mkdir("d")
    here.write("d/a", b"bytes")
    here.link("d/a", "b")
    here.symlink("s", "d/a")
    here.link("s", "s2")
    here.sync()
    taker(here).take(Wanted(tag="v1"))
    view = past(store).view("v1")
    found = {e.path: e for e in view.entries()}
    assert (found["b"].kind, found["b"].link) == ("link", "d/a")
    assert (found["s"].kind, found["s"].target) == ("symlink", "d/a")
    assert view.at([b"b"]).ino == view.at([b"d", b"a"]).ino
    assert view.at([b"s"]).ino == view.at([b"s2"]).ino
    assert view.at([b"b"]).nlink == view.at([b"s2"]).nlink == 2
    here.mv("d", "e")
    here.sync()
    taker(here).take(Wanted(tag="v2"))
    moved = {e.path: e for e in past(store).view("v2").entries()}
    assert moved["b"].link == "e/a"


@pytest.mark.parametrize("seed", range(12))
def test_what_is_built_on_an_old_manifest_is_as_if_built_anew(
    pair: list[Machine], store: Store, small_parts: None, seed: int
) -> None:
    here, there = pair
    chance = random.Random(seed)
    manifests = ManifestStore(store, None)
    takers = [taker(here), taker(there)]
    names = ["a", "b", "c", "d", "e", "f"]

    def path() -> str:
        return "/".join(chance.choice(names) for _ in range(chance.randint(1, 3)))

    for step in range(120):
        m = chance.choice(pair)
        try:
            what = chance.randint(0, 9)
            if what < 4:
                m.write(path(), b"%d" % step)
            elif what < 6:
                m.mkdir(path())
            elif what < 8:
                m.mv(path(), path())
            elif what < 9:
                m.rm(path())
            else:
                m.link(path(), path())
        except OSError:
            continue
        if step % 10 == 9:
            sync_all(here, there)
            which = chance.randint(0, 1)
            _, root = takers[which].manifest()
            source = BaseSource(pair[which].db)
            anew = build(source, manifests.put, None, [])
            assert root == anew
            lines = [e for p in root.parts for e in manifests.part(p.part).entries]
            assert lines == list(walk(source))
            places = [manifest.place_in(e.path) for e in lines]
            assert places == sorted(places)


def test_refs_are_read_from_the_log_where_the_catalogue_was_lost(
    pair: list[Machine], store: Store
) -> None:
    here, _ = pair
    here.write("a", b"x")
    here.sync()
    taken = taker(here).take(Wanted(tag="v1")).snapshot
    known = past(store).catalog.find("v1")
    store.delete(catalog.REFS_KEY)
    assert past(store).catalog.find("v1") == known == taken


def test_parts_that_no_snapshot_needs_are_put_anew(
    pair: list[Machine], store: Store, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "YOUNG_NS", 0)
    here, _ = pair
    for name in "abcdefgh":
        here.write(name, name.encode())
    here.sync()
    first = taker(here).take(Wanted(tag="v1")).snapshot

    def forget(off: bool) -> None:
        change = Change(op="forget", path="", snapshot=first.id, off=off)
        past(store).amend(lambda _: [change])
        here.sync()

    def part_versions() -> set[str]:
        return {v.version_id or "" for v in store.list_versions(manifest.PREFIX)}

    forget(off=False)
    before = part_versions()
    again = taker(here).take(Wanted(tag="v2")).snapshot
    assert again.body.root == first.body.root
    current = {store.head(v.key).version_id for v in store.list(manifest.PREFIX)}
    assert current.isdisjoint(before), "a prune that listed the old ones would delete them"
    # While v2 is kept, what it has stays for its sake.
    here.write("a", b"changed")
    here.sync()
    before = part_versions()
    taker(here).take(Wanted(tag="v3"))
    assert len(part_versions() - before) == 2, "one part and the root"


def test_a_snapshot_is_refused_when_the_one_it_builds_on_was_forgotten_meanwhile(
    pair: list[Machine], store: Store
) -> None:
    here, _ = pair
    here.write("a", b"1")
    here.sync()
    first = taker(here).take(Wanted(tag="v1")).snapshot
    here.write("a", b"2")
    here.sync()

    class Slow(Taker):
        def manifest(self, lender: Snapshot | None = None) -> tuple[str, Root]:
            found = super().manifest(lender)
            change = Change(op="forget", path="", snapshot=first.id)
            past(store).amend(lambda _: [change])
            return found

    slow = Slow(here.db, store, here.follower, ManifestStore(store, None), author="user@here")
    with pytest.raises(Conflict, match="was forgotten meanwhile"):
        slow.take(Wanted(tag="v2"))
    assert taker(here).take(Wanted(tag="v2")).snapshot.tags == ["v2"]


def test_a_snapshot_that_took_half_a_day_is_refused(pair: list[Machine], store: Store) -> None:
    here, _ = pair
    here.write("a", b"1")
    here.sync()
    clock = iter([0, catalog.GRACE_NS // 2 + 1])
    slow = Taker(
        here.db,
        store,
        here.follower,
        ManifestStore(store, None),
        author="user@here",
        clock=lambda: next(clock),
    )
    with pytest.raises(Conflict, match="half of the time"):
        slow.take(Wanted(tag="v1"))


def test_what_is_written_says_its_format(pair: list[Machine], store: Store) -> None:
    here, _ = pair
    here.write("a", b"x")
    here.sync()
    body = taker(here).take(Wanted(tag="v1")).snapshot.body
    packed = store.get(manifest.key_of_object(body.root), None, 0, 1 << 20)
    head = manifest.uncompress(packed, body.root).partition(b"\n")[0]
    assert head.startswith(b'{"format":1,"kind":"root"')
    refs = store.get(catalog.REFS_KEY, None, 0, 1 << 20)
    assert b'"format": 1' in refs
