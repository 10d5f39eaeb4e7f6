"""The catalogue in the bucket: what is there when `refs.json` is not, or the log is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipefs import catalog as cat
from pipefs import refs
from pipefs.commits import Change
from pipefs.stores.base import Store
from pipefs.stores.local import LocalStore
from tests import pasts


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = LocalStore(tmp_path / "store")
    yield store
    store.close()


def told(store: Store) -> dict[str, tuple[list[str], bool, bool]]:
    catalog, _ = refs.load(store)
    return {s.id: (s.tags, s.protected, bool(s.forgotten)) for s in catalog.snapshots.values()}


def fill(store: Store) -> None:
    """Tags that moved, were freed and were refused."""
    past = pasts.open_past(store)
    made = []
    for n, tag in enumerate(("v1", "v1", "", "v2", "v3")):
        entries = pasts.put_files(store, {"a": b"%d" % n})
        if n == 3:
            past.amend(lambda _: [Change(op="forget", path="", snapshot=made[0].id)])
        made.append(pasts.take(past, entries, tag=tag))
    first, second, third, fourth, _ = made
    del first
    past.amend(
        lambda _: [
            Change(op="tag", path="", snapshot=second.id, tag="v1"),
            Change(op="tag", path="", snapshot=third.id, tag="best"),
            Change(op="tag", path="", snapshot=third.id, tag="v2", force=True),
            Change(op="protect", path="", snapshot=fourth.id),
            Change(op="prune", path="", cutoff=3),
        ]
    )


@pytest.mark.parametrize("damage", ["missing", "broken", "newer"])
def test_without_refs_the_log_tells_the_same(store: Store, damage: str) -> None:
    fill(store)
    catalog, place = refs.load(store)
    wanted = told(store)
    assert sorted(tags for tags, _, _ in wanted.values()) == [
        [],
        [],
        ["best", "v2"],
        ["v1"],
        ["v3"],
    ]
    if damage == "missing":
        store.delete(cat.REFS_KEY)
    else:
        store.put(cat.REFS_KEY, b"{" if damage == "broken" else b'{"format":99}')
    assert told(store) == wanted
    again, place_again = refs.load(store)
    assert (again.cutoff, place_again) == (catalog.cutoff, place)


def test_an_object_that_the_log_does_not_know_is_there_without_its_name_where_that_is_taken(
    store: Store,
) -> None:
    fill(store)
    past = pasts.open_past(store)
    body = past.catalog.find("v3").body
    for n, name in enumerate(("v3", "v9")):
        text = cat.encode_body(body).replace('"name":"v3"', f'"name":"{name}"')
        data = cat.object_bytes(text.replace('"message":""', f'"message":"{n}"') + " " * n)
        store.put(cat.object_key(cat.id_of(data)), data)
    store.delete(cat.REFS_KEY)
    tags = [t for ts, _, _ in told(store).values() for t in ts]
    assert sorted(tags) == ["best", "v1", "v2", "v3", "v9"]


def test_without_a_log_the_objects_tell_what_they_were_called(store: Store) -> None:
    fill(store)
    for item in list(store.list(".pipefs/commits/")):
        store.delete(item.key)
    store.delete(cat.REFS_KEY)
    catalog, place = refs.load(store)
    assert (len(catalog.snapshots), catalog.cutoff, place.number) == (5, 0, 0)
    assert {t for s in catalog.snapshots.values() for t in s.tags} == {"v1", "v2", "v3"}
