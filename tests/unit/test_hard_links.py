"""Hard links: one file under several names, here, in the log and on the other machine.

`settled` of the rebase table ends each test: both machines show the same names for the same files,
and the bucket has one object a file, at the key of the name that is its own.
"""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from pipefs.commits import CommitLog
from pipefs.records import HARD_LINK
from pipefs.stores.base import Store
from tests.machines import Machine, machines, sync_all
from tests.unit.test_rebase_table import given, here, pair, settled, store, there

__all__ = ["here", "pair", "store", "there"]


def linked(here: Machine, there: Machine) -> None:
    """Files `a` and `b` that are one, known to both."""
    given(here, there, a=b"bytes")
    here.link("a", "b")
    sync_all(here, there)


def test_both_names_read_and_write_one_file(here: Machine, there: Machine) -> None:
    linked(here, there)
    here.write("b", b"written through b")
    assert here.read("a") == b"written through b"
    tree = settled(there, here)
    assert tree == {"a": b"written through b", "b": b"written through b"}
    assert there.linked() == {("a", "b")}


def test_a_link_counts_in_nlink_and_lists_as_its_file(here: Machine, there: Machine) -> None:
    linked(here, there)
    here.link("b", "c")
    assert [here.volume.lookup(1, p.encode()).nlink for p in "abc"] == [3, 3, 3]
    entries = dict(here.volume.children(1, b"", 10))
    assert {e.ino for e in entries.values()} == {here.ino("a")}
    assert all(e.kind != HARD_LINK for e in entries.values())
    here.rm("b")
    assert here.volume.lookup(1, b"a").nlink == 2
    settled(there, here)


def test_a_link_to_a_file_that_is_not_up_yet_follows_it(here: Machine, there: Machine) -> None:
    ino, handle = here.open("a")
    here.link("a", "d")
    here.sync()
    there.sync()
    assert there.tree() == {}
    here.volume.close_write(ino, handle)
    settled(here, there)
    assert there.linked() == {("a", "d")}


def test_removing_the_own_name_hands_the_object_to_the_link(here: Machine, there: Machine) -> None:
    linked(here, there)
    here.rm("a")
    assert settled(there, here) == {"b": b"bytes"}


def test_removing_the_link_leaves_the_file(here: Machine, there: Machine) -> None:
    linked(here, there)
    here.rm("b")
    assert settled(there, here) == {"a": b"bytes"}


def test_removing_both_names_removes_the_object(here: Machine, there: Machine) -> None:
    linked(here, there)
    here.rm("a")
    here.rm("b")
    assert settled(there, here) == {}


def test_removing_both_names_link_first(here: Machine, there: Machine) -> None:
    linked(here, there)
    here.rm("b")
    here.rm("a")
    assert settled(there, here) == {}


def test_a_rename_onto_another_name_of_the_file_does_nothing(here: Machine, there: Machine) -> None:
    linked(here, there)
    here.mv("a", "b")
    assert here.linked() == {("a", "b")}
    settled(there, here)


def test_a_file_renamed_over_the_own_name_leaves_the_link(here: Machine, there: Machine) -> None:
    linked(here, there)
    here.write("new", b"new")
    here.mv("new", "a")
    assert settled(there, here) == {"a": b"new", "b": b"bytes"}
    assert there.linked() == set()


def test_a_file_renamed_over_the_link_leaves_the_file(here: Machine, there: Machine) -> None:
    linked(here, there)
    here.write("new", b"new")
    here.mv("new", "b")
    assert settled(there, here) == {"a": b"bytes", "b": b"new"}


def test_links_move_with_directories_and_by_themselves(here: Machine, there: Machine) -> None:
    given(here, there, d__a=b"bytes")
    here.link("d/a", "d/b")
    here.sync()
    here.mkdir("e")
    here.mv("d/b", "e/c")
    here.mv("d", "f")
    assert settled(there, here) == {"e": None, "e/c": b"bytes", "f": None, "f/a": b"bytes"}
    assert there.linked() == {("e/c", "f/a")}


def test_swapped_names_of_a_link_and_a_file(here: Machine, there: Machine) -> None:
    linked(here, there)
    given(here, there, other=b"other")
    here.swap("b", "other")
    assert settled(there, here)["b"] == b"other"
    assert there.linked() == {("a", "other")}


def test_links_to_fifos_and_symbolic_links(here: Machine, there: Machine) -> None:
    here.mkfifo("pipe")
    here.symlink("to", "target")
    here.link("pipe", "pipe2")
    here.link("to", "to2")
    settled(there, here)
    assert there.linked() == {("pipe", "pipe2"), ("to", "to2")}


