"""Requests with expectations on a real S3 server, which has its own idea of "nothing there"."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipefs.conditional import ConditionalStore
from pipefs.errors import NotFound, PreconditionFailed
from pipefs.records import Content
from pipefs.stores.s3 import S3Store


@pytest.fixture
def store(bucket: str) -> Iterator[S3Store]:
    store = S3Store(bucket, "p")
    yield store
    store.close()


@pytest.fixture
def conditional(store: S3Store) -> ConditionalStore:
    found = store.probe()
    return ConditionalStore(store, lambda: found)


@pytest.mark.parametrize("how", ["put", "copy", "copy with metadata"])
@pytest.mark.parametrize("emptied", [True, False])
def test_a_file_takes_the_name_of_a_folder_that_held_objects(
    store: S3Store, conditional: ConditionalStore, how: str, emptied: bool
) -> None:
    store.put("d/f", b"below")
    if emptied:
        store.delete("d/f")
    made = store.put("source", b"file")
    source = Content("source", made.version_id, made.etag, made.size)
    if how == "put":
        conditional.put("d", b"file", {}, "", None)
    elif how == "copy":
        conditional.copy(source, "d", None)
    else:
        conditional.put_copy(source, "d", {"mtime": "1"}, None)
    assert store.get("d", None, 0, 10) == b"file"
    if not emptied:
        assert store.get("d/f", None, 0, 10) == b"below"


@pytest.mark.parametrize("how", ["copy", "copy with metadata"])
def test_a_copy_of_what_is_gone_is_not_found(
    store: S3Store, conditional: ConditionalStore, how: str
) -> None:
    made = store.put("k", b"as we know it")
    known = Content("k", made.version_id, made.etag, made.size)
    source = Content("never", None, "0" * 32, 4)
    store.delete("k")
    for expected in (known, None):
        with pytest.raises(NotFound):
            if how == "copy":
                conditional.copy(source, "k", expected)
            else:
                conditional.put_copy(source, "k", {"mtime": "1"}, expected)


def test_what_is_there_is_never_overwritten(store: S3Store, conditional: ConditionalStore) -> None:
    store.put("k", b"theirs")
    made = store.put("source", b"ours")
    source = Content("source", made.version_id, made.etag, made.size)
    with pytest.raises(PreconditionFailed):
        conditional.put("k", b"ours", {}, "", None)
    with pytest.raises(PreconditionFailed):
        conditional.copy(source, "k", None)
    with pytest.raises(PreconditionFailed):
        conditional.put_copy(source, "k", {"mtime": "1"}, None)
    assert store.get("k", None, 0, 10) == b"theirs"


@pytest.mark.parametrize("how", ["put", "copy", "copy with metadata"])
def test_what_is_gone_from_its_key_is_no_conflict(
    store: S3Store, conditional: ConditionalStore, how: str
) -> None:
    old, made = store.put("k", b"old"), store.put("source", b"new")
    expected = Content("k", old.version_id, old.etag, old.size)
    source = Content("source", made.version_id, made.etag, made.size)
    store.delete("k")
    if how == "put":
        conditional.put("k", b"new", {}, "", expected)
    elif how == "copy":
        conditional.copy(source, "k", expected)
    else:
        conditional.put_copy(source, "k", {"mtime": "1"}, expected)
    assert store.get("k", None, 0, 10) == b"new"
