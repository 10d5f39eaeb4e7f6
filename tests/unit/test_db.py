"""What one StateDB promises to its callers, and what it finds on disk."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from pipefs.db import FORMAT, MAX_KEY_BYTES, StateDB, quarantine
from pipefs.errors import Busy, Corrupt, NewerFormat, NoSpace, Refused
from pipefs.lmdbenv import open_env
from pipefs.statedb.journal import segment_paths
from pipefs.statedb.tables import write_meta
from tests.crash.dying import run_and_die

TABLES = ("names", "nodes")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def db(directory: Path) -> Iterator[StateDB]:
    database = StateDB(directory, TABLES)
    yield database
    database.close()


def put(db: StateDB, **values: bytes) -> None:
    with db.update() as txn:
        for key, value in values.items():
            txn.put("names", key.encode(), value)


def contents(db: StateDB, table: str = "names") -> dict[bytes, bytes]:
    with db.view() as view:
        return dict(view.scan(table))


def reopened(directory: Path) -> dict[bytes, bytes]:
    db = StateDB(directory, TABLES)
    try:
        return contents(db)
    finally:
        db.close()


# -- reading and writing ------------------------------------------------------------------------


def test_a_value_is_read_back_and_a_deleted_one_is_gone(db: StateDB) -> None:
    with db.update() as txn:
        txn.put("names", b"a", b"one")
        txn.put("nodes", b"a", b"")
        assert txn.get("names", b"a") == b"one"
        assert txn.delete("names", b"a") is True
        assert txn.delete("names", b"a") is False
    with db.view() as view:
        assert view.get("names", b"a") is None
        assert not view.has("names", b"a")
        assert view.get("nodes", b"a") == b""
        assert (view.count("names"), view.count("nodes")) == (0, 1)


@pytest.mark.parametrize("start", [b"", b"b", b"bb", b"z"])
@pytest.mark.parametrize("stop", [None, b"", b"b", b"cc", b"zz"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("limit", [None, 0, 2])
def test_a_scan_gives_the_range_in_order(
    db: StateDB, start: bytes, stop: bytes | None, reverse: bool, limit: int | None
) -> None:
    keys = [b"a", b"b", b"ba", b"c", b"cc", b"z"]
    with db.update() as txn:
        for key in keys:
            txn.put("names", key, b"v" + key)
        found = list(txn.scan("names", start, stop, reverse=reverse, limit=limit))
    wanted = [k for k in keys if k >= start and (stop is None or k < stop)]
    wanted = wanted[::-1] if reverse else wanted
    assert found == [(k, b"v" + k) for k in wanted[:limit]]


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_goes_on_behind_its_key_when_the_table_changes(db: StateDB, reverse: bool) -> None:
    keys = [b"%03d" % n for n in range(300)]
    with db.update() as txn:
        for key in keys:
            txn.put("names", key, b"old")
        seen = []
        for key, _ in txn.scan("names", reverse=reverse):
            seen.append(key)
            if len(key) == 3:
                txn.delete("names", key)
                txn.put("names", b"!" + key, b"before all others")
                txn.put("nodes", key, b"moved")
        assert [k for k in seen if len(k) == 3] == (keys[::-1] if reverse else keys)
        assert len(seen) == (600 if reverse else 300)
        assert txn.count("nodes") == 300


def test_keys_out_of_bounds_are_refused_in_words(db: StateDB) -> None:
    with db.update() as txn:
        txn.put("names", b"k" * MAX_KEY_BYTES, b"fits")
        for key in (b"", b"k" * (MAX_KEY_BYTES + 1)):
            with pytest.raises(ValueError, match="1 to 511 bytes"):
                txn.put("names", key, b"")
        with pytest.raises(ValueError, match="1 to 511 bytes"):
            txn.get("names", b"")
        with pytest.raises(KeyError):
            txn.put("unknown", b"k", b"")
    assert list(contents(db)) == [b"k" * MAX_KEY_BYTES]


def test_large_values_survive(directory: Path) -> None:
    value = os.urandom(3 << 20)
    run_and_die(lambda: put(StateDB(directory, TABLES), big=value))
    assert reopened(directory) == {b"big": value}


# -- all or nothing -----------------------------------------------------------------------------


def test_an_exception_undoes_the_whole_update_and_journals_nothing(db: StateDB) -> None:
    put(db, a=b"1", b=b"2")
    size = db._journal.size_bytes
    with pytest.raises(ZeroDivisionError), db.update() as txn:
        txn.put("names", b"a", b"changed")
        txn.put("names", b"a", b"again")
        txn.delete("names", b"b")
        txn.put("names", b"c", b"new")
        _ = 1 // 0
    assert contents(db) == {b"a": b"1", b"b": b"2"}
    assert db._journal.size_bytes == size


def test_an_interrupt_undoes_the_whole_update(db: StateDB) -> None:
    put(db, a=b"1")
    with pytest.raises(KeyboardInterrupt), db.update() as txn:
        txn.put("names", b"a", b"changed")
        raise KeyboardInterrupt
    assert contents(db) == {b"a": b"1"}
    put(db, b=b"2")
    assert contents(db) == {b"a": b"1", b"b": b"2"}


def test_an_inner_update_joins_the_outer_one_in_one_record(db: StateDB) -> None:
    before = db._journal.sequence
    with db.update() as outer:
        outer.put("names", b"a", b"1")
        with db.update() as inner:
            inner.put("names", b"b", b"2")
        assert db._journal.sequence == before
        with db.view() as view:
            assert view.get("names", b"b") == b"2"
    assert db._journal.sequence == before + 1


def test_only_the_inner_update_is_undone_when_the_outer_one_catches(directory: Path) -> None:
    def work() -> None:
        db = StateDB(directory, TABLES)
        with db.update() as outer:
            outer.put("names", b"a", b"1")
            try:
                with db.update() as inner:
                    inner.put("names", b"a", b"2")
                    inner.put("names", b"b", b"2")
                    raise LookupError
            except LookupError:
                pass
            outer.put("names", b"c", b"3")

    run_and_die(work)
    assert reopened(directory) == {b"a": b"1", b"c": b"3"}


def test_an_outer_exception_undoes_the_inner_update_too(db: StateDB) -> None:
    with pytest.raises(LookupError), db.update():
        put(db, a=b"1")
        raise LookupError
    assert contents(db) == {}


def test_an_update_without_changes_writes_no_record(db: StateDB) -> None:
    with db.update() as txn:
        txn.delete("names", b"not there")
    assert db._journal.sequence == 0


def test_a_block_cannot_be_used_after_it_was_left(db: StateDB) -> None:
    with db.view() as view:
        rest = view.scan("names")
    with db.update() as txn:
        txn.put("names", b"a", b"1")
    for use in (
        lambda: view.get("names", b"a"),
        lambda: next(rest),
        lambda: txn.put("names", b"a", b"2"),
        lambda: txn.delete("names", b"a"),
        lambda: txn.count("names"),
    ):
        with pytest.raises(Refused, match="after its block"):
            use()


def test_a_full_map_is_no_space_and_the_database_goes_on(directory: Path) -> None:
    db = StateDB(directory, TABLES, map_size_bytes=1 << 20)
    put(db, a=b"1")
    with pytest.raises(NoSpace), db.update() as txn:
        txn.put("names", b"a", b"changed")
        txn.put("names", b"big", bytes(2 << 20))
    assert contents(db) == {b"a": b"1"}
    with db.update() as outer:
        outer.put("names", b"b", b"2")
        try:
            put(db, big=bytes(2 << 20))
        except NoSpace:
            pass
        outer.put("names", b"c", b"3")
    db.close()
    assert reopened(directory) == {b"a": b"1", b"b": b"2", b"c": b"3"}


# -- opening and closing ------------------------------------------------------------------------


def test_what_was_closed_is_there_at_the_next_opening(directory: Path) -> None:
    db = StateDB(directory, TABLES)
    put(db, a=b"1")
    db.close()
    db.close()
    assert reopened(directory) == {b"a": b"1"}
    with pytest.raises(Refused, match="closed"):
        put(db, a=b"2")


def test_an_update_that_returned_survives_the_death_of_the_process(directory: Path) -> None:
    run_and_die(lambda: put(StateDB(directory, TABLES), a=b"1", b=b"2"))
    assert reopened(directory) == {b"a": b"1", b"b": b"2"}


def test_the_journal_is_replayed_when_tables_are_given_in_another_order(directory: Path) -> None:
    run_and_die(lambda: put(StateDB(directory, TABLES), a=b"1"))
    db = StateDB(directory, ("more", *reversed(TABLES)))
    assert contents(db, "names") == {b"a": b"1"}
    db.close()


def test_a_second_opening_is_busy_and_names_the_pid(db: StateDB, directory: Path) -> None:
    with pytest.raises(Busy, match=f"process {os.getpid()}"):
        StateDB(directory, TABLES)
    with pytest.raises(Busy, match=f"process {os.getpid()}"):
        quarantine(directory)


def test_a_lock_on_a_directory_that_was_moved_aside_is_taken_again(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    StateDB(directory, TABLES).close()
    real = fcntl.flock
    moved: list[Path] = []

    def late(fd: int, how: int) -> None:
        if not moved:
            moved.append(directory.rename(directory.with_name("aside")))
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", late)
    db = StateDB(directory, TABLES)
    with pytest.raises(Busy):
        StateDB(directory, TABLES)
    db.close()
    StateDB(moved[0], TABLES).close()


def test_state_of_a_newer_format_is_refused_untouched(directory: Path) -> None:
    StateDB(directory, TABLES).close()
    env, handles = open_env(directory, ["meta"], map_size_bytes=1 << 30, sync=True, lock=False)
    with env.begin(write=True) as txn:
        write_meta(txn, handles["meta"], b"format", FORMAT + 1)
    env.close()
    before = {p.name: p.read_bytes() for p in directory.iterdir() if p.name != "lock"}
    with pytest.raises(NewerFormat, match=rf"format {FORMAT + 1}; this one knows up to {FORMAT}"):
        StateDB(directory, (*TABLES, "a_table_it_does_not_have"))
    assert {p.name: p.read_bytes() for p in directory.iterdir() if p.name != "lock"} == before


def test_a_journal_of_a_newer_format_is_refused_untouched(directory: Path) -> None:
    run_and_die(lambda: put(StateDB(directory, TABLES), a=b"1"))
    (segment,) = segment_paths(directory)
    data = bytearray(segment.read_bytes())
    data[8] = 2
    segment.write_bytes(data)
    with pytest.raises(NewerFormat, match="journal format 2"):
        StateDB(directory, TABLES)
    assert segment.read_bytes() == data


# -- checkpoints and sync -----------------------------------------------------------------------


def test_a_checkpoint_empties_the_journal_and_keeps_everything(directory: Path) -> None:
    def work() -> None:
        db = StateDB(directory, TABLES, checkpoint_bytes=1000)
        put(db, a=bytes(2000))
        due = [db.checkpoint_due]
        db.checkpoint()
        assert [*due, db.checkpoint_due] == [True, False]
        assert len(segment_paths(directory)) == 1
        put(db, b=b"2")

    run_and_die(work)
    assert reopened(directory) == {b"a": bytes(2000), b"b": b"2"}


def test_a_checkpoint_inside_a_block_is_refused(db: StateDB) -> None:
    for block in (db.view(), db.update()):
        with block, pytest.raises(RuntimeError, match="inside"):
            db.checkpoint()


def test_an_update_checkpoints_by_itself_only_when_the_journal_is_far_too_long(
    directory: Path,
) -> None:
    db = StateDB(directory, TABLES, checkpoint_bytes=1000)
    sizes = []
    for n in range(50):
        put(db, **{f"k{n}": bytes(100)})
        sizes.append(db._journal.size_bytes)
    assert 4000 - 200 < max(sizes) <= 4000
    assert sizes.count(0) >= 1
    db.close()
    assert len(reopened(directory)) == 50


def test_concurrent_syncs_share_fsyncs_and_do_not_stop_updates(
    db: StateDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, go_on, calls = threading.Event(), threading.Event(), []
    real = os.fdatasync

    def slow(fd: int) -> None:
        calls.append(fd)
        running.set()
        assert go_on.wait(30)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", slow)
    put(db, first=b"1")
    everybody = threading.Barrier(9)

    def one(n: int) -> None:
        put(db, **{f"k{n}": b"1"})
        everybody.wait(30)
        db.sync()

    threads = [threading.Thread(target=db.sync)]
    threads[0].start()
    assert running.wait(30)
    threads += [threading.Thread(target=one, args=(n,)) for n in range(8)]
    for thread in threads[1:]:
        thread.start()
    everybody.wait(30)  # eight updates returned while an fsync was under way
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert len(calls) == 2
    assert db._journal.synced == db._journal.sequence == 9


def test_a_sync_waits_for_nothing_when_a_checkpoint_has_made_it_durable(
    db: StateDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(db, a=b"1")
    db.checkpoint()
    monkeypatch.setattr(os, "fdatasync", lambda fd: pytest.fail("nothing is left to sync"))
    db.sync()


def test_after_a_failed_fsync_nothing_is_promised_until_a_checkpoint(
    db: StateDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(db, a=b"1")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", _fail_with_eio)
        with pytest.raises(Corrupt, match="fdatasync"):
            db.sync()
    with pytest.raises(Corrupt, match="fdatasync"):
        db.sync()
    with pytest.raises(Corrupt, match="fdatasync"):
        put(db, b=b"2")
    assert contents(db) == {b"a": b"1"}
    db.checkpoint()
    put(db, c=b"3")
    db.sync()
    assert contents(db) == {b"a": b"1", b"c": b"3"}


def _fail_with_eio(fd: int) -> None:
    raise OSError(5, "Input/output error")


# -- damage -------------------------------------------------------------------------------------


def three_records(directory: Path, *, sync_after: int = 0) -> tuple[Path, list[int]]:
    """A dead process's journal of three records, and where each of them ends."""

    def work() -> None:
        db = StateDB(directory, TABLES)
        ends = [db._journal._segment.size_bytes]
        for n in range(1, 4):
            put(db, **{f"k{n}": b"value of %d" % n})
            ends.append(db._journal._segment.size_bytes)
            if n == sync_after:
                db.sync()
        (directory.parent / "ends").write_text(" ".join(map(str, ends)))

    run_and_die(work)
    (segment,) = segment_paths(directory)
    return segment, [int(n) for n in (directory.parent / "ends").read_text().split()]


