"""The catalogue of snapshots: what entries of the log do to it."""

from __future__ import annotations

import pytest

from pipefs import catalog as cat
from pipefs.catalog import Body, Catalog, Snapshot
from pipefs.commits import Change
from pipefs.errors import NotFound


def text(name: str, commit: int = 1) -> str:
    return cat.encode_body(
        Body(format=1, name=name, time=f"2026-11-28T12:00:{commit:02d}.000000Z", author="a@b",
             host="b", program="p", epoch="e", commit=commit, root="r")
    )  # fmt: skip


@pytest.fixture
def catalog() -> Catalog:
    return Catalog()


def add(catalog: Catalog, name: str, commit: int = 1) -> Snapshot:
    found = catalog.apply(Change(op="snapshot", path="", data=text(name, commit)), commit, 0)
    assert found is not None
    return found


def do(catalog: Catalog, op: str, snapshot: Snapshot | None = None, at: int = 1000,
       **fields: object) -> Snapshot | None:  # fmt: skip
    change = Change(op=op, path="", snapshot=snapshot.id if snapshot else "", **fields)  # type: ignore[arg-type]  # fields of a change
    return catalog.apply(change, 9, at)


def test_a_snapshot_may_have_several_tags_and_a_tag_one_snapshot(catalog: Catalog) -> None:
    one, two = add(catalog, "v1"), add(catalog, "v2", 2)
    do(catalog, "tag", one, tag="best")
    do(catalog, "tag", two, tag="best")
    assert (one.tags, two.tags) == (["v1", "best"], ["v2"])
    do(catalog, "tag", two, tag="best", force=True)
    assert (one.tags, two.tags) == (["v1"], ["v2", "best"])
    do(catalog, "tag", two, tag="best", off=True)
    do(catalog, "tag", two, tag="never", off=True)
    assert (one.tags, two.tags) == (["v1"], ["v2"])


def test_a_protected_snapshot_cannot_be_forgotten(catalog: Catalog) -> None:
    made = add(catalog, "v1")
    do(catalog, "protect", made)
    do(catalog, "forget", made)
    assert (made.protected, made.forgotten) == (True, 0)
    do(catalog, "protect", made, off=True)
    do(catalog, "forget", made, at=5)
    do(catalog, "protect", made)
    assert (made.protected, made.forgotten) == (False, 5)


def test_a_forgotten_snapshot_comes_back_with_its_tags(catalog: Catalog) -> None:
    made = add(catalog, "v1")
    do(catalog, "forget", made, at=5)
    do(catalog, "forget", made, at=8)
    assert made.forgotten == 5
    assert catalog.kept() == []
    with pytest.raises(NotFound):
        catalog.find("v1")
    assert catalog.find("v1", forgotten=True) is made
    do(catalog, "forget", made, off=True)
    assert catalog.find("v1") is made


def test_the_tag_of_a_forgotten_snapshot_is_free(catalog: Catalog) -> None:
    old = add(catalog, "v1")
    do(catalog, "forget", old)
    new = add(catalog, "v1", 2)
    assert catalog.find("v1") is new
    do(catalog, "forget", old, off=True)
    assert (old.tags, new.tags) == ([], ["v1"])
    other = add(catalog, "v3", 3)
    do(catalog, "forget", new)
    do(catalog, "tag", other, tag="v1")
    assert other.tags == ["v3", "v1"]


def test_a_prune_drops_what_was_forgotten_and_nothing_else(catalog: Catalog) -> None:
    kept, gone = add(catalog, "v1"), add(catalog, "v2", 2)
    do(catalog, "forget", gone)
    do(catalog, "prune", kept, cutoff=7)
    do(catalog, "prune", gone, cutoff=4)
    assert (catalog.cutoff, kept.dropped, gone.dropped) == (7, False, True)
    for name in ("v2", gone.id):
        with pytest.raises(NotFound):
            catalog.find(name, forgotten=True)
    do(catalog, "forget", gone, off=True)
    do(catalog, "protect", gone)
    do(catalog, "tag", gone, tag="again")
    assert (gone.forgotten > 0, gone.dropped, gone.tags) == (True, True, [])


def test_the_line_of_a_dropped_snapshot_ends_when_its_object_is_gone(catalog: Catalog) -> None:
    made = add(catalog, "v1")
    do(catalog, "forget", made)
    do(catalog, "prune", made, off=True)
    assert made.id in catalog.snapshots
    do(catalog, "prune", made)
    assert add(catalog, "v1") is made, "the same text again is the same snapshot"
    assert made.dropped
    do(catalog, "prune", made, off=True)
    assert catalog.snapshots == {}


def test_what_is_dropped_is_written_and_read_back(catalog: Catalog) -> None:
    made = add(catalog, "v1")
    do(catalog, "forget", made)
    do(catalog, "prune", made, cutoff=3)
    refs = cat.decode_refs(cat.encode_refs(catalog, "e", 9))
    again = cat.catalog_of(refs.snapshots, refs.cutoff)
    assert again == catalog
