"""What counts as equal, on a real S3 server: copies and uploads in parts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipefs.manifest import Entry, names_in
from pipefs.past.comparing import compare
from pipefs.past.history import of_file
from pipefs.past.manifests import ManifestView
from pipefs.past.renaming import with_renames
from pipefs.stores.base import Store
from pipefs.stores.opening import open_store
from pipefs.types import ObjectVersion
from tests import pasts
from tests.seaweed import SeaweedServer

LARGE = bytes(range(256)) * (80 << 10)
"""20 MiB: pipefs uploads it in parts."""


@pytest.fixture
def store(seaweed: SeaweedServer, bucket: str) -> Iterator[Store]:
    store = open_store(f"s3://{bucket}/pipe", endpoint_url=seaweed.endpoint_url)
    yield store
    store.close()


def entry(found: ObjectVersion, path: str = "") -> Entry:
    path = path or found.key
    key = "" if path == found.key else found.key
    return Entry(path=path, key=key, version=found.version_id, size=found.size, etag=found.etag)


def told(store: Store, old: list[Entry], new: list[Entry]) -> list[tuple[str, str, bool]]:
    past = pasts.open_past(store)
    one, two = (
        ManifestView(
            past.manifests, past.manifests.root(pasts.put_manifest(past, pasts.in_order(e))), "x"
        )
        for e in (old, new)
    )
    return [(d.kind, d.path, d.unsure) for d in with_renames(compare(one, two))]


def test_the_same_bytes_uploaded_twice_are_equal_in_one_piece_and_in_parts(store: Store) -> None:
    for name, content in (("small", b"1" * 1000), ("large", LARGE)):
        first, second = store.put(name, content), store.put(name, content)
        assert first.version_id != second.version_id
        assert told(store, [entry(first)], [entry(second)]) == []
        other = store.put(name, content[:-1] + b"?")
        assert told(store, [entry(first)], [entry(other)])[0][:2] == ("modified", name)


def test_a_copy_in_the_store_is_the_renamed_file(store: Store) -> None:
    made = store.put("old.csv", b"id\n1\n")
    copied = store.copy(made, "new.csv")
    assert told(store, [entry(made)], [entry(copied)]) == [("renamed", "new.csv", False)]


def test_a_renamed_file_whose_object_has_not_moved_yet_is_renamed(store: Store) -> None:
    made = store.put("old.bin", LARGE)
    assert told(store, [entry(made)], [entry(made, "new.bin")]) == [("renamed", "new.bin", False)]


def test_versions_that_other_tools_wrote_are_its_history(store: Store) -> None:
    made = [store.put("a/b.csv", b"1" * n) for n in (1, 2)]
    store.put("a/b.csv2", b"another key")
    store.delete("a/b.csv")
    found = of_file(store, "a/b.csv", newest=0)
    assert [(e.what, e.size) for e in found] == [("deleted", 0), ("changed", 2), ("added", 1)]
    assert [e.version for e in found[1:]] == [v.version_id for v in reversed(made)]
    assert names_in(found[0].path) == [b"a", b"b.csv"]
