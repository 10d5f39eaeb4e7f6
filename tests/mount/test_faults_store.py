"""The store is away, slow, locked or odd: what a mounted pipe does, and what it says."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mounted import Home, eventually, tree_of
from tests.promises.promised import promise
from tests.seaweed import READER_ACCESS_KEY, READER_SECRET_KEY, SeaweedServer, free_ports
from tests.slowproxy import SlowProxy, slow_proxy

MakeHome = Callable[..., Home]


@pytest.fixture
def proxy(seaweed: SeaweedServer) -> Iterator[SlowProxy]:
    with slow_proxy(seaweed.endpoint_url) as found:
        yield found


@pytest.fixture
def behind(seaweed: SeaweedServer, make_home: MakeHome, proxy: SlowProxy) -> Home:
    """A machine that reaches the server through the proxy only."""
    return make_home({**seaweed.environment(), "AWS_ENDPOINT_URL_S3": proxy.endpoint_url})


def _objects(seaweed: SeaweedServer, bucket: str) -> dict[str, bytes]:
    """Everything but our own folder, as another tool reads it."""
    client = seaweed.client()
    found = client.list_objects_v2(Bucket=bucket, Prefix="p/").get("Contents", [])
    keys = [o["Key"] for o in found if not o["Key"].startswith("p/.pipefs/")]
    return {
        key.removeprefix("p/"): client.get_object(Bucket=bucket, Key=key)["Body"].read()
        for key in keys
    }


# --- away ------------------------------------------------------------------------------------


def test_while_the_store_is_away_the_cache_is_read_and_writes_wait(
    behind: Home, proxy: SlowProxy, seaweed: SeaweedServer, bucket: str
) -> None:
    behind.create("p", f"s3://{bucket}/p")
    root = behind.mount("p")
    (root / "cached").write_bytes(b"known here" * 1000)
    behind.flush("p")
    behind.umount("p")
    proxy.down()
    done = behind.run("mount", "p")
    assert "OFFLINE" in done.stderr
    assert "changes wait here" in done.stderr
    assert proxy.endpoint_url in done.stderr
    assert (root / "cached").read_bytes() == b"known here" * 1000
    (root / "new").write_text("written offline")
    with open(root / "cached", "ab") as file:
        file.write(b"and more")
    (root / "dir").mkdir()
    os.rename(root / "new", root / "dir" / "new")
    shown = behind.run("status", "p").stdout
    assert "OFFLINE since" in shown
    assert "safe to unplug: no (p)" in shown
    status = behind.status("p")
    assert status["state"] == "offline"
    assert status["offline_since"]
    done = behind.run("flush", "p", "--timeout", "1", code=124)
    assert "still going up after 1 s" in done.stderr
    assert "last error" in done.stderr
    proxy.up()
    behind.flush("p")
    assert _objects(seaweed, bucket) == {
        "cached": b"known here" * 1000 + b"and more",
        "dir/new": b"written offline",
    }
    eventually(lambda: behind.status("p")["state"] == "live", "the pipe is online again")
    assert "OFFLINE" not in behind.run("status", "p").stdout


def test_a_store_that_goes_away_under_a_mount_is_told_and_survived(
    behind: Home, proxy: SlowProxy, seaweed: SeaweedServer, bucket: str
) -> None:
    seaweed.client().put_object(Bucket=bucket, Key="p/remote", Body=b"x" * 100)
    behind.create("p", f"s3://{bucket}/p")
    root = behind.mount("p")
    proxy.down()
    (root / "written").write_text("meanwhile")
    eventually(lambda: behind.status("p")["state"] == "offline", "offline is noticed", 40)
    assert sorted(os.listdir(root)) == ["remote", "written"]
    said = behind.run("umount", "p", "--no-wait").stdout
    assert said.startswith("p  unmounted · 1 file (9 B) could not go up; it waits in the outbox")
    proxy.up()
    behind.mount("p")
    behind.flush("p")
    assert _objects(seaweed, bucket)["written"] == b"meanwhile"


def test_an_unknown_tree_needs_the_store_and_the_message_names_it(
    behind: Home, proxy: SlowProxy, bucket: str
) -> None:
    behind.create("p", f"s3://{bucket}/p")
    proxy.down()
    done = behind.run("mount", "p", code=5)
    assert proxy.endpoint_url in done.stderr
    assert behind.mounts() == []
    proxy.up()
    behind.mount("p")


# --- locked ----------------------------------------------------------------------------------


def test_credentials_that_may_only_read_mount_read_only_and_say_so(
    seaweed: SeaweedServer, make_home: MakeHome, bucket: str
) -> None:
    writer = make_home(seaweed.environment())
    writer.create("p", f"s3://{bucket}/p")
    root = writer.mount("p")
    (root / "x").write_text("readable")
    writer.flush("p")
    reader = make_home(
        {
            **seaweed.environment(),
            "AWS_ACCESS_KEY_ID": READER_ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": READER_SECRET_KEY,
        }
    )
    reader.run("create", f"s3://{bucket}/p")
    done = reader.run("mount", "p")
    assert "READ-ONLY" in done.stdout
    path = reader.path("p")
    assert (path / "x").read_text() == "readable"
    with pytest.raises(OSError) as caught:
        (path / "y").write_text("y")
    assert caught.value.errno == errno.EROFS
    assert reader.status("p")["read_only"] is True
    assert reader.status("p")["state"] == "read-only"
    (root / "x").write_text("changed")
    eventually(lambda: (path / "x").read_text() == "changed", "readers follow the log too")
    seaweed.client().put_object(Bucket=bucket, Key="p/tool", Body=b"t")
    reader.run("refresh", "p", "--full")
    assert (path / "tool").read_bytes() == b"t"
    reader.umount("p")


def test_wrong_credentials_at_mount_are_an_error_that_names_them(
    seaweed: SeaweedServer, make_home: MakeHome, bucket: str
) -> None:
    home = make_home(seaweed.environment())
    home.create("p", f"s3://{bucket}/p")
    home.env["AWS_SECRET_ACCESS_KEY"] = "wrong"
    done = home.run("mount", "p", code=5)
    assert "credentials" in done.stderr
    assert home.mounts() == []


def test_credentials_that_expired_are_named_and_new_ones_are_all_it_takes(
    seaweed: SeaweedServer, make_home: MakeHome, bucket: str
) -> None:
    home = make_home(seaweed.environment())
    home.create("p", f"s3://{bucket}/p")
    root = home.mount("p")
    (root / "x").write_text("x")
    home.flush("p")
    home.umount("p")
    good = home.env["AWS_SECRET_ACCESS_KEY"]
    home.kill_all()  # The daemon keeps the environment it was started with.
    home.env["AWS_SECRET_ACCESS_KEY"] = "expired"
    done = home.run("mount", "p", code=5)
    assert "credentials" in done.stderr
    assert home.mounts() == []
    home.kill_all()
    home.env["AWS_SECRET_ACCESS_KEY"] = good
    home.mount("p")
    assert (root / "x").read_text() == "x"


def test_a_bucket_that_is_gone_is_named(
    seaweed: SeaweedServer, make_home: MakeHome, bucket: str
) -> None:
    home = make_home(seaweed.environment())
    done = home.run("create", "q", "s3://no-such-bucket-here/q", code=5)
    assert "no-such-bucket-here" in done.stderr
    assert "--create-bucket" in done.stderr
    home.create("p", f"s3://{bucket}/p")
    client = seaweed.client()
    for version in client.list_object_versions(Bucket=bucket)["Versions"]:
        client.delete_object(Bucket=bucket, Key=version["Key"], VersionId=version["VersionId"])
    client.delete_bucket(Bucket=bucket)
    done = home.run("mount", "p", code=3)
    assert bucket in done.stderr
    assert home.mounts() == []


# --- odd -------------------------------------------------------------------------------------


def test_a_bucket_without_versions_mounts_and_says_what_is_missing(
    seaweed: SeaweedServer, make_home: MakeHome
) -> None:
    bucket = seaweed.make_bucket(versioning=False)
    home = make_home(seaweed.environment())
    home.create("p", f"s3://{bucket}/p")
    done = home.run("mount", "p")
    assert "no versions" in done.stderr
    assert "pipefs doctor p --fix" in done.stderr
    root = home.path("p")
    (root / "x").write_text("one")
    home.flush("p")
    (root / "x").write_text("two")
    (root / "d").mkdir()
    (root / "d" / "y").write_text("y")
    home.flush("p")
    os.rename(root / "d", root / "e")
    home.flush("p")
    assert {k: v for k, v in _objects(seaweed, bucket).items() if not k.endswith("/")} == {
        "x": b"two",
        "e/y": b"y",
    }
    home.umount("p")
    home.mount("p")
    assert (root / "x").read_text() == "two"
    home.run("doctor", "p", "--fix")
    assert seaweed.client().get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"


def test_a_filled_bucket_is_adopted_as_it_is(
    seaweed: SeaweedServer, make_home: MakeHome, bucket: str
) -> None:
    client = seaweed.client()
    for n in range(30):
        client.put_object(Bucket=bucket, Key=f"p/data/{n}.csv", Body=b"%d" % n)
    home = make_home(seaweed.environment())
    done = home.run("create", "p", f"s3://{bucket}/p")
    assert "30" in done.stdout + done.stderr
    root = home.mount("p")
    assert tree_of(root / "data") == {f"{n}.csv": b"%d" % n for n in range(30)}


# --- slow ------------------------------------------------------------------------------------


def test_a_file_reopened_while_it_goes_up_is_never_torn(
    behind: Home, proxy: SlowProxy, seaweed: SeaweedServer, bucket: str
) -> None:
    behind.create("p", f"s3://{bucket}/p", "quiet_period=50ms", "min_version_interval=0s")
    root = behind.mount("p")
    first, second = os.urandom(3 << 20), os.urandom(3 << 20)
    before = proxy.sent
    proxy.bytes_per_s = 1 << 20
    (root / "big").write_bytes(first)
    eventually(lambda: proxy.sent > before + (256 << 10), "the first generation is going up")
    with open(root / "big", "r+b") as file:
        file.write(second[: 1 << 20])
        file.flush()
        # Half of it is the new one now: this state must never become an object.
        file.write(second[1 << 20 :])
    proxy.bytes_per_s = 0
    behind.flush("p")
    client = seaweed.client()
    found = client.list_object_versions(Bucket=bucket, Prefix="p/big")["Versions"]
    bodies = [
        client.get_object(Bucket=bucket, Key="p/big", VersionId=v["VersionId"])["Body"].read()
        for v in found
    ]
    assert second in bodies
    assert all(body in (first, second) for body in bodies)
    assert (root / "big").read_bytes() == second


def test_flush_with_a_timeout_ends_with_124_and_says_what_remains(
    behind: Home, proxy: SlowProxy, bucket: str
) -> None:
    behind.create("p", f"s3://{bucket}/p")
    root = behind.mount("p")
    proxy.bytes_per_s = 256 << 10
    (root / "big").write_bytes(os.urandom(4 << 20))
    done = behind.run("flush", "p", "--timeout", "1", code=124)
    assert "1 change (4 MB) of p is still going up after 1 s" in done.stderr
    proxy.bytes_per_s = 0
    behind.flush("p")


@promise(
    "read-error",
    "A read of bytes that cannot be fetched is `EIO`, and the log says why.",
)
def test_reading_what_cannot_be_fetched_is_an_error_and_no_hang(
    behind: Home, proxy: SlowProxy, seaweed: SeaweedServer, bucket: str
) -> None:
    client = seaweed.client()
    client.put_object(Bucket=bucket, Key="p/gone", Body=b"x" * 1000)
    behind.create("p", f"s3://{bucket}/p")
    root = behind.mount("p")
    for version in client.list_object_versions(Bucket=bucket, Prefix="p/gone")["Versions"]:
        client.delete_object(Bucket=bucket, Key="p/gone", VersionId=version["VersionId"])
    with pytest.raises(OSError) as caught:
        (root / "gone").read_bytes()
    assert caught.value.errno == errno.EIO
    assert "gone" in behind.log()
    behind.run("refresh", "p", "--full")
    assert not Path(root / "gone").exists()


def test_nobody_at_the_endpoint_is_no_traceback(make_home: MakeHome, tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{free_ports(1)[0]}"
    home = make_home(
        {
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
    )
    done = home.run("create", "p", "s3://bucket/p", "--endpoint-url", nobody, code=5)
    assert nobody in done.stderr
