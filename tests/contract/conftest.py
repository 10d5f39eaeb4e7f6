"""Every kind of store, fresh for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipefs.stores.base import Store
from pipefs.stores.local import LocalStore
from pipefs.stores.s3 import S3Settings, S3Store
from pipefs.stores.wrap import FaultStore, RetryPolicy, RetryStore
from tests.seaweed import SeaweedServer

KINDS = ["local", "s3-boto3", "s3-obstore", "retry-over-faults"]


def make_store(kind: str, request: pytest.FixtureRequest, folder: Path) -> Store:
    if kind.startswith("s3"):
        server: SeaweedServer = request.getfixturevalue("seaweed")
        settings = S3Settings(engine=kind.removeprefix("s3-"))
        return S3Store(server.make_bucket(), "some/prefix", settings)
    local = LocalStore(folder / "store")
    if kind == "local":
        return local
    # Every third request fails, and nothing of it is to be seen from outside.
    faults = FaultStore(local)
    for _ in range(1000):
        faults.fail("*", skip=2)
    return RetryStore(faults, RetryPolicy(first_wait_s=0.0001, max_wait_s=0.001))


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store = make_store(request.param, request, tmp_path)
    yield store
    store.close()