def test_directories_cannot_be_linked_and_names_must_be_free(here: Machine) -> None:
    here.mkdir("d")
    here.write("a", b"1")
    with pytest.raises(OSError) as refused:
        here.link("d", "e")
    assert refused.value.errno == errno.EPERM
    with pytest.raises(FileExistsError):
        here.link("a", "d")


def test_links_survive_a_kill_and_the_loss_of_all_local_state(
    here: Machine, there: Machine, store: Store, tmp_path: Path
) -> None:
    linked(here, there)
    here.link("a", "c")
    here.kill()
    assert here.linked() == {("a", "b", "c")}
    settled(there, here)
    with machines(tmp_path / "later", store, "fresh") as [fresh]:
        sync_all(fresh)
        assert fresh.linked() == {("a", "b", "c")}
        assert fresh.read("c") == b"bytes"


def test_a_commit_with_a_link_says_that_it_needs_format_2(here: Machine, there: Machine) -> None:
    linked(here, there)
    log = CommitLog(here.store, author="x", writer="x")
    formats = {}
    for number in range(1, log.last_number() + 1):
        found = log.read(number)
        assert found is not None
        formats[any(c.op == "link" for c in found.commit.changes)] = found.commit.format
    assert formats == {True: 2, False: 1}


# --- rows of the rebase table -----------------------------------------------------------------


def test_removed_there_and_linked_here(here: Machine, there: Machine) -> None:
    given(here, there, a=b"bytes")
    there.rm("a")
    here.link("a", "b")
    versioned = there.capabilities.versioning
    assert settled(here, there) == ({"b": b"bytes"} if versioned else {})


def test_linked_there_and_removed_here(here: Machine, there: Machine) -> None:
    given(here, there, a=b"bytes")
    there.link("a", "b")
    here.rm("a")
    # Without versions the bytes may be deleted before anybody hears of the link.
    assert settled(here, there) == ({"b": b"bytes"} if there.capabilities.versioning else {})


def test_linked_there_and_renamed_here(here: Machine, there: Machine) -> None:
    given(here, there, a=b"bytes")
    there.link("a", "b")
    here.mv("a", "c")
    assert settled(here, there) == {"b": b"bytes", "c": b"bytes"}
    assert here.linked() == {("b", "c")}


def test_linked_there_and_changed_here(here: Machine, there: Machine) -> None:
    given(here, there, a=b"bytes")
    there.link("a", "b")
    here.write("a", b"changed")
    assert settled(here, there) == {"a": b"changed", "b": b"changed"}


def test_the_same_link_made_on_both(here: Machine, there: Machine) -> None:
    given(here, there, a=b"bytes")
    there.link("a", "b")
    here.link("a", "b")
    assert settled(here, there) == {"a": b"bytes", "b": b"bytes"}
    assert here.linked() == {("a", "b")}


def test_a_link_there_and_a_file_here_of_one_name(here: Machine, there: Machine) -> None:
    given(here, there, a=b"bytes")
    there.link("a", "b")
    here.write("b", b"mine")
    tree = settled(here, there)
    assert tree["b"] == b"bytes"
    assert sorted(here.contents()) == [b"bytes", b"bytes", b"mine"]


def test_own_name_removed_there_and_link_removed_here(here: Machine, there: Machine) -> None:
    linked(here, there)
    there.rm("a")
    here.rm("b")
    assert settled(here, there) == {"b": b"bytes"}


def test_own_name_removed_on_both(here: Machine, there: Machine) -> None:
    linked(here, there)
    there.rm("a")
    here.rm("a")
    assert settled(here, there) == {"b": b"bytes"}


def test_changed_on_both_under_two_names(here: Machine, there: Machine) -> None:
    linked(here, there)
    there.write("b", b"theirs")
    here.write("b", b"ours")
    tree = settled(here, there)
    assert (tree["a"], tree["b"]) == (b"theirs", b"theirs")
    assert b"ours" in here.contents()


def test_removed_by_another_tool_with_all_its_names(here: Machine, there: Machine) -> None:
    linked(here, there)
    here.store.delete("a")
    here.reconcile()
    assert settled(there, here) == {}


def test_replaced_by_another_tool_at_the_link(here: Machine, there: Machine) -> None:
    linked(here, there)
    here.store.put("b", b"tool")
    here.reconcile()
    assert settled(there, here) == {"a": b"bytes", "b": b"tool"}
