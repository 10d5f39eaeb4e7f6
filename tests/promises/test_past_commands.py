"""What taking, restoring and checking out promise, on every transport."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.mounted import SOURCE, eventually, tree_of
from tests.promises.conftest import Place, numbers
from tests.promises.promised import opened, promise, tried
from tests.promises.test_past import emptied, filled, shown

_RENAMER = """
import sys, time
from pathlib import Path
from tests.promises.promised import EXCHANGE, rename2
here, swaps = Path(sys.argv[1]), sys.argv[2] == "True"
n = 0
print("running", flush=True)
while True:
    n += 1
    (here / "one").rename(here / "other")
    (here / "draft").write_bytes(b"%d" % n * 100)
    (here / "draft").rename(here / "saved")
    if swaps:
        rename2(here / "x", here / "y", EXCHANGE)
    (here / "other").rename(here / "one")
    (here / f"n{n}").write_bytes(b"%d" % n * 1000)
    time.sleep(0.02)
"""


def now_shown(folder: Path) -> dict[bytes, tuple[object, ...]] | None:
    """What is below a folder; None while names and what is behind them differ: with libfuse the
    kernel keeps a name for a second after the daemon has changed it."""
    try:
        return shown(folder)
    except OSError:
        return None


@contextmanager
def busy(folder: Path, *, swaps: bool) -> Iterator[None]:
    """A program that renames a folder to and fro, swaps two files, saves one by renaming a draft
    over it, and writes new ones, without a pause."""
    words = [sys.executable, "-c", _RENAMER, str(folder), str(swaps)]
    with subprocess.Popen(words, cwd=SOURCE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "running\n"
        try:
            yield
            assert program.poll() is None
        finally:
            program.kill()


@promise(
    "past-commit",
    "A snapshot is the tree at one commit of the log: it waits for what was closed when it was "
    "asked for, has all or nothing of each rename and each save, and a file that is open for "
    "writing as it was last closed.",
)
def test_beside_busy_programs_a_snapshot_has_nothing_by_half(place: Place, folder: Path) -> None:
    (folder / "one").mkdir()
    for n in range(5):
        (folder / "one" / f"f{n}").write_bytes(b"in it")
    for name in ("x", "y", "saved", "log"):
        (folder / name).write_bytes(name.encode())
    place.home.flush("p")
    with opened(folder / "log", os.O_WRONLY | os.O_APPEND) as log:
        os.write(log, b" and more")
        with busy(folder, swaps=place.transport != "libfuse"):
            taken = []
            for n in range(3):
                closed = folder / f"closed{n}"
                closed.write_bytes(b"before it was asked for")
                taken.append(place.take(folder))
                assert (taken[n] / closed.name).read_bytes() == b"before it was asked for"
        for past in taken:
            found = tree_of(past)
            (moved,) = {"one", "other"} & set(found)
            assert {found[f"{moved}/f{n}"] for n in range(5)} == {b"in it"}
            assert {found["x"], found["y"]} == {b"x", b"y"}
            assert found["log"] == b"log"
            assert found["saved"] == b"saved" or len(found["saved"] or b"") % 100 == 0
            for name in (name for name in found if name[0] == "n"):
                assert found[name] == name[1:].encode() * 1000
        assert (
            len({item["commit"] for item in map(place.items().get, (p.name for p in taken))}) == 3
        )


@promise(
    "past-restore",
    "`pipefs restore` makes a file, a folder or the pipe what it was, with attributes and links, "
    "as new versions by copies in the store; what it replaces is kept in a snapshot, by which the "
    "last line of its answer undoes it.",
)
def test_what_is_restored_is_as_it_was_and_can_be_undone(place: Place, folder: Path) -> None:
    filled(folder)
    (folder / "d" / "deep").mkdir()
    (folder / "d" / "deep" / "b").write_bytes(b"deep")
    os.utime(folder / "d" / "deep", ns=(3, 4))
    os.chown(folder / "d" / "deep" / "b", 12, 34)
    wanted, name = shown(folder), folder.name
    past = place.take(folder)
    emptied(folder)
    (folder / "d").write_bytes(b"a file now")
    (folder / "link").mkdir()
    (folder / "link" / "inside").write_bytes(b"x")
    (folder / "extra").write_bytes(b"x")
    changed = shown(folder)
    with opened(folder / "extra", os.O_RDONLY) as extra:
        said = place.home.run("restore", f"p@{past.name}/{name}").stdout
        eventually(lambda: now_shown(folder) == wanted, "it is as it was")
        assert os.read(extra, 10) == b"x"
    undo = shlex.split(said.strip().splitlines()[-1].partition("undo: pipefs ")[2])
    place.home.run(*undo)
    eventually(lambda: now_shown(folder) == changed, "and as it was before that")
    place.home.run("restore", "p", past.name, f"{name}/d/deep/b", f"{name}/also", code=1)
    (folder / "d").unlink()
    place.home.run("restore", "p", past.name, f"{name}/d/deep/b", f"{name}/also")
    assert (folder / "d" / "deep" / "b").stat().st_uid == 12
    assert (folder / "also").read_bytes() == b"bytes" * 1000
    assert (folder / "extra").exists()


@promise(
    "past-checkout",
    "`pipefs checkout` lets the mount show a snapshot, `EROFS` to change, until `checkout NAME "
    "live`, also after a remount; what is open goes on, and what was written goes up.",
)
def test_a_checked_out_snapshot_is_all_that_is_seen(place: Place, folder: Path) -> None:
    home, name = place.home, folder.name
    (folder / "a").write_bytes(b"old")
    first = place.take(place.root)
    (folder / "a").write_bytes(b"new")
    (folder / "b").write_bytes(b"newer")
    second = place.take(place.root)
    (place.root / f"{name}-live").write_bytes(b"live")
    with opened(folder / "b", os.O_RDWR) as fd:
        home.run("checkout", "p", first.name)
        assert home.status("p")["snapshot"] == first.name
        assert first.name in home.run("status", "p").stdout
        eventually(lambda: tree_of(folder) == {"a": b"old"}, "the first one is shown")
        assert not (place.root / f"{name}-live").exists()
        calls = [
            (place.root / "new").touch,
            (folder / "new").mkdir,
            (folder / "a").unlink,
            lambda: (folder / "a").rename(place.root / "a"),
            lambda: os.chmod(place.root, 0o700),
            lambda: (folder / "a").write_bytes(b"x"),
        ]
        assert [tried(call) for call in calls] == ["EROFS"] * len(calls)
        assert os.pwrite(fd, b"NEWER", 0) == 5
    place.remount()
    assert tree_of(folder) == {"a": b"old"}
    home.run("checkout", "p", second.name)
    eventually(lambda: tree_of(folder) == {"a": b"new", "b": b"newer"}, "the second one is shown")
    home.run("checkout", "p", "live")
    assert home.status("p")["snapshot"] is None
    eventually(lambda: tree_of(folder) == {"a": b"new", "b": b"NEWER"}, "the present is shown")
    assert (place.root / f"{name}-live").read_bytes() == b"live"
    eventually((place.root / ".snapshots").is_dir, "the past is found again")
    (folder / "c").touch()
    home.flush("p")
    assert (place.store / name / "b").read_bytes() == b"NEWER"


@promise(
    "past-mount",
    "`pipefs mount NAME@SNAP` shows a snapshot at a place of its own, read-only, and goes on with "
    "it when its tag is moved.",
)
def test_a_snapshot_is_mounted_beside_the_present(place: Place, folder: Path) -> None:
    filled(folder)
    past, wanted = place.take(place.root), shown(folder)
    own = place.home.base / f"own{next(numbers)}"
    own.mkdir()
    words = ("--transport", "libfuse") if place.transport == "libfuse" else ()
    place.home.run("mount", f"p@{past.name}", str(own), *words)
    emptied(folder)
    place.home.run("snapshot", "p", past.name, "--force")
    assert shown(own / folder.name) == wanted
    assert tried((own / "new").touch) == "EROFS"
    assert (own / folder.name / "d" / "a").stat().st_dev != folder.stat().st_dev
    place.home.run("umount", str(own))


@promise(
    "versions",
    "`.versions/FILE/` has a file for every version of FILE that the store still has, also when "
    "FILE is deleted, with its number, its time and FILE's suffix as the name.",
)
def test_each_version_of_a_file_can_be_read(place: Place, folder: Path) -> None:
    name, home = folder.name, place.home
    contents = [b"one", b"two, longer", b"three"]
    for content in contents:
        (folder / "q.csv.gz").write_bytes(content)
        home.flush("p")
    versions = folder / ".versions" / "q.csv.gz"
    known = sorted(os.listdir(versions))
    assert [(versions / v).read_bytes() for v in known] == contents
    for number, version in enumerate(known, 1):
        assert version.startswith(f"{number:04}-20")
        assert version.endswith("Z.csv.gz")
    assert ".versions" not in os.listdir(folder)
    assert tried((versions / known[0]).unlink) == "EROFS"
    (folder / "q.csv.gz").unlink()
    home.flush("p")
    eventually(lambda: not (place.store / name / "q.csv.gz").exists(), "it is removed")
    place.remount()
    assert sorted(os.listdir(versions)) == known
    assert [(versions / v).read_bytes() for v in known] == contents
