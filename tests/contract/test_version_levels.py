"""Versions one level at a time, and keys that have more versions than a page."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipefs.stores.base import Store
from pipefs.stores.wrap import CountingStore
from pipefs.types import ObjectVersion
from tests.contract.conftest import make_store


def level(store: Store, prefix: str = "") -> tuple[list[ObjectVersion], list[str]]:
    """Versions and folders of a level."""
    items = list(store.list_level_versions(prefix))
    folders = [item for item in items if isinstance(item, str)]
    return [item for item in items if not isinstance(item, str)], folders


def shown(versions: list[ObjectVersion]) -> list[tuple[str, str]]:
    """(key, size, or "-" for a marker), sorted by key; stable, so newest first within one."""
    rows = [(v.key, "-" if v.is_delete_marker else str(v.size)) for v in versions]
    return sorted(rows, key=lambda row: row[0])


def test_a_level_has_its_keys_versions_and_its_folders_names(store: Store) -> None:
    store.put("top.csv", b"1")
    store.put("top.csv", b"22")
    store.delete("top.csv")
    store.put("p/one", b"1")
    store.put("p/q/two", b"22")
    store.put("p/q/r/three", b"333")
    store.put("s t/four", b"4444")
    store.put("ü/five", b"55555")
    store.put("p-x", b"1")
    versions, folders = level(store)
    assert shown(versions) == [("p-x", "1"), ("top.csv", "-"), ("top.csv", "2"), ("top.csv", "1")]
    assert [v.is_latest for v in versions if v.key == "top.csv"] == [True, False, False]
    assert sorted(folders) == sorted(["p", "s t", "ü"])
    versions, folders = level(store, "p/")
    assert (shown(versions), folders) == ([("p/one", "1")], ["q"])
    versions, folders = level(store, "p/q/")
    assert (shown(versions), folders) == ([("p/q/two", "2")], ["r"])
    assert level(store, "p/q/r/")[1] == []
    assert level(store, "nothing/") == ([], [])


def test_a_level_is_what_the_whole_listing_has_there(store: Store) -> None:
    for n, key in enumerate(("a", "a/b", "a", "a-b", "a.c", "a/b", "b/c/d", "b/c/e", "b/f")):
        store.put(key, b"x" * n)
    store.delete("a/b")
    store.delete("b/f")
    whole = list(store.list_versions())
    for prefix in ("", "a/", "b/", "b/c/"):
        versions, folders = level(store, prefix)
        below = [v for v in whole if v.key.startswith(prefix)]
        direct = [v for v in below if "/" not in v.key[len(prefix) :]]
        assert sorted(versions, key=lambda v: v.key) == sorted(direct, key=lambda v: v.key)
        deeper = {v.key[len(prefix) :].split("/")[0] for v in below if v not in direct}
        assert sorted(folders) == sorted(deeper)


def test_a_folder_that_has_only_deleted_files_is_named(store: Store) -> None:
    store.put("kept/gone/x", b"1")
    store.put("gone/deep/x", b"1")
    store.put("kept/y", b"1")
    for key in ("kept/gone/x", "gone/deep/x"):
        store.delete(key)
    assert sorted(level(store)[1]) == ["gone", "kept"]
    assert level(store, "gone/") == ([], ["deep"])
    versions, folders = level(store, "gone/deep/")
    assert (shown(versions), folders) == ([("gone/deep/x", "-"), ("gone/deep/x", "1")], [])
    assert level(store, "kept/")[1] == ["gone"]


def test_the_marker_of_a_folder_is_at_its_own_level(store: Store) -> None:
    store.put("d/", b"")
    store.put("d/e/", b"")
    store.put("d/file", b"1")
    assert level(store) == ([], ["d"])
    versions, folders = level(store, "d/")
    assert (shown(versions), folders) == ([("d/", "0"), ("d/file", "1")], ["e"])
    versions, folders = level(store, "d/e/")
    assert (shown(versions), folders) == ([("d/e/", "0")], [])


def test_a_level_knows_long_keys(store: Store) -> None:
    folder = "n" * 250 + "/" + "m" * 240 + "/"
    for name in ("x", "y/z", "y/w", "v/u"):
        store.put(folder + name, b"1")
    versions, folders = level(store, folder)
    assert (shown(versions), sorted(folders)) == ([(folder + "x", "1")], ["v", "y"])
    assert level(store, "n" * 250 + "/") == ([], ["m" * 240])


def test_the_versions_of_a_key_that_is_the_prefix_come_first(store: Store) -> None:
    long = "n" * 250 + "/" + "m" * 240
    for key in ("a", long):
        for behind in ("-1", "/x", ".csv", "", " 2", "0", ""):
            store.put(key + behind, behind.encode())
        store.delete(key)
        beside = [v for v in store.list_level_versions(key) if not isinstance(v, str)]
        assert [v.key for v in beside[:3]] == [key] * 3
        assert sorted({v.key for v in beside[3:]}) == [key + b for b in (" 2", "-1", ".csv", "0")]
        assert [v for v in store.list_level_versions(key) if isinstance(v, str)] == [""]
        listed = list(store.list_versions(key))
        assert [v.is_delete_marker for v in listed if v.key == key] == [True, False, False]
        assert {v.key for v in listed[:3]} == {key}
        assert len(listed) == 8


VERSIONS = 1005
"""Of one key: a page and a bit."""


@pytest.fixture(scope="module", params=["local", "s3-obstore", "retry-over-faults"])
def deep_store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    store = make_store(request.param, request, tmp_path_factory.mktemp("deep"))
    store.put("d/before", b"1")
    store.put("d/sub/x", b"1")
    for n in range(VERSIONS):
        if n % 100 == 50:
            store.delete("d/many")
        store.put("d/many", b"%d" % n, metadata={"n": str(n)})
    store.put("d/next", b"1")
    store.delete("d/next")
    store.put("d/next", b"2")
    yield store
    store.close()


def test_versions_of_one_key_keep_their_order_across_pages(deep_store: Store) -> None:
    whole = list(deep_store.list_versions("d/"))
    versions, folders = level(deep_store, "d/")
    assert folders == ["sub"]
    for listed in (versions, whole):
        mine = [v for v in listed if v.key == "d/many"]
        assert len({v.version_id for v in mine}) == len(mine) == VERSIONS + 10
        assert [v.is_latest for v in mine] == [True] + [False] * (len(mine) - 1)
        sizes = [len(str(n)) for n in reversed(range(VERSIONS))]
        assert [v.size for v in mine if not v.is_delete_marker] == sizes
        markers = [at for at, v in enumerate(mine) if v.is_delete_marker]
        puts_since = [at - n for n, at in enumerate(markers)]  # versions above each marker
        assert puts_since == [VERSIONS - n for n in reversed(range(50, VERSIONS, 100))]
        oldest, newest = mine[-1], mine[0]
        assert deep_store.get("d/many", newest.version_id, 0, 9) == b"1004"
        assert deep_store.get("d/many", oldest.version_id, 0, 9) == b"0"
        assert [v.is_delete_marker for v in listed if v.key == "d/next"] == [False, True, False]
        assert sum(v.key == "d/before" for v in listed) == 1


def test_small_pages_list_the_same(deep_store: Store) -> None:
    for page in (1, 2, 700):
        assert list(deep_store.list_versions("d/", page=page)) == list(
            deep_store.list_versions("d/")
        )


def test_a_listing_that_is_not_read_on_asks_for_one_page(deep_store: Store) -> None:
    for listing in ("list_versions", "list_level_versions"):
        counting = CountingStore(deep_store)
        first = next(iter(getattr(counting, listing)("d/")))
        assert first == next(iter(getattr(deep_store, listing)("d/")))
        assert counting.counts()[listing].requests == 1
