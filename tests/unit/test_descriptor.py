"""What a pipe says of itself in its store, on the embedded store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipefs import descriptor
from pipefs.descriptor import FORMAT_KEY, PIPE_KEY, README_KEY
from pipefs.errors import Corrupt, NewerFormat, UsageError
from pipefs.stores.base import Store
from pipefs.stores.local import LocalStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = LocalStore(tmp_path / "store")
    yield made
    made.close()


def test_a_described_pipe_is_read_back(store: Store) -> None:
    made = descriptor.create_descriptor(store, "sales", {"include": ["*.csv"], "region": "here"})
    assert descriptor.read_descriptor(store) == made
    assert made.name == "sales"
    assert made.options == {"include": ["*.csv"]}
    assert "@" in made.created_by
    assert made.created.endswith("Z")


def test_the_readme_tells_a_finder_what_the_folder_is(store: Store) -> None:
    descriptor.create_descriptor(store, "sales", {})
    text = store.get(README_KEY, None, 0, 1 << 20).decode()
    assert f"pipefs create {store.url}" in text
    assert "pipefs mount sales" in text


def test_a_store_without_pipe_has_no_descriptor(store: Store) -> None:
    store.put("data.csv", b"1")
    assert descriptor.read_descriptor(store) is None
    assert descriptor.check_format(store) is False


def test_of_many_creators_one_wins_and_the_others_adopt(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: descriptor.create_descriptor(store, f"p{n}", {}), range(16)))
    assert len({m.pipe_id for m in made}) == 1
    assert len({m.name for m in made}) == 1


def test_a_crash_between_the_files_is_completed_by_the_next_create(store: Store) -> None:
    descriptor.create_descriptor(store, "sales", {})
    store.delete(PIPE_KEY)
    assert descriptor.read_descriptor(store) is None
    made = descriptor.create_descriptor(store, "sales", {})
    assert descriptor.read_descriptor(store) == made


@pytest.mark.parametrize("key", [FORMAT_KEY, PIPE_KEY])
def test_a_newer_format_is_refused_and_not_touched(store: Store, key: str) -> None:
    descriptor.create_descriptor(store, "sales", {})
    body = json.dumps({"format": 2, "name": "sales", "pipe_id": "x", "new": [1]}).encode()
    store.put(key, body)
    before = store.head(key).etag
    with pytest.raises(NewerFormat, match="format 2"):
        descriptor.create_descriptor(store, "sales", {})
    with pytest.raises(NewerFormat, match="format 2"):
        descriptor.update_descriptor(store, {})
    assert store.head(key).etag == before


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"name": 3}'])
def test_a_damaged_descriptor_is_named(store: Store, body: bytes) -> None:
    store.put(PIPE_KEY, body)
    with pytest.raises(Corrupt, match=r"pipe\.json is damaged"):
        descriptor.read_descriptor(store)


def test_options_from_a_bucket_are_checked_and_places_ignored(store: Store) -> None:
    body = {"name": "a", "pipe_id": "1", "options": {"mountpoint": "/etc", "future": 1, "dir": "d"}}
    store.put(PIPE_KEY, json.dumps(body).encode())
    found = descriptor.read_descriptor(store)
    assert found is not None
    assert found.options == {"dir": "d"}
    body["options"] = {"quiet_period": "soon"}
    store.put(PIPE_KEY, json.dumps(body).encode())
    with pytest.raises(UsageError, match="quiet_period"):
        descriptor.read_descriptor(store)


def test_update_replaces_the_options_and_keeps_the_identity(store: Store) -> None:
    made = descriptor.create_descriptor(store, "sales", {"dir": "d"})
    changed = descriptor.update_descriptor(store, {"include": ["*"], "region": "x"})
    assert changed is not None
    assert (changed.pipe_id, changed.options) == (made.pipe_id, {"include": ["*"]})
    assert descriptor.read_descriptor(store) == changed


def test_survey_counts_what_is_there_and_leaves_ours_out(store: Store) -> None:
    descriptor.create_descriptor(store, "sales", {})
    assert descriptor.survey(store) == descriptor.Found(0, 0, 0, False)
    for n in range(3):
        store.put(f"d/{n}", b"x" * 10)
    found = descriptor.survey(store)
    assert (found.objects, found.bytes, found.more) == (3, 30, False)
    assert found.newest_ns > 0
    assert descriptor.survey(store, limit=2).more is True
