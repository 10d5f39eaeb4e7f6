"""What differs between two past trees, and what of it was only renamed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipefs import manifest
from pipefs.manifest import Entry, names_in
from pipefs.past.comparing import Difference, compare
from pipefs.past.manifests import ManifestView
from pipefs.past.opened import Past
from pipefs.past.renaming import folded, with_renames
from pipefs.past.sameness import Same, attributes_of, content_of
from pipefs.records import Inode
from pipefs.stores.local import LocalStore
from tests import pasts
from tests.promises.promised import promise


@pytest.fixture
def past(tmp_path: Path) -> Iterator[Past]:
    store = LocalStore(tmp_path / "store")
    yield pasts.open_past(store)
    store.close()


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a few entries, so that a small tree has several."""
    monkeypatch.setattr(manifest, "MIN_ENTRIES", 2)
    monkeypatch.setattr(manifest, "MEAN_ENTRIES", 3)


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def multipart(content: bytes, part: int) -> str:
    """The ETag of an upload in parts of so many bytes."""
    parts = [content[n : n + part] for n in range(0, len(content), part)]
    joined = b"".join(hashlib.md5(p).digest() for p in parts)
    return f"{md5(joined)}-{len(parts)}"


def file(path: str, content: bytes = b"", version: str | None = None, **more: object) -> Entry:
    given: dict[str, object] = {"size": len(content), "etag": md5(content), **more}
    return msgspec.convert({"path": path, "version": version, **given}, Entry)


def folder(path: str) -> Entry:
    return Entry(path=path, kind="dir", mode=0o40755)


class Plain:
    """A view that is no manifest: the same tree by the protocol alone."""

    def __init__(self, view: ManifestView) -> None:
        self.label = view.label
        self._view = view

    def entries(self, names: Sequence[bytes] = ()) -> Iterator[Entry]:
        return self._view.entries(names)

    def node(self, ino: int, *, wait: bool = True) -> Inode:
        return self._view.node(ino, wait=wait)

    def lookup(self, parent: int, name: bytes, *, wait: bool = True) -> Inode:
        return self._view.lookup(parent, name, wait=wait)

    def children(
        self, ino: int, after: bytes, limit: int, *, wait: bool = True
    ) -> list[tuple[bytes, Inode]]:
        return self._view.children(ino, after, limit, wait=wait)


def view(past: Past, entries: Sequence[Entry], path: str = "") -> ManifestView:
    root = past.manifests.root(pasts.put_manifest(past, pasts.in_order(entries)))
    return ManifestView(past.manifests, root, "x", names_in(path))


def said(differences: Sequence[Difference]) -> list[str]:
    """`modified a.csv`, `renamed a → b`."""
    lines = []
    for d in differences:
        old = f"{d.old.path} → " if d.kind == "renamed" and d.old is not None else ""
        lines.append(f"{d.kind} {old}{d.path}")
    return lines


def between(past: Past, old: Sequence[Entry], new: Sequence[Entry]) -> list[str]:
    one, two = view(past, old), view(past, new)
    found = said(list(compare(one, two)))
    assert said(list(compare(Plain(one), Plain(two)))) == found
    return found


def renames(past: Past, old: Sequence[Entry], new: Sequence[Entry]) -> list[str]:
    return said(with_renames(compare(view(past, old), view(past, new))))


# --- contents -----------------------------------------------------------------------------------

CONTENT = bytes(range(256)) * 100