def test_a_torn_last_record_is_dropped_wherever_it_was_cut(directory: Path) -> None:
    segment, ends = three_records(directory)
    data = segment.read_bytes()
    torn = [data[:size] for size in range(ends[2], ends[3])]
    run_and_die(partial(_write_and_check, directory, segment.name, torn, 2))


def test_a_last_record_with_any_byte_wrong_is_dropped(directory: Path) -> None:
    segment, ends = three_records(directory)
    data = segment.read_bytes()
    wrong = [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in range(ends[2], ends[3])]
    run_and_die(partial(_write_and_check, directory, segment.name, wrong, 2))


def _write_and_check(directory: Path, name: str, journals: list[bytes], records: int) -> None:
    """Each in a directory of its own: LMDB as new, and this journal."""
    assert journals
    for number, data in enumerate(journals):
        place = directory.with_name(f"at{number}")
        place.mkdir()
        (place / name).write_bytes(data)
        found = reopened(place)
        assert found == {b"k%d" % n: b"value of %d" % n for n in range(1, records + 1)}, data
        assert reopened(place) == found
        shutil.rmtree(place)


def test_damage_to_a_record_that_had_been_synced_is_corrupt(directory: Path) -> None:
    segment, ends = three_records(directory, sync_after=2)
    data = bytearray(segment.read_bytes())
    data[ends[1] - 1] ^= 1
    segment.write_bytes(data)
    with pytest.raises(Corrupt, match=r"record 1 .* had been synced"):
        StateDB(directory, TABLES)
    assert segment.read_bytes() == data


