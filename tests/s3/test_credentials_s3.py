"""Stored credentials at work: what reads, what writes, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from pipefs.errors import AccessDenied
from pipefs.stores.opening import open_store
from pipefs.stores.s3_split import SplitS3Store
from pipefs.stores.wrapper import innermost
from pipefs.types import AccessKey, Credentials
from tests.mounted import Home
from tests.seaweed import (
    ACCESS_KEY,
    READER_ACCESS_KEY,
    READER_SECRET_KEY,
    SECRET_KEY,
    SeaweedServer,
)

READER = AccessKey(READER_ACCESS_KEY, READER_SECRET_KEY)
WRITER = AccessKey(ACCESS_KEY, SECRET_KEY)


@pytest.mark.parametrize("engine", ["boto3", "obstore"])
def test_d6_61_each_request_goes_by_its_own_pair(
    seaweed: SeaweedServer, bucket: str, engine: str
) -> None:
    credentials = Credentials(READER, WRITER)
    store = open_store(f"s3://{bucket}/p", engine=engine, credentials=credentials)
    inner = innermost(store)
    assert isinstance(inner, SplitS3Store)
    asked: dict[str, set[str]] = {"reader": set(), "writer": set()}

    def note(side: str) -> Callable[..., None]:
        def noted(model: Any, **_: object) -> None:
            asked[side].add(model.name)

        return noted

    event = "provide-client-params.s3.*"
    inner.client.meta.events.register(event, note("writer"))
    inner.reader.client.meta.events.register(event, note("reader"))
    assert store.probe().writable
    made = store.put("a", b"1234", if_none_match=True)
    assert store.get("a", made.version_id, 1, 2) == b"23"
    assert store.head("a").etag == made.etag
    assert [o.key for o in store.list()] == ["a"]
    store.delete("a")
    assert [v.is_delete_marker for v in store.list_versions()] == [True, False]
    store.close()
    writes = {"PutObject", "DeleteObject"}
    assert not asked["reader"] & writes
    assert "ListObjectVersions" in asked["reader"]
    if engine == "boto3":
        assert "GetObject" in asked["reader"]
        assert not asked["writer"] & {"GetObject", "ListObjectsV2", "ListObjectVersions"}


@pytest.mark.parametrize("key", [READER, WRITER])
def test_d6_61_only_a_pair_for_reading_writes_nothing(
    seaweed: SeaweedServer, bucket: str, key: AccessKey
) -> None:
    seaweed.client().put_object(Bucket=bucket, Key="p/a", Body=b"1")
    store = open_store(f"s3://{bucket}/p", credentials=Credentials(read=key))
    assert not store.probe().writable
    assert store.get("a", None, 0, 9) == b"1"
    for write in (
        lambda: store.put("b", b"2"),
        lambda: store.delete("a"),
        lambda: store.copy(store.head("a"), "c"),
        lambda: store.delete_version("a", "null"),
    ):
        with pytest.raises(AccessDenied, match="only credentials for reading") as caught:
            write()
        assert "cred set NAME --write" in caught.value.hint
    store.close()
    kept = seaweed.client().list_object_versions(Bucket=bucket)
    assert [v["Key"] for v in kept["Versions"]] == ["p/a"]


def test_a_refused_key_is_named(seaweed: SeaweedServer, bucket: str) -> None:
    wrong = AccessKey("AKIAWRONG", "wrong")
    store = open_store(f"s3://{bucket}/p", credentials=Credentials(wrong, wrong))
    with pytest.raises(AccessDenied, match=r"access key AKIAWRONG") as caught:
        store.probe()
    assert "wrong:" not in caught.value.message
    store.close()


def test_d6_61_the_mount_with_a_pair_for_reading_is_read_only(
    make_home: Callable[..., Home], seaweed: SeaweedServer, bucket: str
) -> None:
    """The daemon finds the stored pair itself: no variable of the account is in its environment."""
    seaweed.client().put_object(Bucket=bucket, Key="p/a.csv", Body=b"1,2\n")
    env = {k: v for k, v in seaweed.environment().items() if "KEY" not in k}
    empty = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    home = make_home({**env, **empty})
    creds = home.base / "creds.json"
    pair = {"key": ACCESS_KEY, "secret": SECRET_KEY}
    creds.write_text(json.dumps({"read": pair}))
    home.run("cred", "set", "p", "--from", str(creds))
    home.run("cred", "encrypt")
    home.run("create", "p", f"s3://{bucket}/p")
    done = home.run("mount", "p")
    assert "READ-ONLY" in done.stdout
    path = home.path("p")
    assert (path / "a.csv").read_bytes() == b"1,2\n"
    with pytest.raises(OSError, match="Read-only"):
        (path / "b.csv").write_bytes(b"3\n")
    home.run("umount", "p")
    creds.write_text(json.dumps({"read": pair, "write": pair}))
    home.run("cred", "set", "p", "--from", str(creds))
    path = home.mount("p")
    (path / "b.csv").write_bytes(b"3\n")
    home.flush("p")
    assert seaweed.client().get_object(Bucket=bucket, Key="p/b.csv")["Body"].read() == b"3\n"
