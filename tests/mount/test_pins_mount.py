"""`warm` and `pin` beside a mount: by its worker, into its cache, and read without the store."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from pipefs.blocks import BlockCache
from tests.mounted import Home, eventually
from tests.seaweed import SeaweedServer
from tests.slowproxy import slow_proxy

MIB = 1 << 20


def _turn_over(home: Home) -> None:
    cache = BlockCache(home.home / "cache" / "blocks", limit_bytes=64 * MIB)
    for n in range(150):
        cache.insert(b"other pipe......", n, os.urandom(MIB), block_count=150)
    cache.close()


def _pinned(home: Home) -> tuple[int, int]:
    found = home.status("p")
    return found["pinned_files"], found["pinned_behind"]


def test_pinned_files_follow_and_are_read_with_the_store_gone(
    make_home: Callable[..., Home], seaweed: SeaweedServer, bucket: str
) -> None:
    url, env = f"s3://{bucket}/p", seaweed.environment()
    one = make_home(env)
    one.create("p", url)
    theirs = one.mount("p")
    for name in ("kept", "other"):
        (theirs / name).mkdir()
        (theirs / name / "x").write_bytes(name.encode() * MIB)
    one.flush("p")
    with slow_proxy(seaweed.endpoint_url) as proxy:
        two = make_home({**env, "AWS_ENDPOINT_URL_S3": proxy.endpoint_url})
        two.create("p", url, "cache_limit=64M")
        path = two.mount("p")
        _pin_and_follow(one, two, theirs, path)
        one.umount("p")
        two.umount("p")
        _turn_over(two)
        proxy.down()
        _read_offline(two)


def _pin_and_follow(one: Home, two: Home, theirs: Path, path: Path) -> None:
    two.run("warm", f"{path}/other")
    told = json.loads(two.run("pin", "p/kept", "--json").stdout)
    assert (told["files"], told["fetched_files"]) == (1, 1)
    assert _pinned(two) == (1, 0)
    assert "4 MB pinned" in two.run("status", "p").stdout
    # Another machine writes a new version, and more: what is pinned follows.
    (theirs / "kept" / "x").write_bytes(b"new" * MIB)
    (theirs / "kept" / "y").write_bytes(b"more" * MIB)
    one.flush("p")
    eventually(lambda: _pinned(two) == (2, 0), "the new versions are pinned")
    # So does what this machine writes.
    (path / "kept" / "z").write_bytes(b"own" * MIB)
    two.flush("p")
    eventually(lambda: _pinned(two) == (3, 0), "what was written here is pinned")


def _read_offline(two: Home) -> None:
    path = two.mount("p")
    assert two.status("p")["state"] == "offline"
    assert (path / "kept" / "x").read_bytes() == b"new" * MIB
    assert (path / "kept" / "y").read_bytes() == b"more" * MIB
    assert (path / "kept" / "z").read_bytes() == b"own" * MIB
    assert os.getxattr(path / "kept" / "x", "user.pipefs.cached") == b"100"
    assert os.getxattr(path / "other" / "x", "user.pipefs.cached") == b"0"
    two.run("unpin", "p/kept")
    assert _pinned(two) == (0, 0)
