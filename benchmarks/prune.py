"""Marking and sweeping: what a prune costs in time and memory.

    mark       snapshots of a synthetic pipe of N files, sharing all parts but a few
    replay     a log that put N files, without a snapshot to begin from
    sweep      V versions of real (tiny) objects of which half go, on the embedded store

Prints one line a figure. Memory is what the process has beyond its start (anonymous).

    python benchmarks/prune.py [--files N] [--snapshots S] [--versions V]
"""

from __future__ import annotations

import argparse
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pipefs import catalog, manifest
from pipefs.commits import Change, CommitLog, Position
from pipefs.manifest import Entry, Head, Root
from pipefs.past.holding import held_by
from pipefs.past.manifests import ManifestStore
from pipefs.past.marks import LOG, Marks
from pipefs.past.opened import Past
from pipefs.past.pruning import prune
from pipefs.past.shown import shown_since
from pipefs.stores.base import Store
from pipefs.stores.local import LocalStore

PER_FOLDER = 1000


def entries(files: int, changed: int) -> Iterator[Entry]:
    """A tree of folders with a thousand files each; the first of ten folders were changed since."""
    for number in range(files // PER_FOLDER):
        yield Entry(path=f"d{number:04}", kind="dir", mode=0o40755)
    for number in range(files // PER_FOLDER):
        for n in range(PER_FOLDER):
            state = changed if n == 0 and number < 10 else 0
            digest = f"{number:08x}{n:016x}{state:08x}"
            yield Entry(path=f"d{number:04}/f{n:04}.csv", version=digest, size=4096, etag=digest)


def anonymous_mib() -> float:
    found = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


class Timed:
    """Prints what a step took."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> Timed:
        self.before, self.start = anonymous_mib(), time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        took, grown = time.monotonic() - self.start, anonymous_mib() - self.before
        print(f"{self.what:<58} {took:8.2f} s  {grown:+8.1f} MiB", flush=True)


def mark(store: Store, files: int, count: int) -> None:
    manifests, snapshots = ManifestStore(store, None), []
    for n in range(count):
        parts = [
            manifest.ref_of(part, manifests.put(manifest.encode_part(part)))
            for part in manifest.chunks(entries(files, n))
        ]
        root = manifests.put(manifest.encode_root(Root(Head(), parts)))
        body = catalog.Body(
            format=1, time="2026-11-01T00:00:00Z", author="b@h", host="h", program="p",
            epoch="e", commit=n, root=root, files=files,
        )  # fmt: skip
        snapshots.append(catalog.Snapshot(id=f"{n:064x}", body=body))
    with Timed(f"mark {count} snapshots of {files:,} files"):
        held = held_by(store, snapshots)
    print(f"  {len(held.marks):,} versions, {len(held.manifests):,} parts and roots")


def replay(store: Store, files: int) -> None:
    log, here = CommitLog(store, author="b@h", writer="b"), Position()
    changes = []
    for entry in entries(files, 0):
        op = "put" if entry.kind == "file" else "mkdir"
        changes.append(Change(op=op, path=entry.path, version=entry.version, size=entry.size))
        if len(changes) == 10_000:
            done = log.append(here, changes, time_ns=1)
            assert done is not None
            here = Position(done.commit.epoch, done.commit.number, done.digest)
            changes = []
    with Timed(f"replay a log of {here.number} commits, {files:,} puts"):
        found, _ = shown_since(store, here, here.number)
        marks = Marks()
        for at in found:
            marks.add_hash(at, LOG)
        print(f"  {len(marks):,} versions")


def sweep(store: Store, versions: int) -> None:
    past = Past(store, author="b@h", writer="b")
    past.amend(lambda _c: [Change(op="mkdir", path="d", mode=0o40755)])
    for n in range(versions):
        store.put(f"d/{n // 2}", b"x")
    with Timed(f"prune {versions:,} versions, half of them go"):
        done = prune(past, now_ns=time.time_ns() + catalog.GRACE_NS + 1)
    print(f"  {done.deleted_versions:,} deleted")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--snapshots", type=int, default=10)
    parser.add_argument("--versions", type=int, default=20_000)
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="pipefs-bench-"))
    try:
        for name, work in (
            ("mark", lambda s: mark(s, asked.files, asked.snapshots)),
            ("replay", lambda s: replay(s, asked.files)),
            ("sweep", lambda s: sweep(s, asked.versions)),
        ):
            store = LocalStore(folder / name)
            work(store)
            store.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
