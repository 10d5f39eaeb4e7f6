"""Ending conflicts in the live tree: who gets the name, what stays, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipefs.conflictmessages import Resolve, Resolved
from pipefs.errors import NotFound, Refused
from pipefs.settling import Settler
from pipefs.stores.local import LocalStore
from tests.machines import Machine, machines, sync_all, versions


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def pair(tmp_path: Path, store: LocalStore) -> Iterator[tuple[Machine, Machine]]:
    with machines(tmp_path, store, "here", "there") as (here, there):
        yield here, there


def conflict(here: Machine, there: Machine, path: str = "q3.csv") -> str:
    """Both changed one file, theirs first; where ours is."""
    there.write(path, b"theirs")
    here.write(path, b"ours")
    there.sync()
    sync_all(here, there)
    (found,) = (c for c in here.volume.conflicts() if c.original == path)
    assert (here.read(path), here.read(found.ours)) == (b"theirs", b"ours")
    return found.ours


def settle(machine: Machine, path: str, keep: Any, **how: Any) -> Resolved:
    settler = Settler(
        "sales",
        machine.volume,
        orphaned=lambda node: machine.volume.forget_orphan(node.ino),
        versioned=how.pop("versioned", True),
    )
    done, _ = settler.settle(Resolve(path, keep, **how))
    return done


@pytest.mark.parametrize("by_copy", [False, True])
def test_d6_15_mine_gets_the_name_and_theirs_stays_in_the_history(
    pair: tuple[Machine, Machine], store: LocalStore, by_copy: bool
) -> None:
    here, there = pair
    copy = conflict(here, there)
    done = settle(here, copy if by_copy else "q3.csv", "mine")
    assert (done.path, done.copy, done.replaced, done.left) == ("q3.csv", copy, "q3.csv", 0)
    assert here.tree() == {"q3.csv": b"ours"}
    assert here.volume.state_of(here.ino("q3.csv")) != "conflict"
    sync_all(here, there)
    assert here.tree() == there.tree() == {"q3.csv": b"ours"}
    assert here.volume.conflicts() == there.volume.conflicts() == []
    assert here.problems() == there.problems() == []
    assert {b"theirs", b"ours"} <= versions(store)
    assert store.get("q3.csv", None, 0, 9) == b"ours"


def test_d6_15_theirs_stays_and_ours_goes(pair: tuple[Machine, Machine], store: LocalStore) -> None:
    here, there = pair
    copy = conflict(here, there, "d.csv")
    assert settle(here, "d.csv", "theirs").replaced == copy
    sync_all(here, there)
    assert here.tree() == there.tree() == {"d.csv": b"theirs"}
    assert here.volume.conflicts() == []
    assert b"ours" in versions(store)


def test_d6_15_both_stay_and_nobody_asks_again(pair: tuple[Machine, Machine]) -> None:
    here, there = pair
    copy = conflict(here, there)
    assert here.volume.state_of(here.ino(copy)) == "conflict"
    assert settle(here, "q3.csv", "both").replaced == ""
    assert here.volume.conflicts() == []
    assert here.volume.state_of(here.ino(copy)) == "clean"
    assert here.tree() == {"q3.csv": b"theirs", copy: b"ours"}
    with pytest.raises(NotFound, match="in no conflict"):
        settle(here, "q3.csv", "both")


def test_a_dry_run_changes_nothing(pair: tuple[Machine, Machine]) -> None:
    here, there = pair
    copy = conflict(here, there)
    for keep in ("mine", "theirs", "both"):
        settle(here, "q3.csv", keep, dry_run=True)
    assert here.tree() == {"q3.csv": b"theirs", copy: b"ours"}
    assert len(here.volume.conflicts()) == 1


def test_of_several_copies_one_has_to_be_named(pair: tuple[Machine, Machine]) -> None:
    here, there = pair
    first = conflict(here, there)
    here.write("q3.csv", b"ours again")
    there.write("q3.csv", b"theirs again")
    there.sync()
    sync_all(here, there)
    (second,) = {c.ours for c in here.volume.conflicts()} - {first}
    with pytest.raises(Refused, match="2 copies") as refused:
        settle(here, "q3.csv", "mine")
    assert f"sales/{first}" in refused.value.hint and f"sales/{second}" in refused.value.hint
    assert settle(here, second, "mine").left == 1
    assert here.read("q3.csv") == b"ours again"
    assert settle(here, "q3.csv", "theirs").left == 0
    assert here.tree() == {"q3.csv": b"ours again"}


def test_settling_by_hand_counts_too(pair: tuple[Machine, Machine]) -> None:
    here, there = pair
    here.mv(conflict(here, there), "q3.csv")
    assert here.volume.conflicts() == []
    assert here.volume.state_of(here.ino("q3.csv")) != "conflict"


def test_another_machine_that_removes_or_renames_the_copy_settles_it(
    pair: tuple[Machine, Machine],
) -> None:
    here, there = pair
    there.rm(conflict(here, there, "a"))
    there.mv(conflict(here, there, "b"), "b")
    sync_all(here, there)
    assert here.volume.conflicts() == []
    assert here.tree() == {"a": b"theirs", "b": b"ours"}


def test_paths_follow_a_folder_that_is_renamed(pair: tuple[Machine, Machine]) -> None:
    here, there = pair
    here.mkdir("old")
    sync_all(here, there)
    copy = conflict(here, there, "old/a")
    here.mv("old", "new")
    (found,) = here.volume.conflicts()
    assert (found.original, found.ours) == ("new/a", copy.replace("old/", "new/"))
    settle(here, "new/a", "mine")
    sync_all(here, there)
    assert there.tree() == {"new": None, "new/a": b"ours"}


def test_what_would_be_gone_for_good_needs_force(pair: tuple[Machine, Machine]) -> None:
    here, there = pair
    there.write("a", b"theirs")
    here.write("a", b"ours")
    there.sync()
    here.follow()
    with pytest.raises(Refused, match="not in the store yet, so it would be gone") as refused:
        settle(here, "a", "theirs")
    assert "pipefs flush sales" in refused.value.hint and "-y" in refused.value.hint
    with pytest.raises(Refused, match="no versions"):
        settle(here, "a", "mine", versioned=False)
    assert settle(here, "a", "theirs", force=True).keep == "theirs"
    assert here.tree() == {"a": b"theirs"}


def test_a_file_that_is_being_written_is_not_replaced(pair: tuple[Machine, Machine]) -> None:
    here, there = pair
    copy = conflict(here, there)
    ino, handle = here.open("q3.csv")
    with pytest.raises(Refused, match=r"q3\.csv would go, and a program has it open") as refused:
        settle(here, "q3.csv", "mine")
    assert f"sales/{copy} --keep both" in refused.value.hint
    here.volume.close_write(ino, handle)
    settle(here, "q3.csv", "mine")


def test_a_folder_with_files_in_it_is_never_removed(pair: tuple[Machine, Machine]) -> None:
    here, there = pair
    there.write("a", b"theirs")
    here.mkdir("a")
    here.write("a/file", b"ours")
    there.sync()
    sync_all(here, there)
    (found,) = here.volume.conflicts()
    assert found.theirs_aside
    with pytest.raises(Refused, match="a is a folder with files in it"):
        settle(here, "a", "theirs")
    assert settle(here, "a", "mine").replaced == found.ours
    assert here.tree() == {"a": None, "a/file": b"ours"}


def test_where_the_file_was_removed_only_mine_is_left(pair: tuple[Machine, Machine]) -> None:
    here, there = pair
    conflict(here, there)
    here.rm("q3.csv")
    with pytest.raises(Refused, match="all there is"):
        settle(here, "q3.csv", "theirs")
    settle(here, "q3.csv", "mine")
    assert here.tree() == {"q3.csv": b"ours"}
