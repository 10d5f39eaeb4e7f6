"""What people do all day on a mounted pipe, with the tools they do it with."""

from __future__ import annotations

import asyncio
import errno
import json
import mmap
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipefs.stores.local import LocalStore
from tests.mounted import Home, eventually, tree_of
from tests.promises.promised import promise
from tests.seaweed import SeaweedServer

PACKAGES = [Path(json.__file__).parent, Path(asyncio.__file__).parent]


@dataclass
class Place:
    """A mounted pipe `p` and a look behind it."""

    home: Home
    root: Path
    seaweed: SeaweedServer | None
    bucket: str = ""

    def objects(self, prefix: str) -> dict[str, bytes]:
        """Key below the prefix → bytes, as another tool sees the store."""
        if self.seaweed is None:
            return self._local(prefix)
        client, found = self.seaweed.client(), {}
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=f"p/{prefix}"
        )
        for page in pages:
            for item in page.get("Contents", []):
                body = client.get_object(Bucket=self.bucket, Key=item["Key"])["Body"].read()
                found[item["Key"].removeprefix(f"p/{prefix}")] = body
        return found

    def _local(self, prefix: str) -> dict[str, bytes]:
        store = LocalStore(self.home.home / "stores" / "p")
        try:
            found = {o.key: o for o in store.list(prefix)}
            return {
                key.removeprefix(prefix): store.get(key, None, 0, o.size) if o.size else b""
                for key, o in found.items()
            }
        finally:
            store.close()

    def versions(self, key: str) -> int:
        if self.seaweed is None:
            store = LocalStore(self.home.home / "stores" / "p")
            try:
                return sum(v.key == key for v in store.list_versions(key))
            finally:
                store.close()
        page = self.seaweed.client().list_object_versions(Bucket=self.bucket, Prefix=f"p/{key}")
        return sum(v["Key"] == f"p/{key}" for v in page.get("Versions", []))

    def folder(self, name: str) -> Path:
        """A fresh folder of the mount for one test."""
        path = self.root / name
        path.mkdir()
        return path


