"""The commit log: format, chain, epochs, and the race for a number, on a real store."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipefs.commits import (
    FORMAT,
    Change,
    Commit,
    CommitLog,
    LogReplaced,
    Position,
    Read,
    commit_key,
    decode_commit,
    digest,
    encode_commit,
)
from pipefs.errors import Corrupt, NewerFormat
from pipefs.stores.local import LocalStore

_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
_numbers = st.none() | st.integers(0, 1 << 62)
_changes = st.builds(
    Change,
    op=st.sampled_from(["put", "mkdir", "symlink", "special", "move", "delete", "attr"]),
    path=_text,
    source=_text,
    key=_text,
    version=st.none() | _text,
    etag=_text,
    size=st.integers(0, 1 << 50),
    replaces=st.none() | _text,
    same=st.booleans(),
    target=_text,
    mode=_numbers,
    uid=_numbers,
    gid=_numbers,
    mtime=_numbers,
    ctime=_numbers,
    rdev=st.integers(0, 1 << 31),
    xattrs=st.none() | st.dictionaries(_text, _text, max_size=3),
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    store = LocalStore(tmp_path / "store")
    yield store
    store.close()


def log_of(store: LocalStore, name: str) -> CommitLog:
    return CommitLog(store, author=f"user@{name}", writer=name)


def position_of(read: Read | None) -> Position:
    assert read is not None
    return Position(read.commit.epoch, read.commit.number, read.digest)


def append(log: CommitLog, position: Position, path: str) -> Position:
    return position_of(log.append(position, [Change(op="mkdir", path=path)], time_ns=1))


@given(st.lists(_changes, max_size=5), st.booleans(), _text)
def test_a_commit_comes_back_as_it_was(changes: list[Change], external: bool, who: str) -> None:
    commit = Commit(
        format=FORMAT,
        epoch="e",
        number=7,
        previous="p",
        time=1,
        author=who,
        program="pipefs",
        writer="w",
        external=external,
        changes=changes,
    )
    assert decode_commit(encode_commit(commit), "key") == commit


def test_fields_of_a_later_pipefs_in_the_same_format_are_ignored() -> None:
    commit = Commit(
        format=FORMAT, epoch="e", number=1, time=1, author="a", program="p", writer="w", changes=[]
    )
    data = msgspec.to_builtins(commit) | {"later": [1, 2]}
    assert decode_commit(msgspec.json.encode(data), "key") == commit


def test_a_newer_format_is_refused_with_what_to_do() -> None:
    with pytest.raises(NewerFormat) as refused:
        decode_commit(b'{"format": %d, "whatever": true}' % (FORMAT + 1), "key")
    assert "upgrade" in refused.value.hint


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"format": 1}', b"\xff\xfe"])
def test_what_is_no_commit_is_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt):
        decode_commit(data, "key")


def test_no_number_in_a_commit_keeps_others_from_reading_it() -> None:
    """Such as the time of a file of the year 3000, which some file systems hold."""
    big = Change(op="put", path="a", mtime=1 << 70, ctime=-(1 << 70), mode=1 << 40, size=1 << 70)
    commit = Commit(
        format=FORMAT, epoch="e", number=1, time=1 << 70, author="", program="", writer="",
        changes=[big, Change(op="put", path="b", mtime=5, mode=0o100644, uid=-1)],
    )  # fmt: skip
    for raw in (msgspec.to_builtins(commit), json.loads(encode_commit(commit))):
        found = decode_commit(json.dumps(raw).encode(), "k")
        first, second = found.changes
        assert (first.mtime, first.ctime, first.mode) == ((1 << 64) - 1, -(1 << 63), None)
        assert (first.size, found.time) == ((1 << 63) - 1, (1 << 64) - 1)
        assert (second.mtime, second.mode, second.uid) == (5, 0o100644, None)


def test_the_kind_of_what_a_commit_puts_is_that_of_its_operation() -> None:
    """A directory with the mode of a file would be a file without content, in every tree."""
    found = [
        Change(op=op, path="a", mode=0o100640)
        for op in ("put", "mkdir", "symlink", "special", "attr")
    ]
    commit = Commit(
        format=FORMAT, epoch="e", number=1, time=1, author="", program="", writer="", changes=found
    )
    changes = decode_commit(msgspec.json.encode(commit), "k").changes
    assert [c.mode for c in changes] == [0o100640, 0o040640, 0o120640, 0o010640, 0o100640]


def test_a_reader_follows_the_chain_in_order(store: LocalStore) -> None:
    writer, reader = log_of(store, "a"), log_of(store, "b")
    end = Position()
    for path in ("x", "y", "z"):
        end = append(writer, end, path)
    at, seen = Position(), []
    while (found := reader.after(at)) is not None:
        seen.append(found.commit.changes[0].path)
        at = position_of(found)
    assert seen == ["x", "y", "z"]
    assert at == end
    assert reader.last_number() == 3


def test_a_number_is_taken_once(store: LocalStore) -> None:
    one, two = log_of(store, "a"), log_of(store, "b")
    start = append(one, Position(), "x")
    append(one, start, "y")
    assert two.append(start, [Change(op="mkdir", path="z")], time_ns=1) is None


def test_of_many_writers_at_once_one_gets_the_number(store: LocalStore) -> None:
    start = append(log_of(store, "first"), Position(), "x")
    barrier, won = threading.Barrier(6), []

    def race(name: str) -> None:
        log = log_of(store, name)
        barrier.wait()
        if log.append(start, [Change(op="mkdir", path=name)], time_ns=1) is not None:
            won.append(name)

    threads = [threading.Thread(target=race, args=(f"w{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = log_of(store, "reader").after(start)
    assert found is not None
    assert won == [found.commit.changes[0].path]


def test_a_deleted_log_is_noticed_before_the_next_commit(store: LocalStore) -> None:
    log = log_of(store, "a")
    at = append(log, Position(), "x")
    store.delete(commit_key(1))
    with pytest.raises(LogReplaced):
        log.require(at)
    with pytest.raises(LogReplaced):
        append(log, at, "y")


def test_another_log_at_the_same_number_is_noticed(store: LocalStore) -> None:
    ours, theirs = log_of(store, "a"), log_of(store, "b")
    at = append(ours, Position(), "x")
    store.delete(commit_key(1))
    append(theirs, Position(), "y")
    with pytest.raises(LogReplaced):
        append(ours, at, "z")
    assert theirs.last_number() == 1


def test_another_log_is_noticed_where_a_tool_dropped_the_metadata(store: LocalStore) -> None:
    ours, theirs = log_of(store, "a"), log_of(store, "b")
    at = append(ours, Position(), "x")
    store.put(commit_key(1), store.get(commit_key(1), None, 0, 1 << 20))
    ours.require(at)
    store.delete(commit_key(1))
    append(theirs, Position(), "y")
    store.put(commit_key(1), store.get(commit_key(1), None, 0, 1 << 20))
    with pytest.raises(LogReplaced):
        ours.require(at)


def test_a_commit_of_another_epoch_does_not_follow(store: LocalStore) -> None:
    ours, theirs = log_of(store, "a"), log_of(store, "b")
    at = append(ours, Position(), "x")
    store.delete(commit_key(1))
    append(theirs, append(theirs, Position(), "y"), "z")
    with pytest.raises(LogReplaced):
        ours.after(at)


def test_a_commit_with_another_predecessor_does_not_follow(store: LocalStore) -> None:
    log = log_of(store, "a")
    one = append(log, Position(), "x")
    append(log, one, "y")
    with pytest.raises(LogReplaced):
        log.after(Position(one.epoch, 1, digest(b"another")))


def test_a_hole_ends_the_log_and_is_noticed(store: LocalStore) -> None:
    log = log_of(store, "a")
    one = append(log, Position(), "x")
    append(log, append(log, one, "y"), "z")
    store.delete(commit_key(2))
    assert log.after(one) is None
    at_two = Position(one.epoch, 2, "whatever")
    with pytest.raises(LogReplaced):
        log.require(at_two)
