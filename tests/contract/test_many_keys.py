"""Listings longer than a page of 1,000."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipefs.stores.base import Store
from tests.contract.conftest import make_store

# One page and a bit, so that each listing needs a second one.
NAMES = [f"many/{n:04d}" for n in range(1005)]


@pytest.fixture(scope="module", params=["local", "s3-obstore", "retry-over-faults"])
def full_store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    store = make_store(request.param, request, tmp_path_factory.mktemp("many"))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.put(name, b""), NAMES))
    store.put("after", b"1")
    yield store
    store.close()


def test_every_key_is_listed_once(full_store: Store) -> None:
    assert sorted(v.key for v in full_store.list()) == sorted([*NAMES, "after"])
    assert [v.key for v in full_store.list("many/", start_after=NAMES[1001])] == NAMES[1002:]


def test_every_version_is_listed_once(full_store: Store) -> None:
    listed = [(v.key, v.version_id) for v in full_store.list_versions("many/")]
    assert sorted(key for key, _ in listed) == NAMES
    assert len(set(listed)) == len(NAMES)


def test_dirs_are_found_across_pages(full_store: Store) -> None:
    assert full_store.list_dirs() == ["many"]


def test_more_than_a_page_of_versions_is_removed_by_one_call(full_store: Store) -> None:
    made = [v for v in full_store.list_versions("many/") if v.version_id is not None]
    assert full_store.delete_versions([(v.key, v.version_id or "") for v in made]) == []
    assert list(full_store.list_versions("many/")) == []
    assert full_store.get("after", None, 0, 1) == b"1"
