"""Full disks and lost events: writers hear of it, readers do not, nothing half goes up."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted import Home, eventually, small_disk, tree_of
from tests.promises.promised import promise
from tests.seaweed import SeaweedServer

QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")


@pytest.fixture
def s3(seaweed: SeaweedServer, bucket: str) -> Iterator[Home]:
    """A machine whose pipe is in SeaweedFS, so that its disk holds only cache and state."""
    home = Home(seaweed.environment())
    try:
        home.create("p", f"s3://{bucket}/p")
        yield home
    finally:
        home.close()


def _bodies(seaweed: SeaweedServer, bucket: str, key: str) -> list[bytes]:
    """Every version of a file, as another tool reads it."""
    client = seaweed.client()
    found = client.list_object_versions(Bucket=bucket, Prefix=f"p/{key}").get("Versions", [])
    return [
        client.get_object(Bucket=bucket, Key=v["Key"], VersionId=v["VersionId"])["Body"].read()
        for v in found
    ]


def test_reads_go_on_uncached_when_the_cache_disk_is_full(
    s3: Home, seaweed: SeaweedServer, bucket: str
) -> None:
    data = os.urandom(8 << 20)
    seaweed.client().put_object(Bucket=bucket, Key="p/big", Body=data)
    with small_disk(s3.home / "cache", "4m") as disk:
        (disk / "ballast").write_bytes(bytes(3 << 20))
        root = s3.mount("p")
        assert (root / "big").read_bytes() == data
        # And what is written goes up all the same.
        (root / "new").write_bytes(data[: 2 << 20])
        s3.flush("p")
        assert _bodies(seaweed, bucket, "new") == [data[: 2 << 20]]
        s3.umount("p")
        s3.kill_all()


@promise(
    "no-space",
    "A full staging disk is `ENOSPC` to the writer, and nothing half-written goes up.",
)
def test_a_full_staging_disk_is_enospc_and_nothing_half_written_goes_up(
    s3: Home, seaweed: SeaweedServer, bucket: str
) -> None:
    with small_disk(s3.state("p"), "48m") as disk:
        root = s3.mount("p")
        (root / "small").write_bytes(b"saved")
        s3.flush("p")
        ballast = disk / "ballast"
        free = os.statvfs(disk).f_bavail * 4096
        ballast.write_bytes(bytes(max(0, free - (3 << 20))))
        with pytest.raises(OSError) as caught, open(root / "large", "wb", buffering=0) as file:
            for _ in range(16):
                assert file.write(os.urandom(1 << 20)) == 1 << 20
        assert caught.value.errno == errno.ENOSPC
        (root / "large").unlink()
        assert (root / "small").read_bytes() == b"saved"
        ballast.unlink()
        data = os.urandom(5 << 20)
        (root / "large").write_bytes(data)
        s3.flush("p")
        assert _bodies(seaweed, bucket, "large") == [data]
        s3.umount("p")
        s3.kill_all()


def test_the_staging_limit_is_enospc_until_the_outbox_is_up(home: Home) -> None:
    home.create("p", "", "staging_limit=4M", "quiet_period=1h")
    root = home.mount("p")
    (root / "a").write_bytes(os.urandom(5 << 20))
    with pytest.raises(OSError) as caught:
        (root / "b").write_bytes(b"x")
    assert caught.value.errno == errno.ENOSPC
    home.flush("p")
    (root / "b").write_bytes(b"x")
    home.flush("p")
    assert sorted(tree_of(root)) == ["a", "b"]


def test_an_overflowing_inotify_queue_loses_no_upload(home: Home) -> None:
    home.create("p", "", "quiet_period=100ms")
    before = QUEUE.read_text()
    QUEUE.write_text("2")
    try:
        root = home.mount("p")
        for n in range(300):
            (root / f"f{n}").write_bytes(b"%d" % n)
            if n % 3 == 0:
                with open(root / f"f{n}", "ab") as file:
                    file.write(b" again")
        # By itself, without anybody flushing.
        eventually(lambda: home.status("p")["dirty_files"] == 0, "everything goes up", 60)
    finally:
        QUEUE.write_text(before)
    home.umount("p")
    home.mount("p")
    assert tree_of(root) == {
        f"f{n}": b"%d" % n + (b" again" if n % 3 == 0 else b"") for n in range(300)
    }
