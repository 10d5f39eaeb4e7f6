"""Properties of the escaping rule between file names and object keys."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from pipefs.keys import (
    MAX_KEY_BYTES,
    MAX_NAME_BYTES,
    component_of,
    is_natural,
    key_of,
    names_of,
    stands_for_a_path,
)

_pieces = st.sampled_from([b"%", b"%2", b"%25", b"%0A", b"%2F", b"%2E", b"%5C", b"a", b".", b"F"])
_names = (
    st.one_of(
        st.binary(min_size=1, max_size=40),
        st.lists(_pieces, min_size=1, max_size=8).map(b"".join),
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).map(str.encode),
    )
    .map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"_"))
    .filter(lambda name: name not in (b".", b"..") and len(name) <= MAX_NAME_BYTES)
)
_paths = st.lists(_names, min_size=1, max_size=6)
_foreign = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
    st.lists(
        st.sampled_from(["", ".", "..", "a", "%", "%2F", "%2E", "%00", "\\", "\n", "x" * 256]),
        max_size=6,
    ).map("/".join),
)


@given(_paths)
@example([b"%25"])
@example([b"%2525", b"\xff", b"a\\b"])
def test_every_legal_path_comes_back_from_its_key(names: list[bytes]) -> None:
    key = key_of(names)
    assert names_of(key) == names
    assert is_natural(key, names)


@given(_paths)
def test_a_key_has_no_byte_that_a_store_could_refuse(names: list[bytes]) -> None:
    key = key_of(names)
    assert key.encode()  # UTF-8, no surrogates
    assert not any(ord(c) < 0x20 or c in "\x7f\\" for c in key)
    assert key.count("/") == len(names) - 1


@given(_paths, _paths)
def test_two_paths_never_share_a_key(one: list[bytes], two: list[bytes]) -> None:
    assert (key_of(one) == key_of(two)) == (one == two)


@given(_foreign)
@example("")
@example("/")
@example("a//b/")
@example("x" * 1024)
def test_every_foreign_key_has_a_path_of_legal_names(key: str) -> None:
    for name in names_of(key):
        assert name not in (b"", b".", b"..")
        assert b"/" not in name and b"\0" not in name
        assert len(name) <= MAX_NAME_BYTES


@given(_names)
def test_a_component_is_no_path(name: bytes) -> None:
    assert "/" not in component_of(name)


def test_a_key_may_have_1024_bytes_with_its_prefix() -> None:
    names = [b"n" * 255] * 4  # 1,023 bytes
    assert len(key_of(names)) == 1023
    assert len(key_of(names, prefix_bytes=1)) == MAX_KEY_BYTES - 1
    assert stands_for_a_path(key_of(names, prefix_bytes=2))
    assert not stands_for_a_path(key_of(names))


@given(st.lists(_names, min_size=1, max_size=40), st.integers(0, 512))
def test_a_path_of_any_length_has_a_key_of_its_own(names: list[bytes], prefix: int) -> None:
    names = [*names, b"n" * 255, b"m" * 255, b"table.csv.gz"] * 2
    key = key_of(names, prefix_bytes=prefix)
    assert len(key.encode()) + prefix <= MAX_KEY_BYTES
    assert is_natural(key, names)
    assert key.endswith(".csv.gz")
    assert not is_natural(key, [*names[:-1], b"other.csv.gz"])
    assert key_of([b"x", *names], prefix_bytes=prefix) != key
    above = names_of(key)[:-1] if stands_for_a_path(key) else names[:-1]
    assert above == names[: len(above)]


def test_a_long_component_of_a_foreign_key_keeps_its_own_stand_in() -> None:
    one, two = "x" * 300, "x" * 299 + "y"
    assert names_of(one) != names_of(two)
    assert all(len(name) <= MAX_NAME_BYTES for name in names_of(one))
