"""The clock of files' times is the one by which the kernel stamps what is written to them."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

from pipefs.staging import Sidecar, StagingArea
from pipefs.stores.local import LocalStore
from pipefs.times import stamp_ns
from tests.machines import machines


def test_a_file_written_after_a_stamp_is_never_older_than_it(tmp_path: Path) -> None:
    for n in range(100):
        before = stamp_ns()
        path = tmp_path / f"{n}"
        path.write_bytes(b"written later")
        assert path.stat().st_mtime_ns >= before


def test_a_stamp_is_of_now(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    assert abs(stamp_ns() - path.stat().st_mtime_ns) < 60 * 10**9


def test_a_staging_file_that_was_another_files_has_the_time_of_now(tmp_path: Path) -> None:
    area = StagingArea(tmp_path)
    os.close(area.create(Sidecar(7, "old", stat.S_IFREG | 0o644, "w1"), 0))
    area.remove(7)
    time.sleep(0.05)  # more than a tick: the other file's time must differ
    before = stamp_ns()
    fd = area.create(Sidecar(8, "new", stat.S_IFREG | 0o644, "w2"), 0)
    assert os.fstat(fd).st_mtime_ns >= before
    os.close(fd)


def test_a_file_that_stays_empty_keeps_the_time_it_was_made(tmp_path: Path) -> None:
    with machines(tmp_path, LocalStore(tmp_path / "store"), "here") as (here,):
        # The clock goes on between the name and its staging file, here by a long tick.
        here.volume._clock = lambda: stamp_ns() - 10**9
        made = here.volume.create(1, b"empty", 0o644, 0, 0, handle=1)
        assert here.inode("empty").mtime_ns == made.mtime_ns
        here.volume.close_write(made.ino, 1)
        assert here.inode("empty").mtime_ns == made.mtime_ns
