"""What a bucket may not choose on this machine, and what is not made anew when it is missing."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from pipefs import descriptor
from pipefs.client import NotRunning, SupervisorClient
from pipefs.config import check_options, travelling
from pipefs.errors import StoreError, UsageError
from pipefs.folder.places import folder_of
from pipefs.home import resolve_home
from pipefs.registry import Registry
from pipefs.stores.base import Capabilities
from pipefs.stores.local import LocalStore
from pipefs.types import AccessKey, Credentials
from tests.replicas import replica_of

Run = Callable[..., Result]

READ_ONLY = Capabilities(
    versioning=True,
    conditional_put=True,
    conditional_multipart=True,
    conditional_delete=True,
    checksums=True,
    writable=False,
)
OUTSIDE = ["/etc", "~", "~/.ssh", "../x", "a/../../x", "..", "..\\x", "C:\\x", "\\\\host\\x"]


def _hostile(folder: Path, place: object) -> None:
    """A bucket whose owner would like files to land in `place`."""
    body = {"name": "a", "pipe_id": "1", "options": {"dir": place, "include": ["*.csv"]}}
    store = LocalStore(folder)
    store.put(".pipefs/pipe.json", json.dumps(body).encode())
    store.put("authorized_keys", b"ssh-rsa mallory")
    store.close()


@pytest.mark.parametrize("place", OUTSIDE)
def test_d6_50_a_bucket_does_not_choose_a_folder_of_this_machine(
    run: Run, tmp_path: Path, place: str
) -> None:
    _hostile(tmp_path / "theirs", place)
    done = run("create", (tmp_path / "theirs").as_uri())
    assert f"asks for dir={place}" in done.stderr
    assert "pipefs set a dir=" in done.stderr
    home = resolve_home(env={"PIPEFS_HOME": str(tmp_path / "home")})
    pipe = Registry(home).get("a")
    assert pipe.options == {"include": ["*.csv"]}  # the rest is adopted
    assert folder_of(home, pipe) == tmp_path / "home" / "pipes" / "a"
    store = LocalStore(tmp_path / "theirs")
    kept = descriptor.update_descriptor(store, {"dir": place, "include": ["*"]})
    assert kept is not None
    found = json.loads(store.get(".pipefs/pipe.json", None, 0, 1 << 20))
    store.close()
    assert (found["options"], "refused" in found) == ({"include": ["*"]}, False)


@pytest.mark.parametrize("place", OUTSIDE)
def test_d6_50_no_such_folder_travels(place: str) -> None:
    assert travelling({"dir": place, "include": ["*"]}) == {"include": ["*"]}
    if not place.startswith(("/", "~")):
        with pytest.raises(UsageError, match="dir="):
            check_options({"dir": place})


def test_d6_50_this_machine_may_name_any_folder_and_the_others_keep_theirs(
    run: Run, tmp_path: Path
) -> None:
    run("create", "a", (tmp_path / "s").as_uri(), "-o", "dir=data/2026")
    run("set", "a", f"dir={tmp_path / 'mine'}")
    home = resolve_home(env={"PIPEFS_HOME": str(tmp_path / "home")})
    assert folder_of(home, Registry(home).get("a")) == tmp_path / "mine"
    store = LocalStore(tmp_path / "s")
    found = descriptor.read_descriptor(store)
    store.close()
    assert found is not None
    assert found.options == {"dir": "data/2026"}


# --- a store whose folder is missing ----------------------------------------------------------


@pytest.fixture
def unplugged(run: Run, tmp_path: Path) -> Path:
    """A pipe with files on a disk that is not plugged in now."""
    disk = tmp_path / "disk"
    run("create", "a", (disk / "store").as_uri())
    (tmp_path / "x.csv").write_text("1\n")
    run("put", str(tmp_path / "x.csv"), "a/")
    (tmp_path / "home" / "pipes" / "a").mkdir(parents=True)
    (tmp_path / "home" / "pipes" / "a" / "mine.csv").write_text("2\n")
    disk.rename(tmp_path / "unplugged")
    return disk


@pytest.mark.parametrize(
    "words",
    [
        "ls a",
        "cat a/x.csv",
        "put x.csv a/",
        "snapshot a v1",
        "search a x",
        "rm a/x.csv",
        "pull a",
        "push a",
        "docs a",
        "-y remove a --purge",
    ],
)
def test_a_missing_store_is_never_made_anew(run: Run, unplugged: Path, words: str) -> None:
    words = words.replace("x.csv a/", f"{unplugged.parent / 'x.csv'} a/")
    done = run(*words.split(), code=5)
    assert f"the folder {unplugged / 'store'} is not there" in done.stderr
    assert "Plug in" in done.stderr
    assert "pipefs create" in done.stderr
    assert not unplugged.exists()


def test_a_mount_of_a_missing_store_is_refused(run: Run, unplugged: Path) -> None:
    client = SupervisorClient(resolve_home(env={"PIPEFS_HOME": str(unplugged.parent / "home")}))
    try:
        assert "is not there" in run("mount", "a", code=5).stderr
        assert client.mounts_or_none() == []
    finally:
        with contextlib.suppress(NotRunning):
            client.shutdown()
    assert not unplugged.exists()


def test_the_empty_folder_of_an_unplugged_disk_is_no_store(run: Run, unplugged: Path) -> None:
    (unplugged / "store").mkdir(parents=True)
    assert "holds no store" in run("ls", "a", code=5).stderr
    assert not any((unplugged / "store").iterdir())
    shutil.rmtree(unplugged)
    (unplugged.parent / "unplugged").rename(unplugged)
    assert "x.csv" in run("ls", "a").stdout


def test_what_is_given_up_is_made_anew_by_create(run: Run, unplugged: Path) -> None:
    run("-y", "remove", "a")
    run("create", "a", (unplugged / "store").as_uri())
    assert run("ls", "a").stdout == ""


# --- what a store was found to be able to do --------------------------------------------------


def test_what_may_be_written_is_asked_again_when_the_keys_change(tmp_path: Path) -> None:
    replica = replica_of(tmp_path / "home", tmp_path / "store")
    reader = AccessKey("AKIAREADER", "secret")

    def stored(keys: Credentials | None) -> bool:
        """What a new process believes of the pipe, once it is known to be read-only."""
        object.__setattr__(replica.pipe, "kept", lambda: keys)
        replica._capabilities = None
        return replica.capabilities.writable

    object.__setattr__(replica.pipe, "kept", lambda: Credentials(read=reader))
    replica._write_capabilities(READ_ONLY)
    assert not stored(Credentials(read=reader))
    assert stored(Credentials(read=reader, write=reader))
    replica._write_capabilities(READ_ONLY)
    assert stored(Credentials(write=reader))
    replica._write_capabilities(READ_ONLY)
    assert stored(None)
    replica.close()


def test_that_nothing_may_be_written_is_believed_for_minutes_only(tmp_path: Path) -> None:
    replica = replica_of(tmp_path / "home", tmp_path / "store")
    replica._write_capabilities(READ_ONLY)
    assert not replica.capabilities.writable
    os.utime(replica.folder / "capabilities.json", (time.time() - 400,) * 2)
    replica._capabilities = None
    assert replica.capabilities.writable
    replica.close()


def test_the_api_says_the_same_of_a_missing_store(tmp_path: Path) -> None:
    replica = replica_of(tmp_path / "home", tmp_path / "gone")
    (tmp_path / "gone").rename(tmp_path / "away")
    with pytest.raises(StoreError, match="is not there"), replica.opened():
        pass
    assert not (tmp_path / "gone").exists()
    (tmp_path / "away").rename(tmp_path / "gone")
    with replica.opened() as now:  # it is back, and is the store that it was
        assert list(now.walk()) == []
    replica.close()
