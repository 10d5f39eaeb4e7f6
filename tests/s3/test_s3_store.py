"""What only S3 has: credentials, buckets, states of versioning, lifecycle rules, engines."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from pipefs.errors import AccessDenied, NotFound, StoreUnavailable, Unsupported, UsageError
from pipefs.past import lifecycle
from pipefs.stores.opening import open_store, parse_s3_url
from pipefs.stores.retrying import RetryPolicy
from pipefs.stores.s3 import S3Settings, S3Store
from pipefs.stores.s3_multipart import MAX_PARTS, part_size_bytes
from pipefs.stores.wrap import innermost
from tests.seaweed import READER_ACCESS_KEY, READER_SECRET_KEY, SeaweedServer

ENGINES = ["boto3", "obstore"]


@pytest.fixture(params=ENGINES)
def settings(request: pytest.FixtureRequest) -> S3Settings:
    return S3Settings(engine=request.param)


@pytest.fixture
def store(bucket: str, settings: S3Settings) -> Iterator[S3Store]:
    store = S3Store(bucket, "p", settings)
    yield store
    store.close()


def test_wrong_credentials_are_named_as_such(
    bucket: str, settings: S3Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    store = S3Store(bucket, "", settings)
    for call in (
        lambda: store.put("k", b"1"),
        lambda: store.get("k", None, 0, 1),
        lambda: list(store.list()),
        store.probe,
    ):
        with pytest.raises(AccessDenied) as caught:
            call()
        assert "credentials" in caught.value.message


def test_no_credentials_at_all_are_said_without_waiting(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(AccessDenied, match="no usable credentials") as caught:
        S3Store(bucket).put("k", b"1")
    assert "AWS_ACCESS_KEY_ID" in caught.value.hint
    assert "pipefs cred set" in caught.value.hint


def test_unknown_profile_is_a_usage_error(bucket: str) -> None:
    with pytest.raises(UsageError, match='"nowhere"'):
        S3Store(bucket, settings=S3Settings(profile="nowhere"))


def test_missing_bucket_names_bucket_endpoint_and_the_way_out(
    seaweed: SeaweedServer, settings: S3Settings
) -> None:
    store = S3Store("nosuch-bucket", "x", settings)
    for call in (
        lambda: store.put("k", b"1"),
        lambda: store.get("k", None, 0, 1),
        lambda: list(store.list()),
        store.probe,
    ):
        with pytest.raises(NotFound) as caught:
            call()
        assert '"nosuch-bucket"' in caught.value.message
        assert seaweed.endpoint_url in caught.value.message
        assert "s3://nosuch-bucket/x --create-bucket" in caught.value.hint
    assert not store.bucket_exists()


def test_dead_endpoint_is_unavailable_within_the_deadline(
    bucket: str, settings: S3Settings
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        store = open_store(
            f"s3://{bucket}/p",
            endpoint_url=endpoint,
            engine=settings.engine,
            policy=RetryPolicy(deadline_s=0.5),
        )
        for call in (
            lambda: store.put("k", b"1"),
            lambda: store.get("k", None, 0, 1),
            lambda: list(store.list()),
        ):
            with pytest.raises(StoreUnavailable, match=endpoint):
                call()


def test_silent_endpoint_is_unavailable_after_the_read_timeout(
    bucket: str, settings: S3Settings
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        quick = S3Settings(
            engine=settings.engine,
            endpoint_url=f"http://127.0.0.1:{silent.getsockname()[1]}",
            read_timeout_s=0.3,
        )
        store = S3Store(bucket, "", quick)
        for call in (lambda: store.put("k", b"1"), lambda: store.get("k", None, 0, 1)):
            with pytest.raises(StoreUnavailable):
                call()


def test_server_that_throttles_is_asked_again(bucket: str, seaweed: SeaweedServer) -> None:
    """A 503 SlowDown from a real socket, then the real server."""
    answer = (
        b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: 86\r\n"
        b"Connection: close\r\n\r\n<?xml version='1.0'?><Error><Code>SlowDown</Code>"
        b"<Message>Reduce.</Message></Error>     "
    )
    host, port = seaweed.endpoint_url.removeprefix("http://").split(":")
    refusals = 2

    def serve(listener: socket.socket) -> None:
        served = 0
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                request = client.recv(65536)
                if served < refusals:
                    client.sendall(answer)
                else:
                    head = request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
                    with socket.create_connection((host, int(port))) as upstream:
                        upstream.sendall(head)
                        while data := upstream.recv(65536):
                            client.sendall(data)
                served += 1

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        store = open_store(
            f"s3://{bucket}/p",
            endpoint_url=f"http://127.0.0.1:{listener.getsockname()[1]}",
            engine="obstore",
            policy=RetryPolicy(deadline_s=20, throttled_wait_s=0.01),
        )
        with pytest.raises(NotFound):
            store.get("absent", None, 0, 1)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_reader_is_told_that_it_may_not_write_and_still_reads(
    bucket: str, settings: S3Settings, store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("k", b"1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER_ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", READER_SECRET_KEY)
    reader = S3Store(bucket, "p", settings)
    found = reader.probe()
    assert not found.writable
    assert found.versioning
    assert found.detail is not None
    assert "writable" in found.detail
    assert reader.get("k", None, 0, 9) == b"1"
    with pytest.raises(AccessDenied) as caught:
        reader.put("k", b"2")
    assert bucket in caught.value.message


def test_unversioned_bucket_works_and_says_what_is_missing(
    seaweed: SeaweedServer, settings: S3Settings
) -> None:
    store = S3Store(seaweed.make_bucket(versioning=False), "p", settings)
    found = store.probe()
    assert (found.versioning, found.versioning_state, found.writable) == (False, "", True)
    assert found.detail is not None
    assert "snapshots" in found.detail["versioning"]
    made = store.put("k", b"1")
    assert made.version_id is None
    assert store.get("k", None, 0, 9) == b"1"
    for listing in (store.list_versions, store.list_level_versions):
        with pytest.raises(Unsupported, match="no versioning"):
            list(listing())
    assert [v.key for v in store.list()] == ["k"]
    store.enable_versioning()
    assert store.probe().versioning
    new = store.put("k", b"2")
    assert new.version_id
    old = [v for v in store.list_versions("k") if not v.is_latest]
    assert [v.version_id for v in old] == ["null"]
    assert store.get("k", "null", 0, 9) == b"1"


def test_suspended_versioning_is_not_versioning(
    seaweed: SeaweedServer, bucket: str, store: S3Store
) -> None:
    seaweed.client().put_bucket_versioning(
        Bucket=bucket, VersioningConfiguration={"Status": "Suspended"}
    )
    found = store.probe()
    assert (found.versioning, found.versioning_state) == (False, "Suspended")


def test_bucket_is_created_with_versioning_and_twice_is_no_error(
    seaweed: SeaweedServer, settings: S3Settings
) -> None:
    store = S3Store(f"made-{time.time_ns()}", "p", settings)
    assert not store.bucket_exists()
    store.create_bucket()
    store.create_bucket()
    assert store.bucket_exists()
    assert store.probe().versioning


def test_abort_rule_is_added_once_beside_the_others(
    seaweed: SeaweedServer, bucket: str, store: S3Store
) -> None:
    client = seaweed.client()
    client.put_bucket_lifecycle_configuration(
        Bucket=bucket,
        LifecycleConfiguration={
            "Rules": [
                {
                    "ID": "theirs",
                    "Status": "Enabled",
                    "Filter": {"Prefix": "tmp/"},
                    "Expiration": {"Days": 3},
                }
            ]
        },
    )
    assert store.admin.ensure_abort_rule()
    assert not store.admin.ensure_abort_rule()
    rules = client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert [r.get("ID") for r in rules] == ["theirs", "pipefs-abort-incomplete-uploads"]
    assert lifecycle.of(store) == []


def test_metadata_keys_of_rclone_and_s3fs_are_plain_on_the_wire(
    seaweed: SeaweedServer, bucket: str, store: S3Store
) -> None:
    ours = {"mtime": "1700000000.5", "mode": "33188", "uid": "1000", "gid": "1000"}
    store.put("k", b"1", metadata=ours)
    client = seaweed.client()
    assert client.head_object(Bucket=bucket, Key="p/k")["Metadata"] == ours
    client.put_object(
        Bucket=bucket, Key="p/theirs", Body=b"2", Metadata={"Mtime": "5", "Mode": "33152"}
    )
    assert dict(store.head("theirs").metadata) == {"mtime": "5", "mode": "33152"}


def test_metadata_that_s3_cannot_carry_is_refused_before_the_request(store: S3Store) -> None:
    for metadata in ({"Upper": "1"}, {"sp ace": "1"}, {"big": "x" * 3000}):
        with pytest.raises(UsageError):
            store.put("k", b"1", metadata=metadata)
    assert list(store.list()) == []


def test_objects_of_other_prefixes_are_never_seen(
    seaweed: SeaweedServer, bucket: str, store: S3Store
) -> None:
    client = seaweed.client()
    for key in ("p", "p2/k", "other/k", "p/mine"):
        client.put_object(Bucket=bucket, Key=key, Body=b"1")
    assert [v.key for v in store.list()] == ["mine"]
    assert [v.key for v in store.list_versions()] == ["mine"]


def test_checksum_algorithms_are_all_accepted(bucket: str) -> None:
    for name in ("crc64nvme", "crc32c", "crc32", "none"):
        store = S3Store(bucket, name, S3Settings(engine="boto3", checksum=name))
        store.put("k", b"123456789")
        assert store.get("k", None, 0, 99) == b"123456789"
        assert store.probe().checksums == (name != "none")


def test_copy_by_parts_keeps_bytes_metadata_and_conditions(store: S3Store) -> None:
    """The way of objects over 5 GiB, and of servers whose copy ignores conditions."""
    store._conditional_copy = False
    source = store.put("from", b"bytes", metadata={"who": "ü"}, content_type="text/csv")
    store.put("from", b"changed since")
    copied = store.copy(source, "to", if_none_match=True)
    assert store.get("to", copied.version_id, 0, 99) == b"bytes"
    assert dict(store.head("to").metadata) == {"who": "ü"}
    empty = store.put("empty", b"")
    store.copy(empty, "to", if_match=copied.etag)
    assert store.head("to").size == 0


def test_part_size_grows_so_that_ten_thousand_parts_suffice() -> None:
    for size in (0, 17 << 20, 80 << 30, 1 << 40, 48 << 40):
        step = part_size_bytes(size, 8 << 20)
        assert step >= 8 << 20
        assert step % (1 << 20) == 0
        assert -(-size // step) <= MAX_PARTS
        assert step <= 5 << 30


def test_keys_over_1024_bytes_with_the_prefix_are_refused(store: S3Store) -> None:
    with pytest.raises(UsageError):
        store.put("k" * 1023, b"1")
    with pytest.raises(UsageError):
        store.put("", b"1")


def test_urls_are_taken_apart_and_checked() -> None:
    assert parse_s3_url("s3://bucket") == ("bucket", "")
    assert parse_s3_url("s3://bucket/a/b%20c/") == ("bucket", "a/b%20c")
    for url in ("s3://", "s3:///key", "s3://b!d/x", "s3://key:secret@b/x", "s3://b/a//c"):
        with pytest.raises(UsageError):
            parse_s3_url(url)
    with pytest.raises(UsageError):
        open_store("s3://bucket/x", endpoint_url="localhost:9000")
    for bad in ({"engine": "rust"}, {"sse": "x"}, {"kms_key": "k"}, {"addressing": "x"}):
        with pytest.raises(UsageError):
            open_store("s3://bucket/x", **bad)  # type: ignore[arg-type]  # wrong on purpose


def test_auto_engine_uses_obstore_where_it_imports(bucket: str) -> None:
    store = innermost(open_store(f"s3://{bucket}/x"))
    assert isinstance(store, S3Store)
    assert store.engine_name == "obstore"
    assert S3Store(bucket, settings=S3Settings(engine="boto3")).engine_name == "boto3"
