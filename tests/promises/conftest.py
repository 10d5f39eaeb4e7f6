"""One mounted pipe for each transport, one ext4; two folders of them for each test."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mounted import Home
from tests.promises.promised import Twin

TRANSPORTS = {
    "passthrough": ("-o", "acl=yes"),
    "kernel": ("-o", "passthrough=off"),
    "libfuse": ("--transport", "libfuse"),
}
"""Name → words of the mount command."""

numbers = itertools.count()


@dataclass(frozen=True)
class Mounted:
    """A machine with the pipe `p` mounted by one transport. Nothing goes up by itself."""

    home: Home
    root: Path
    transport: str


@pytest.fixture(scope="session")
def ext4() -> Iterator[Path]:
    """What the promises are compared with: a real ext4, whatever this machine's disk is."""
    home = Home()
    place = home.base / "ext4"
    place.mkdir()
    with (home.base / "image").open("wb") as image:
        image.truncate(1 << 30)
    try:
        subprocess.run(["mkfs.ext4", "-q", "-b", "4096", home.base / "image"], check=True)
        subprocess.run(["mount", "-o", "loop", home.base / "image", place], check=True)
        home.base.chmod(0o755)
        yield place
    finally:
        home.close()


@pytest.fixture(scope="session")
def mounts() -> Iterator[Callable[[str], Mounted]]:
    """One mount for all tests of a transport, made when the first one asks."""
    made: dict[str, Mounted] = {}

    def mount(transport: str) -> Mounted:
        if transport not in made:
            home = Home()
            root = home.base / "p"
            made[transport] = Mounted(home, root, transport)
            home.base.chmod(0o755)
            root.mkdir()
            home.create("p", "", "quiet_period=1h", "owner=stored")
            home.run("mount", "p", str(root), *TRANSPORTS[transport])
        return made[transport]

    try:
        yield mount
    finally:
        for place in made.values():
            place.home.close()


@pytest.fixture(params=list(TRANSPORTS))
def mounted(request: pytest.FixtureRequest, mounts: Callable[[str], Mounted]) -> Mounted:
    """The pipe by each transport in turn."""
    return mounts(request.param)


@pytest.fixture
def twin(mounted: Mounted, ext4: Path) -> Twin:
    """An empty folder on the mount, and an empty folder on ext4."""
    name = f"t{next(numbers)}"
    folders = (mounted.root / name, ext4 / name)
    for folder in folders:
        folder.mkdir()
        folder.chmod(0o755)
    return Twin(*folders, mounted.transport)


@dataclass(frozen=True)
class Place:
    """A machine with the pipe `p` mounted by one transport, and the store's folder.

    For tests of the past: taking a snapshot brings up everything that waits, and the tests that
    share the mounts above leave large things behind.
    """

    home: Home
    root: Path
    transport: str
    store: Path

    def take(self, folder: Path) -> Path:
        """A snapshot of a folder; where it is."""
        made = folder / ".snapshots" / f"s{next(numbers)}"
        made.mkdir()
        return made

    def items(self) -> dict[str, dict[str, object]]:
        """First tag (or id) → what `snapshots --json` says."""
        found = json.loads(self.home.run("snapshots", "p", "--json").stdout)["snapshots"]
        return {item["tag"] or item["id"]: item for item in found}

    def remount(self) -> None:
        self.home.umount("p")
        self.home.run("mount", "p", str(self.root), *TRANSPORTS[self.transport])


@pytest.fixture(scope="module", params=list(TRANSPORTS))
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    home = Home()
    found = Place(home, home.base / "p", request.param, home.base / "store")
    try:
        home.base.chmod(0o755)
        found.root.mkdir()
        found.store.mkdir()
        home.create("p", f"file://{found.store}", "owner=stored")
        home.run("mount", "p", str(found.root), *TRANSPORTS[request.param])
        yield found
    finally:
        home.close()


@pytest.fixture
def folder(place: Place) -> Path:
    """An empty folder on the mount."""
    made = place.root / f"t{next(numbers)}"
    made.mkdir()
    return made


@pytest.fixture(scope="module")
def there(place: Place) -> Iterator[Path]:
    """The pipe of `place` on another machine."""
    home = Home()
    try:
        home.create("p", f"file://{place.store}", "owner=stored")
        yield home.mount("p")
    finally:
        home.close()
