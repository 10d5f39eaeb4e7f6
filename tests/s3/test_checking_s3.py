"""`check` on a real S3 server: multipart ETags, versions without an id, rights."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipefs.past.verifying import Progress, etags_are_md5, verify
from pipefs.stores.base import Store
from pipefs.stores.opening import open_store
from pipefs.stores.s3 import S3Settings, S3Store
from tests import pasts
from tests.kept import Pipe
from tests.seaweed import READER_ACCESS_KEY, READER_SECRET_KEY, SeaweedServer

MIB = 1 << 20


@pytest.fixture
def store(bucket: str) -> Iterator[Store]:
    store = open_store(f"s3://{bucket}/x")
    yield store
    store.close()


@pytest.mark.parametrize("part_mib", [5, 8, 11])
def test_large_files_are_compared_with_the_etag_of_their_parts(
    store: Store, bucket: str, tmp_path: Path, part_mib: int
) -> None:
    from pipefs.stores.base import FileBody

    path = tmp_path / "large"
    path.write_bytes(os.urandom(MIB) * 23 + b"end")
    parts = S3Store(bucket, "x", S3Settings(part_size_bytes=part_mib * MIB))
    with open(path, "rb") as file:
        made = parts.put("large", FileBody(file.fileno(), path.stat().st_size))
        other = parts.put("other", FileBody(file.fileno(), path.stat().st_size - 1))
    parts.close()
    assert "-" in made.etag
    past = pasts.open_past(store)
    line = pasts.Entry(path="large", version=made.version_id, size=made.size, etag=made.etag)
    good = pasts.take(past, [line], tag="good")
    done = Progress()
    assert list(verify(past, good, read_data=True, progress=done)) == []
    assert (done.read, done.unverified) == (made.size, 0)
    # Nothing tells what the bytes are to be where the ETag fits no way of cutting them.
    odd = pasts.Entry(path="large", version=made.version_id, size=made.size, etag=other.etag)
    done = Progress()
    (fault,) = verify(past, pasts.take(past, [odd], tag="odd"), progress=done)
    assert (fault.kind, fault.where) == ("content", "large")


def test_a_version_without_an_id_is_noted(seaweed: SeaweedServer, tmp_path: Path) -> None:
    bucket = seaweed.make_bucket(versioning=False)
    client = seaweed.client()
    client.put_object(Bucket=bucket, Key="x/old", Body=b"null version")
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    pipe = Pipe(tmp_path / "m", open_store(f"s3://{bucket}/x"))
    pipe.machine.reconcile()
    made = pipe.snapshot("v1")
    (fault,) = verify(pipe.past(), made, read_data=True)
    assert (fault.kind, fault.where, fault.note) == ("unpinned", "old", True)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
    client.put_object(Bucket=bucket, Key="x/old", Body=b"in its place")
    kinds = [f.kind for f in verify(pipe.past(), made)]
    assert kinds == ["content", "unpinned"]
    pipe.close()
    pipe.store.close()


def test_who_may_only_read_can_check(
    store: Store, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = Pipe(tmp_path / "m", store)
    pipe.write("a", b"1")
    made = pipe.snapshot("v1")
    assert etags_are_md5(store)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER_ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", READER_SECRET_KEY)
    reader = open_store(f"s3://{bucket}/x")
    assert not etags_are_md5(reader)
    done = Progress()
    past = pasts.open_past(reader)
    assert list(verify(past, past.catalog.snapshots[made.id], read_data=True, progress=done)) == []
    assert (done.read, done.unverified) == (1, 0), "the manifest has its SHA-256"
    reader.close()
    pipe.close()
