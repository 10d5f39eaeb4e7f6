"""Promises about rename(2) and renameat2(2)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.mounted import tree_of
from tests.promises.promised import (
    EXCHANGE,
    NOREPLACE,
    WHITEOUT,
    Twin,
    on_kernel,
    opened,
    promise,
    rename2,
    tried,
)


@promise(
    "rename",
    "`rename` moves a name in one step: whoever looks sees the old file or the new one under "
    "it, never none and never a part.",
)
def test_renaming_over_a_file_is_one_step(twin: Twin) -> None:
    watch = """
import os, sys
misses = 0
while not os.path.exists(sys.argv[2]):
    try:
        with open(sys.argv[1], 'rb') as file:
            content = file.read()
        assert len(content) == 9000 and len(set(content)) == 1, content
    except FileNotFoundError:
        misses += 1
print(misses)
"""

    def act(folder: Path) -> object:
        path, new, stop = folder / "x", folder / "new", folder / "stop"
        path.write_bytes(b"a" * 9000)
        watcher = subprocess.Popen(
            [sys.executable, "-ISc", watch, path, stop],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for n in range(150):
            new.write_bytes(b"%c" % (97 + n % 26) * 9000)
            new.rename(path)
        stop.touch()
        said, _ = watcher.communicate(timeout=60)
        return watcher.returncode, said, sorted(os.listdir(folder))

    assert twin.same(act) == (0, "0\n", ["stop", "x"])


@promise(
    "rename-replace",
    "What `rename` replaces must be of the same kind: a file over a directory is `EISDIR`, a "
    "directory over a file `ENOTDIR`, over one that is not empty `ENOTEMPTY`, into itself "
    "`EINVAL`.",
)
def test_rename_replaces_only_its_kind(twin: Twin) -> None:
    def act(folder: Path) -> object:
        (folder / "file").write_text("file")
        (folder / "link").symlink_to("file")
        (folder / "empty").mkdir()
        (folder / "full").mkdir()
        (folder / "full" / "x").write_text("x")
        (folder / "other").mkdir()
        refused = [
            tried(os.rename, folder / old, folder / new)
            for old, new in [
                ("file", "empty"),
                ("empty", "file"),
                ("empty", "full"),
                ("full", "full/below"),
                ("full", "full/x"),
                ("no", "x"),
                ("file", "no/x"),
                ("file", "link/x"),
            ]
        ]
        refused.append(tried(os.rename, f"{folder}/full/.", f"{folder}/y"))
        refused.append(tried(os.rename, f"{folder}/full/..", f"{folder}/y"))
        os.rename(folder / "file", folder / "file")
        os.rename(folder / "full", folder / "empty")
        os.rename(folder / "link", folder / "file")
        return refused, tree_of(folder)

    refused, tree = twin.same(act)
    assert refused == [
        *("EISDIR", "ENOTDIR", "ENOTEMPTY", "EINVAL", "EINVAL"),
        *("ENOENT", "ENOENT", "ENOTDIR", "EBUSY", "EBUSY"),
    ]
    assert set(tree) == {"empty", "empty/x", "file", "other"}


@promise(
    "rename-directory",
    "A directory moves with all that is below it in one step and the same time however much "
    "that is; handles and working directories inside go along.",
)
def test_a_directory_moves_with_everything(twin: Twin) -> None:
    def act(folder: Path) -> object:
        (folder / "a" / "deep" / "er").mkdir(parents=True)
        (folder / "b").mkdir()
        (folder / "a" / "deep" / "x").write_text("x")
        inside = (folder / "a" / "deep").stat().st_ino
        with opened(folder / "a" / "deep", os.O_DIRECTORY) as fd:
            (folder / "a").rename(folder / "b" / "c")
            made = os.open("er/y", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
            os.write(made, b"y")
            os.close(made)
            up = os.stat("..", dir_fd=fd).st_ino == (folder / "b" / "c").stat().st_ino
        same = (folder / "b" / "c" / "deep").stat().st_ino == inside
        return up, same, tree_of(folder)

    up, same, tree = twin.same(act)
    assert up
    assert same
    assert tree["b/c/deep/er/y"] == b"y"


@promise(
    "rename-noreplace",
    "`RENAME_NOREPLACE` is `EEXIST` where the new name is taken, and otherwise an ordinary rename.",
)
@on_kernel
def test_noreplace_never_replaces(twin: Twin) -> None:
    def act(folder: Path) -> object:
        (folder / "x").write_text("x")
        (folder / "y").write_text("y")
        (folder / "d").mkdir()
        (folder / "l").symlink_to("nowhere")
        refused = [
            tried(rename2, folder / "x", folder / name, NOREPLACE) for name in ("y", "d", "l", "x")
        ]
        rename2(folder / "x", folder / "z", NOREPLACE)
        rename2(folder / "d", folder / "e", NOREPLACE)
        return refused, tree_of(folder)

    refused, tree = twin.same(act)
    assert refused == ["EEXIST"] * 4
    assert tree == {"e": None, "l": b"nowhere", "y": b"y", "z": b"x"}


@promise(
    "rename-exchange",
    "`RENAME_EXCHANGE` swaps two names of any kinds in one step; both must be there "
    "(`ENOENT`) and neither inside the other (`EINVAL`).",
)
@on_kernel
def test_exchange_swaps_two_names(twin: Twin) -> None:
    def act(folder: Path) -> object:
        (folder / "x").write_text("x")
        (folder / "d" / "sub").mkdir(parents=True)
        (folder / "d" / "sub" / "in").write_text("in")
        (folder / "l").symlink_to("x")
        before = {n: (folder / n).lstat().st_ino for n in ("x", "d", "l")}
        rename2(folder / "x", folder / "d", EXCHANGE)
        rename2(folder / "x" / "sub", folder / "l", EXCHANGE)
        after = {
            "x": (folder / "d").lstat().st_ino,
            "d": (folder / "x").lstat().st_ino,
            "l": (folder / "x" / "sub").lstat().st_ino,
        }
        refused = (
            tried(rename2, folder / "d", folder / "no", EXCHANGE),
            tried(rename2, folder / "x", folder / "x" / "sub", EXCHANGE),
            tried(rename2, folder / "x" / "sub", folder / "x", EXCHANGE),
            tried(rename2, folder / "x", folder / "d", EXCHANGE | NOREPLACE),
        )
        return before == after, refused, tree_of(folder)

    same, refused, tree = twin.same(act)
    assert same
    assert refused == ("ENOENT", "EINVAL", "EINVAL", "EINVAL")
    assert tree == {"d": b"x", "l": None, "l/in": b"in", "x": None, "x/sub": b"x"}


@promise(
    "rename-whiteout",
    "`RENAME_WHITEOUT` and flags that no kernel knows are `EINVAL`, and nothing is renamed.",
)
def test_other_flags_are_refused(twin: Twin) -> None:
    (twin.ours / "x").touch()
    for flags in (WHITEOUT, WHITEOUT | NOREPLACE, 1 << 8):
        assert tried(rename2, twin.ours / "x", twin.ours / "y", flags) == "EINVAL"
    assert os.listdir(twin.ours) == ["x"]


@promise(
    "rename-open",
    "Handles go on with their file through renames and replacement; the inode number stays "
    "with the file.",
)
def test_handles_stay_with_their_file(twin: Twin) -> None:
    def act(folder: Path) -> object:
        (folder / "x").write_bytes(b"first")
        (folder / "y").write_bytes(b"second")
        number = (folder / "x").stat().st_ino
        with opened(folder / "x", os.O_RDWR) as x, opened(folder / "y", os.O_RDWR) as y:
            os.rename(folder / "x", folder / "y")
            os.pwrite(x, b"FI", 0)
            os.pwrite(y, b"SE", 0)
            seen = os.pread(x, 9, 0), os.pread(y, 9, 0), os.fstat(y).st_nlink
        return seen, (folder / "y").read_bytes(), (folder / "y").stat().st_ino == number

    assert twin.same(act) == ((b"FIrst", b"SEcond", 0), b"FIrst", True)
