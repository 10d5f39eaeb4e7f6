"""The record of passthrough ids that one worker leaves for the next."""

from __future__ import annotations

from pathlib import Path

from pipefsd import backing
from pipefsd.transports.kernel.passthrough import Backing


def test_what_was_recorded_last_is_what_the_next_worker_finds(tmp_path: Path) -> None:
    path = str(tmp_path / "worker.sock.backing")
    assert backing.load(path) == []
    backing.save(path, [Backing(7, 1, [1, 2])])
    backing.save(path, [Backing(7, 1, [2]), Backing(9, 4, [3])])
    assert backing.load(path) == [Backing(7, 1, [2]), Backing(9, 4, [3])]


def test_a_record_that_cannot_be_read_costs_the_ids_only(tmp_path: Path) -> None:
    path = tmp_path / "worker.sock.backing"
    path.write_text("[{")
    assert backing.load(str(path)) == []
