""" "A conditional put whose answer was lost may have landed: the same write id on every retry." """

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipefs.errors import AccessDenied, PreconditionFailed, StoreUnavailable, Throttled
from pipefs.stores.base import WRITE_ID_KEY, FileBody, Store
from pipefs.stores.wrap import CountingStore, FaultStore, LimitStore, RetryPolicy, RetryStore
from tests.contract.conftest import make_store

QUICK = RetryPolicy(deadline_s=5, first_wait_s=0.001, max_wait_s=0.01, throttled_wait_s=0.002)
MINE = {WRITE_ID_KEY: "write-1"}


@pytest.fixture(params=["local", "s3-obstore"])
def inner(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store = make_store(request.param, request, tmp_path)
    yield store
    store.close()


@pytest.fixture
def faults(inner: Store) -> FaultStore:
    return FaultStore(inner)


@pytest.fixture
def store(faults: FaultStore) -> RetryStore:
    return RetryStore(faults, QUICK)


def test_lost_answer_of_put_if_absent_is_our_own_version(
    store: RetryStore, faults: FaultStore
) -> None:
    faults.fail("put", lands=True)
    made = store.put("k", b"1", metadata=MINE, if_none_match=True)
    assert store.head("k").version_id == made.version_id
    assert len(list(store.list_versions("k"))) == 1


def test_lost_answer_of_if_match_is_our_own_version(store: RetryStore, faults: FaultStore) -> None:
    first = store.put("k", b"1")
    faults.fail("put", lands=True)
    second = store.put("k", b"2", metadata=MINE, if_match=first.etag)
    ids = [v.version_id for v in store.list_versions("k")]
    assert ids == [second.version_id, first.version_id]


def test_lost_answer_is_found_below_a_later_writers_version(
    inner: Store, faults: FaultStore
) -> None:
    class OvertakenStore(FaultStore):
        """Another writer overwrites the key right after a put whose answer is lost."""

        def head(self, key: str, version_id: str | None = None):  # type: ignore[no-untyped-def]
            if version_id is None and not overtaken:
                overtaken.append(inner.put(key, b"theirs"))
            return super().head(key, version_id)

    overtaken: list[object] = []
    lossy = OvertakenStore(inner)
    lossy.fail("put", lands=True)
    made = RetryStore(lossy, QUICK).put("k", b"mine", metadata=MINE, if_none_match=True)
    assert inner.get("k", made.version_id, 0, 9) == b"mine"
    assert inner.get("k", None, 0, 9) == b"theirs"
    assert not made.is_latest


def test_lost_answer_of_an_unconditional_put_makes_one_version(
    store: RetryStore, faults: FaultStore
) -> None:
    faults.fail("put", lands=True)
    store.put("k", b"1", metadata=MINE)
    assert len(list(store.list_versions("k"))) == 1


def test_lost_answer_of_a_copy_makes_one_version(store: RetryStore, faults: FaultStore) -> None:
    source = store.put("from", b"1")
    faults.fail("copy", lands=True)
    store.copy(source, "to", metadata=MINE, if_none_match=True)
    assert len(list(store.list_versions("to"))) == 1


def test_another_writers_object_stays_a_conflict(store: RetryStore, faults: FaultStore) -> None:
    store.put("k", b"theirs", metadata={WRITE_ID_KEY: "write-2"})
    faults.fail("put")
    with pytest.raises(PreconditionFailed):
        store.put("k", b"mine", metadata=MINE, if_none_match=True)
    assert store.get("k", None, 0, 9) == b"theirs"


def test_lost_answer_of_a_conditional_delete_is_success(
    store: RetryStore, faults: FaultStore
) -> None:
    made = store.put("k", b"1")
    faults.fail("delete", lands=True)
    store.delete("k", if_match=made.etag)
    assert list(store.list()) == []


def test_throttling_is_waited_out(store: RetryStore, faults: FaultStore) -> None:
    faults.fail("*", lambda: Throttled("slow down"), times=5)
    store.put("k", b"1", if_none_match=True)
    assert store.get("k", None, 0, 9) == b"1"


def test_deadline_ends_the_retries_with_the_stores_own_error(faults: FaultStore) -> None:
    faults.fail("get", lambda: StoreUnavailable("the cable is cut"), times=10**9)
    counting = CountingStore(faults)
    store = RetryStore(counting, RetryPolicy(deadline_s=0.2, first_wait_s=0.01, max_wait_s=0.05))
    with pytest.raises(StoreUnavailable, match="the cable is cut"):
        store.get("k", None, 0, 1)
    counts = counting.counts()["get"]
    assert counts.requests == counts.errors > 1


def test_denied_access_is_not_tried_again(faults: FaultStore) -> None:
    faults.fail("put", lambda: AccessDenied("no"), times=10**9)
    counting = CountingStore(faults)
    with pytest.raises(AccessDenied):
        RetryStore(counting, QUICK).put("k", b"1")
    assert counting.counts()["put"].requests == 1


def test_progress_counts_no_byte_twice_over_retries(
    store: RetryStore, faults: FaultStore, tmp_path: Path
) -> None:
    path = tmp_path / "body"
    path.write_bytes(b"x" * 1000)
    faults.fail("put", times=2, lands=True)
    seen: list[int] = []
    with path.open("rb") as file:
        store.put("k", FileBody(file.fileno(), 1000, progress=seen.append))
    assert sum(seen) == 1000


def test_broken_listings_go_on_where_they_stopped(faults: FaultStore, store: RetryStore) -> None:
    for n in range(5):
        store.put(f"k{n}", b"1")
    faults.fail("list", times=2)
    faults.fail("list_versions", times=2)
    faults.fail("list_level_versions", times=2)
    assert [v.key for v in store.list()] == [f"k{n}" for n in range(5)]
    assert [v.key for v in store.list_versions()] == [f"k{n}" for n in range(5)]
    store.put("folder/k", b"1")
    names = [v if isinstance(v, str) else v.key for v in store.list_level_versions()]
    assert sorted(names) == ["folder", *(f"k{n}" for n in range(5))]


def test_counting_and_limit_pass_bytes_on_and_count_them(inner: Store) -> None:
    counting = CountingStore(LimitStore(inner, 1))
    counting.put("k", b"12345")
    counting.get("k", None, 1, 3)
    counting.get("k", None, 0, 5)
    counts = counting.counts()
    assert (counts["put"].requests, counts["put"].bytes_out) == (1, 5)
    assert (counts["get"].requests, counts["get"].bytes_in) == (2, 8)