@promise(
    "diff-equal",
    "Two files are equal for `diff` where they have one size and the same version of one "
    "key, else the same checksum where both are known, else the same ETag; what nothing "
    "proves equal is shown as changed.",
)
@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        # Size and version.
        ({"size": 1}, {"size": 2}, Same.NO),
        ({"version": "v1"}, {"version": "v1"}, Same.YES),
        ({"version": "v1"}, {"version": "v2"}, Same.UNKNOWN),
        ({"version": "v1", "key": "k"}, {"version": "v1"}, Same.UNKNOWN),
        ({"version": "null"}, {"version": "null"}, Same.UNKNOWN),
        ({"version": None}, {"version": None}, Same.UNKNOWN),
        ({"size": 0, "version": "v1"}, {"size": 0, "version": "v2"}, Same.YES),
        # Checksums decide where both are known, also against the ETag.
        ({"checksum": "sha256:aa"}, {"checksum": "sha256:aa"}, Same.YES),
        ({"checksum": "sha256:aa"}, {"checksum": "sha256:bb"}, Same.NO),
        ({"checksum": "sha256:aa"}, {}, Same.UNKNOWN),
        ({"checksum": "sha256:aa"}, {"checksum": "crc64:aa"}, Same.UNKNOWN),
        ({"checksum": "sha256:a", "etag": "e"}, {"checksum": "sha256:b", "etag": "e"}, Same.NO),
        # ETags.
        ({"etag": md5(b"a")}, {"etag": md5(b"a")}, Same.YES),
        ({"etag": md5(b"a")}, {"etag": md5(b"b")}, Same.NO),
        ({"etag": md5(b"a")}, {"etag": ""}, Same.UNKNOWN),
        ({"etag": multipart(CONTENT, 100)}, {"etag": multipart(CONTENT, 100)}, Same.YES),
        ({"etag": multipart(CONTENT, 100)}, {"etag": multipart(CONTENT, 200)}, Same.UNKNOWN),
        ({"etag": multipart(CONTENT, 100)}, {"etag": md5(CONTENT)}, Same.UNKNOWN),
        ({"etag": multipart(CONTENT, 1 << 20)}, {"etag": md5(CONTENT)}, Same.YES),
        ({"etag": md5(CONTENT)}, {"etag": multipart(CONTENT, 1 << 20)}, Same.YES),
        ({"etag": multipart(CONTENT, 1 << 20)}, {"etag": md5(b"other")}, Same.NO),
        ({"etag": "opaque"}, {"etag": "opaque"}, Same.YES),
        ({"etag": "opaque"}, {"etag": "other"}, Same.UNKNOWN),
    ],
)
def test_contents_are_equal_by_version_checksum_or_etag(
    old: Mapping[str, object], new: Mapping[str, object], same: Same
) -> None:
    plain = {"path": "a", "size": 9}
    one, two = (msgspec.convert({**plain, **fields}, Entry) for fields in (old, new))
    assert content_of(one, two) is same
    assert content_of(two, one) is same


def test_links_and_devices_are_equal_by_what_they_say() -> None:
    link = Entry(path="l", kind="symlink", target="a")
    assert content_of(link, Entry(path="m", kind="symlink", target="a")) is Same.YES
    assert content_of(link, Entry(path="l", kind="symlink", target="b")) is Same.NO
    assert content_of(link, file("l")) is Same.NO
    device = Entry(path="d", kind="char", rdev=1)
    assert content_of(device, Entry(path="d", kind="char", rdev=2)) is Same.NO


def test_an_attribute_that_nobody_set_differs_from_none() -> None:
    bare, full = file("a"), file("a", mode=0o100600, uid=1, mtime=5, xattrs={"user.a": "YQ=="})
    assert attributes_of(bare, full) == ("xattrs",)
    assert attributes_of(full, file("a", mode=0o100644, uid=1, mtime=6)) == (
        "mode",
        "mtime",
        "xattrs",
    )
    assert attributes_of(file("a", xattrs={}), bare) == ()
    assert attributes_of(file("a", ctime=1, atime=1), file("a", ctime=2, atime=2)) == ()


# --- trees --------------------------------------------------------------------------------------


def test_equal_trees_have_no_difference(past: Past) -> None:
    tree = [file("a", b"1", "v1"), file("d/b", b"2", "v2")]
    assert between(past, tree, tree) == []


def test_added_modified_deleted_in_the_order_of_places(past: Past) -> None:
    old = [file("a", b"1"), file("c", b"3"), file("d/x", b"4"), file("d/y", b"5")]
    new = [file("b", b"2"), file("c", b"33"), file("d/x", b"4"), file("d/z", b"6")]
    assert between(past, old, new) == [
        "deleted a",
        "added b",
        "modified c",
        "deleted d/y",
        "added d/z",
    ]


def test_only_attributes(past: Past) -> None:
    (d,) = compare(
        view(past, [file("a", b"1", "v1", mode=0o100644, mtime=1)]),
        view(past, [file("a", b"1", "v1", mode=0o100600, mtime=1)]),
    )
    assert (d.kind, d.attributes) == ("attributes", ("mode",))


def test_the_same_bytes_uploaded_again_are_no_difference(past: Past) -> None:
    assert between(past, [file("a", b"1", "v1")], [file("a", b"1", "v2")]) == []


def test_what_nobody_can_tell_is_changed_and_says_so(past: Past) -> None:
    old = file("a", CONTENT, "v1", etag=multipart(CONTENT, 100))
    new = file("a", CONTENT, "v2", etag=multipart(CONTENT, 200))
    (d,) = compare(view(past, [old]), view(past, [new]))
    assert (d.kind, d.unsure) == ("modified", True)


def test_another_kind_at_a_path_is_a_change(past: Past) -> None:
    link = Entry(path="a", kind="symlink", target="b", size=1)
    assert between(past, [file("a", b"1")], [link]) == ["modified a"]
    assert between(past, [file("a", b"1")], [file("a/b", b"1")]) == ["modified a", "added a/b"]


