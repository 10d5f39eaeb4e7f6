"""Promises about what is there on the other machine, and after cache and state were deleted."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mounted import Home, eventually
from tests.promises.promised import NOBODY, OTHER, opened, promise
from tests.promises.test_names import ODD

MIB = 1 << 20


@dataclass
class Machines:
    """Two machines with the pipe `p` of one store."""

    a: Home
    b: Home
    longest: int
    """Bytes of the longest name that this store takes for an object."""

    def on(self, home: Home) -> Path:
        return home.base / "p"

    def mount(self, home: Home) -> Path:
        home.run("mount", "p", str(self.on(home)), "-o", "acl=yes")
        return self.on(home)

    def forget(self, home: Home) -> Path:
        """Delete all that the machine has of the pipe but its settings, and mount again."""
        home.umount("p")
        shutil.rmtree(home.home / "cache")
        shutil.rmtree(home.state("p"))
        return self.mount(home)


@pytest.fixture(params=["file", "s3"])
def machines(request: pytest.FixtureRequest) -> Iterator[Machines]:
    if request.param == "s3":
        seaweed = request.getfixturevalue("seaweed")
        env, url = seaweed.environment(), f"s3://{seaweed.make_bucket()}/p"
        # SeaweedFS keeps versions in a folder NAME.versions of its own, so its names are shorter.
        found = Machines(Home(env), Home(env), 240)
    else:
        found = Machines(Home(), Home(), 255)
        (found.a.base / "store").mkdir()
        url = f"file://{found.a.base}/store"
    try:
        for home in (found.a, found.b):
            found.on(home).mkdir()
            home.create("p", url)
            found.mount(home)
        yield found
    finally:
        found.a.close()
        found.b.close()


def make_tree(root: Path, longest: int, *, lists: bool = True) -> None:
    """Some of everything that a directory can hold. `lists`: access lists too."""
    _files(root)
    _names(root / "names", longest)
    _links(root / "links")
    _special(root / "special")
    _attributes(root / "attributes", lists=lists)


def _files(root: Path) -> None:
    (root / "empty-folder").mkdir()
    (root / "empty").touch()
    (root / "small").write_bytes(b"small")
    (root / "big").write_bytes(os.urandom(3 * MIB + 17))
    with opened(root / "sparse", os.O_CREAT | os.O_WRONLY) as fd:
        os.pwrite(fd, b"head", 0)
        os.pwrite(fd, b"middle", 5 * MIB)
        os.ftruncate(fd, 9 * MIB)
    deep = os.open(root, os.O_DIRECTORY)
    for _ in range(6):
        os.mkdir("d" * 250, dir_fd=deep)
        below = os.open("d" * 250, os.O_DIRECTORY, dir_fd=deep)
        os.close(deep)
        deep = below
    with opened("x.csv", os.O_CREAT | os.O_WRONLY, dir_fd=deep) as fd:
        os.write(fd, b"deeper than a key is long")
    os.close(deep)


def _names(folder: Path, longest: int) -> None:
    folder.mkdir()
    # The last two are three and more times as long in a key.
    long = [b"n" * longest, "ü".encode() * (longest // 2)]
    long += [b"\xff" * (longest // 3), b"%5C" * (longest // 5 - 3)]
    for number, name in enumerate([*ODD, *long]):
        for kind in ("file", "folder", "link"):
            (folder / kind).mkdir(exist_ok=True)
        with opened(os.fsencode(folder) + b"/file/" + name, os.O_CREAT | os.O_WRONLY) as fd:
            os.write(fd, b"%d" % number)
        os.mkdir(os.fsencode(folder) + b"/folder/" + name)
        os.symlink(name, os.fsencode(folder) + b"/link/" + name)


def _links(folder: Path) -> None:
    (folder / "sub").mkdir(parents=True)
    (folder / "one").write_text("one file of three names")
    os.link(folder / "one", folder / "two")
    os.link(folder / "one", folder / "sub" / "three")
    for name, target in {"s": "one", "up": "../..", "no": "/no/where", "l": "t/" * 2000}.items():
        (folder / name).symlink_to(target)
    os.symlink(b"\xff\n%41\\", os.fsencode(folder / "odd"))
    os.link(folder / "s", folder / "s2", follow_symlinks=False)


def _special(folder: Path) -> None:
    folder.mkdir()
    os.mkfifo(folder / "fifo", 0o622)
    os.link(folder / "fifo", folder / "fifo2")
    os.mknod(folder / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(folder / "disk", stat.S_IFBLK | 0o660, os.makedev(259, 70_000))
    with opened(folder, os.O_DIRECTORY) as fd, socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{fd}/socket")


def _attributes(folder: Path, *, lists: bool) -> None:
    folder.mkdir()
    for mode in (0o000, 0o400, 0o755, 0o4755, 0o2755, 0o6711, 0o1777):
        (folder / f"file{mode:o}").touch()
        (folder / f"file{mode:o}").chmod(mode)
        (folder / f"folder{mode:o}").mkdir()
        (folder / f"folder{mode:o}").chmod(mode)
    for path in (folder / "owned", folder / "owned-link"):
        path.symlink_to("x") if path.name.endswith("link") else path.touch()
        os.chown(path, NOBODY, OTHER, follow_symlinks=False)
    for number, ns in enumerate((0, 1, -(10**18) - 7, 10**18 + 123_456_789, 4 * 10**18 + 1)):
        (folder / f"time{number}").touch()
        os.utime(folder / f"time{number}", ns=(ns, ns))
    (folder / "xattrs").write_text("x")
    os.setxattr(folder / "xattrs", "user.bytes", bytes(range(256)))
    os.setxattr(folder / "xattrs", "user.ü\n%41", b"")
    os.setxattr(folder / "xattrs", "trusted.t", b"trusted")
    os.setxattr(folder, "user.folder", b"too")
    listed = folder / "listed"
    listed.mkdir()
    if lists:
        entries = f"u:{NOBODY}:rw,g:{OTHER}:r,d:u:{OTHER}:rwx"
        subprocess.run(["setfacl", "-m", entries, listed], check=True)
    os.utime(listed, ns=(5, 5))


def looked_at(root: Path) -> dict[bytes, tuple[object, ...]]:
    """Path → all that another machine must show of it; hard links as the set of their paths."""
    found: dict[bytes, tuple[object, ...]] = {}
    names: dict[int, set[bytes]] = defaultdict(set)
    top = os.fsencode(root)
    for folder, folders, files in os.walk(top):
        for name in [*folders, *files]:
            path = os.path.join(folder, name)
            names[os.lstat(path).st_ino].add(path.removeprefix(top))
            found[path.removeprefix(top)] = _shown(path)
    return {
        path: (*shown, frozenset(names[os.lstat(top + path).st_ino]))
        for path, shown in found.items()
    }


def _shown(path: bytes) -> tuple[object, ...]:
    st = os.lstat(path)
    content: object = None
    if stat.S_ISREG(st.st_mode):
        content = Path(os.fsdecode(path)).read_bytes()
    elif stat.S_ISLNK(st.st_mode):
        content = os.readlink(path)
    xattrs = {n: os.getxattr(path, n, follow_symlinks=False) for n in _xattrs(path)}
    size = 0 if stat.S_ISDIR(st.st_mode) else st.st_size
    kept = (st.st_mode, st.st_uid, st.st_gid, st.st_nlink, size, st.st_mtime_ns, st.st_rdev)
    return (*kept, content, xattrs)


def _xattrs(path: bytes) -> list[str]:
    return sorted(os.listxattr(path, follow_symlinks=False))


def differences(one: Path, other: Path) -> str:
    """What rsync would change."""
    command = ["rsync", "-aHAXn", "--checksum", "--delete", "--modify-window=-1", "-i"]
    done = subprocess.run(
        [*command, f"{one}/", f"{other}/"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@promise(
    "elsewhere",
    "What is on one machine is the same on every other: names, links, special files, modes, "
    "owners, times, attributes, lists and bytes, so that `rsync -aHAXn --checksum --delete` "
    "prints nothing.",
)
@promise(
    "elsewhere-fresh",
    "The same holds for a machine whose cache and state were deleted after everything had gone up.",
)
def test_everything_is_on_the_other_machine_and_on_a_fresh_one(machines: Machines) -> None:
    here, there = machines.on(machines.a), machines.on(machines.b)
    make_tree(here, machines.longest)
    wanted = looked_at(here)
    machines.a.flush("p")
    eventually(lambda: sorted(looked_at(there)) == sorted(wanted), "all names are there")
    eventually(_settled(there, wanted), "everything is there")
    assert differences(here, there) == ""
    for home in (machines.b, machines.a):
        again = machines.forget(home)
        assert _unlike(looked_at(again), wanted) == {}
        assert differences(again, here if home is machines.b else there) == ""


def _settled(root: Path, wanted: dict[bytes, tuple[object, ...]]) -> Callable[[], bool]:
    return lambda: looked_at(root) == wanted


def _unlike(
    found: dict[bytes, tuple[object, ...]], wanted: dict[bytes, tuple[object, ...]]
) -> dict[bytes, object]:
    """Paths that differ, with both sides."""
    return {
        path: (found.get(path), wanted.get(path))
        for path in found.keys() | wanted.keys()
        if found.get(path) != wanted.get(path)
    }
