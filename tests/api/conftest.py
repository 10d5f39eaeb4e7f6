"""Fixtures of tests of the Python API: a home, a store, a pipe on it, and a machine beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import pipefs
from pipefs import Pipe
from pipefs.stores.local import LocalStore
from tests.machines import Machine


@pytest.fixture(name="home", autouse=True)
def _home(ram_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PIPEFS_HOME", str(ram_path / "home"))
    monkeypatch.delenv("PIPEFS_PROFILE", raising=False)
    return ram_path / "home"


@pytest.fixture(name="store")
def _store(ram_path: Path) -> LocalStore:
    return LocalStore(ram_path / "store")


@pytest.fixture(name="pipe")
def _pipe(store: LocalStore) -> Iterator[Pipe]:
    found = pipefs.create("sales", store.url)
    yield found
    found.close()


@pytest.fixture(name="machine")
def _machine(ram_path: Path, store: LocalStore, pipe: Pipe) -> Iterator[Machine]:
    found = Machine(ram_path / "machine", store, name="m")
    yield found
    found.close()