def test_a_hole_that_nobody_had_synced_ends_the_journal(directory: Path) -> None:
    segment, ends = three_records(directory, sync_after=1)
    data = bytearray(segment.read_bytes())
    data[ends[1] : ends[2]] = bytes(ends[2] - ends[1])
    segment.write_bytes(data)
    assert reopened(directory) == {b"k1": b"value of 1"}


def test_records_of_another_segment_do_not_pass_for_records_of_this_one(directory: Path) -> None:
    segment, ends = three_records(directory)
    other, _ = three_records(directory.with_name("other"))
    data = segment.read_bytes()[: ends[2]] + other.read_bytes()[ends[2] :]
    segment.write_bytes(data)
    assert len(reopened(directory)) == 2


def test_a_damaged_journal_header_before_records_is_corrupt(directory: Path) -> None:
    segment, _ = three_records(directory)
    data = bytearray(segment.read_bytes())
    data[20] ^= 1
    segment.write_bytes(data)
    with pytest.raises(Corrupt, match="header"):
        StateDB(directory, TABLES)


def test_a_segment_whose_making_was_cut_is_passed_over(directory: Path) -> None:
    segment, _ = three_records(directory)
    following = directory / "journal-00000000000000000099"
    for head in (b"", segment.read_bytes()[:10], bytes(24)):
        following.write_bytes(head)
        assert len(reopened(directory)) == 3


