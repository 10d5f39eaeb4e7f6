"""A pipe in a real bucket, a snapshot of it, and nothing of the snapshot current any more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import fsspec
import pytest

from pipefs.foreign.exports import Source
from pipefs.foreign.places import Place
from pipefs.past.opened import Past
from pipefs.stores.s3 import S3Store
from tests import pasts
from tests.foreign import put_below

FILES = {
    "2026/q1.csv": b"a,b\n1,2\n",
    "2026/q2.csv": b"a,b\n" + b"3,4\n" * 1000,
    "2026.csv": b"sorts between the folder and what is in it\n",
    "été 1+1 100%.txt": "naïve\n".encode(),
    "deep/er/and/deeper": b"x",
    "empty": b"",
    "big.bin": bytes(range(256)) * (70 << 10),  # 17.5 MiB: three chunks
}


@pytest.fixture
def prefix() -> str:
    """Of the pipe in its bucket; a test may parametrize it."""
    return "team/sales"


@pytest.fixture
def place(bucket: str, prefix: str) -> Iterator[Place]:
    with closing(S3Store(bucket)) as root:
        yield Place(root, bucket, f"{prefix}/" if prefix else "")


@pytest.fixture
def past(bucket: str, prefix: str) -> Iterator[Past]:
    """With the snapshot v1 of FILES."""
    with closing(S3Store(bucket, prefix)) as store:
        past = pasts.open_past(store)
        pasts.take(past, pasts.put_files(store, FILES), tag="v1", message="as it came")
        yield past


@pytest.fixture
def source(past: Past, place: Place) -> Source:
    """v1, for an export."""
    return Source(past.view("v1"), past.catalog.find("v1"), place)


def overwrite(place: Place) -> None:
    """Nothing of FILES stays current: each is overwritten, and one is deleted after that."""
    put_below(place.root, place.prefix, dict.fromkeys(FILES, b"overwritten"))
    place.root.delete(place.full("big.bin"))


@pytest.fixture(autouse=True)
def pipefs_protocol() -> None:
    """`pipefs://`, also where the source is used without being installed."""
    fsspec.register_implementation("pipefs", "pipefs.fsspec_driver.PipeFileSystem", clobber=True)
