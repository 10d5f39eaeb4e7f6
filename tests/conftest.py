"""Fixtures that every kind of test may use."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import settings

from tests.mounted import SOURCE, Home
from tests.ram import ram_folder
from tests.rowsran import Ran
from tests.seaweed import SeaweedServer
from tests.typed import Starter, starting

# No test measures time, and a busy machine takes its own for an example.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Processes that tests start find the source and its tests, however pytest itself was started.
os.environ["PYTHONPATH"] = os.pathsep.join((str(SOURCE), str(SOURCE / "daemon")))
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A job in the background ignores ^C, and so would every process that a test interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    # Under nohup every program that a test starts would ignore its terminal's end.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Ran(config), "rows of docs/ROWS.md")


@pytest.fixture(scope="session")
def seaweed() -> Iterator[SeaweedServer]:
    """One real S3 server for the whole session."""
    server = SeaweedServer.start()
    # boto3 in this process must never find a real account's credentials or settings.
    patch = pytest.MonkeyPatch()
    for name, value in server.environment().items():
        patch.setenv(name, value)
    patch.delenv("AWS_PROFILE", raising=False)
    patch.delenv("AWS_SESSION_TOKEN", raising=False)
    try:
        yield server
    finally:
        patch.undo()
        server.stop()


@pytest.fixture
def bucket(seaweed: SeaweedServer) -> str:
    """A fresh bucket with versioning on the session's server."""
    return seaweed.make_bucket()


@pytest.fixture(scope="session")
def starter() -> Iterator[Starter]:
    """What makes `pipefs` start at once in typed lines."""
    with starting() as found:
        yield found


@pytest.fixture
def ram_path() -> Iterator[Path]:
    """As `tmp_path`, in memory, and removed at once."""
    folder = ram_folder("pipefs-test-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def make_home() -> Iterator[Callable[..., Home]]:
    """Makes machines: `make_home()`, each with a `PIPEFS_HOME` of its own."""
    made: list[Home] = []

    def make(env: Mapping[str, str] | None = None) -> Home:
        made.append(Home(env))
        return made[-1]

    try:
        yield make
    finally:
        for home in made:
            home.close()


@pytest.fixture
def home(make_home: Callable[..., Home]) -> Home:
    """One machine."""
    return make_home()