def test_a_missing_segment_is_corrupt(directory: Path) -> None:
    segment, _ = three_records(directory)
    data = segment.read_bytes()
    other = directory.with_name("other")
    StateDB(other, TABLES).close()
    (other / segment.name).write_bytes(data)
    run_and_die(lambda: put(StateDB(directory, TABLES), k4=b"4"))
    (newer,) = segment_paths(directory)
    fresh = directory.with_name("fresh")
    fresh.mkdir()
    (fresh / newer.name).write_bytes(newer.read_bytes())
    with pytest.raises(Corrupt, match="record 4, but 1 is missing"):
        StateDB(fresh, TABLES)


def test_a_damaged_value_is_corrupt_and_names_table_and_key(directory: Path) -> None:
    db = StateDB(directory, TABLES)
    put(db, good=b"fine", bad=b"a value to be damaged")
    db.close()
    path = directory / "data.mdb"
    path.write_bytes(path.read_bytes().replace(b"a value to be damaged", b"A value to be damaged"))
    db = StateDB(directory, TABLES)
    with db.view() as view:
        assert view.get("names", b"good") == b"fine"
        with pytest.raises(Corrupt, match="b'bad' in table names"):
            view.get("names", b"bad")
        with pytest.raises(Corrupt, match="b'bad' in table names"):
            list(view.scan("names"))
    db.close()


def test_a_database_file_that_was_cut_is_corrupt_and_kills_nobody(directory: Path) -> None:
    db = StateDB(directory, TABLES)
    with db.update() as txn:
        for n in range(2000):
            txn.put("names", b"%06d" % n, bytes(100))
    db.close()
    path = directory / "data.mdb"
    os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)

    def work() -> None:
        with pytest.raises(Corrupt):
            StateDB(directory, TABLES)

    run_and_die(work)


def test_a_file_that_is_no_database_is_corrupt_and_quarantine_keeps_it(directory: Path) -> None:
    directory.mkdir()
    (directory / "data.mdb").write_bytes(b"not a database" * 1000)
    with pytest.raises(Corrupt):
        StateDB(directory, TABLES)
    aside = quarantine(directory)
    assert aside.name.startswith("state.damaged-20")
    assert (aside / "data.mdb").read_bytes().startswith(b"not a database")
    (directory).mkdir()
    assert quarantine(directory) != aside
    assert reopened(directory) == {}
