"""The clock of files' times is the one by which the kernel stamps what is written to them."""

from __future__ import annotations

from pathlib import Path

from pipefs.times import stamp_ns


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
