"""A versioned store filled by other tools, with its states noted, for tests of moments.

filler = Filler(store, client)     # client: boto3's, so that nothing of pipefs writes
filler.put("a.csv", b"1")
then = filler.state()              # (moment, what was there), and time goes on
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from pipefs.past.browsing import names_below
from pipefs.past.views import ROOT, PastView
from pipefs.stores.base import Store
from pipefs.stores.s3 import S3Store
from pipefs.stores.wrap import innermost

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

NS = 10**9
Shown = dict[str, str | None]
"""Path → VersionId; None: a directory."""


class Filler:
    """Writes to a bucket by boto3 alone (or to an embedded store), and notes what is current."""

    def __init__(self, store: Store, client: S3Client | None = None) -> None:
        self.store = store
        self.client = client
        inner = innermost(store)
        self.bucket = inner.bucket if isinstance(inner, S3Store) else ""
        self.prefix = inner.prefix if isinstance(inner, S3Store) else ""
        self.current: dict[str, str] = {}

    def put(self, key: str, body: bytes, metadata: dict[str, str] | None = None) -> str:
        """The new version's id."""
        if self.client is None:
            made = self.store.put(key, body, metadata=metadata).version_id or ""
        else:
            made = self.client.put_object(
                Bucket=self.bucket, Key=self.prefix + key, Body=body, Metadata=metadata or {}
            ).get("VersionId", "null")
        self.current[key] = made
        return made

    def put_all(self, keys: Iterable[str], body: bytes) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: self.put(key, body), keys))

    def delete(self, key: str) -> None:
        if self.client is None:
            self.store.delete(key)
        else:
            self.client.delete_object(Bucket=self.bucket, Key=self.prefix + key)
        del self.current[key]

    def delete_all(self, keys: Sequence[str]) -> None:
        if self.client is None:
            for key in keys:
                self.delete(key)
            return
        for first in range(0, len(keys), 1000):
            names: list[Any] = [{"Key": self.prefix + k} for k in keys[first : first + 1000]]
            self.client.delete_objects(Bucket=self.bucket, Delete={"Objects": names})
        for key in keys:
            del self.current[key]

    def state(self) -> tuple[int, Shown]:
        """The moment at which all that was written is there, and what it is. Returns when nothing
        that follows can belong to it: S3 tells whole seconds."""
        if self.client is None:
            return time.time_ns(), tree_of(self.current)
        # The server stamps when it answers, or a little before.
        second = int(time.time())
        while time.time() < second + 1:
            time.sleep(second + 1 - time.time())
        return second * NS, tree_of(self.current)


def tree_of(current: dict[str, str]) -> Shown:
    """The tree that these objects make; only keys that are paths."""
    shown: Shown = {}
    for key, version in current.items():
        parts = key.split("/")
        for depth in range(1, len(parts)):
            shown["/".join(parts[:depth])] = None
        if parts[-1]:
            shown[key] = version
    return shown


def tree_in(view: PastView) -> Shown:
    """The whole tree that a view shows, found by listing; each name is also looked up."""
    shown: Shown = {}
    todo = [("", ROOT)]
    while todo:
        above, ino = todo.pop()
        for name, node in names_below(view, ino):
            path = above + name.decode()
            assert view.lookup(ino, name).ino == node.ino
            assert (node.parent, node.name) == (ino, name)
            assert view.node(node.ino) == node
            assert path not in shown
            if node.is_dir:
                todo.append((f"{path}/", node.ino))
                shown[path] = None
            else:
                assert node.content is not None
                shown[path] = node.content.version_id
                assert node.content.size == node.size
    return shown