def test_a_further_name_counts_as_its_file(past: Past) -> None:
    link = Entry(path="b", kind="link", link="a")
    both = [file("a", b"1", "v1", links=1), link]
    assert between(past, both, [file("a", b"1", "v1"), file("b", b"1", "v1", key="a")]) == []
    assert between(past, both, [file("a", b"1", "v1"), file("b", b"2", "v9")]) == ["modified b"]
    assert between(past, both, [file("b", b"1", "v1", key="a")]) == ["deleted a"]
    # Still two names of one file: it is told once, at the file's own path.
    assert between(past, both, [file("a", b"2", "v2", links=1), link]) == ["modified a"]


def test_below_a_path_only_what_is_there_counts(past: Past) -> None:
    old, new = [file("a", b"1"), file("d/x", b"1")], [file("a", b"2"), file("d/x", b"2")]
    one, two = view(past, old), view(past, new)
    assert said(list(compare(one, two, [b"d"]))) == ["modified d/x"]
    assert said(list(compare(one, two, [b"d", b"x"]))) == ["modified d/x"]
    assert said(list(compare(one, two, [b"nothing"]))) == []


def test_two_folders_of_one_tree_compare_like_folders(past: Past) -> None:
    tree = [file("p/a", b"1"), file("p/d/b", b"2"), file("q/a", b"1"), file("q/d/b", b"3")]
    one = view(past, [*tree, file("q/c", b"4")])
    assert said(list(compare(one, one, [b"p"], [b"q"]))) == ["added q/c", "modified q/d/b"]


@promise(
    "diff-folder",
    "A snapshot of a folder and one of the whole pipe are compared in that folder only: of "
    "what is beside it the first says nothing.",
)
def test_t4_15_snapshots_of_different_paths_compare_where_both_are(past: Past) -> None:
    whole = [file("a/x", b"1"), file("a/y", b"2"), file("b/z", b"3")]
    part = [folder("a"), file("a/x", b"9"), file("a/y", b"2")]
    one, two = view(past, whole), view(past, part, "a")
    assert said(list(compare(one, two, [b"a"]))) == ["modified a/x"]
    # And without a common path, all of one is gone and all of the other is new.
    other = view(past, [folder("b"), file("b/z", b"3")], "b")
    assert said(list(compare(two, other))) == [
        "deleted a",
        "added b",
        "deleted a/x",
        "deleted a/y",
        "added b/z",
    ]


def test_parts_that_both_have_are_not_read(past: Past) -> None:
    old = [file(f"d{n // 500:02}/f{n:06}", b"%d" % n, f"v{n}") for n in range(20_000)]
    new = [*old]
    new[12_345] = file(new[12_345].path, b"changed", "w")
    one, two = view(past, old), view(past, new)
    shared = {p.part for p in one.root.parts} & {p.part for p in two.root.parts}
    assert len(shared) >= len(one.root.parts) - 2
    for name in shared:
        past.store.delete(manifest.key_of_object(name))
    past.manifests._parts.clear()
    assert said(list(compare(one, two))) == [f"modified {new[12_345].path}"]


_paths = st.sampled_from([f"{d}{n}" for d in ("", "a/", "a/b/", "ab/", "c/") for n in "wxyz"])
_tree = st.dictionaries(_paths, st.sampled_from([b"", b"1", b"2", b"33"]), max_size=14)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(old=_tree, new=_tree)
@pytest.mark.usefixtures("small_parts")
def test_the_differences_make_the_new_tree_of_the_old(
    past: Past, old: dict[str, bytes], new: dict[str, bytes]
) -> None:
    one, two = (view(past, [file(p, c) for p, c in t.items()]) for t in (old, new))
    straight = list(compare(one, two))
    assert straight == list(compare(Plain(one), Plain(two)))
    before, after = ({e.path: e for e in v.entries()} for v in (one, two))
    for differences in (straight, with_renames(straight)):
        made = dict(before)
        for d in differences:
            if d.old is not None:
                assert made.pop(d.old.path) == d.old
        for d in differences:
            if d.new is not None:
                made[d.new.path] = d.new
        assert made == after
        assert len({d.old.path for d in differences if d.old is not None}) == sum(
            d.old is not None for d in differences
        )


# --- renames ------------------------------------------------------------------------------------


