"""Copies and sparse files by everyday tools, on a mount whose store is a real S3 server.

What fallocate, lseek and copy_file_range answer in detail is in tests/promises.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mounted import Home
from tests.promises.promised import promise
from tests.seaweed import SeaweedServer
from tests.slowproxy import SlowProxy, slow_proxy

MIB = 1 << 20
BIG = 4 * MIB + 345


@dataclass(frozen=True)
class Place:
    home: Home
    root: Path
    server: SeaweedServer
    bucket: str
    proxy: SlowProxy

    def flush(self) -> None:
        self.home.flush("p")

    def staged(self) -> int:
        """Bytes of disk that staging files take."""
        folder = self.home.state("p") / "staging"
        return sum(f.stat().st_blocks * 512 for f in folder.glob("*.data"))

    def object(self, name: str) -> tuple[bytes, dict[str, str]]:
        found = self.server.client().get_object(Bucket=self.bucket, Key=f"p/{name}")
        return found["Body"].read(), found["Metadata"]


def run(*words: str | Path) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture(scope="module")
def place(seaweed: SeaweedServer) -> Iterator[Place]:
    with slow_proxy(seaweed.endpoint_url) as proxy:
        home = Home(seaweed.environment() | {"AWS_ENDPOINT_URL_S3": proxy.endpoint_url})
        bucket = seaweed.make_bucket()
        try:
            home.create("p", f"s3://{bucket}/p")
            yield Place(home, home.mount("p"), seaweed, bucket, proxy)
        finally:
            home.close()


@promise(
    "copies",
    "A copy (`cp`) of a whole file that is in the store takes no disk and moves no bytes.",
)
def test_cp_of_a_large_file_uses_no_disk_and_sends_no_bytes(place: Place) -> None:
    data = noise(BIG, 1)
    source, copy = place.root / "big", place.root / "copy"
    source.write_bytes(data)
    place.flush()
    before = place.proxy.sent
    run("cp", source, copy)
    copy.chmod(0o640)
    assert (copy.stat().st_size, place.staged() < MIB) == (BIG, True)
    assert copy.read_bytes() == data
    place.flush()
    assert place.proxy.sent - before < MIB
    body, metadata = place.object("copy")
    assert (body == data, metadata["mode"]) == (True, str(0o100640))
    assert copy.read_bytes() == data


def test_a_copy_can_be_written_and_keeps_the_rest_of_its_source(place: Place) -> None:
    data = noise(BIG, 2)
    source, copy = place.root / "source", place.root / "changed"
    source.write_bytes(data)
    place.flush()
    run("cp", source, copy)
    with copy.open("r+b") as file:
        file.seek(2 * MIB + 1)
        file.write(b"changed")
    source.write_bytes(b"something else")
    wanted = data[: 2 * MIB + 1] + b"changed" + data[2 * MIB + 8 :]
    assert copy.read_bytes() == wanted
    place.flush()
    assert (place.object("changed")[0] == wanted, copy.read_bytes() == wanted) == (True, True)


def test_a_copy_that_is_not_up_yet_survives_kill_9(place: Place) -> None:
    data = noise(BIG, 3)
    source, copy = place.root / "origin", place.root / "left"
    source.write_bytes(data)
    place.flush()
    before = place.proxy.sent
    run("cp", source, copy)
    source.unlink()
    place.home.kill_all()
    place.home.run("mount", "p")
    assert copy.read_bytes() == data
    place.flush()
    assert place.object("left")[0] == data
    assert place.proxy.sent - before < MIB


def test_cp_tar_and_rsync_keep_holes_and_bytes(place: Place, tmp_path: Path) -> None:
    """Before the file is in the store, and after."""
    sparse = place.root / "sparse"
    with sparse.open("wb") as file:
        for offset in (0, 3 * MIB, 8 * MIB):
            file.seek(offset)
            file.write(noise(64 << 10, offset))
        file.truncate(11 * MIB)
    wanted = sparse.read_bytes()
    for when in ("local", "stored"):
        out = tmp_path / when
        out.mkdir()
        run("cp", "--sparse=auto", sparse, out / "cp")
        run("rsync", "-S", sparse, out / "rsync")
        run("tar", "-C", place.root, "-cSf", out / "tar", "sparse")
        run("tar", "-C", out, "-xSf", out / "tar")
        for name in ("cp", "rsync", "sparse"):
            assert (out / name).read_bytes() == wanted, (when, name)
        assert (out / "rsync").stat().st_blocks * 512 < 2 * MIB
        if when == "local":
            assert sparse.stat().st_blocks * 512 < MIB
            assert (out / "cp").stat().st_blocks * 512 < MIB
            assert (out / "tar").stat().st_size < MIB
        place.flush()
    inside = place.root / "inside"
    run("cp", "--sparse=always", sparse, inside)
    assert inside.read_bytes() == wanted
    place.flush()
    assert place.object("inside")[0] == wanted


def test_a_copy_of_a_file_that_is_being_changed_takes_its_present_bytes(place: Place) -> None:
    source, copy = place.root / "open", place.root / "of-open"
    source.write_bytes(noise(BIG, 4))
    place.flush()
    with source.open("r+b", buffering=0) as file:
        file.write(b"new")
        run("cp", source, copy)
        assert copy.read_bytes() == source.read_bytes() == b"new" + noise(BIG, 4)[3:]
        file.seek(9)
        file.write(b"later")
    place.flush()
    assert place.object("of-open")[0] == b"new" + noise(BIG, 4)[3:]


def test_a_file_of_a_tebibyte_is_made_and_listed_at_once(place: Place) -> None:
    huge = place.root / "huge"
    fd = os.open(huge, os.O_RDWR | os.O_CREAT)
    try:
        os.ftruncate(fd, 1 << 40)
        os.pwrite(fd, b"end", (1 << 40) - 3)
        assert run("stat", "-c", "%s", huge).strip() == str(1 << 40)
        assert os.lseek(fd, 0, os.SEEK_DATA) >= (1 << 40) - MIB
        assert os.fstat(fd).st_blocks * 512 < MIB
    finally:
        os.ftruncate(fd, 0)
        os.close(fd)
        huge.unlink()
