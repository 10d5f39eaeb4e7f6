"""What a policy allows, against the requests that are really sent."""

from __future__ import annotations

import fnmatch
import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipefs.cli.main import cli
from pipefs.past import pruning
from pipefs.past.lifecycle import dangerous_rules
from pipefs.past.locking import hold
from pipefs.permissions import policy_for
from pipefs.stores.base import FileBody, Store
from pipefs.stores.s3 import S3Settings, S3Store
from pipefs.stores.wrap import RetryStore
from pipefs.types import ObjectVersion
from tests.kept import Pipe, later
from tests.seaweed import SeaweedServer

PREFIX = "team/sales"

ACTIONS = {
    "HeadObject": "s3:GetObject",
    "GetObject": "s3:GetObject",
    "ListObjectsV2": "s3:ListBucket",
    "ListObjectVersions": "s3:ListBucketVersions",
    "CopyObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "UploadPartCopy": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "GetObjectLockConfiguration": "s3:GetBucketObjectLockConfiguration",
    "GetBucketLifecycleConfiguration": "s3:GetLifecycleConfiguration",
    "PutBucketLifecycleConfiguration": "s3:PutLifecycleConfiguration",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
}
WITH_VERSION = {
    "s3:GetObject": "s3:GetObjectVersion",
    "DeleteObject": "s3:DeleteObjectVersion",
}


