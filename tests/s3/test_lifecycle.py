"""Lifecycle rules of a real bucket, as the pipe is warned of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pipefs.past.lifecycle import dangerous_rules
from pipefs.stores.base import Store
from pipefs.stores.local import LocalStore
from pipefs.stores.s3 import S3Store
from pipefs.stores.wrap import RetryStore
from tests.seaweed import SeaweedServer


@pytest.fixture
def store(bucket: str) -> Iterator[Store]:
    store = RetryStore(S3Store(bucket, "team/sales"))
    yield store
    store.close()


def set_rules(seaweed: SeaweedServer, bucket: str, *rules: dict[str, Any]) -> None:
    config: Any = {"Rules": list(rules)}
    seaweed.client().put_bucket_lifecycle_configuration(
        Bucket=bucket, LifecycleConfiguration=config
    )


def test_rules_that_destroy_snapshots_are_found_in_the_bucket(
    seaweed: SeaweedServer, bucket: str, store: Store
) -> None:
    assert dangerous_rules(store) == []
    old = {"NoncurrentVersionExpiration": {"NoncurrentDays": 3, "NewerNoncurrentVersions": 2}}
    set_rules(
        seaweed,
        bucket,
        {"ID": "clean", "Status": "Enabled", "Filter": {"Prefix": "team/"}, **old},
        {"ID": "elsewhere", "Status": "Enabled", "Filter": {"Prefix": "other/"}, **old},
        {"ID": "off", "Status": "Disabled", "Filter": {"Prefix": ""}, **old},
        {
            "ID": "large",
            "Status": "Enabled",
            "Filter": {"And": {"Prefix": "team/sales/x/", "ObjectSizeGreaterThan": 1000}},
            **old,
        },
    )
    assert dangerous_rules(store) == [
        'lifecycle rule "clean" deletes old versions for good after 3 days except the newest 2 of '
        "each file: snapshots lose files",
        'lifecycle rule "large" deletes old versions larger than 1 KB, whose keys begin with x/ '
        "for good after 3 days except the newest 2 of each file: snapshots lose files",
    ]


def test_the_rule_that_pipefs_makes_itself_is_harmless(store: Store, bucket: str) -> None:
    S3Store(bucket).admin.ensure_abort_rule()
    assert dangerous_rules(store) == []


def test_an_embedded_store_has_no_rules(tmp_path: object) -> None:
    store = LocalStore(f"{tmp_path}/store")
    assert dangerous_rules(store) == []
    store.close()
