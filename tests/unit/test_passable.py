"""Which disks tell enough for passthrough."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from pipefs.passable import may_pass
from pipefs.staging import StagingArea
from tests.mounted import small_disk


def test_tmpfs_does_not_say_when_a_mapping_was_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path / "memory", "1m") as folder:
        assert not may_pass(StagingArea(folder / "staging"))
    assert "does not record when a mapping was written" in caplog.text


def test_the_setting_is_asked_before_the_disk(tmp_path: Path) -> None:
    area = StagingArea(tmp_path)
    assert may_pass(area)
    assert not may_pass(area, "off")
    assert os.listdir(tmp_path) == []


def test_a_file_is_in_use_while_anybody_has_it_open_or_mapped(tmp_path: Path) -> None:
    area, path = StagingArea(tmp_path), str(tmp_path / "file")
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 4096)
    assert area.in_use(path, readers=False)
    page = mmap.mmap(fd, 4096)
    os.close(fd)
    assert area.in_use(path, readers=False), "mapped for writing"
    page.close()
    assert not area.in_use(path)
    fd = os.open(path, os.O_RDONLY)
    assert area.in_use(path)
    assert not area.in_use(path, readers=False)
    os.close(fd)
    assert not area.in_use(path)
    assert not area.in_use(str(tmp_path / "none"))
