"""The rebase table of docs/CONCURRENCY.md, row by row, on two machines with a real store.

`here` is the machine whose local changes meet the commits of `there`. Each test ends with both
machines at rest, and then: both show the same tree, both states are sound, and the bucket holds
exactly the live files, each at its own key (`settled`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipefs.stores.base import Store
from pipefs.stores.local import LocalStore
from tests.machines import (
    Machine,
    Shown,
    UnversionedStore,
    machines,
    objects,
    sync_all,
    versions,
)


@pytest.fixture(params=["versioned", "unversioned"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store: Store = LocalStore(tmp_path / "store")
    if request.param == "unversioned":
        store = UnversionedStore(store)
    yield store
    store.close()


@pytest.fixture
def pair(store: Store, tmp_path: Path) -> Iterator[list[Machine]]:
    with machines(tmp_path, store, "here", "there") as both:
        yield both


@pytest.fixture
def here(pair: list[Machine]) -> Machine:
    return pair[0]


@pytest.fixture
def there(pair: list[Machine]) -> Machine:
    return pair[1]


def settled(here: Machine, there: Machine) -> dict[str, Shown]:
    """The tree that both have in the end; `there` was first."""
    there.sync()
    here.sync()
    sync_all(here, there)
    for machine in (here, there):
        machine.reconcile()
    sync_all(here, there)
    assert here.problems() == []
    assert there.problems() == []
    tree = here.tree()
    assert there.tree() == tree
    assert there.modes() == here.modes()
    assert there.linked() == here.linked()
    assert objects(here.store) == here.own_files()
    return tree


def given(here: Machine, there: Machine, **files: bytes) -> None:
    """Files that both know (`__` is a slash)."""
    for name, data in files.items():
        path = name.replace("__", "/")
        directory = path.rpartition("/")[0]
        if directory and directory not in here.tree():
            here.mkdir(directory)
        here.write(path, data)
    sync_all(here, there)


def aside(tree: dict[str, Shown], stem: str) -> list[Shown]:
    """What lies beside a name under conflict names."""
    return [shown for path, shown in tree.items() if path.startswith(f"{stem}.conflict-")]


# --- files ----------------------------------------------------------------------------------------


def test_the_same_new_content_on_both_sides_is_one_file(here: Machine, there: Machine) -> None:
    here.write("a", b"same")
    there.write("a", b"same")
    assert settled(here, there) == {"a": b"same"}


def test_different_new_contents_are_both_kept_and_theirs_has_the_name(
    here: Machine, there: Machine
) -> None:
    here.write("a.csv", b"ours")
    there.write("a.csv", b"theirs")
    tree = settled(here, there)
    assert tree["a.csv"] == b"theirs"
    assert aside(tree, "a") == [b"ours"]
    assert all(path.endswith(".csv") for path in tree)
    assert len(here.volume.conflicts()) == 1


def test_edits_on_both_sides_are_both_kept(here: Machine, there: Machine) -> None:
    given(here, there, a=b"base")
    here.write("a", b"ours")
    there.write("a", b"theirs")
    tree = settled(here, there)
    assert tree["a"] == b"theirs"
    assert aside(tree, "a") == [b"ours"]


def test_a_file_open_for_writing_here_and_edited_there_keeps_both(
    here: Machine, there: Machine
) -> None:
    given(here, there, a=b"base")
    ino, handle = here.open("a")
    there.write("a", b"theirs")
    there.sync()
    here.follow()
    assert here.read("a") == b"theirs"
    here.volume.write(ino, 0, memoryview(b"OURS"), wait=True)
    here.volume.close_write(ino, handle)
    tree = settled(here, there)
    assert tree["a"] == b"theirs"
    assert aside(tree, "a") == [b"OURS"]


def test_a_file_open_for_writing_that_is_closed_unwritten_leaves_no_copy(
    here: Machine, there: Machine
) -> None:
    given(here, there, a=b"base")
    ino, handle = here.open("a")
    there.write("a", b"theirs")
    there.sync()
    here.follow()
    here.volume.close_write(ino, handle)
    here.volume.forget_orphan(ino)
    assert settled(here, there) == {"a": b"theirs"}
    assert here.volume.conflicts() == []


def test_an_edit_here_survives_a_deletion_there(here: Machine, there: Machine) -> None:
    given(here, there, a=b"base")
    here.write("a", b"edited")
    there.rm("a")
    assert settled(here, there) == {"a": b"edited"}


def test_an_edit_there_survives_a_deletion_here(here: Machine, there: Machine) -> None:
    given(here, there, a=b"base")
    here.rm("a")
    there.write("a", b"edited")
    assert settled(here, there) == {"a": b"edited"}


def test_a_file_deleted_on_both_sides_is_gone(here: Machine, there: Machine) -> None:
    given(here, there, a=b"base")
    here.rm("a")
    there.rm("a")
    assert settled(here, there) == {}


def test_a_rename_here_survives_a_deletion_there_where_versions_are_kept(
    here: Machine, there: Machine
) -> None:
    given(here, there, a=b"base")
    here.mv("a", "b")
    there.rm("a")
    kept = here.capabilities.versioning
    assert settled(here, there) == ({"b": b"base"} if kept else {})


def test_a_rename_there_survives_a_deletion_here(here: Machine, there: Machine) -> None:
    given(here, there, a=b"base")
    here.rm("a")
    there.mv("a", "b")
    assert settled(here, there) == {"b": b"base"}


def test_a_rename_here_takes_an_edit_there_along(here: Machine, there: Machine) -> None:
    given(here, there, a=b"base")
    here.mv("a", "b")
    there.write("a", b"edited")
    assert settled(here, there) == {"b": b"edited"}


def test_a_rename_there_takes_an_edit_here_along(here: Machine, there: Machine) -> None:
    given(here, there, a=b"base")
    here.write("a", b"edited")
    there.mv("a", "b")
    assert settled(here, there) == {"b": b"edited"}


def test_renamed_and_edited_here_and_edited_there_keeps_both(here: Machine, there: Machine) -> None:
    given(here, there, a=b"base")
    here.mv("a", "b")
    here.write("b", b"ours")
    there.write("a", b"theirs")
    assert settled(here, there) == {"a": b"theirs", "b": b"ours"}


def test_the_same_rename_on_both_sides_is_one_rename(here: Machine, there: Machine) -> None:
    given(here, there, a=b"base")
    here.mv("a", "b")
    there.mv("a", "b")
    assert settled(here, there) == {"b": b"base"}


def test_of_two_renames_the_later_one_in_the_log_holds(here: Machine, there: Machine) -> None:
    given(here, there, a=b"base")
    here.mv("a", "ours")
    there.mv("a", "theirs")
    assert settled(here, there) == {"ours": b"base"}


def test_two_files_renamed_to_one_name_are_both_kept(here: Machine, there: Machine) -> None:
    given(here, there, a=b"1", b=b"2")
    here.mv("a", "c")
    there.mv("b", "c")
    tree = settled(here, there)
    assert tree["c"] == b"2"
    assert aside(tree, "c") == [b"1"]


def test_a_file_replaced_by_a_rename_here_and_edited_there_is_kept(
    here: Machine, there: Machine
) -> None:
    given(here, there, a=b"1", b=b"2")
    here.mv("a", "b")
    there.write("b", b"edited")
    tree = settled(here, there)
    assert tree["b"] == b"edited"
    assert aside(tree, "b") == [b"1"]


def test_a_file_replaced_by_a_rename_here_and_deleted_there_is_replaced(
    here: Machine, there: Machine
) -> None:
    given(here, there, a=b"1", b=b"2")
    here.mv("a", "b")
    there.rm("b")
    assert settled(here, there) == {"b": b"1"}


def test_a_file_replaced_by_a_rename_here_and_renamed_there_is_kept(
    here: Machine, there: Machine
) -> None:
    given(here, there, a=b"1", b=b"2")
    here.mv("a", "b")
    there.mv("b", "c")
    assert settled(here, there) == {"b": b"1", "c": b"2"}


def test_chmod_here_and_an_edit_there_both_hold(here: Machine, there: Machine) -> None:
    given(here, there, a=b"base")
    here.chmod("a", 0o600)
    there.write("a", b"edited")
    assert settled(here, there) == {"a": b"edited"}
    assert there.inode("a").mode & 0o777 == 0o600


def test_an_edit_here_and_chmod_there_both_hold(here: Machine, there: Machine) -> None:
    given(here, there, a=b"base")
    here.write("a", b"edited")
    there.chmod("a", 0o600)
    assert settled(here, there) == {"a": b"edited"}
    assert here.inode("a").mode & 0o777 == 0o600


def test_a_new_file_here_does_not_undo_chmod_of_its_directory_there(
    here: Machine, there: Machine
) -> None:
    given(here, there, d__a=b"1")
    here.write("d/b", b"2")
    there.chmod("d", 0o700)
    settled(here, there)
    assert here.inode("d").mode & 0o777 == 0o700


# --- links ----------------------------------------------------------------------------------------


def test_the_same_link_on_both_sides_is_one_link(here: Machine, there: Machine) -> None:
    here.symlink("l", "x")
    there.symlink("l", "x")
    assert settled(here, there) == {"l": "x"}


def test_links_with_different_targets_are_both_kept(here: Machine, there: Machine) -> None:
    here.symlink("l", "ours")
    there.symlink("l", "theirs")
    tree = settled(here, there)
    assert tree["l"] == "theirs"
    assert aside(tree, "l") == ["ours"]


# --- directories ----------------------------------------------------------------------------------


def test_a_directory_made_on_both_sides_is_one_with_all_files(
    here: Machine, there: Machine
) -> None:
    for machine in (here, there):
        machine.mkdir("d")
        machine.write(f"d/{machine.name}", b"1")
    assert settled(here, there) == {"d": None, "d/here": b"1", "d/there": b"1"}


def test_a_directory_here_keeps_its_name_from_a_file_there(here: Machine, there: Machine) -> None:
    here.mkdir("a")
    here.write("a/x", b"ours")
    there.write("a", b"theirs")
    tree = settled(here, there)
    assert tree["a/x"] == b"ours"
    assert aside(tree, "a") == [b"theirs"]


def test_a_file_here_makes_way_for_a_directory_there(here: Machine, there: Machine) -> None:
    here.write("a", b"ours")
    there.mkdir("a")
    there.write("a/x", b"theirs")
    tree = settled(here, there)
    assert tree["a/x"] == b"theirs"
    assert aside(tree, "a") == [b"ours"]


def test_a_directory_deleted_there_lives_on_for_a_new_file_here(
    here: Machine, there: Machine
) -> None:
    given(here, there, d__a=b"1")
    here.write("d/new", b"2")
    there.rm("d/a")
    there.rmdir("d")
    assert settled(here, there) == {"d": None, "d/new": b"2"}


def test_a_directory_deleted_here_comes_back_with_a_new_file_there(
    here: Machine, there: Machine
) -> None:
    given(here, there, d__a=b"1")
    here.rm("d/a")
    here.rmdir("d")
    there.write("d/new", b"2")
    assert settled(here, there) == {"d": None, "d/new": b"2"}


def test_a_directory_renamed_there_takes_a_change_here_along(here: Machine, there: Machine) -> None:
    given(here, there, d__a=b"1")
    here.write("d/a", b"edited")
    here.write("d/new", b"2")
    there.mv("d", "e")
    assert settled(here, there) == {"e": None, "e/a": b"edited", "e/new": b"2"}


def test_a_directory_renamed_here_takes_a_change_there_along(here: Machine, there: Machine) -> None:
    given(here, there, d__a=b"1")
    here.mv("d", "e")
    there.write("d/a", b"edited")
    there.write("d/new", b"2")
    assert settled(here, there) == {"e": None, "e/a": b"edited", "e/new": b"2"}


def test_a_directory_renamed_here_and_deleted_there_lives_on_empty(
    here: Machine, there: Machine
) -> None:
    given(here, there, d__a=b"1")
    here.mv("d", "e")
    there.rm("d/a")
    there.rmdir("d")
    assert settled(here, there) == {"e": None}


def test_a_directory_renamed_there_and_deleted_here_lives_on_empty(
    here: Machine, there: Machine
) -> None:
    given(here, there, d__a=b"1")
    here.rm("d/a")
    here.rmdir("d")
    there.mv("d", "e")
    assert settled(here, there) == {"e": None}


def test_directories_moved_into_each_other_make_no_cycle(here: Machine, there: Machine) -> None:
    given(here, there, d__a=b"1", e__b=b"2")
    here.mv("d", "e/d")
    there.mv("e", "d/e")
    tree = settled(here, there)
    assert sorted(shown for shown in tree.values() if shown) == [b"1", b"2"]


def test_a_rename_over_an_empty_directory_waits_for_what_lies_in_it_there(
    here: Machine, there: Machine
) -> None:
    for name in ("d", "e"):
        here.mkdir(name)
    sync_all(here, there)
    here.mv("d", "e")
    there.write("e/x", b"theirs")
    tree = settled(here, there)
    assert b"theirs" in tree.values()


# --- swaps ----------------------------------------------------------------------------------------


def test_swapped_names_swap_their_objects(here: Machine, there: Machine) -> None:
    given(here, there, a=b"1", b=b"2")
    here.swap("a", "b")
    assert settled(here, there) == {"a": b"2", "b": b"1"}


def test_names_swapped_by_three_renames_swap_their_objects(here: Machine, there: Machine) -> None:
    given(here, there, a=b"1", b=b"2")
    here.mv("a", "t")
    here.mv("b", "a")
    here.mv("t", "b")
    assert settled(here, there) == {"a": b"2", "b": b"1"}


def test_swapped_directories_keep_their_files(here: Machine, there: Machine) -> None:
    given(here, there, d__a=b"1", e__a=b"2")
    here.swap("d", "e")
    assert settled(here, there) == {"d": None, "d/a": b"2", "e": None, "e/a": b"1"}


def test_a_cycle_of_three_directories_keeps_all_files(here: Machine, there: Machine) -> None:
    given(here, there, d__a=b"1", e__a=b"2", f__a=b"3")
    here.swap("d", "e")
    here.swap("e", "f")
    expected = {"d/a": b"2", "e/a": b"3", "f/a": b"1"}
    assert settled(here, there) == expected | {"d": None, "e": None, "f": None}


def test_swapped_names_and_an_edit_there_lose_nothing(here: Machine, there: Machine) -> None:
    given(here, there, a=b"1", b=b"2")
    here.swap("a", "b")
    there.write("a", b"edited")
    assert settled(here, there) == {"a": b"2", "b": b"edited"}


# --- crashes and crossings ------------------------------------------------------------------------


def test_our_own_commit_is_recognised_after_a_crash_before_its_landing(
    here: Machine, there: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.write("a", b"1")
    here.mkdir("d")
    here.upload_all()

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipefs.outbox.land", die)
        with pytest.raises(KeyboardInterrupt):
            here.announce()
    here.kill()
    assert settled(here, there) == {"a": b"1", "d": None}
    assert here.volume.conflicts() == []


def test_an_upload_whose_landing_was_lost_is_no_conflict_with_itself(
    here: Machine, there: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.write("a", b"1")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(here.transfers, "_record_upload", die)
        with pytest.raises(KeyboardInterrupt):
            here.upload_all()
    here.kill()
    here.reconcile()
    assert settled(here, there) == {"a": b"1"}
    assert here.volume.conflicts() == []


def test_an_unannounced_upload_that_a_listing_there_finds_is_no_conflict(
    here: Machine, there: Machine
) -> None:
    here.write("a", b"1")
    here.upload_all()
    there.reconcile()
    assert settled(here, there) == {"a": b"1"}
    assert here.volume.conflicts() == []


def test_an_upload_renamed_before_its_commit_is_one_file(here: Machine, there: Machine) -> None:
    here.write("a", b"1")
    here.upload_all()
    here.mv("a", "b")
    there.reconcile()
    assert settled(here, there) == {"b": b"1"}


def test_a_file_removed_while_its_commit_is_under_way_is_gone(
    here: Machine, there: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.write("a", b"1")
    here.upload_all()
    put = here.store.put

    def remove_then_put(*args: object, **kwargs: object) -> object:
        if "a" in here.tree():
            here.rm("a")
        return put(*args, **kwargs)  # type: ignore[arg-type]  # passed on as it came

    with monkeypatch.context() as patch:
        patch.setattr(here.store, "put", remove_then_put)
        here.announce()
    assert here.tree() == {}
    assert settled(here, there) == {}


def test_deleting_the_log_loses_nothing_on_either_machine(here: Machine, there: Machine) -> None:
    given(here, there, d__a=b"1", b=b"2")
    here.write("new", b"ours")
    here.write("b", b"edited")
    there.write("d/theirs", b"theirs")
    for o in list(here.store.list(".pipefs/")):
        here.store.delete(o.key)
    tree = settled(here, there)
    assert tree == {
        "b": b"edited",
        "d": None,
        "d/a": b"1",
        "d/theirs": b"theirs",
        "new": b"ours",
    }
    assert here.follower.position().epoch == there.follower.position().epoch


# --- other programs on the bucket -----------------------------------------------------------------


def test_what_another_program_writes_is_found(here: Machine, there: Machine) -> None:
    here.store.put("x/new", b"1")
    here.reconcile()
    assert settled(here, there) == {"x": None, "x/new": b"1"}


def test_another_program_overwrites_and_we_follow(here: Machine, there: Machine) -> None:
    given(here, there, a=b"1")
    here.store.put("a", b"2")
    here.reconcile()
    assert settled(here, there) == {"a": b"2"}


def test_another_program_deletes_and_we_follow(here: Machine, there: Machine) -> None:
    given(here, there, a=b"1")
    here.store.delete("a")
    here.reconcile()
    assert settled(here, there) == {}


def test_another_program_overwrites_what_we_edited_and_both_are_kept(
    here: Machine, there: Machine
) -> None:
    given(here, there, a=b"1")
    here.write("a", b"ours")
    here.store.put("a", b"tool")
    tree = settled(here, there)
    assert tree["a"] == b"tool"
    assert aside(tree, "a") == [b"ours"]


def test_another_program_deletes_what_we_edited_and_the_edit_stays(
    here: Machine, there: Machine
) -> None:
    given(here, there, a=b"1")
    here.write("a", b"ours")
    here.store.delete("a")
    assert settled(here, there) == {"a": b"ours"}


def test_another_program_deletes_what_we_replaced_by_a_rename(
    here: Machine, there: Machine
) -> None:
    given(here, there, a=b"1", b=b"2")
    here.mv("a", "b")
    here.store.delete("b")
    assert settled(here, there) == {"b": b"1"}


def test_another_program_creates_where_we_created_and_both_are_kept(
    here: Machine, there: Machine
) -> None:
    here.write("a", b"ours")
    here.store.put("a", b"tool")
    tree = settled(here, there)
    assert tree["a"] == b"tool"
    assert aside(tree, "a") == [b"ours"]


def test_our_deletion_does_not_take_what_another_program_wrote(
    here: Machine, there: Machine
) -> None:
    given(here, there, a=b"1")
    here.rm("a")
    here.store.put("a", b"tool")
    assert settled(here, there) == {"a": b"tool"}


def test_what_was_overwritten_is_a_version_of_the_store(here: Machine, there: Machine) -> None:
    given(here, there, a=b"1")
    here.write("a", b"2")
    settled(here, there)
    if here.capabilities.versioning:
        assert versions(here.store) == {b"1", b"2"}


DEEP = "/".join(letter * 200 for letter in "abcdefghij")
"""A path of 2,000 bytes: no key can carry it."""


def test_a_path_longer_than_a_key_is_there_on_the_other_machine(
    here: Machine, there: Machine
) -> None:
    for depth in range(1, 11):
        here.mkdir(DEEP[: depth * 201 - 1])
    here.write(DEEP + "/one.csv", b"one")
    here.upload_all()
    here.reconcile()  # its own object, not announced yet
    here.sync()
    there.sync()
    assert there.read(DEEP + "/one.csv") == b"one"
    there.write(DEEP + "/one.csv", b"two")
    there.mv(DEEP + "/one.csv", "short.csv")
    here.mv(DEEP[:200], "other")
    sync_all(here, there)
    for machine in (here, there):
        machine.reconcile()
    sync_all(here, there)
    assert here.tree() == there.tree()
    assert here.contents() == [b"two"]
    assert objects(here.store) == {"short.csv": b"two"}
    assert (here.problems(), there.problems()) == ([], [])


def test_a_long_path_moves_with_the_directory_above_it(here: Machine, there: Machine) -> None:
    for depth in range(1, 11):
        here.mkdir(DEEP[: depth * 201 - 1])
    here.write(DEEP + "/one.csv", b"one")
    sync_all(here, there)
    (old,) = objects(here.store)
    there.mv(DEEP[:200], "o")
    sync_all(here, there)
    assert here.read("o" + DEEP[200:] + "/one.csv") == b"one"
    (new,) = objects(here.store)
    assert new != old and new.startswith("o/" + "b" * 200) and new.endswith(".csv")
    assert here.problems() == []
