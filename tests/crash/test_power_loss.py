"""Power loss: what a returned sync promised is there, whatever the disk did with the rest.

The same cuts are made for databases that are known to be wrong, so that the harness is shown to
find what it looks for, and for the alternatives of docs/design/001-durable-state.md.
"""

from __future__ import annotations

import faulthandler
import os
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from pipefs.db import StateDB
from pipefs.lmdbenv import open_env
from tests.crash.dying import died, run_and_die
from tests.crash.recorder import Recording, image_at, mounted, promised, recording

TABLES = ("names", "sums")
UPDATES = 400
PARTS = 3
Put = Callable[[str, bytes, bytes | None], object]
Workload = Callable[[Path, Recording], None]
Check = Callable[[Path, int], None]


def value_of(number: int) -> bytes:
    return b"%d" % number * 60


def change(number: int, put: Put) -> None:
    """One update: new keys, a deleted one, and one that is always overwritten."""
    for part in range(PARTS):
        put("names", b"%d/%d" % (number * 7919 % 1000, part), value_of(number))
    put("names", b"%d/0" % ((number - 1) * 7919 % 1000), None)
    put("sums", b"last", b"%d" % number)


def compare(names: dict[bytes, bytes], last: int, least: int) -> None:
    """The contents are those after update `last`, all of it, and it is no earlier than `least`."""
    assert last >= least, f"{least} was promised, {last} is there"
    wanted: dict[bytes, bytes] = {}
    for number in range(last + 1):
        change(number, lambda t, k, v: _set(wanted, k, v) if t == "names" else None)
    assert names == wanted


def _set(model: dict[bytes, bytes], key: bytes, value: bytes | None) -> None:
    if value is None:
        model.pop(key, None)
    else:
        model[key] = value


def start_writing_back(directory: Path, chance: random.Random) -> None:
    """Make the kernel write some dirty pages, without waiting; then another program's fsync."""
    for path in directory.iterdir():
        fd = os.open(path, os.O_RDWR)
        size = os.fstat(fd).st_size
        start = chance.randrange(size + 1) & -4096
        os.posix_fadvise(fd, start, chance.choice([0, 4096]), os.POSIX_FADV_DONTNEED)
        os.close(fd)
    with (directory.parent / "neighbour").open("ab") as file:
        file.write(b"something else")
        file.flush()
        os.fsync(file.fileno())


def state_workload(directory: Path, tape: Recording) -> None:
    chance = random.Random(1)
    db = StateDB(directory, TABLES)
    for number in range(UPDATES):
        with db.update() as txn:
            change(
                number,
                lambda t, k, v: txn.delete(t, k) if v is None else txn.put(t, k, v),
            )
        what = chance.random()
        if what < 0.15:
            db.sync()
            tape.promise(number)
        elif what < 0.25:
            start_writing_back(directory, chance)
        elif what < 0.28:
            db.checkpoint()
            tape.promise(number)


def state_check(directory: Path, least: int) -> None:
    if not directory.exists() and least < 0:
        return
    for _ in range(2):  # the second opening finds what the first one's recovery left
        run_and_die(partial(_state_check_once, directory, least))


def _state_check_once(directory: Path, least: int) -> None:
    with StateDB(directory, TABLES).view() as view:
        compare(dict(view.scan("names")), int(view.get("sums", b"last") or b"-1"), least)


def lmdb_workload(directory: Path, tape: Recording, *, sync: bool) -> None:
    """LMDB alone, one transaction an update; without sync, `env.sync` before each promise."""
    chance = random.Random(1)
    env, tables = open_env(directory, TABLES, map_size_bytes=1 << 30, sync=sync, lock=False)
    for number in range(UPDATES):
        with env.begin(write=True) as txn:
            change(
                number,
                lambda t, k, v: (
                    txn.delete(k, db=tables[t]) if v is None else txn.put(k, v, db=tables[t])
                ),
            )
        what = chance.random()
        if sync or what < 0.15:
            if not sync:
                env.sync(True)
            tape.promise(number)
        elif what < 0.25:
            start_writing_back(directory, chance)


def lmdb_check(directory: Path, least: int) -> None:
    if not directory.exists() and least < 0:
        return
    env, tables = open_env(directory, TABLES, map_size_bytes=1 << 30, sync=True, lock=False)
    with env.begin() as txn:
        names = {bytes(k): bytes(v) for k, v in txn.cursor(tables["names"])}
        compare(names, int(txn.get(b"last", b"-1", tables["sums"])), least)


def lost(
    place: Path, workload: Workload, check: Check, *, cuts: int, options: str = "data=ordered"
) -> list[str]:
    """Run the workload once; the cuts after which the check does not pass, in words."""
    chance = random.Random(2)
    found = []
    with recording(place, options) as tape:
        directory = tape.disk / "state"
        run_and_die(partial(workload, directory, tape))
        events = tape.events()
    for _ in range(cuts):
        cut = chance.randrange(len(events) // 50, len(events))
        image = image_at(tape, events, cut, chance)
        with mounted(image, place / "after", options):
            least = promised(events, cut)
            pid = os.fork()
            if pid == 0:  # damaged LMDB files kill their reader
                _check_and_die(check, place / "after" / "state", least)
            if not died(pid):
                found.append(f"cut {cut} of {len(events)}: update {least} had been promised")
        image.unlink()
    return found


def _check_and_die(check: Check, directory: Path, least: int) -> None:
    code = 1
    faulthandler.disable()  # a reader killed by damage is what is looked for, not news
    try:
        check(directory, least)
        code = 9
    except BaseException as e:
        print(f"{type(e).__name__}: {str(e)[:300]}", flush=True)
    finally:
        os._exit(code)


@pytest.mark.parametrize("options", ["data=ordered", "data=writeback"])
def test_what_a_returned_sync_promised_survives_power_loss(ram_path: Path, options: str) -> None:
    assert lost(ram_path, state_workload, state_check, cuts=40, options=options) == []


def test_a_sync_that_does_nothing_is_found_out(
    ram_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StateDB, "sync", lambda db: None)
    assert lost(ram_path, state_workload, state_check, cuts=15) != []


def test_lmdb_without_sync_breaks_at_the_same_cuts(ram_path: Path) -> None:
    """The alternative that is as fast, and why it was not taken."""
    assert lost(ram_path, partial(lmdb_workload, sync=False), lmdb_check, cuts=15) != []


def test_lmdb_with_a_sync_at_each_update_survives(ram_path: Path) -> None:
    """The alternative that is as safe, and takes an fsync an update; shows the harness is fair."""
    assert lost(ram_path, partial(lmdb_workload, sync=True), lmdb_check, cuts=15) == []
