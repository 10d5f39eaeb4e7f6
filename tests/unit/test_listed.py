"""A tree from a list: the same answers as a manifest of the same entries."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest

from pipefs.manifest import Entry
from pipefs.past.listed import ListedView, in_order
from pipefs.past.views import ROOT, PastView
from pipefs.stores.local import LocalStore
from tests import pasts


def _file(path: str, **fields: object) -> Entry:
    return Entry(path=path, version="v", etag="e", size=1, mtime=5, **fields)  # type: ignore[arg-type]


def _walk(view: PastView, ino: int = ROOT) -> list[tuple[int, bytes]]:
    found, after = [], b""
    while batch := view.children(ino, after, 3):
        for name, node in batch:
            found.append((node.ino, name))
            assert view.lookup(ino, name) == node
            assert view.node(node.ino) == node
            assert node.parent == ino
            if node.is_dir:
                found += _walk(view, node.ino)
        after = batch[-1][0]
    return found


def test_a_list_answers_as_a_manifest_of_it(tmp_path: Path) -> None:
    paths = ["a", "a.b/x", "b/c/d", "b/c/e", "b/é", "b.csv", "z/%25%5C", "z/y/x/w"]
    entries = in_order([_file(p) for p in paths], 7)
    past = pasts.open_past(LocalStore(str(tmp_path / "store")))
    made = pasts.take(past, entries, tag="v1")
    shuffled = entries[:]
    random.Random(1).shuffle(shuffled)
    ours, theirs = ListedView(shuffled, "x", time_ns=7), past.view("v1")
    assert made.body.entries == len(entries)
    assert _walk(ours) == _walk(theirs)
    for names in ([], [b"b"], [b"b", b"c"], [b"a"], [b"nope"], [b"z", b"y"]):
        assert list(ours.entries(names)) == list(theirs.entries(names))


def test_the_same_list_has_the_same_numbers_in_any_order() -> None:
    paths = [f"d{n % 7}/f{n}" for n in range(200)]
    there = _walk(ListedView([_file(p) for p in paths], "x"))
    back = _walk(ListedView([_file(p) for p in reversed(paths)], "x"))
    assert there == back
    assert len(there) == 207


def test_directories_are_added_with_the_time_of_the_whole() -> None:
    view = ListedView([_file("a/b/c")], "x", time_ns=42)
    assert [e.path for e in view.entries()] == ["a", "a/b", "a/b/c"]
    assert view.at([b"a"]).is_dir
    assert view.at([b"a", b"b"]).mtime_ns == 42
    assert view.node(ROOT).mtime_ns == 42
    assert view.at([b"a", b"b", b"c"]).mtime_ns == 5


def test_a_file_where_a_directory_must_be_stands_beside_it() -> None:
    view = ListedView([_file("a"), _file("a/b")], "x")
    beside = view.at([b"a%2F"])
    assert beside.content is not None
    assert beside.content.key == "a"
    assert view.at([b"a"]).is_dir
    assert view.at([b"a", b"b"]).is_file


def test_a_further_name_shows_the_file() -> None:
    link = Entry(path="b", kind="link", link="a")
    view = ListedView([_file("a", links=1), link], "x")
    assert view.at([b"b"]).ino == view.at([b"a"]).ino
    assert view.at([b"b"]).nlink == 2


def test_what_is_not_there_is_an_error_of_its_kind() -> None:
    view = ListedView([_file("d/a")], "x")
    for call, code in (
        (lambda: view.lookup(ROOT, b"nope"), errno.ENOENT),
        (lambda: view.lookup(view.at([b"d", b"a"]).ino, b"x"), errno.ENOTDIR),
        (lambda: view.node(99), errno.ESTALE),
        (lambda: view.node(0), errno.ESTALE),
    ):
        with pytest.raises(OSError) as e:
            call()
        assert e.value.errno == code


def test_an_empty_list_is_an_empty_directory() -> None:
    view = ListedView([], "x")
    assert view.node(ROOT).is_dir
    assert view.children(ROOT, b"", 10) == []
    assert list(view.entries()) == []
