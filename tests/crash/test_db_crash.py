"""kill -9 and full disks: nothing that was answered is lost, nothing else is half there."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from pipefs.db import StateDB
from pipefs.errors import NoSpace
from tests.crash.dying import DIED, run_and_die

TABLES = ("names", "sums")
PER_UPDATE = 3


def update(db: StateDB, number: int) -> None:
    """One update of several keys, which also overwrites and deletes what earlier ones wrote."""
    with db.update() as txn:
        for part in range(PER_UPDATE):
            txn.put("names", b"%d/%d" % (number, part), b"%d" % number * 50)
        txn.put("sums", b"last", b"%d" % number)
        txn.delete("names", b"%d/0" % (number - 1))


def check(db: StateDB, answered: int) -> int:
    """Every answered update is there, at most one more, and that one whole; its number."""
    with db.view() as view:
        last = int(view.get("sums", b"last") or b"-1")
        assert answered <= last <= answered + 1
        found = dict(view.scan("names"))
    wanted = {
        b"%d/%d" % (number, part): b"%d" % number * 50
        for number in range(last + 1)
        for part in range(PER_UPDATE)
        if part or number == last
    }
    assert found == wanted
    return last


def test_kill_at_any_time_loses_no_answered_update(tmp_path: Path) -> None:
    """A child says after each update that it returned; the parent kills it at random moments."""
    chance = random.Random(7)
    answered = -1
    for _ in range(25):
        readable, writable = os.pipe()
        pid = os.fork()
        if pid == 0:
            _work_for_ever(tmp_path / "state", answered, writable)
        os.close(writable)
        os.read(readable, 1)  # it is open
        time.sleep(chance.uniform(0, 0.04))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with open(readable, "rb") as said:
            lines = said.read().split(b"\n")
        if len(lines) > 1:
            answered = int(lines[-2])
        db = StateDB(tmp_path / "state", TABLES)
        answered = check(db, answered)
        db.close()
    assert answered > 100


def _work_for_ever(directory: Path, last: int, out: int) -> None:
    try:
        db = StateDB(directory, TABLES, checkpoint_bytes=20_000)
        os.write(out, b"\n")
        while True:
            last += 1
            update(db, last)
            os.write(out, b"%d\n" % last)
            if last % 16 == 0:
                db.sync()
            if db.checkpoint_due:
                db.checkpoint()
    finally:
        os._exit(1)


SMALL_BYTES = 1 << 20
"""Of journal: space for it is reserved at each opening, and these tests open hundreds of times."""

STEPS = ("open", "write", "fdatasync", "fsync", "ftruncate", "unlink", "close")


class Stop:
    """Ends this process at its n-th system call of those that change something on disk."""

    def __init__(self, at: int, torn: bool) -> None:
        self.left = at
        self.torn = torn
        for name in STEPS:
            setattr(os, name, self._counted(name, getattr(os, name)))

    def _counted(self, name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            self.left -= 1
            if self.left == 0:
                if self.torn and name == "write":
                    fd, data = args
                    assert isinstance(data, bytes | memoryview)
                    real(fd, data[: len(data) // 2])
                os._exit(DIED)
            return real(*args, **options)

        return call


@pytest.mark.parametrize("torn", [False, True])
def test_a_death_at_each_step_of_opening_update_and_checkpoint_leaves_whole_updates(
    ram_path: Path, torn: bool
) -> None:
    """Labelled points: every system call of the journal, one after the other, is the last one."""
    for at in range(1, 200):
        directory = ram_path / str(at)
        readable, writable = os.pipe()
        pid = os.fork()
        if pid == 0:
            _work_and_stop(directory, at, torn, writable)
        os.close(writable)
        finished = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != DIED
        with open(readable, "rb") as said:
            answered = len(said.read()) - 1
        for _ in range(2):  # the first opening dies as well
            run_and_die(partial(_open_and_check, directory, answered))
        shutil.rmtree(directory)
        if finished:
            assert answered == 5
            assert at > 30  # the steps were really counted
            return
    pytest.fail("never ran to its end")


def _open_and_check(directory: Path, answered: int) -> None:
    check(StateDB(directory, TABLES, checkpoint_bytes=SMALL_BYTES), answered)


def _work_and_stop(directory: Path, at: int, torn: bool, out: int) -> None:
    say = os.write
    try:
        Stop(at, torn)
        for first in (0, 3):  # the second life replays what the first one's checkpoint left
            db = StateDB(directory, TABLES, checkpoint_bytes=SMALL_BYTES)
            for number in range(first, first + 3):
                update(db, number)
                say(out, b".")
                if number == first + 1:
                    db.sync()
                    db.checkpoint()
            db.close()
    finally:
        os._exit(0)


@pytest.fixture(params=["tmpfs", "ext4"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    if request.param == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    else:
        image = tmp_path / "image"
        with image.open("wb") as file:
            file.truncate(8 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", image], check=True)
        command = ["mount", "-o", "loop", str(image), str(place)]
    subprocess.run(command, check=True, timeout=30)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True, timeout=30)


def test_a_full_disk_undoes_the_update_and_the_database_goes_on(small_disk: Path) -> None:
    directory = small_disk / "state"
    db = StateDB(directory, TABLES, checkpoint_bytes=1 << 30)
    last = -1
    with pytest.raises(NoSpace):
        while True:
            update(db, last + 1)
            last += 1
    check(db, last)
    assert last > 100
    with pytest.raises(NoSpace):
        db.checkpoint()
    check(db, last)
    with pytest.raises(NoSpace), db.update() as txn:
        txn.put("sums", b"last", b"not this" * 2000)
    assert check(db, last) == last
    db.sync()
    db.close()  # on a full disk: the journal is kept

    with pytest.raises(NoSpace):
        StateDB(directory, TABLES)  # opening replays, and cannot commit


def test_the_database_recovers_when_the_disk_has_room_again(small_disk: Path) -> None:
    directory = small_disk / "state"
    ballast = small_disk / "ballast"
    disk = os.statvfs(small_disk)
    ballast.write_bytes(bytes(disk.f_bavail * disk.f_frsize * 3 // 4))
    db = StateDB(directory, TABLES, checkpoint_bytes=1 << 30)
    last = -1
    with pytest.raises(NoSpace):
        while True:
            update(db, last + 1)
            last += 1
    with pytest.raises(NoSpace):
        db.checkpoint()
    ballast.unlink()
    for _ in range(10):
        update(db, last + 1)
        last += 1
    assert check(db, last) == last
    db.checkpoint()
    assert check(db, last) == last
    db.close()
    run_and_die(lambda: check(StateDB(directory, TABLES), last))


def test_a_record_that_a_full_disk_cut_short_is_taken_back(small_disk: Path) -> None:
    """Records behind it would never be replayed."""
    directory = small_disk / "state"
    ballast = small_disk / "ballast"
    disk = os.statvfs(small_disk)
    ballast.write_bytes(bytes(disk.f_bavail * disk.f_frsize * 3 // 4))
    noted = small_disk.parent / "last"

    def work() -> None:
        db = StateDB(directory, TABLES, checkpoint_bytes=1 << 30)
        last = -1
        with pytest.raises(NoSpace):
            while True:
                update(db, last + 1)
                last += 1
        ballast.unlink()
        for _ in range(10):
            last += 1
            update(db, last)
        noted.write_text(str(last))

    run_and_die(work)
    last = int(noted.read_text())
    run_and_die(lambda: check(StateDB(directory, TABLES), last))


def test_updates_go_on_for_a_while_on_a_disk_that_others_have_filled(small_disk: Path) -> None:
    """Else nothing could note that an upload is done, and its staging file would stay for ever."""
    directory = small_disk / "state"

    def work() -> None:
        db = StateDB(directory, TABLES, checkpoint_bytes=256 << 10)
        with pytest.raises(OSError), (small_disk / "ballast").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        for number in range(100):
            update(db, number)
            db.sync()

    run_and_die(work)
    run_and_die(lambda: check(StateDB(directory, TABLES), 99))  # the disk is as full as before
    run_and_die(lambda: check(StateDB(directory, TABLES), 99))
