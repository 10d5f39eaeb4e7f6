"""T4's algorithm reads our snapshots, and we read what it makes.

The releases of `t4` that were looked at (0.0.4, 0.0.6, 0.0.7, 0.1.4) have no snapshots. So the
judge here is what that code did, written anew on plain boto3.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest

from pipefs.foreign import t4
from pipefs.foreign.exports import Source
from pipefs.foreign.found import Foreign
from pipefs.foreign.places import Place
from pipefs.past.opened import Past
from tests.compat.conftest import FILES, overwrite
from tests.foreign import content_of
from tests.seaweed import SeaweedServer

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

FOLDER = ".quilt/snapshots"


def _create(client: S3Client, path: str, message: str) -> str:
    """Snapshot of what begins with `bucket/prefix`; its hash."""
    bucket, _, prefix = path.partition("/")
    contents = {}
    for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Versions", []):
            if item["IsLatest"] and not item["Key"].startswith(FOLDER):
                contents[item["Key"]] = {k: item[k] for k in ("Key", "ETag", "VersionId")}  # type: ignore[literal-required]  # names from a list
    whole = {"contents": contents, "message": message, "path": path}
    body = json.dumps(whole, default=str).encode()
    hashval = hashlib.sha256(body).hexdigest()
    client.put_object(Bucket=bucket, Key=f"{FOLDER}/{hashval}/{prefix}", Body=body)
    return hashval


def _read(client: S3Client, bucket: str, hashval: str) -> tuple[dict[str, bytes], str, str]:
    """(contents by key, the path in the snapshot's own key, message)."""
    listed = client.list_objects_v2(Bucket=bucket, Prefix=f"{FOLDER}/{hashval}")["Contents"]
    assert len(listed) == 1, "ambiguous"
    key = listed[0]["Key"]
    whole = json.loads(client.get_object(Bucket=bucket, Key=key)["Body"].read())
    assert hashlib.sha256(json.dumps(whole).encode()).hexdigest().startswith(hashval)
    contents = {
        k: client.get_object(Bucket=bucket, Key=k, VersionId=v["VersionId"])["Body"].read()
        for k, v in whole["contents"].items()
    }
    return contents, "/".join(key.split("/")[3:]), whole["message"]


@pytest.mark.parametrize("prefix", ["", "team/sales"])
def test_t4_10_t4_finds_every_version_of_a_snapshot_of_ours(
    source: Source, place: Place, prefix: str, seaweed: SeaweedServer
) -> None:
    done = t4.write(source)
    overwrite(place)
    found = _read(seaweed.client(), place.bucket, done.hash[:12])
    assert found == ({place.prefix + p: d for p, d in FILES.items()}, prefix, "as it came")


def test_t4_10_of_the_same_objects_it_is_the_same_snapshot(
    source: Source, place: Place, seaweed: SeaweedServer
) -> None:
    place.root.put("elsewhere", b"")
    done = t4.write(Source(source.view, source.snapshot, source.place, "2026"))
    # T4 takes what begins so: the folder and also the file 2026.csv beside it.
    below = _create(seaweed.client(), f"{place.bucket}/{place.prefix}2026/", "as it came")
    ours = place.root.get(t4.key_of(done.hash, f"{place.prefix}2026"), None, 0, 1 << 20)
    theirs = json.loads(ours)
    theirs["path"] += "/"
    assert hashlib.sha256(json.dumps(theirs).encode()).hexdigest() == below


def test_snapshots_that_t4_took_are_read_by_version(
    past: Past, place: Place, seaweed: SeaweedServer
) -> None:
    client = seaweed.client()
    place.root.put("elsewhere", b"")
    whole = _create(client, f"{place.bucket}/{place.prefix.rstrip('/')}", "all")
    part = _create(client, f"{place.bucket}/{place.prefix}2026", "some")
    overwrite(place)
    foreign = Foreign(place)
    found = {s.hash: foreign.described(s) for s in foreign.refresh()}
    assert {h: (s.path, s.message) for h, s in found.items()} == {
        whole: ("", "all"),
        part: ("2026", "some"),
    }
    assert content_of(place, foreign.view(f"t4-{whole[:7]}")) == FILES
    some = {p: d for p, d in FILES.items() if p.startswith("2026")}
    assert content_of(place, foreign.view(f"t4-{part[:7]}")) == some
