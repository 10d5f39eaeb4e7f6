"""Legal holds on a bucket that has Object Lock."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from pipefs.errors import AccessDenied, NotFound
from pipefs.stores.base import Store
from pipefs.stores.s3 import S3Store
from pipefs.stores.wrap import RetryStore
from tests.seaweed import SeaweedServer


@pytest.fixture
def store(seaweed: SeaweedServer) -> Iterator[Store]:
    name = f"lock-{uuid.uuid4().hex[:12]}"
    seaweed.client().create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    store = RetryStore(S3Store(name, "p"))
    yield store
    store.close()


def test_a_held_version_cannot_be_deleted_until_it_is_let_go(store: Store) -> None:
    assert store.has_object_lock()
    held, free = store.put("k", b"held").version_id or "", store.put("k", b"free").version_id or ""
    store.hold_version("k", held, hold=True)
    store.hold_version("k", held, hold=True)
    with pytest.raises(AccessDenied):
        store.delete_version("k", held)
    (left,) = store.delete_versions([("k", held), ("k", free)])
    assert (left.key, left.version_id) == ("k", held)
    assert [v.version_id for v in store.list_versions("k")] == [held]
    store.hold_version("k", held, hold=False)
    assert store.delete_versions([("k", held)]) == []
    assert list(store.list_versions("k")) == []


def test_a_hold_blocks_neither_new_versions_nor_delete_markers(store: Store) -> None:
    held = store.put("k", b"held").version_id or ""
    store.hold_version("k", held, hold=True)
    store.put("k", b"newer")
    store.delete("k")
    assert store.get("k", held, 0, 9) == b"held"


def test_a_version_that_is_gone_cannot_be_held(store: Store) -> None:
    with pytest.raises(NotFound):
        store.hold_version("nowhere", "0123456789abcdef0123456789abcdef", hold=True)
