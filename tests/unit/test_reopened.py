"""An open that the kernel asks for again, because a worker died before it answered."""

from __future__ import annotations

import os
from pathlib import Path

from pipefs import tree
from pipefs.blocks import BlockCache
from pipefs.content import ContentReader
from pipefs.db import StateDB
from pipefs.staging import StagingArea
from pipefs.stores.local import LocalStore
from pipefs.volume import Volume
from pipefsd.filesystem import Filesystem
from pipefsd.ownership import Ownership
from pipefsd.transports.base import Caller


def _serve(folder: Path, *, same_mount: bool) -> tuple[Volume, Filesystem]:
    cache = BlockCache(folder / "cache", limit_bytes=64 << 20)
    store = LocalStore(folder / "store")
    volume = Volume(
        StateDB(folder / "tree", tree.TABLES),
        StagingArea(folder / "staging"),
        store,
        cache,
        ContentReader(store, cache, "p"),
    )
    volume.recover(same_mount=same_mount)
    owner = Ownership("stored", 0o022, uid=0, gid=0)
    return volume, Filesystem(volume, owner, read_only=lambda: "", same_mount=same_mount)


def _close(volume: Volume) -> None:
    volume.close()
    volume.cache.close()
    volume.store.close()


def test_a_repeated_open_for_writing_leaves_no_handle_behind(tmp_path: Path) -> None:
    volume, fs = _serve(tmp_path, same_mount=False)
    entry, made = fs.create(Caller(0, 0, 0, unique=2), 1, b"f", 0o644, os.O_WRONLY)
    fs.release(Caller(0, 0, 0), entry.node, made.fh, 0)
    first = fs.open(Caller(0, 0, 0, unique=4), entry.node, os.O_WRONLY)
    _close(volume)  # recorded, but the kernel never got the answer

    volume, fs = _serve(tmp_path, same_mount=True)
    again = fs.open(Caller(0, 0, 0, unique=4, resent=True), entry.node, os.O_WRONLY)
    fs.write(Caller(0, 0, 0), entry.node, again.fh, 0, memoryview(b"x"))
    fs.release(Caller(0, 0, 0), entry.node, again.fh, 0)
    out = volume.outbox()
    _close(volume)
    assert again.fh == first.fh
    assert (out.files, out.open_files) == (1, 0)