@pytest.fixture(scope="module", params=["embedded", "s3", "libfuse"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """The embedded store and a real S3, and the embedded one by the other transport."""
    if request.param != "s3":
        transport = "libfuse" if request.param == "libfuse" else "kernel"
        home, seaweed, bucket = Home(transport=transport), None, ""
    else:
        seaweed = request.getfixturevalue("seaweed")
        assert isinstance(seaweed, SeaweedServer)
        home, bucket = Home(seaweed.environment()), seaweed.make_bucket()
    try:
        home.create("p", f"s3://{bucket}/p" if bucket else "")
        yield Place(home, home.mount("p"), seaweed, bucket)
    finally:
        home.close()


@pytest.fixture(scope="module", params=["kernel", "libfuse"])
def local(request: pytest.FixtureRequest) -> Iterator[Place]:
    """For what does not depend on the store."""
    home = Home(transport=request.param)
    try:
        home.create("p")
        yield Place(home, home.mount("p"), None)
    finally:
        home.close()


def _diff(a: Path, b: Path) -> str:
    done = subprocess.run(
        ["diff", "-r", "--no-dereference", a, b], capture_output=True, text=True, timeout=60
    )
    return done.stdout + done.stderr


# --- trees and tools -------------------------------------------------------------------------


@promise(
    "objects",
    "Each file is one object at its own key, with equal bytes.",
)
def test_a_copied_tree_is_objects_at_their_own_keys_and_comes_back_from_anywhere(
    place: Place,
) -> None:
    source, home = place.home.base / "source", place.home
    for package in PACKAGES:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(package, source / package.name, ignore=ignore)
    target = place.root / "lib"
    subprocess.run(["cp", "-a", source, target], check=True, timeout=60)
    assert _diff(source, target) == ""
    home.flush("p")
    wanted = {k: v for k, v in tree_of(source).items() if v is not None}
    assert place.objects("lib/") == wanted
    home.umount("p")
    home.mount("p")
    assert _diff(source, target) == ""
    home.umount("p")
    shutil.rmtree(home.home / "cache")
    home.mount("p")
    assert _diff(source, target) == ""


def test_rsync_a_second_time_transfers_nothing(place: Place) -> None:
    command = ["rsync", "-a", "--stats", f"{PACKAGES[0]}/", f"{place.root}/rsynced/"]
    first = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    second = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert "files transferred: 0" not in first.stdout
    assert "files transferred: 0" in second.stdout
    place.home.flush("p")
    place.home.umount("p")
    place.home.mount("p")
    third = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert "files transferred: 0" in third.stdout


@promise(
    "save-by-rename",
    "A temporary file that is renamed into place within the quiet period makes one version at "
    "the final key and no object of its own.",
)
def test_an_editors_save_makes_one_version_and_no_temporary_object(place: Place) -> None:
    folder = place.folder("edited")
    (folder / "notes.md").write_text("first")
    place.home.flush("p")
    for text in ("second", "third"):
        temporary = folder / f".notes.md.{text}.swp"
        with open(temporary, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, folder / "notes.md")
    place.home.flush("p")
    assert place.objects("edited/") == {"notes.md": b"third"}
    assert place.versions("edited/notes.md") == 2
    assert os.listdir(folder) == ["notes.md"]


def test_a_new_file_written_by_way_of_a_temporary_one_is_one_object(place: Place) -> None:
    folder = place.folder("fresh")
    (folder / "out.tmp").write_text("result")
    os.rename(folder / "out.tmp", folder / "out")
    place.home.flush("p")
    assert place.objects("fresh/") == {"out": b"result"}
    assert place.versions("fresh/out.tmp") == 0


def test_a_log_that_is_rotated_is_two_files_and_no_conflict(place: Place) -> None:
    folder = place.folder("rotated")
    (folder / "log").write_text("monday")
    eventually(lambda: "log" in place.objects("rotated/"), "it went up")
    # The old name is taken again before the object has followed the rename.
    (folder / "log").rename(folder / "log.1")
    (folder / "log").write_text("tuesday")
    place.home.flush("p")
    assert tree_of(folder) == {"log": b"tuesday", "log.1": b"monday"}
    assert place.objects("rotated/") == {"log": b"tuesday", "log.1": b"monday"}
    assert place.home.status("p")["conflicts"] == 0


def test_vim_saves_in_place(local: Place) -> None:
    folder = local.folder("vim")
    (folder / "a.txt").write_text("hello\n")
    subprocess.run(
        ["vim", "-u", "NONE", "-es", "+%s/hello/goodbye/", "+wq", folder / "a.txt"],
        stdin=subprocess.DEVNULL,
        timeout=30,
        check=False,
    )
    assert (folder / "a.txt").read_text() == "goodbye\n"
    assert os.listdir(folder) == ["a.txt"]


# --- contents --------------------------------------------------------------------------------


def test_appending_cutting_and_holes_arrive_in_the_store(place: Place) -> None:
    folder = place.folder("shapes")
    for line in ("one", "two"):
        subprocess.run(["sh", "-c", f"echo {line} >> {folder}/log"], check=True)
    (folder / "cut").write_bytes(b"0123456789")
    os.truncate(folder / "cut", 4)
    with open(folder / "sparse", "wb") as file:
        file.seek(3 << 20)
        file.write(b"end")
    place.home.flush("p")
    with open(folder / "log", "a") as file:
        file.write("three\n")
    os.truncate(folder / "cut", 6)
    place.home.flush("p")
    wanted = {
        "log": b"one\ntwo\nthree\n",
        "cut": b"0123\0\0",
        "sparse": bytes(3 << 20) + b"end",
    }
    assert place.objects("shapes/") == wanted
    assert tree_of(folder) == wanted


def test_a_change_in_the_middle_of_an_uploaded_file_keeps_the_rest(place: Place) -> None:
    folder = place.folder("middle")
    data = bytearray(os.urandom(5 << 20))
    (folder / "big").write_bytes(data)
    place.home.flush("p")
    with open(folder / "big", "r+b") as file:
        file.seek((2 << 20) + 17)
        file.write(b"changed")
    data[(2 << 20) + 17 : (2 << 20) + 24] = b"changed"
    assert (folder / "big").read_bytes() == data
    place.home.flush("p")
    assert place.objects("middle/")["big"] == data


def test_a_numpy_memmap_is_written_and_read_back(place: Place) -> None:
    path = place.folder("mapped") / "a.npy"
    array = np.lib.format.open_memmap(path, mode="w+", dtype="int64", shape=(300_000,))
    array[:] = np.arange(300_000)
    array.flush()
    del array
    place.home.flush("p")
    again = np.lib.format.open_memmap(path, mode="r+")
    assert again[123_456] == 123_456
    again[7] = -1
    again.flush()
    del again
    place.home.flush("p")
    place.home.umount("p")
    place.home.mount("p")
    found = np.load(path, mmap_mode="r")
    assert found[7] == -1
    assert int(found[8:].sum()) == sum(range(8, 300_000))
    del found
    assert place.objects("mapped/")["a.npy"] == path.read_bytes()


def test_a_shared_mapping_is_seen_by_ordinary_readers(local: Place) -> None:
    path = local.folder("shared") / "m"
    path.write_bytes(bytes(8192))
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 8192) as mapped:
        mapped[4096:4101] = b"hello"
        mapped.flush()
        assert path.read_bytes()[4096:4101] == b"hello"


def test_pandas_reads_and_writes_on_the_mount(place: Place) -> None:
    folder = place.folder("pandas")
    frame = pd.DataFrame({"n": range(20_000), "name": [f"row {i}" for i in range(20_000)]})
    frame.to_csv(folder / "a.csv", index=False)
    frame.to_parquet(folder / "a.parquet")
    frame.head(10).to_csv(folder / "a.csv", mode="a", header=False, index=False)
    place.home.flush("p")
    place.home.umount("p")
    place.home.mount("p")
    assert len(pd.read_csv(folder / "a.csv")) == 20_010
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "a.parquet"), frame)
    (folder / "a.parquet").unlink()
    frame.tail(5).to_parquet(folder / "a.parquet")
    assert pd.read_parquet(folder / "a.parquet")["n"].tolist() == list(range(19_995, 20_000))


