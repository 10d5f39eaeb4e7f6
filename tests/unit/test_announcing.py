"""What a commit announces while the tree goes on changing, and when there is more than fits in one.

A change that comes between the planning of a commit and its landing must be announced by a later
one; a commit that is full must still be true by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from pipefs.commits import MAX_CHANGES, PREFIX, decode_commit
from pipefs.namespace import RENAME_EXCHANGE
from pipefs.stores.base import Store
from pipefs.stores.local import LocalStore
from pipefs.stores.wrapper import WrapperStore
from tests.machines import Machine, machines
from tests.unit.test_rebase_table import settled

T = TypeVar("T")


class Interrupted(WrapperStore):
    """A store that lets something happen once, just before the next commit is put."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.meanwhile: Callable[[], None] | None = None

    def _around(self, operation: str, key: str, call: Callable[[], T]) -> T:
        if operation == "put" and key.startswith(PREFIX) and self.meanwhile is not None:
            happens, self.meanwhile = self.meanwhile, None
            happens()
        return call()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Interrupted]:
    store = Interrupted(LocalStore(tmp_path / "store"))
    yield store
    store.close()


@pytest.fixture
def pair(store: Interrupted, tmp_path: Path) -> Iterator[list[Machine]]:
    with machines(tmp_path, store, "here", "there") as both:
        yield both


def test_a_file_replaced_while_its_commit_is_put_is_announced_again(
    store: Interrupted, pair: list[Machine]
) -> None:
    here, there = pair
    here.write("a", b"first")
    here.write("new", b"second")
    here.upload(here.ino("a"))
    store.meanwhile = lambda: here.mv("new", "a")
    here.announce()
    assert settled(here, there) == {"a": b"second"}


def test_what_is_renamed_back_while_its_move_is_put_never_loses_its_name(
    store: Interrupted, pair: list[Machine]
) -> None:
    here, there = pair
    here.write("a", b"file")
    here.mkdir("d")
    here.write("d/below", b"below")
    here.sync()
    for old, new in (("a", "b"), ("d", "e")):
        here.mv(old, new)
        store.meanwhile = partial(here.mv, new, old)
        here.announce()
        assert here.tree() == {"a": b"file", "d": None, "d/below": b"below"}
    assert settled(here, there) == {"a": b"file", "d": None, "d/below": b"below"}


def test_names_swapped_back_while_their_swap_is_put_are_both_there(
    store: Interrupted, pair: list[Machine]
) -> None:
    here, there = pair
    here.write("a", b"one")
    here.write("b", b"two")
    here.sync()
    swap = partial(here.mv, "a", "b", RENAME_EXCHANGE)
    swap()
    store.meanwhile = swap
    here.announce()
    assert here.tree() == {"a": b"one", "b": b"two"}
    assert settled(here, there) == {"a": b"one", "b": b"two"}


@pytest.mark.parametrize("again", [False, True])
def test_a_directory_removed_while_its_commit_is_put_goes_everywhere(
    store: Interrupted, pair: list[Machine], again: bool
) -> None:
    here, there = pair
    here.mkdir("d")
    here.symlink("d/link", "target")

    def remove() -> None:
        here.rm("d/link")
        here.rmdir("d")
        if again:
            here.mkdir("d")

    store.meanwhile = remove
    here.announce()
    assert settled(here, there) == ({"d": None} if again else {})


def test_a_directory_made_anew_takes_its_name_alone_in_a_full_commit_too(
    pair: list[Machine],
) -> None:
    here, there = pair
    here.mkdir("d")
    here.mkdir("d/below")
    here.symlink("d/below/old", "target")
    here.sync()
    there.sync()
    here.rm("d/below/old")
    here.rmdir("d/below")
    here.rmdir("d")
    here.mkdir("d")
    for n in range(MAX_CHANGES):
        here.symlink(f"link{n}", "target")
    here.delete_all()
    here.announce()
    there.follow()
    assert "d" in there.tree()
    assert not [path for path in there.tree() if path.startswith("d/")]
    here.sync()
    assert here.problems() == []


def test_a_file_renamed_back_after_its_object_had_moved_is_never_announced_as_gone(
    pair: list[Machine], store: Store
) -> None:
    here, there = pair
    here.write("a", b"one file")
    here.sync()
    there.sync()
    number = there.ino("a")
    here.mv("a", "b")
    here.relocate_all()
    here.delete_all()  # the object is at `b` only, and no commit says so yet
    here.mv("b", "a")
    assert settled(here, there) == {"a": b"one file"}
    assert there.ino("a") == number
    ops = [
        change.op
        for key in sorted(item.key for item in store.list(PREFIX))
        for change in decode_commit(store.get(key, None, 0, 1 << 20), key).changes
    ]
    assert "delete" not in ops
