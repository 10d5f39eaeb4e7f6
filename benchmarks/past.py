"""Snapshots of a pipe of a million files: what taking, mounting, listing and reading one costs.

The files are a synthetic manifest: their objects are not in the store, but for those that are
changed and read. Prints one line a figure: the time, and the worker's anonymous memory.

    python benchmarks/past.py [--files N] [--home DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pipefs import catalog, manifest
from pipefs.commits import PROGRAM, Change
from pipefs.home import resolve_home
from pipefs.manifest import Entry, Head, Root
from pipefs.past.manifests import ManifestStore
from pipefs.past.opened import Past
from pipefs.registry import Registry
from pipefs.stores.base import Store

PER_FOLDER = 1000
MIB = 1 << 20
NOW_NS = 1_800_000_000 * 10**9


def entries(files: int) -> Iterator[Entry]:
    """A tree of folders with a thousand files each, in manifest order."""
    folders = [f"d{n:04}" for n in range(files // PER_FOLDER)]
    for folder in folders:
        yield Entry(path=folder, kind="dir", mode=0o40755, uid=0, gid=0, mtime=NOW_NS, ctime=NOW_NS)
    for number, folder in enumerate(folders):
        for n in range(PER_FOLDER):
            digest = f"{number:016x}{n:016x}"
            yield Entry(
                path=f"{folder}/f{n:04}.csv",
                version=digest,
                size=4096,
                etag=digest,
                checksum=f"sha256:{digest}{digest}",
                mode=0o100644,
                uid=0,
                gid=0,
                mtime=NOW_NS,
                ctime=NOW_NS,
            )


def publish(store: Store, files: int) -> None:
    """A snapshot `base` of that tree, as the first thing in the log."""
    manifests = ManifestStore(store, None)
    parts = [
        manifest.ref_of(part, manifests.put(manifest.encode_part(part)))
        for part in manifest.chunks(entries(files))
    ]
    root = Root(Head(mode=0o40755, mtime=NOW_NS, ctime=NOW_NS), parts)
    name = manifests.put(manifest.encode_root(root))
    past = Past(store, author="bench@here", writer="bench")
    past.amend(lambda _c: [Change(op="mkdir", path="d0000", mode=0o40755)])
    body = catalog.Body(
        format=catalog.FORMAT,
        name="base",
        time="2026-11-01T00:00:00.000000Z",
        author="bench@here",
        host="here",
        program=PROGRAM,
        epoch=past.position.epoch,
        commit=past.position.number,
        root=name,
        entries=root.entries,
        files=root.files,
        bytes=root.bytes,
    )
    text = catalog.encode_body(body)
    past.amend(lambda _c: [Change(op="snapshot", path="", data=text)])


class Bench:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.mount = home / "mnt" / "p"

    def run(self, *words: str) -> str:
        command = [sys.executable, "-m", "pipefs.cli.main", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def memory(self) -> str:
        """RssAnon of the worker, now and at its highest."""
        found = json.loads(self.run("--json", "status"))["mounts"]
        if not found:
            return ""
        text = Path(f"/proc/{found[0]['pid']}/status").read_text()
        now = re.search(r"RssAnon:\s+(\d+)", text)
        return f"RssAnon {int(now[1]) // 1024} MiB" if now else ""

    def timed(self, what: str, body: Callable[[], object], unit: str = "s") -> None:
        began = time.perf_counter()
        body()
        seconds = time.perf_counter() - began
        shown = f"{seconds * 1000:8.1f} ms" if unit == "ms" else f"{seconds:8.2f} s "
        print(f"{what:<58}{shown}  {self.memory()}", flush=True)


def listing(path: Path) -> None:
    """`ls -l`: names and attributes."""
    with os.scandir(path) as found:
        for entry in found:
            entry.stat(follow_symlinks=False)


def read(path: Path) -> None:
    with open(path, "rb") as f:
        while f.read(MIB):
            pass


def drop_caches() -> None:
    Path("/proc/sys/vm/drop_caches").write_text("3")


def measure(bench: Bench, files: int) -> None:
    mount, run = bench.mount, bench.run
    bench.timed("mount, from an empty state", lambda: run("mount", "p"))
    assert len(os.listdir(mount)) == files // PER_FOLDER
    bench.timed("ls -l of a folder of 1,000, live", lambda: listing(mount / "d0005"), "ms")
    for n in range(10):
        (mount / f"d{n * files // PER_FOLDER // 10:04}" / f"f{n:04}.csv").write_bytes(b"%d" % n)
    run("flush", "p")
    bench.timed(
        "snapshot after 10 changed files (whole command)", lambda: run("snapshot", "p", "s1")
    )
    print(f"    of which the daemon: {taken(bench):.2f} s")
    bench.timed(
        "ls -l of a folder of 1,000 in .snapshots/s1, first",
        lambda: listing(mount / ".snapshots" / "s1" / "d0005"),
        "ms",
    )
    bench.timed(
        "ls -l of another folder there", lambda: listing(mount / ".snapshots/s1/d0007"), "ms"
    )
    bench.timed("diff of the two snapshots", lambda: run("diff", "p", "base", "s1"))
    bench.timed("diff of a snapshot and the present", lambda: run("diff", "p", "base"))
    (mount / "big").write_bytes(os.urandom(256 * MIB))
    run("snapshot", "p", "s2")
    for name in ("big", ".snapshots/s2/big"):
        read(mount / name)
        drop_caches()
        bench.timed(f"read of 256 MiB, cached, {name}", lambda name=name: read(mount / name), "ms")
    run("umount", "p")
    bench.timed("mount, warm state", lambda: run("mount", "p"))
    bench.timed("mount p@s1", lambda: run("mount", "p@s1"))
    run("umount", "--all")


def taken(bench: Bench) -> float:
    """Seconds that the daemon takes for one more snapshot after 10 more changes."""
    for n in range(10):
        folder = f"d{n * 97 % len(os.listdir(bench.mount)):04}"
        (bench.mount / folder / f"f{n + 20:04}.csv").write_bytes(b"again %d" % n)
    bench.run("flush", "p")
    return float(json.loads(bench.run("--json", "snapshot", "p", "s1b"))["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--home", type=Path)
    args = parser.parse_args()
    home = args.home or Path(tempfile.mkdtemp(prefix="pipefs-bench-"))
    os.environ["PIPEFS_HOME"] = str(home)
    bench = Bench(home)
    # The objects of the synthetic files are nowhere: a listing would find them missing.
    bench.run("create", "p", "-o", "refresh_interval=365d")
    folders = resolve_home()
    store = Registry(folders).get("p").open_store()
    began = time.perf_counter()
    publish(store, args.files)
    store.close()
    print(f"{args.files:,} files · the manifest was made in {time.perf_counter() - began:.1f} s")
    try:
        measure(bench, args.files)
    finally:
        bench.run("umount", "--all", "--no-wait")
        if args.home is None:
            shutil.rmtree(home)


if __name__ == "__main__":
    main()
