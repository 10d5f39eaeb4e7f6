"""What comparing two snapshots costs: two trees of a million files, of which ten differ.

    PYTHONPATH=. python benchmarks/diffing.py [DIRECTORY] [--files N] [--changed N]

The manifests lie in an embedded store. `cold` has nothing kept on this machine, as on the first
day; `kept` has the parts in the folder where manifests are kept, not decoded. `everything` reads
both trees through, which is what comparing would cost without parts that are named by content.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pipefs import manifest
from pipefs.manifest import Entry, Head, Root
from pipefs.past.comparing import compare
from pipefs.past.manifests import ManifestStore, ManifestView
from pipefs.past.renaming import with_renames
from pipefs.stores.local import LocalStore

PER_FOLDER = 1000


def tree(files: int, changed: frozenset[int]) -> Iterator[Entry]:
    """Entries in manifest order, `changed` ones with other contents."""
    folders = [f"year={2000 + n // 100}-{n % 100:02}" for n in range(-(-files // PER_FOLDER))]
    for folder in folders:
        yield Entry(path=folder, kind="dir", mode=0o40755, mtime=10**18)
    for number in range(files):
        size = 1000 + number % 977 + (number in changed)
        etag = hashlib.md5(b"%d %d" % (number, size)).hexdigest()
        yield Entry(
            path=f"{folders[number // PER_FOLDER]}/measurement-{number:08}.parquet",
            version=etag[::-1],
            size=size,
            etag=etag,
            mode=0o100644,
            uid=1000,
            gid=1000,
            mtime=10**18 + number,
            ctime=10**18 + number,
        )


def put(store: ManifestStore, entries: Iterator[Entry]) -> str:
    refs = [
        manifest.ref_of(part, store.put(manifest.encode_part(part)))
        for part in manifest.chunks(entries)
    ]
    return store.put(manifest.encode_root(Root(Head(mode=0o40755), refs)))


def timed(name: str, work: Callable[[], object]) -> None:
    start = time.perf_counter()
    found = work()
    took = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{name:<44} {took:>8.3f} s   {found}   (peak so far {peak:.0f} MiB)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", nargs="?", default=".")
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--changed", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as folder:
        run(Path(folder), options.files, options.changed)


def run(folder: Path, files: int, changed: int) -> None:
    store = LocalStore(folder / "store")
    names: list[str] = []
    picked = frozenset(random.Random(1).sample(range(files), changed))
    timed(
        "write the first",
        lambda: names.append(put(ManifestStore(store, None), tree(files, frozenset()))),
    )
    timed(
        "write the second",
        lambda: names.append(put(ManifestStore(store, None), tree(files, picked))),
    )

    def views(kept: Path | None) -> tuple[ManifestView, ManifestView]:
        manifests = ManifestStore(store, kept)
        one, two = (ManifestView(manifests, manifests.root(n), "x") for n in names)
        return one, two

    def parts() -> str:
        one, two = views(None)
        ours, theirs = ({p.part for p in v.root.parts} for v in (one, two))
        return f"{len(ours)} parts, {len(theirs - ours)} of them not in the first"

    def differ(kept: Path | None) -> str:
        found = with_renames(compare(*views(kept)))
        assert len(found) == changed
        return f"{len(found)} differences"

    def everything() -> str:
        one, two = views(None)
        return f"{sum(1 for _ in one.entries()) + sum(1 for _ in two.entries()):,} entries"

    timed("parts", parts)
    timed("difference, cold", lambda: differ(None))
    timed("difference, fetched and kept", lambda: differ(folder / "kept"))
    timed("difference, kept", lambda: differ(folder / "kept"))
    timed("everything", everything)
    store.close()


if __name__ == "__main__":
    main()
