"""Retention beside a mount: what commands say in the log shows there, and a prune harms nothing."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from pathlib import Path

import pytest

from pipefs.past.pruning import prune
from pipefs.stores.local import LocalStore
from tests.kept import later
from tests.mounted import Home, eventually
from tests.pasts import open_past


@pytest.fixture
def folder(home: Home) -> Path:
    """The mount of `sales`, with the snapshots v1 and v2 of three files."""
    home.create("sales")
    mount = home.mount("sales")
    (mount / "d").mkdir()
    for tag in ("v1", "v2"):
        for name in ("a", "b", "d/c"):
            (mount / name).write_text(f"{tag} of {name}")
        home.flush("sales")
        home.run("snapshot", "sales", tag)
    return mount


def shows(mount: Path, name: str) -> bool:
    return (mount / ".snapshots" / name).is_dir()


def test_what_commands_say_about_snapshots_is_seen_on_the_mount(home: Home, folder: Path) -> None:
    home.run("tag", "sales@v1", "best")
    eventually(lambda: shows(folder, "best"), "the new tag shows")
    assert (folder / ".snapshots" / "best" / "a").read_text() == "v1 of a"
    home.run("-y", "forget", "sales@v1")
    eventually(lambda: not shows(folder, "best"), "a forgotten snapshot does not show")
    assert shows(folder, "v2")
    home.run("forget", "sales@v1", "--undo")
    eventually(lambda: shows(folder, "v1"), "it is back")
    home.run("protect", "sales@v1")
    with pytest.raises(PermissionError) as refused:
        os.rmdir(folder / ".snapshots" / "v1")
    assert refused.value.errno == errno.EPERM
    home.run("unprotect", "sales@v1")
    os.rmdir(folder / ".snapshots" / "v1")
    eventually(lambda: not shows(folder, "v1"), "rmdir takes one of its tags away")
    assert shows(folder, "best")
    os.rmdir(folder / ".snapshots" / "best")
    eventually(lambda: not shows(folder, "best"), "rmdir of the last tag forgets")
    home.run("forget", "sales@best", "--undo")
    eventually(lambda: shows(folder, "best"), "and that is undone like any")


def test_a_prune_beside_a_mount_leaves_it_and_its_past_readable(home: Home, folder: Path) -> None:
    for n in range(3):
        (folder / "a").write_text(f"live {n}")
        os.rename(folder / "b", folder / f"b{n}")
        (folder / "b").write_text(f"new {n}")
        home.flush("sales")
    home.run("-y", "forget", "sales@v1")
    store = LocalStore(home.home / "stores" / "sales")
    done = prune(open_past(store), now_ns=later())
    assert done.deleted_versions > 0
    assert len(done.dropped) == 1
    store.close()
    # On a machine that has nothing in its cache.
    home.umount("sales")
    subprocess.run(["rm", "-r", str(home.home / "cache")], check=True)
    home.mount("sales")
    for name in ("a", "b", "d/c"):
        assert (folder / ".snapshots" / "v2" / name).read_text() == f"v2 of {name}"
    assert (folder / "a").read_text() == "live 2"
    assert (folder / "b").read_text() == "new 2"
    assert (folder / "b0").read_text() == "v2 of b"
    assert not shows(folder, "v1")
    home.run("forget", "sales@v1", "--undo", code=3)
    assert json.loads(home.run("check", "sales@v2", "--read-data", "--json").stdout)["whole"]
    home.run("check", "sales")
    home.run("snapshot", "sales", "v3")
    assert "live files" in home.run("prune", "sales").stdout
    assert home.run("du", str(folder / "d")).stdout.startswith("sales/d  1 file, ")
    assert home.run("du", str(folder / ".snapshots" / "v2")).stdout == "sales@v2  3 files, 23 B\n"
