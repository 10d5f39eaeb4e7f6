"""`warm`, `pin` and `unpin` without a mount: what is in the cache afterwards, and stays."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipefs.blocks import BlockCache
from pipefs.cachework import CacheWork
from pipefs.cli.main import cli
from pipefs.content import ContentReader, release_all
from pipefs.errors import NoSpace
from pipefs.home import Home, resolve_home
from pipefs.pins import owner_of
from pipefs.registry import Pipe, Registry
from pipefs.stores.local import LocalStore
from pipefs.types import ContentRef
from tests.blocktools import MIB

Run = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return resolve_home(env={"PIPEFS_HOME": str(tmp_path / "home")})


@pytest.fixture
def run(home: Home, tmp_path: Path) -> Run:
    def go(*words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(cli, words, env={"PIPEFS_HOME": str(tmp_path / "home")})
        assert done.exit_code == code, (words, done.stdout, done.stderr)
        return done

    return go


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    opened = LocalStore(tmp_path / "store")
    yield opened
    opened.close()


@pytest.fixture
def pipe(run: Run, home: Home, tmp_path: Path, store: LocalStore) -> Pipe:
    """Three files of 3 MiB and a small one."""
    for name in ("a/1", "a/2", "b"):
        store.put(name, name.encode() * (MIB * 3 // len(name)))
    store.put("small", b"1")
    run("create", "p", (tmp_path / "store").as_uri(), "-o", "cache_limit=64M")
    return Registry(home).get("p")


def _is_cached(home: Home, pipe: Pipe, store: LocalStore, key: str) -> bool:
    found = store.head(key)
    ref = ContentRef(key, found.version_id, found.etag, found.size)
    cache = BlockCache(home.cache / "blocks", limit_bytes=64 * MIB)
    try:
        leases = ContentReader(store, cache, pipe.pipe_id).cached(ref, 0, found.size)
        release_all(leases or [])
        return leases is not None
    finally:
        cache.close()


def _turn_over(home: Home) -> None:
    """Other pipes use the cache until nothing old is left."""
    cache = BlockCache(home.cache / "blocks", limit_bytes=64 * MIB)
    for n in range(150):
        cache.insert(b"other pipe......", n, os.urandom(MIB), block_count=150)
    cache.close()


def test_warm_fetches_what_is_missing_and_says_so(
    run: Run, home: Home, pipe: Pipe, store: LocalStore
) -> None:
    done = run("warm", "p/a").stdout
    assert done.startswith("p/a  2 files, 6 MB in the cache · 2 files (6 MB) fetched in ")
    assert _is_cached(home, pipe, store, "a/1")
    assert _is_cached(home, pipe, store, "a/2")
    assert not _is_cached(home, pipe, store, "b")
    assert run("warm", "p/a").stdout.endswith("all of it was there\n")
    told = json.loads(run("warm", "p", "--json").stdout)
    assert (told["files"], told["fetched_files"], told["failed_count"]) == (4, 2, 0)


def test_progress_counts_down_to_nothing(home: Home, pipe: Pipe) -> None:
    told: list[tuple[int, int]] = []
    CacheWork(home, pipe, progress=lambda p: told.append((p.files, p.bytes))).warm()
    assert told[0] == (4, sum((3 * MIB // n) * n for n in (3, 3, 1)) + 1)
    assert all(later[1] <= earlier[1] for earlier, later in pairwise(told))


def test_more_than_fits_is_refused_with_both_ways_out(run: Run, store: LocalStore) -> None:
    for n in range(9):
        store.put(f"big/{n}", os.urandom(8 * MIB))
    run("create", "p", store.url, "-o", "cache_limit=64M")
    done = run("warm", "p", code=4)
    assert "do not fit into the cache's 67 MB" in done.stderr
    assert "pipefs pin" in done.stderr
    assert "cache_limit" in done.stderr
    run("pin", "p")
    assert "all of it was there" in run("pin", "p").stdout


def test_pinned_files_survive_eviction_and_the_store(
    run: Run, home: Home, pipe: Pipe, store: LocalStore, tmp_path: Path
) -> None:
    run("pin", "p/a")
    run("warm", "p/b")
    _turn_over(home)
    assert not _is_cached(home, pipe, store, "b")
    assert _is_cached(home, pipe, store, "a/1")
    found = store.head("a/1")
    shutil.move(tmp_path / "store", tmp_path / "gone")
    (tmp_path / "store").mkdir()
    empty = LocalStore(tmp_path / "store")
    cache = BlockCache(home.cache / "blocks", limit_bytes=64 * MIB)
    ref = ContentRef("a/1", found.version_id, found.etag, found.size)
    leases = ContentReader(empty, cache, pipe.pipe_id).read(ref, 0, found.size)
    assert b"".join(lease.data for lease in leases) == b"a/1" * MIB
    release_all(leases)
    cache.close()
    empty.close()


def test_new_versions_take_the_place_of_old_ones(
    run: Run, home: Home, pipe: Pipe, store: LocalStore
) -> None:
    run("pin", "p/b")
    before = _pinned(home, pipe)
    store.put("b", b"new" * MIB)
    (home.cache / "replicas").rename(home.cache / "old")  # It is listed again.
    run("pin", "p/b")
    assert len(before) == len(_pinned(home, pipe)) == 1
    assert before != _pinned(home, pipe)
    assert _is_cached(home, pipe, store, "b")


def _pinned(home: Home, pipe: Pipe) -> set[bytes]:
    cache = BlockCache(home.cache / "blocks", limit_bytes=64 * MIB)
    try:
        return cache.pinned_by(owner_of(pipe.pipe_id))
    finally:
        cache.close()


def test_pins_are_listed_and_undone(run: Run, home: Home, pipe: Pipe) -> None:
    assert "nothing is pinned" in run("pin").stdout
    run("pin", "p/a")
    run("pin", "p/a/")
    run("pin", "p/small")
    assert [line.split()[0] for line in run("pin").stdout.splitlines()] == ["p/a", "p/small"]
    run("unpin", "p/a")
    assert len(_pinned(home, pipe)) == 1
    assert "pipefs pin" in run("unpin", "p/a", code=3).stderr
    run("unpin", "p", "--all")
    assert _pinned(home, pipe) == set()
    assert json.loads(run("pin", "--json").stdout) == {"pins": []}


def test_a_snapshot_is_pinned_as_it_was(
    run: Run, home: Home, pipe: Pipe, store: LocalStore
) -> None:
    run("snapshot", "p", "v1")
    run("pin", "p@v1/b")
    store.put("b", b"new" * MIB)
    run("pin", "p@v1/b")
    assert len(_pinned(home, pipe)) == 1
    assert not _is_cached(home, pipe, store, "b")
    assert run("pin").stdout == "p@v1/b  as it was\n"
    run("-y", "forget", "p@v1")
    run("unpin", "p@v1/b")
    assert _pinned(home, pipe) == set()


def test_what_is_not_there_is_said(run: Run, pipe: Pipe) -> None:
    assert "no file or folder 'x'" in run("warm", "p/x", code=3).stderr
    assert "no file or folder 'x'" in run("pin", "p/x", code=3).stderr
    assert run("pin", "--json").stdout.split() == ["{", '"pins":', "[]", "}"]
    run("warm", "p@nosuch", code=3)
    run("unpin", "p/a", "--all", code=2)


def test_a_disk_that_is_too_small_is_named_before_anything_is_fetched(
    home: Home, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs

    def little(path: str | Path) -> os.statvfs_result:
        found = list(real(path))
        found[4] = (65 << 20) // found[1]  # f_bavail
        return os.statvfs_result(found)

    monkeypatch.setattr(os, "statvfs", little)
    with pytest.raises(NoSpace, match="are missing, and the cache's disk has"):
        CacheWork(home, pipe).pin()


def test_a_removed_pipe_leaves_no_pins(run: Run, home: Home, pipe: Pipe) -> None:
    run("pin", "p")
    assert _pinned(home, pipe)
    run("-y", "remove", "p")
    assert _pinned(home, pipe) == set()


def test_a_version_that_is_gone_is_named_and_the_rest_is_kept(
    run: Run, home: Home, pipe: Pipe, store: LocalStore
) -> None:
    run("snapshot", "p", "v1")
    found = store.head("b")
    assert found.version_id
    store.delete_version("b", found.version_id)
    done = run("pin", "p@v1", code=6)
    assert "1 file of p@v1 could not be had" in done.stderr
    assert done.stderr.startswith("pipefs: b: ")
    assert _is_cached(home, pipe, store, "a/2")
