"""Promises about names and paths: which there may be, how long, and the errors on the way."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tests.promises.promised import Twin, opened, promise, tried

# A raw name is never text: what is no UTF-8 comes back as it went in.
ODD = [
    b"with spaces and 'quotes' \"",
    "überraschung-日本語-🎈".encode(),
    "e\u0301 is not \u00e9".encode(),
    "\u00e9 alone".encode(),
    b"not \xff\xfe utf-8",
    b"\xc3",
    b"new\nline",
    b"\x01\x02\x1f\x7f",
    b"%41 %2F %00 %25 %",
    b"back\\slash",
    b"trailing.",
    b"trailing ",
    b"-rf",
    b"*?[x]",
    b"...",
    b"~",
    b"CON",
    b"a:b|c<d>",
]
EVERY_BYTE = [bytes([b]) for b in range(1, 256) if bytes([b]) not in (b"/", b".")]


def _names(folder: Path) -> list[bytes]:
    return sorted(os.listdir(os.fsencode(folder)))


@promise(
    "names",
    "A name has up to 255 bytes, any but `/` and NUL, and is kept byte for byte; upper and "
    "lower case and all forms of Unicode are different names.",
)
def test_names_are_any_bytes(twin: Twin) -> None:
    long = [b"n" * 255, "ü".encode() * 127, b"\xff" * 255, b"%5C" * 85, b"\\" * 255]
    names = sorted({*ODD, *EVERY_BYTE, *long, b"Case", b"case"})

    def act(folder: Path) -> object:
        for name in names:
            os.close(os.open(os.fsencode(folder) + b"/" + name, os.O_CREAT | os.O_EXCL))
        found = _names(folder)
        for name in names:
            os.rename(os.fsencode(folder) + b"/" + name, os.fsencode(folder) + b"/moved")
            os.rename(os.fsencode(folder) + b"/moved", os.fsencode(folder) + b"/" + name)
        assert _names(folder) == found
        for name in names:
            os.unlink(os.fsencode(folder) + b"/" + name)
        return found, _names(folder)

    assert twin.same(act) == (names, [])


@promise(
    "names-too-long",
    "A name of 256 bytes is `ENAMETOOLONG`, to look up or to make anything of it.",
)
def test_a_longer_name_is_too_long(twin: Twin) -> None:
    def act(folder: Path) -> object:
        long, x = folder / ("n" * 256), folder / "x"
        x.touch()
        return [
            tried(call)
            for call in (
                long.stat,
                long.touch,
                long.mkdir,
                long.unlink,
                lambda: long.symlink_to("x"),
                lambda: x.rename(long),
                lambda: os.mkfifo(long),
            )
        ]

    assert twin.same(act) == ["ENAMETOOLONG"] * 7


@promise(
    "names-reserved",
    "`.snapshots` is found in every directory and `.pipefs` in the root never is; "
    "neither is listed or can be made, and other names that begin with a dot are "
    "ordinary.",
)
def test_our_own_names_cannot_be_made(twin: Twin) -> None:
    root = twin.ours.parent
    for path in (root / ".snapshots", twin.ours / ".snapshots"):
        assert path.is_dir()
        assert tried(path.mkdir) == "EEXIST"
        assert path.name not in os.listdir(path.parent)
    own = root / ".pipefs"
    assert not own.exists()
    assert tried(own.mkdir) == "EROFS"
    assert tried(own.touch) == "EROFS"
    for name in (".pipefs", ".git", ".hidden"):
        (twin.ours / name).touch()
    assert set(os.listdir(twin.ours)) == {".pipefs", ".git", ".hidden"}


@promise(
    "paths",
    "A path in a call may have 4,095 bytes and any number of `.`, `..` and doubled slashes; "
    "longer is `ENAMETOOLONG`, and from a working directory further down there is always a "
    "way on.",
)
def test_paths_may_have_4095_bytes(twin: Twin) -> None:
    def act(folder: Path) -> object:
        (folder / "d").mkdir()
        (folder / "d" / "x").write_text("deep")
        found = []
        for length in (4095, 4096):
            start = os.fsencode(folder) + b"/d/"
            rest = length - len(start) - 1
            path = start + b"./" * (rest // 2) + b"/" * (rest % 2) + b"x"
            assert len(path) == length
            found.append(tried(lambda path=path: os.stat(path).st_size))
        return found, os.stat(os.fsencode(folder) + b"//d/..///./d/../d/x").st_size

    assert twin.same(act) == ([4, "ENAMETOOLONG"], 4)


@promise(
    "errors-of-paths",
    "On the way to a name, something missing is `ENOENT`, something that is no directory "
    "`ENOTDIR`, a directory that may not be searched `EACCES`, and the 41st link `ELOOP`.",
)
def test_the_way_to_a_name_has_the_usual_errors(twin: Twin) -> None:
    def act(folder: Path) -> object:
        (folder / "x").touch()
        (folder / "around").symlink_to("around")
        (folder / "l0").symlink_to("x")
        for n in range(1, 41):
            (folder / f"l{n}").symlink_to(f"l{n - 1}")
        return [
            tried(os.stat, folder / "no" / "x"),
            tried(os.stat, folder / "x" / "y"),
            tried(os.stat, f"{folder}/x/"),
            tried(os.mkdir, folder / "x" / "y"),
            tried(os.stat, folder / "around"),
            stat.S_ISREG((folder / "l39").stat().st_mode),
            tried(os.stat, folder / "l40"),
            tried(os.stat, b""),
        ]

    assert twin.same(act) == [
        *("ENOENT", "ENOTDIR", "ENOTDIR", "ENOTDIR", "ELOOP"),
        *(True, "ELOOP", "ENOENT"),
    ]


@promise(
    "symlink",
    "A symbolic link holds up to 4,095 bytes, any but NUL, is as long as its target, and may "
    "dangle.",
)
def test_links_hold_any_target(twin: Twin) -> None:
    targets = [b"x", b"no/where", b"../..", b"\xff\n%41\\", b"t/" * 2047 + b"t", b"/abs//olute/."]

    def act(folder: Path) -> object:
        found = []
        for number, target in enumerate(targets):
            path = folder / f"l{number}"
            os.symlink(target, os.fsencode(path))
            assert os.readlink(os.fsencode(path)) == target
            found.append((path.lstat().st_size, path.exists(), oct(path.lstat().st_mode)))
        (folder / "x").write_text("by the link")
        refused = (
            tried(os.symlink, b"t" * 4096, os.fsencode(folder / "long")),
            tried(os.symlink, b"", os.fsencode(folder / "empty")),
            tried(os.symlink, b"x", os.fsencode(folder / "l0")),
            tried(os.readlink, folder / "x"),
        )
        return found, refused, (folder / "l0").read_text()

    found, refused, text = twin.same(act)
    assert [size for size, _, _ in found] == [len(t) for t in targets]
    assert {mode for _, _, mode in found} == {"0o120777"}
    assert refused == ("ENAMETOOLONG", "ENOENT", "EEXIST", "EINVAL")
    assert text == "by the link"


@promise(
    "symlink-itself",
    "`lstat`, `lchown`, `utimensat` without following, `unlink` and `rename` act on a link "
    "itself; `open` with `O_CREAT` makes the file that a dangling one names.",
)
def test_calls_on_links_act_on_the_link_or_its_target(twin: Twin) -> None:
    def act(folder: Path) -> object:
        (folder / "x").write_text("x")
        link = folder / "link"
        link.symlink_to("x")
        os.utime(link, ns=(1, 2), follow_symlinks=False)
        os.lchown(link, 7, 8)
        link = link.rename(folder / "renamed")
        found = link.lstat()
        followed = (folder / "x").stat()
        (folder / "dangling").symlink_to("made")
        (folder / "dangling").write_text("through")
        link.unlink()
        return (
            (found.st_mtime_ns, found.st_uid, found.st_gid),
            (followed.st_uid, followed.st_mtime_ns > 2),
            (folder / "made").read_text(),
            sorted(os.listdir(folder)),
        )

    assert twin.same(act) == ((2, 7, 8), (0, True), "through", ["dangling", "made", "x"])


@promise(
    "paths-deep",
    "A file or directory may lie as deep as calls can reach step by step, up to a path of "
    "8,192 bytes from the root of the mount; deeper is `ENAMETOOLONG`.",
)
def test_a_tree_may_be_deeper_than_a_path_is_long(twin: Twin) -> None:
    def go_down(fd: int, steps: int) -> int:
        for _ in range(steps):
            os.mkdir("d" * 250, dir_fd=fd)
            below = os.open("d" * 250, os.O_DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = below
        return fd

    def act(folder: Path) -> object:
        fd = go_down(os.open(folder, os.O_DIRECTORY), 31)
        with opened("x", os.O_CREAT | os.O_WRONLY, dir_fd=fd) as file:
            os.write(file, b"deep")
        with opened("x", os.O_RDONLY, dir_fd=fd) as file:
            content = os.read(file, 10)
        os.rename("x", "y", src_dir_fd=fd, dst_dir_fd=fd)
        names = os.listdir(fd)
        os.close(fd)
        return content, names

    assert twin.same(act) == (b"deep", ["y"])
    fd = os.open(twin.ours, os.O_DIRECTORY)
    for _ in range(31):
        below = os.open("d" * 250, os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    assert tried(lambda: os.close(go_down(os.dup(fd), 2))) == "ENAMETOOLONG"
    os.close(fd)
