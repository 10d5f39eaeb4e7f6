"""fsspec's own test suites for our file system, on the embedded store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.tests import abstract

from pipefs.fsspec_driver import PipeFileSystem
from pipefs.stores.local import LocalStore


class PipeFixtures(abstract.AbstractFixtures):
    @pytest.fixture
    def fs(self, ram_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PipeFileSystem]:
        monkeypatch.setenv("PIPEFS_HOME", str(ram_path / "home"))
        LocalStore(ram_path / "store").close()
        pipes = {"p": (ram_path / "store").as_uri()}
        yield PipeFileSystem(pipes=pipes, skip_instance_cache=True)

    @pytest.fixture
    def fs_path(self) -> str:
        return "p/in"

    @pytest.fixture
    def fs_join(self) -> object:
        return lambda *parts: "/".join(parts)


class TestCopy(abstract.AbstractCopyTests, PipeFixtures):
    pass


class TestGet(abstract.AbstractGetTests, PipeFixtures):
    pass


class TestPut(abstract.AbstractPutTests, PipeFixtures):
    pass


class TestOpen(abstract.AbstractOpenTests, PipeFixtures):
    pass


class TestPipe(abstract.AbstractPipeTests, PipeFixtures):
    pass
