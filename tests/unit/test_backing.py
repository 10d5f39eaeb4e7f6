"""The record of passthrough ids that one worker leaves for the next."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipefsd.backing import BackingRecord, open_record
from pipefsd.transports.kernel.passthrough import Passed


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "worker.sock.backing")


def _found(path: str) -> list[Passed]:
    """What the next worker finds."""
    return [passed for _, passed in BackingRecord(path, fresh=False).rows()]


def test_what_is_open_is_what_the_next_worker_finds(path: str) -> None:
    record = BackingRecord(path, fresh=True)
    assert _found(path) == []
    seven, eight, nine = (Passed(1 << 62 | n, n + 100, n, 1 << 40 | n) for n in (7, 8, 9))
    slots = [record.put(passed) for passed in (seven, eight)]
    assert _found(path) == [seven, eight]
    record.clear(slots[0])
    assert _found(path) == [eight]
    record.put(nine)
    assert set(_found(path)) == {eight, nine}


def test_the_next_worker_clears_what_an_earlier_one_put(path: str) -> None:
    BackingRecord(path, fresh=True).put(Passed(7, 1, 2))
    second = BackingRecord(path, fresh=False)
    [(slot, passed)] = second.rows()
    assert passed == Passed(7, 1, 2)
    other = second.put(Passed(8, 1, 3))
    second.clear(slot)
    assert other != slot
    assert _found(path) == [Passed(8, 1, 3)]


def test_a_record_grows_with_what_is_open(path: str) -> None:
    record = BackingRecord(path, fresh=True)
    slots = [record.put(Passed(n, n, n)) for n in range(5000)]
    assert len(set(slots)) == 5000
    assert {p.node for p in _found(path)} == set(range(5000))
    for slot in slots:
        record.clear(slot)
    assert _found(path) == []


def test_a_fresh_mount_finds_nothing_of_an_earlier_one(path: str) -> None:
    BackingRecord(path, fresh=True).put(Passed(7, 1, 2))
    assert list(BackingRecord(path, fresh=True).rows()) == []


def test_without_a_place_for_the_record_nothing_is_passed_through(tmp_path: Path) -> None:
    assert open_record(str(tmp_path / "no" / "folder"), fresh=True) is None
