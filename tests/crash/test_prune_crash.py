"""A prune dies by kill -9 after any of its steps: snapshots are whole, and the next one ends it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipefs.stores.base import Store
from pipefs.stores.local import LocalStore
from pipefs.stores.opening import open_store
from tests.kept import DAY_NS, Pipe, later
from tests.promises.promised import promise
from tests.seaweed import SeaweedServer

# Run by a process of its own: prune a store, and die at the n-th step of that name.
PROGRAM = """
import os, signal, sys
from pipefs.past import pruning
from pipefs.past.opened import Past
from pipefs.stores.opening import open_store

url, now_ns, label, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
pruning.BATCH = 4
left = count

def hook(step):
    global left
    left -= step == label
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

past = Past(open_store(url), author="dying@there", writer="dying")
pruning.prune(past, now_ns=now_ns, hook=hook)
"""

STEPS = [
    ("announced", 1),
    ("marked", 1),
    ("surveyed", 1),
    ("objects", 1),
    ("batch", 1),
    ("batch", 2),
    ("batch", 3),
    ("batch", 5),
    ("done", 1),
]


def prune_and_die(url: str, now_ns: int, label: str, count: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, url, str(now_ns), label, str(count)],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def fill(pipe: Pipe) -> None:
    """Two snapshots that are kept, one that was forgotten long ago, and much that nobody needs."""
    m = pipe.machine
    m.mkdir("d")
    for round_ in range(4):
        for name in ("a", "b", "d/c"):
            m.write(name, b"%d of %s" % (round_, name.encode()))
            m.sync()
        if round_ == 3:
            m.write("gone", b"deleted")
            m.sync()
            m.rm("gone")
        m.mv("d", "e") if round_ % 2 else m.mv("a", "a.old")
        m.sync()
        if round_ % 2:
            m.mv("e", "d")
            m.announce()  # its object is still below e/
        pipe.snapshot(f"v{round_}")
    pipe.amend("forget", "v1")
    pipe.write("a", b"last")


def what_is_left(store: Store) -> set[tuple[str, str | None]]:
    """All versions but those of the log and of what is written by each prune."""
    return {
        (v.key, v.version_id)
        for v in store.list_versions("")
        if not v.key.startswith((".pipefs/commits/", ".pipefs/refs.json", ".pipefs/probe/"))
    }


@pytest.fixture
def open_pipe(tmp_path: Path) -> Iterator[Callable[[Store], Pipe]]:
    made: list[Pipe] = []

    def make(store: Store) -> Pipe:
        made.append(Pipe(tmp_path / "machines", store, name=f"m{len(made)}"))
        return made[-1]

    yield make
    for pipe in made:
        pipe.close()
        pipe.store.close()


@promise(
    "retention-killed",
    "A prune that was killed at any point is finished by the next one, which deletes what "
    "the first would have.",
)
def test_the_embedded_store_after_every_step(
    open_pipe: Callable[[Store], Pipe], tmp_path: Path
) -> None:
    first = tmp_path / "first"
    pipe = open_pipe(LocalStore(first))
    fill(pipe)
    now_ns = later()
    pipe.store.close()
    wanted = tmp_path / "undisturbed"
    shutil.copytree(first, wanted)
    whole = LocalStore(wanted)
    pipe.store = whole
    pipe.prune(now_ns)
    left = what_is_left(whole)
    whole.close()
    for label, count in STEPS:
        folder = tmp_path / f"{label}{count}"
        shutil.copytree(first, folder)
        prune_and_die(folder.as_uri(), now_ns, label, count)
        pipe.store = LocalStore(folder)
        assert_intact(pipe)
        pipe.prune(now_ns)
        assert what_is_left(pipe.store) == left, (label, count)
        assert_intact(pipe)
        pipe.store.close()
    pipe.store = LocalStore(first)


def assert_intact(pipe: Pipe) -> None:
    past = pipe.past()
    kept = [s for s in past.catalog.snapshots.values() if not s.dropped]
    assert len(kept) >= 3
    for snapshot in kept:
        assert pipe.read(past, snapshot) == pipe.shown[snapshot.id], snapshot.label


@pytest.mark.parametrize(("label", "count"), [("announced", 1), ("objects", 1), ("batch", 2)])
def test_s3_after_some_steps(
    open_pipe: Callable[[Store], Pipe],
    seaweed: SeaweedServer,
    bucket: str,
    label: str,
    count: int,
) -> None:
    url = f"s3://{bucket}/a/pipe"
    pipe = open_pipe(open_store(url))
    fill(pipe)
    now_ns = later() + DAY_NS // 1000
    prune_and_die(url, now_ns, label, count)
    assert_intact(pipe)
    done = pipe.prune(now_ns)
    assert (done.deleted_versions > 0, done.locked) == (True, 0)
    assert_intact(pipe)
    assert pipe.survey(now_ns).free.versions <= 1  # the catalogue that the prune wrote itself
    pipe.machine.lose_cache()
    assert pipe.files()["a"] == b"last"
