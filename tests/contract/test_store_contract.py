"""What `pipefs/stores/base.py` promises, for every store."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipefs.errors import NotFound, PreconditionFailed, Unsupported
from pipefs.stores.base import Cancelled, FileBody, Store
from pipefs.types import ObjectVersion

MIB = 1 << 20
STALE = "00000000000000000000000000000000"


def keys(versions: Iterator[ObjectVersion]) -> list[str]:
    return sorted(v.key for v in versions)


@pytest.fixture(scope="module")
def big_file() -> Iterator[tuple[int, bytes]]:
    """A descriptor and the bytes of a file above the multipart threshold."""
    data = os.urandom(MIB) * 16 + b"x" * MIB
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        yield file.fileno(), data


def test_put_is_visible_to_the_next_get_head_and_list(store: Store) -> None:
    made = store.put("a/b.txt", b"hello")
    assert store.get("a/b.txt", None, 0, 100) == b"hello"
    assert store.get("a/b.txt", made.version_id, 0, 100) == b"hello"
    head = store.head("a/b.txt")
    assert (head.version_id, head.etag, head.size) == (made.version_id, made.etag, 5)
    assert [(v.key, v.etag, v.size) for v in store.list()] == [("a/b.txt", made.etag, 5)]
    assert '"' not in made.etag


def test_empty_object_reads_as_nothing(store: Store) -> None:
    made = store.put("empty", b"")
    assert made.size == 0
    assert store.get("empty", made.version_id, 0, 10) == b""
    assert store.head("empty").size == 0


def test_versions_stay_readable_after_overwrite_and_delete(store: Store) -> None:
    first = store.put("k", b"first")
    second = store.put("k", b"second!")
    store.delete("k")
    assert store.get("k", first.version_id, 0, 99) == b"first"
    assert store.get("k", second.version_id, 0, 99) == b"second!"
    assert store.head("k", first.version_id).etag == first.etag
    with pytest.raises(NotFound):
        store.get("k", None, 0, 1)
    with pytest.raises(NotFound):
        store.head("k")
    assert keys(store.list()) == []


def test_ranges_of_an_old_version_are_exact(store: Store) -> None:
    old = store.put("k", bytes(range(100)))
    store.put("k", b"short")
    assert store.get("k", old.version_id, 10, 5) == bytes(range(10, 15))
    assert store.get("k", old.version_id, 95, 100) == bytes(range(95, 100))
    assert store.get("k", old.version_id, 100, 1) == b""
    assert store.get("k", old.version_id, 500, 10) == b""
    assert store.get("k", old.version_id, 0, 0) == b""


def test_missing_keys_and_versions_are_not_found(store: Store) -> None:
    store.put("k", b"1")
    for call in (
        lambda: store.get("missing", None, 0, 1),
        lambda: store.head("missing"),
        lambda: store.head("k", "0123456789abcdef0123456789abcdef"),
        lambda: store.get("k", "0123456789abcdef0123456789abcdef", 0, 1),
    ):
        with pytest.raises(NotFound):
            call()


def test_delete_marker_is_not_found_and_undeleted_by_removing_it(store: Store) -> None:
    made = store.put("k", b"1")
    store.delete("k")
    marker = next(v for v in store.list_versions("k") if v.is_delete_marker)
    assert marker.is_latest
    assert marker.version_id is not None
    with pytest.raises(NotFound):
        store.head("k", marker.version_id)
    store.delete_version("k", marker.version_id)
    assert store.head("k").version_id == made.version_id
    assert store.get("k", None, 0, 9) == b"1"


def test_delete_of_nothing_is_no_error(store: Store) -> None:
    store.delete("never-there")
    store.delete_version("never-there", "0123456789abcdef0123456789abcdef")


def test_many_versions_and_markers_are_removed_at_once(store: Store) -> None:
    odd = ["a b&c<d>", "ü/日本", "plus+per%20", "tab\there", "control\x01x"]
    gone = []
    for key in ("k", *odd):
        first = store.put(key, b"1")
        store.delete(key)
        marker = next(v for v in store.list_versions("k") if v.is_delete_marker)
        kept = store.put(key, b"3")
        assert first.version_id and kept.version_id
        gone.append((key, first.version_id))
    assert marker.version_id is not None
    gone += [
        ("k", marker.version_id),
        ("k", "0123456789abcdef0123456789abcdef"),
        ("no", gone[0][1]),
    ]
    assert store.delete_versions(gone) == []
    assert store.delete_versions([]) == []
    assert store.delete_versions(gone) == []
    for key, version_id in gone:
        with pytest.raises(NotFound):
            store.get(key, version_id, 0, 1)
        if key != "no":
            assert store.get(key, None, 0, 9) == b"3"
    assert len(list(store.list_versions("k"))) == 1


def test_removing_the_marker_and_what_it_hid_leaves_no_trace_of_the_key(store: Store) -> None:
    made = [store.put("k", b"1"), store.put("k", b"2")]
    store.delete("k")
    store.delete_versions([("k", v.version_id or "") for v in made])
    (marker,) = store.list_versions("k")
    store.delete_versions([("k", marker.version_id or "")])
    assert list(store.list_versions("k")) == []


def test_a_store_without_object_lock_says_so(store: Store) -> None:
    made = store.put("k", b"1")
    assert not store.has_object_lock()
    with pytest.raises(Unsupported):
        store.hold_version("k", made.version_id or "", hold=True)


def test_deleting_the_current_version_brings_back_the_one_before(store: Store) -> None:
    first = store.put("k", b"first")
    second = store.put("k", b"second")
    assert second.version_id is not None
    store.delete_version("k", second.version_id)
    assert store.head("k").version_id == first.version_id
    assert [v.version_id for v in store.list_versions("k")] == [first.version_id]


def test_versions_are_listed_newest_first_with_markers_in_between(store: Store) -> None:
    first = store.put("k", b"1")
    store.delete("k")
    third = store.put("k", b"333")
    fourth = store.put("k", b"4444")
    store.delete("k")
    other = store.put("k2", b"other")
    listed = list(store.list_versions())
    mine = [v for v in listed if v.key == "k"]
    assert [v.is_delete_marker for v in mine] == [True, False, False, True, False]
    assert [v.is_latest for v in mine] == [True, False, False, False, False]
    ids = [v.version_id for v in mine if not v.is_delete_marker]
    assert ids == [fourth.version_id, third.version_id, first.version_id]
    assert [v.size for v in mine if not v.is_delete_marker] == [4, 3, 1]
    assert [v.version_id for v in listed if v.key == "k2"] == [other.version_id]
    assert len({v.version_id for v in listed}) == 6


def test_put_if_absent_and_if_match_refuse_what_is_stale(store: Store) -> None:
    first = store.put("k", b"1", if_none_match=True)
    with pytest.raises(PreconditionFailed):
        store.put("k", b"2", if_none_match=True)
    with pytest.raises(PreconditionFailed):
        store.put("k", b"2", if_match=STALE)
    second = store.put("k", b"2", if_match=first.etag)
    with pytest.raises(PreconditionFailed):
        store.put("k", b"3", if_match=first.etag)
    with pytest.raises(PreconditionFailed):
        store.put("absent", b"3", if_match=first.etag)
    store.delete("k")
    with pytest.raises(PreconditionFailed):
        store.put("k", b"3", if_match=second.etag)
    store.put("k", b"4", if_none_match=True)
    assert store.get("k", None, 0, 9) == b"4"


def test_conditional_delete_refuses_what_is_stale(store: Store) -> None:
    made = store.put("k", b"1")
    with pytest.raises(PreconditionFailed):
        store.delete("k", if_match=STALE)
    assert store.head("k").version_id == made.version_id
    store.delete("k", if_match=made.etag)
    with pytest.raises(NotFound):
        store.head("k")
    with pytest.raises(PreconditionFailed):
        store.delete("k", if_match=made.etag)


def race(calls: list[Callable[[], ObjectVersion]]) -> list[ObjectVersion]:
    """Run all at once; the versions of those that won. Losers must have lost by the condition."""

    def one(call: Callable[[], ObjectVersion]) -> ObjectVersion | None:
        try:
            return call()
        except PreconditionFailed:
            return None

    with ThreadPoolExecutor(len(calls)) as pool:
        return [won for won in pool.map(one, calls) if won is not None]


def test_put_if_absent_has_exactly_one_winner(store: Store) -> None:
    for n in range(2):
        bodies = [f"writer {i}".encode() for i in range(8)]
        won = race([lambda b=b, n=n: store.put(f"race/{n}", b, if_none_match=True) for b in bodies])
        assert len(won) == 1
        assert store.head(f"race/{n}").version_id == won[0].version_id


def test_compare_and_swap_loses_no_update(store: Store) -> None:
    store.put("counter", b"0")

    def add(_n: int) -> None:
        while True:
            now = store.head("counter")
            value = int(store.get("counter", now.version_id, 0, 20))
            try:
                store.put("counter", str(value + 1).encode(), if_match=now.etag)
                return
            except PreconditionFailed:
                continue

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(12)))
    assert store.get("counter", None, 0, 20) == b"12"
    assert sum(1 for _ in store.list_versions("counter")) == 13


def test_metadata_comes_back_equal(store: Store) -> None:
    metadata = {
        "mtime": "1700000000.123456789",
        "mode": "33188",
        "author": "Žofie Ünal",
        "emoji": "📈 sales",
        "newline": "one\ntwo\t",
        "blank": "",
        "padded": "  x  ",
        "looks-encoded": "=?UTF-8?B?w7w=?=",
    }
    made = store.put("k", b"1", metadata=metadata, content_type="text/csv")
    store.put("k", b"2", metadata={"mtime": "2"})
    assert dict(store.head("k", made.version_id).metadata) == metadata
    assert dict(store.head("k").metadata) == {"mtime": "2"}


@pytest.mark.parametrize(
    "key",
    [
        "with space and  two",
        "per%cent%20and+plus",
        "ünï/cödé/日本語",
        'quote\'s "and" <tags> & more',
        "hash#and?query=1&x",
        "tilde~star*[brackets]{braces}|^`",
        "n" * 250 + "/" + "m" * 300,
        "-dash",
        ".hidden/.deeper",
        "trailing dot.",
        "a=b;c,d@e!f$g:h",
    ],
)
def test_odd_keys_are_keys_like_any_other(store: Store, key: str) -> None:
    made = store.put(key, b"odd")
    store.put(f"{key}2", b"neighbour")
    assert store.get(key, made.version_id, 0, 9) == b"odd"
    assert store.head(key).size == 3
    assert keys(store.list()) == sorted([key, f"{key}2"])
    assert keys(store.list(key)) == sorted([key, f"{key}2"])
    copied = store.copy(made, f"{key}3")
    assert store.get(f"{key}3", copied.version_id, 0, 9) == b"odd"
    store.delete(key)
    assert keys(store.list_versions(key))[:2] == [key, key]
    with pytest.raises(NotFound):
        store.head(key)


def test_keys_may_hold_control_characters(store: Store) -> None:
    # Without list_versions: some servers cannot write such keys into that answer.
    key = "control\x01and\ttab"
    made = store.put(key, b"odd")
    assert store.get(key, made.version_id, 0, 9) == b"odd"
    assert keys(store.list("control")) == [key]
    store.copy(made, "plain")
    assert store.get("plain", None, 0, 9) == b"odd"
    store.delete(key)
    with pytest.raises(NotFound):
        store.head(key)


def test_a_key_and_keys_below_it_live_side_by_side(store: Store) -> None:
    store.put("a", b"file")
    below = store.put("a/b", b"below")
    store.put("c/d", b"below first")
    store.put("c", b"then file")
    assert keys(store.list()) == ["a", "a/b", "c", "c/d"]
    assert store.list_dirs() == ["a", "c"]
    store.put("a", b"file again")
    store.delete("a")
    assert store.get("a/b", None, 0, 9) == b"below"
    assert store.get("a/b", below.version_id, 0, 9) == b"below"
    store.delete("c/d")
    assert store.get("c", None, 0, 20) == b"then file"
    assert keys(store.list()) == ["a/b", "c"]


def test_directory_markers_are_objects(store: Store) -> None:
    store.put("d/", b"")
    assert store.head("d/").size == 0
    assert keys(store.list("d/")) == ["d/"]
    store.put("d/file", b"1")
    assert keys(store.list()) == ["d/", "d/file"]
    assert store.list_dirs() == ["d"]
    store.delete("d/")
    assert keys(store.list()) == ["d/file"]


def test_listing_keeps_to_its_prefix_and_start(store: Store) -> None:
    for key in ("x/1", "x/2", "x/3", "x-y", "xx/1", "y"):
        store.put(key, key.encode())
    assert keys(store.list("x/")) == ["x/1", "x/2", "x/3"]
    assert keys(store.list("x")) == ["x-y", "x/1", "x/2", "x/3", "xx/1"]
    assert keys(store.list("x/", start_after="x/1")) == ["x/2", "x/3"]
    assert keys(store.list("x/", start_after="x/3")) == []
    assert keys(store.list("nothing")) == []
    assert {v.key for v in store.list_versions("x/")} == {"x/1", "x/2", "x/3"}


def test_list_dirs_names_one_level(store: Store) -> None:
    for key in ("top", "p/one", "p/q/two", "p/q/r/three", "s t/four", "ü/five", "p-x/six"):
        store.put(key, b"1")
    assert store.list_dirs() == sorted(["p", "s t", "ü", "p-x"])
    assert store.list_dirs("p/") == ["q"]
    assert store.list_dirs("p/q/") == ["r"]
    assert store.list_dirs("p/q/r/") == []


def test_copy_of_an_old_version_restores_it(store: Store) -> None:
    old = store.put("k", b"old", metadata={"mtime": "1", "who": "Ünal"})
    new = store.put("k", b"newer")
    restored = store.copy(old, "k", if_match=new.etag)
    assert restored.version_id not in (old.version_id, new.version_id)
    assert (restored.size, restored.etag) == (3, old.etag)
    assert store.get("k", None, 0, 9) == b"old"
    assert dict(store.head("k").metadata) == {"mtime": "1", "who": "Ünal"}
    assert store.get("k", new.version_id, 0, 9) == b"newer"


def test_copy_to_another_key_may_change_metadata(store: Store) -> None:
    source = store.put("from", b"bytes", metadata={"a": "1"})
    store.put("from", b"changed since")
    copied = store.copy(source, "to/there", metadata={"b": "2"})
    assert store.get("to/there", copied.version_id, 0, 9) == b"bytes"
    assert dict(store.head("to/there").metadata) == {"b": "2"}
    current = store.copy(ObjectVersion("from", None, "", 0), "latest")
    assert store.get("latest", current.version_id, 0, 99) == b"changed since"


def test_copy_obeys_conditions(store: Store) -> None:
    source = store.put("from", b"bytes")
    there = store.put("to", b"there")
    with pytest.raises(PreconditionFailed):
        store.copy(source, "to", if_none_match=True)
    with pytest.raises(PreconditionFailed):
        store.copy(source, "to", if_match=STALE)
    with pytest.raises(PreconditionFailed):
        store.copy(source, "absent", if_match=there.etag)
    assert store.get("to", None, 0, 9) == b"there"
    store.copy(source, "to", if_match=there.etag)
    store.copy(source, "absent", if_none_match=True)
    assert store.get("to", None, 0, 9) == store.get("absent", None, 0, 9) == b"bytes"


def test_copy_of_a_missing_source_is_not_found(store: Store) -> None:
    there = store.put("to", b"there")
    gone = ObjectVersion("gone", "0123456789abcdef0123456789abcdef", "", 1)
    with pytest.raises(NotFound):
        store.copy(gone, "to")
    with pytest.raises(NotFound):
        store.copy(gone, "to", if_match=there.etag)


def test_file_body_is_read_by_position(store: Store) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"0123456789")
        file.flush()
        seen: list[int] = []
        made = store.put("k", FileBody(file.fileno(), 6, progress=seen.append))
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 10
    assert store.get("k", made.version_id, 0, 99) == b"012345"
    assert sum(seen) == 6


def test_large_body_is_put_whole_with_conditions(store: Store, big_file: tuple[int, bytes]) -> None:
    fd, data = big_file
    sent: list[int] = []
    body = FileBody(fd, len(data), progress=sent.append)
    made = store.put("big", body, metadata={"mtime": "5", "who": "ü"}, if_none_match=True)
    assert (made.size, sum(sent)) == (len(data), len(data))
    assert store.get("big", made.version_id, 8 * MIB - 10, 20) == data[8 * MIB - 10 :][:20]
    assert store.get("big", made.version_id, 0, len(data)) == data
    head = store.head("big")
    assert (head.version_id, head.etag, dict(head.metadata)) == (
        made.version_id,
        made.etag,
        {"mtime": "5", "who": "ü"},
    )
    with pytest.raises(PreconditionFailed):
        store.put("big", FileBody(fd, len(data)), if_none_match=True)
    with pytest.raises(PreconditionFailed):
        store.put("big", FileBody(fd, len(data)), if_match=STALE)
    again = store.put("big", FileBody(fd, len(data)), if_match=made.etag)
    assert [v.version_id for v in store.list_versions("big")] == [
        again.version_id,
        made.version_id,
    ]


@pytest.mark.parametrize("asked", [0, 5, 16])
def test_cancelled_body_leaves_nothing(
    store: Store, big_file: tuple[int, bytes], asked: int
) -> None:
    fd, data = big_file
    answers = iter(range(1000))

    def cancelled() -> bool:
        return next(answers) >= asked

    with pytest.raises(Cancelled):
        store.put("big", FileBody(fd, len(data), cancelled=cancelled))
    assert list(store.list_versions()) == []


def test_probe_finds_every_capability_and_cleans_up(store: Store) -> None:
    found = store.probe()
    assert found.versioning
    assert found.conditional_put
    assert found.conditional_multipart
    assert found.conditional_delete
    assert found.checksums
    assert found.writable
    assert found.versioning_state == "Enabled"
    assert not found.detail
    assert list(store.list_versions()) == []
