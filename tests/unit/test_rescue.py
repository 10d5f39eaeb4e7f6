"""Staging files that the local state does not know: they come back, whatever their numbers."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipefs import tree
from pipefs.blocks import BlockCache
from pipefs.conditional import ConditionalStore
from pipefs.content import ContentReader
from pipefs.db import StateDB
from pipefs.policy import Policy
from pipefs.staging import StagingArea
from pipefs.stores.local import LocalStore
from pipefs.transfers import Transfers
from pipefs.volume import Volume


def _open(folder: Path) -> Volume:
    store = LocalStore(folder / "store")
    cache = BlockCache(folder / "cache", limit_bytes=64 << 20)
    volume = Volume(
        StateDB(folder / "tree", tree.TABLES),
        StagingArea(folder / "staging"),
        store,
        cache,
        ContentReader(store, cache, "p"),
    )
    volume.recover(same_mount=False)
    return volume


def _close(volume: Volume) -> None:
    volume.close()
    volume.cache.close()
    volume.store.close()


def _create(volume: Volume, name: bytes, data: bytes, handle: int) -> int:
    ino = volume.create(1, name, 0o644, 0, 0, handle=handle).ino
    volume.write(ino, 0, memoryview(data), wait=True)
    return ino


def test_a_lost_state_loses_no_staging_file(tmp_path: Path) -> None:
    volume = _open(tmp_path)
    wanted = {b"f%d" % n: b"bytes of %d" % n for n in range(40)}
    for n, (name, data) in enumerate(wanted.items(), start=1):
        volume.close_write(_create(volume, name, data, n), n)
    _close(volume)
    shutil.rmtree(tmp_path / "tree")

    again = _open(tmp_path)
    found = {}
    for name, entry in again.children(1, b"", 100):
        parts, release = again.read(entry.ino, 0, 0, 100, stream=1, wait=True)
        found[name] = b"".join(bytes(p) for p in parts)
        assert release is None  # local bytes, nothing cached
    _close(again)
    assert found == wanted


def test_nobody_waits_for_what_is_written_to_a_removed_file(tmp_path: Path) -> None:
    volume = _open(tmp_path)
    store = ConditionalStore(volume.store, volume.store.probe)
    transfers = Transfers(
        volume.db, volume.files, store, volume.reader, volume.cache, Policy(0.0, 0.0)
    )
    ino = _create(volume, b"f", b"x", 1)
    volume.close_write(ino, 1)
    assert transfers.upload(ino, force=True)
    volume.open_write(ino, 2, truncate=False, wait=True)
    before = volume.outbox().announcing
    volume.unlink(1, b"f")
    volume.write(ino, 0, memoryview(b"y"), wait=True)
    after = volume.outbox().announcing
    volume.close_write(ino, 2)
    volume.forget_orphan(ino)
    _close(volume)
    assert (before, after) == (2, 1)  # the file and its directory; the directory alone


def test_bytes_that_went_up_just_before_a_crash_make_no_second_file(tmp_path: Path) -> None:
    volume = _open(tmp_path)
    store = ConditionalStore(volume.store, volume.store.probe)
    transfers = Transfers(
        volume.db, volume.files, store, volume.reader, volume.cache, Policy(0.0, 0.0)
    )
    ino = _create(volume, b"f", b"bytes", 1)
    volume.close_write(ino, 1)
    staged = volume.files.staging.path(ino)
    kept = tmp_path / "kept"
    kept.hardlink_to(staged)
    assert transfers.upload(ino, force=True)
    _close(volume)
    # As a process leaves it that dies between the record of the upload and the removal.
    kept.write_bytes(b"bytes")
    kept.rename(staged)

    again = _open(tmp_path)
    names = [name for name, _ in again.children(1, b"", 10)]
    left = list(again.files.staging.inos())
    _close(again)
    assert (names, left) == ([b"f"], [])