# --- names and directories -------------------------------------------------------------------

ODD_NAMES = [
    "with spaces and 'quotes'",
    "überraschung-日本語-🎈",
    "%41 is not A",
    "new\nline",
    "trailing.",
    "-dash",
    "*?[x]",
    "back\\slash",
]


def test_odd_names_come_back_as_they_were(place: Place) -> None:
    folder = place.folder("odd")
    # SeaweedFS keeps versions in a folder NAME.versions of its own, so its names are shorter.
    longest = 255 if place.seaweed is None else 240
    names = [os.fsencode(n) for n in [*ODD_NAMES, "n" * longest, "ü" * (longest // 2)]]
    names.append(b"not \xff utf-8")
    for number, name in enumerate(names):
        Path(folder, os.fsdecode(name)).write_text(str(number))
    assert sorted(os.listdir(os.fsencode(folder))) == sorted(names)
    place.home.flush("p")
    place.home.umount("p")
    shutil.rmtree(place.home.state("p"))
    place.home.mount("p")
    assert sorted(os.listdir(os.fsencode(folder))) == sorted(names)
    for number, name in enumerate(names):
        assert Path(folder, os.fsdecode(name)).read_text() == str(number)


def test_a_name_of_256_bytes_is_too_long(local: Place) -> None:
    with pytest.raises(OSError) as caught:
        (local.root / ("n" * 256)).write_text("x")
    assert caught.value.errno == errno.ENAMETOOLONG


@pytest.mark.parametrize("local", ["kernel"], indirect=True)  # long, and no matter of transport
def test_a_thousand_files_are_listed_once_each(local: Place) -> None:
    folder = local.folder("many")
    names = {f"file-{n:04}" for n in range(1000)}
    for name in names:
        (folder / name).touch()
    with os.scandir(folder) as entries:
        found = [(e.name, e.is_file(), e.stat().st_size) for e in entries]
    assert len(found) == 1000
    assert {name for name, _, _ in found} == names
    assert {(is_file, size) for _, is_file, size in found} == {(True, 0)}
    # Removing while listing, as `rm -r` does, misses none.
    subprocess.run(["rm", "-r", folder], check=True, timeout=60)
    assert not folder.exists()


def test_walking_finds_the_hidden_and_the_nested_and_no_snapshots(local: Place) -> None:
    folder = local.folder("walked")
    (folder / "a/b/c").mkdir(parents=True)
    (folder / "a/b/.hidden").write_text("h")
    (folder / "a/b/c/deep").write_text("d")
    assert set(tree_of(folder)) == {"a", "a/b", "a/b/c", "a/b/.hidden", "a/b/c/deep"}


@promise(
    "markers",
    "A directory that stays empty for the quiet period gets a marker object.",
)
def test_an_empty_directory_gets_a_marker_and_keeps_it(place: Place) -> None:
    place.folder("empty")
    eventually(lambda: "" in place.objects("empty/"), "the marker is in the store")
    (place.root / "empty" / "x").write_text("x")
    place.home.flush("p")
    assert place.objects("empty/") == {"": b"", "x": b"x"}


def test_statfs_shows_free_space_and_what_is_used(local: Place) -> None:
    found = os.statvfs(local.root)
    assert found.f_bavail > 0
    assert found.f_blocks >= found.f_bavail
    assert found.f_namemax >= 255
    done = subprocess.run(["df", local.root], check=True, capture_output=True, text=True)
    assert str(local.root) in done.stdout


@promise(
    "unlink-store",
    "The object of a removed file is deleted after it, and handles here go on with its bytes.",
)
def test_an_unlinked_file_keeps_its_data_while_it_is_open(place: Place) -> None:
    path = place.folder("unlinked") / "x"
    path.write_bytes(b"abc" * 1000)
    place.home.flush("p")
    with open(path, "r+b") as file:
        path.unlink()
        assert not path.exists()
        file.seek(0, os.SEEK_END)
        file.write(b"more")
        file.seek(0)
        assert file.read() == b"abc" * 1000 + b"more"
    place.home.flush("p")
    assert "x" not in place.objects("unlinked/")


def test_the_usual_errors_are_the_usual_errors(local: Place) -> None:
    folder = local.folder("errors")
    (folder / "file").write_text("x")
    (folder / "full/sub").mkdir(parents=True)
    for attempt, code in [
        (lambda: (folder / "nothing").read_text(), errno.ENOENT),
        (lambda: (folder / "file" / "x").read_text(), errno.ENOTDIR),
        (lambda: (folder / "full").rmdir(), errno.ENOTEMPTY),
        (lambda: (folder / "file").mkdir(), errno.EEXIST),
        (lambda: (folder / "full").write_text("x"), errno.EISDIR),
        (lambda: os.rename(folder / "full", folder / "full/sub/x"), errno.EINVAL),
        (lambda: os.rename(folder / "file", folder / "full"), errno.EISDIR),
        (lambda: os.open(folder / "file", os.O_CREAT | os.O_EXCL), errno.EEXIST),
    ]:
        with pytest.raises(OSError) as caught:
            attempt()
        assert caught.value.errno == code


# --- what the mount says -----------------------------------------------------------------------


@promise(
    "read-only",
    "On a mount with `--read-only` every change is `EROFS`, and everything can be read.",
)
def test_a_read_only_mount_says_erofs_to_every_change(local: Place) -> None:
    folder = local.folder("frozen")
    (folder / "x").write_text("x")
    local.home.flush("p")
    local.home.umount("p")
    try:
        local.home.run("mount", "p", "--read-only")
        for attempt in (
            lambda: (folder / "x").write_text("y"),
            lambda: (folder / "y").touch(),
            lambda: (folder / "d").mkdir(),
            lambda: (folder / "x").unlink(),
            lambda: (folder / "x").rename(folder / "z"),
            lambda: (folder / "x").chmod(0o600),
            lambda: os.utime(folder / "x"),
            lambda: os.symlink("x", folder / "l"),
        ):
            with pytest.raises(OSError) as caught:
                attempt()
            assert caught.value.errno == errno.EROFS
        assert (folder / "x").read_text() == "x"
    finally:
        local.home.umount("p")
        local.home.mount("p")


def test_extended_attributes_tell_state_and_keep_the_users_own(local: Place) -> None:
    path = local.folder("attributes") / "x"
    path.write_text("x")
    os.setxattr(path, "user.note", b"mine")
    local.home.flush("p")
    assert os.getxattr(path, "user.pipefs.state") == b"clean"
    assert os.listxattr(path) == ["user.note"]
    local.home.umount("p")
    local.home.mount("p")
    assert os.getxattr(path, "user.note") == b"mine"
    with open(path, "a") as file:
        file.write("y")
        file.flush()
        assert os.getxattr(path, "user.pipefs.state") == b"dirty"


def test_targets_in_the_mount_work_where_the_user_stands(local: Place) -> None:
    folder = local.folder("here")
    (folder / "x").write_text("x")
    done = subprocess.run(
        [sys.executable, "-m", "pipefs.cli.main", "flush", "."],
        cwd=folder,
        env=local.home.env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("p/here  all saved")
    assert local.objects("here/")["x"] == b"x"