@pytest.fixture
def run(tmp_path: Path, seaweed: SeaweedServer) -> Callable[..., Result]:
    def go(*words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(cli, words, env={"PIPEFS_HOME": str(tmp_path / "home")})
        assert done.exit_code == code, (words, done.stdout, done.stderr)
        return done

    return go


@pytest.fixture
def locked_bucket(seaweed: SeaweedServer) -> str:
    """A bucket with Object Lock."""
    name = f"lock-{uuid.uuid4().hex[:12]}"
    seaweed.client().create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    return name


class Recorded:
    """Requests of a boto3 client, as IAM sees them."""

    def __init__(self, store: S3Store) -> None:
        self.asked: set[tuple[str, str, str]] = set()
        """(action, resource, prefix listed)"""
        store.client.meta.events.register("provide-client-params.s3.*", self._note)

    def _note(self, params: dict[str, Any], model: Any, **_: object) -> None:
        name, bucket = model.name, params["Bucket"]
        action = ACTIONS.get(name, f"s3:{name}")
        arn = f"arn:aws:s3:::{bucket}"
        key = params.get("Key")
        if name == "DeleteObjects":
            for one in params["Delete"]["Objects"]:
                self.asked.add(("s3:DeleteObjectVersion", f"{arn}/{one['Key']}", ""))
            return
        if params.get("VersionId"):
            action = WITH_VERSION.get(action, WITH_VERSION.get(name, action))
        self.asked.add((action, f"{arn}/{key}" if key else arn, params.get("Prefix", "")))
        source = params.get("CopySource")
        if source:
            read = "s3:GetObjectVersion" if source.get("VersionId") else "s3:GetObject"
            self.asked.add((read, f"{arn}/{source['Key']}", ""))


def allows(policy: dict[str, Any], action: str, resource: str, prefix: str) -> bool:
    """Whether a policy document allows a request. As IAM: `*` matches any characters."""
    for one in policy["Statement"]:
        resources = one["Resource"] if isinstance(one["Resource"], list) else [one["Resource"]]
        wanted = one.get("Condition", {}).get("StringLike", {}).get("s3:prefix", ["*"])
        if (
            action in one["Action"]
            and any(fnmatch.fnmatchcase(resource, r) for r in resources)
            and any(fnmatch.fnmatchcase(prefix, p) for p in wanted)
        ):
            return True
    return False


def read_all(store: Store) -> None:
    for item in list(store.list("")):
        store.get(item.key, None, 0, 10)
    for version in list(store.list_versions("")):
        if not version.is_delete_marker:
            store.get(version.key, version.version_id, 0, 10)
            store.head(version.key, version.version_id)
    store.list_dirs("")
    dangerous_rules(store)
    store.has_object_lock()


def test_d6_68_a_policy_allows_what_its_role_does_and_no_more(
    locked_bucket: str, tmp_path: Path
) -> None:
    inner = S3Store(locked_bucket, PREFIX, S3Settings(engine="boto3"))
    asked = Recorded(inner)
    store = RetryStore(inner)
    pipe = Pipe(tmp_path / "m", store)
    policies = {
        r: policy_for(f"s3://{locked_bucket}/{PREFIX}", r) for r in ("read", "write", "admin")
    }

    def check(role: str, *, refused_before: str) -> None:
        """Every request so far is allowed to this role, and some not to the one before."""
        for request in asked.asked:
            assert allows(policies[role], *request), (role, request)
        assert [r for r in asked.asked if not allows(policies[refused_before], *r)]

    pipe.write("a", b"1")
    pipe.snapshot("v1")
    pipe.write("a", b"2")
    pipe.write("a", b"3")
    (tmp_path / "big").write_bytes(b"x" * (17 << 20))
    with open(tmp_path / "big", "rb") as file:
        large = store.put("large", FileBody(file.fileno(), 17 << 20))
    store.copy(ObjectVersion("large", large.version_id, large.etag, large.size), "copy")
    store.delete("copy")
    store.probe()
    read_all(store)
    check("write", refused_before="read")
    asked.asked.clear()
    read_all(store)
    assert all(allows(policies["read"], *request) for request in asked.asked)
    asked.asked.clear()
    pruned = pruning.prune(pipe.past())
    pipe.prune(later() + 2 * 10**9)
    hold(pipe.past(), pipe.past().catalog.find("v1"), on=True)
    hold(pipe.past(), pipe.past().catalog.find("v1"), on=False)
    inner.admin.ensure_abort_rule()
    assert pruned.deleted_versions == 0
    above = {
        r for r in asked.asked if r[2] == ".pipefs/commits/" or r[2] == "team/.pipefs/commits/"
    }
    asked.asked -= above  # asked out of caution: whether the pipe lies inside another
    check("admin", refused_before="write")
    # Outside of the prefix nothing is allowed, nor is anything that is not needed.
    for role in policies.values():
        arn = f"arn:aws:s3:::{locked_bucket}"
        for action in ("s3:GetObject", "s3:PutObject", "s3:DeleteObjectVersion"):
            assert not allows(role, action, f"{arn}/team/salesmen/x", "")
            assert not allows(role, action, "arn:aws:s3:::another/team/sales/x", "")
        assert not allows(role, "s3:ListBucket", arn, "")
        assert not allows(role, "s3:ListBucket", arn, "team/")
        assert not allows(role, "s3:DeleteBucket", arn, "")
        assert not allows(role, "s3:PutBucketPolicy", arn, "")
    for role in ("read", "write"):
        resource = f"arn:aws:s3:::{locked_bucket}/{PREFIX}/a"
        assert not allows(policies[role], "s3:DeleteObjectVersion", resource, "")
    store.close()


def test_d6_68_the_command_prints_it(
    run: Callable[..., Result], bucket: str, tmp_path: Path
) -> None:
    run("create", "sales", f"s3://{bucket}/{PREFIX}", "-o", "region=us-gov-west-1")
    found = json.loads(run("policy", "sales", "--role", "read").stdout)
    assert found["Version"] == "2012-10-17"
    assert "s3:GetObjectVersion" in str(found)
    assert f"arn:aws-us-gov:s3:::{bucket}/{PREFIX}/*" in str(found)
    run("policy", "sales", code=2)
    run("policy", "sales", "--role", "owner", code=2)
    run("create", "local", (tmp_path / "here").as_uri())
    assert "embedded store" in run("policy", "local", "--role", "read", code=4).stderr