def test_a_file_that_moved_is_renamed_by_version_checksum_or_etag(past: Past) -> None:
    assert renames(past, [file("a", b"1", "v1")], [file("b", b"1", "v1", key="a")]) == [
        "renamed a → b"
    ]
    parts = {"etag": multipart(CONTENT, 100)}
    sums = {"checksum": "sha256:aa"}
    old = file("a", CONTENT, "v1", **parts, **sums)
    assert renames(past, [old], [file("b", CONTENT, "v2", **sums)]) == ["renamed a → b"]
    assert renames(past, [old], [file("b", CONTENT, "v2", **parts)]) == ["renamed a → b"]
    assert renames(past, [old], [file("b", CONTENT, "v2")]) == ["deleted a", "added b"]


def test_an_equal_etag_is_no_rename_where_checksums_differ(past: Past) -> None:
    old, new = file("a", b"1", checksum="sha256:aa"), file("b", b"1", checksum="sha256:bb")
    assert renames(past, [old], [new]) == ["deleted a", "added b"]


def test_of_several_with_one_content_none_is_guessed(past: Past) -> None:
    old = [file("a", b"1", "v1"), file("b", b"1", "v2")]
    new = [file("c", b"1", "v3"), file("d", b"1", "v4")]
    assert renames(past, old, new) == ["deleted a", "deleted b", "added c", "added d"]


def test_of_several_with_one_content_the_name_decides(past: Past) -> None:
    old = [file("a/x", b"1"), file("a/y", b"1"), file("k", b"k")]
    new = [file("b/y", b"1"), file("c/x", b"1"), file("k", b"k")]
    assert renames(past, old, new) == [
        "deleted a",
        "added b",
        "added c",
        "renamed a/y → b/y",
        "renamed a/x → c/x",
    ]


def test_empty_files_are_not_renamed_by_their_content(past: Past) -> None:
    assert renames(past, [file("a")], [file("b")]) == ["deleted a", "added b"]


def test_a_renamed_file_tells_its_attributes(past: Past) -> None:
    old, new = file("a", b"1", mode=0o100644), file("b", b"1", mode=0o100600)
    (d,) = with_renames(compare(view(past, [old]), view(past, [new])))
    assert (d.kind, d.attributes) == ("renamed", ("mode",))


def whole(top: str) -> list[Entry]:
    """A directory with files, equal ones too, empty ones, a link and a hard link."""
    return [
        file(f"{top}/a", b"1"),
        file(f"{top}/s/b", b"2"),
        file(f"{top}/s/c", b"2"),
        file(f"{top}/s/__init__.py"),
        file(f"{top}/t/__init__.py"),
        Entry(path=f"{top}/l", kind="symlink", target="a", size=1),
        file(f"{top}/h", b"hard", links=1),
        Entry(path=f"{top}/n", kind="link", link=f"{top}/h"),
    ]


@promise(
    "diff-rename",
    "A file is shown as renamed where its content went from one path and came to exactly "
    "one other, and a directory where all that was in it came to one new directory under "
    "the same names.",
)
def test_a_directory_that_moved_is_renamed_as_a_whole(past: Past) -> None:
    kept = file("kept", b"k")
    found = with_renames(
        compare(view(past, [*whole("old"), kept]), view(past, [*whole("deep/new"), kept]))
    )
    rows = folded(found)
    assert [(d.kind, d.path, files) for d, files, _ in rows] == [
        ("added", "deep", 0),
        ("renamed", "deep/new", 7),
    ]
    assert rows[1][2] == 1 + 1 + 1 + 4 + 4
    assert {d.kind for d in found} == {"added", "renamed"}
    assert len(found) == 1 + 1 + 2 + len(whole("x"))


def test_a_directory_that_lost_a_file_on_the_way_is_not_whole(past: Past) -> None:
    found = renames(past, whole("old"), [e for e in whole("new") if e.path != "new/a"])
    assert "deleted old" in found
    assert "added new" in found
    assert "deleted old/a" in found
    assert "renamed old/s/b → new/s/b" in found


def test_a_directory_inside_can_be_whole_where_the_outer_is_not(past: Past) -> None:
    old, new = [*whole("old"), file("old/gone", b"gone")], whole("new")
    rows = folded(with_renames(compare(view(past, old), view(past, new))))
    assert ("renamed", "new/s") in [(d.kind, d.path) for d, _, _ in rows]
    assert ("deleted", "old") in [(d.kind, d.path) for d, _, _ in rows]


def test_a_new_directory_is_one_line_for_people(past: Past) -> None:
    old = [file("k", b"k"), file("gone/a", b"1"), file("gone/b", b"2")]
    new = [file("k", b"k"), *(file(f"new/s/{n}", b"new%d" % n) for n in range(5))]
    rows = folded(with_renames(compare(view(past, old), view(past, new))))
    assert [(d.kind, d.path, files, size) for d, files, size in rows] == [
        ("deleted", "gone", 2, 2),
        ("added", "new", 5, 20),
    ]
