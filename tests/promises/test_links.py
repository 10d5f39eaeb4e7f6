"""Promises about hard links, files without a name, and special files."""

from __future__ import annotations

import ctypes
import os
import select
import socket
import stat
import subprocess
import tempfile
from pathlib import Path

from tests.promises.promised import (
    NOBODY,
    OTHER,
    Twin,
    acting_as,
    c_function,
    mode_of,
    on_kernel,
    opened,
    promise,
    tried,
)

_linkat = c_function(
    "linkat", ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_int
)
_AT_FDCWD, _FOLLOW = -100, 0x400


def name_file(fd: int, path: Path) -> None:
    """linkat(2) of an open file without a name."""
    source = f"/proc/self/fd/{fd}".encode()
    _linkat(_AT_FDCWD, source, _AT_FDCWD, os.fsencode(path), _FOLLOW)


@promise(
    "link",
    "All names of a file that `link` gave it are equal: bytes, attributes, inode number and "
    "handles are the file's, and it lives until the last name and handle are gone.",
)
def test_hard_links_are_one_file(twin: Twin) -> None:
    def act(folder: Path) -> object:
        (folder / "sub").mkdir()
        a, b, c = folder / "a", folder / "b", folder / "sub" / "c"
        a.write_bytes(b"one")
        os.link(a, b)
        os.link(b, c)
        counts = [p.stat().st_nlink for p in (a, b, c)]
        same = len({p.stat().st_ino for p in (a, b, c)}) == 1
        with opened(b, os.O_WRONLY | os.O_APPEND) as fd:
            os.write(fd, b" and two")
        c.chmod(0o640)
        os.setxattr(a, "user.k", b"v")
        os.utime(b, ns=(5, 6))
        seen = [(p.read_bytes(), mode_of(p), os.getxattr(p, "user.k")) for p in (a, b, c)]
        times = {p.stat().st_mtime_ns for p in (a, b, c)}
        a.unlink()
        left = [(p.read_bytes(), p.stat().st_nlink) for p in (b, c)]
        b.rename(folder / "d")
        c.unlink()
        with opened(folder / "d", os.O_RDWR) as fd:
            (folder / "d").unlink()
            last = os.pread(fd, 20, 0), os.fstat(fd).st_nlink
        return counts, same, seen, times, left, last, os.listdir(folder)

    counts, same, seen, times, left, last, names = twin.same(act)
    assert (counts, same, times) == ([3, 3, 3], True, {6})
    assert seen == [(b"one and two", 0o640, b"v")] * 3
    assert left == [(b"one and two", 2)] * 2
    assert (last, names) == ((b"one and two", 0), ["sub"])


@promise(
    "link-rename",
    "A rename onto another name of the same file does nothing; over another file it takes one "
    "of that file's names.",
)
def test_renames_among_hard_links(twin: Twin) -> None:
    def act(folder: Path) -> object:
        for name in ("a", "x"):
            (folder / name).write_text(name)
            os.link(folder / name, folder / (name + "2"))
        os.rename(folder / "a", folder / "a2")
        unchanged = sorted(os.listdir(folder))
        os.rename(folder / "a", folder / "x")
        os.rename(folder / "x2", folder / "swap")
        os.rename(folder / "a2", folder / "x2")
        os.rename(folder / "swap", folder / "a2")
        found = {p.name: (p.read_text(), p.stat().st_nlink) for p in folder.iterdir()}
        return unchanged, found

    unchanged, found = twin.same(act)
    assert unchanged == ["a", "a2", "x", "x2"]
    assert found == {"a2": ("x", 1), "x": ("a", 2), "x2": ("a", 2)}


@promise(
    "link-errors",
    "`link` to a directory is `EPERM`, to a name that is taken `EEXIST`, to another mount "
    "`EXDEV`, and of a file that is missing `ENOENT`.",
)
def test_what_cannot_be_linked(twin: Twin) -> None:
    def act(folder: Path) -> object:
        (folder / "d").mkdir()
        (folder / "x").touch()
        (folder / "y").touch()
        with tempfile.TemporaryDirectory() as elsewhere:
            across = tried(os.link, folder / "x", Path(elsewhere, "x"))
        return [
            tried(os.link, folder / "d", folder / "d2"),
            tried(os.link, folder / "x", folder / "y"),
            across,
            tried(os.link, folder / "no", folder / "z"),
            tried(os.link, folder / "x", folder / "no" / "z"),
            tried(os.link, folder / "x", folder / "y" / "z"),
            tried(os.link, folder / "x", folder / ("n" * 256)),
        ]

    assert twin.same(act) == [
        *("EPERM", "EEXIST", "EXDEV", "ENOENT", "ENOENT", "ENOTDIR", "ENAMETOOLONG"),
    ]


@promise(
    "link-any",
    "Links, fifos, sockets and devices can have several names too, each for itself and not "
    "what it points to.",
)
def test_everything_but_directories_can_be_linked(twin: Twin) -> None:
    def act(folder: Path) -> object:
        (folder / "link").symlink_to("nowhere")
        os.mkfifo(folder / "fifo")
        os.mknod(folder / "device", stat.S_IFBLK | 0o600, os.makedev(7, 9))
        found = []
        for name in ("link", "fifo", "device"):
            os.link(folder / name, folder / (name + "2"), follow_symlinks=False)
            (folder / name).unlink()
            again = (folder / (name + "2")).lstat()
            found.append((oct(again.st_mode), again.st_nlink, again.st_rdev))
        return found, os.readlink(folder / "link2")

    found, target = twin.same(act)
    assert [n for _, n, _ in found] == [1, 1, 1]
    assert target == "nowhere"


@promise(
    "link-rights",
    "Where the system protects links (`fs.protected_hardlinks`), who neither owns a file nor "
    "may write it cannot link it (`EPERM`).",
)
def test_who_may_link(twin: Twin) -> None:
    def act(folder: Path) -> object:
        folder.chmod(0o777)
        (folder / "roots").touch()
        (folder / "open").touch()
        (folder / "open").chmod(0o666)
        with acting_as(NOBODY, NOBODY):
            return (
                tried(os.link, folder / "roots", folder / "l1"),
                tried(os.link, folder / "open", folder / "l2"),
            )

    protected = Path("/proc/sys/fs/protected_hardlinks").read_text().strip() == "1"
    assert twin.same(act) == ("EPERM" if protected else None, None)


@promise(
    "open-tmpfile",
    "`O_TMPFILE` opens a file without a name, which `linkat` may give one, and which is gone "
    "at its last close without; with `O_EXCL` it can get none (`ENOENT`).",
)
@on_kernel
def test_files_without_a_name(twin: Twin) -> None:
    def act(folder: Path) -> object:
        with opened(folder, os.O_TMPFILE | os.O_RDWR, 0o640) as fd:
            os.write(fd, b"born without a name")
            before = os.fstat(fd).st_nlink, os.listdir(folder)
            name_file(fd, folder / "named")
            os.write(fd, b", and named")
            after = os.fstat(fd).st_nlink
        with opened(folder, os.O_TMPFILE | os.O_RDWR) as fd:
            os.write(fd, b"x" * 5000)
            alone = os.pread(fd, 3, 4000)
        with opened(folder, os.O_TMPFILE | os.O_RDWR | os.O_EXCL) as fd:
            for_ever = tried(name_file, fd, folder / "never")
        read_only = tried(os.open, folder, os.O_TMPFILE | os.O_RDONLY)
        found = (folder / "named").read_bytes(), mode_of(folder / "named")
        return before, after, alone, for_ever, read_only, found, os.listdir(folder)

    before, after, alone, for_ever, read_only, found, names = twin.same(act)
    assert (before, after, alone) == ((0, []), 1, b"xxx")
    assert (for_ever, read_only) == ("ENOENT", "EINVAL")
    assert (found, names) == ((b"born without a name, and named", 0o640), ["named"])


@promise(
    "fifo",
    "A fifo carries bytes between processes of this machine; its name, mode and owner go to "
    "the others.",
)
def test_a_fifo_carries_bytes(twin: Twin) -> None:
    def act(folder: Path) -> object:
        os.mkfifo(folder / "pipe", 0o620)
        found = (folder / "pipe").lstat()
        writer = subprocess.Popen(["sh", "-c", f"echo through > {folder}/pipe"])
        with open(folder / "pipe", "rb") as pipe:
            content = pipe.read()
        alone = tried(os.open, folder / "pipe", os.O_WRONLY | os.O_NONBLOCK)
        return oct(found.st_mode), found.st_size, content, writer.wait(30), alone

    assert twin.same(act) == ("0o10600", 0, b"through\n", 0, "ENXIO")


@promise(
    "socket",
    "A socket can be bound on the mount and reached by its name from this machine.",
)
def test_a_socket_is_reached_by_its_name(twin: Twin) -> None:
    def act(folder: Path) -> object:
        with opened(folder, os.O_DIRECTORY) as fd, socket.socket(socket.AF_UNIX) as server:
            # Through the descriptor: the address of a socket has room for 107 bytes.
            address = f"/proc/self/fd/{fd}/s"
            server.bind(address)
            kind = stat.S_ISSOCK((folder / "s").lstat().st_mode)
            server.listen()
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(address)
                accepted, _ = server.accept()
                client.sendall(b"hello")
                said = accepted.recv(10)
                accepted.close()
            again = tried(socket.socket(socket.AF_UNIX).bind, address)
            opens = tried(os.open, folder / "s", os.O_RDONLY)
        (folder / "s").unlink()
        return kind, said, again, opens

    assert twin.same(act) == (True, b"hello", "EADDRINUSE", "ENXIO")


@promise(
    "devices",
    "Root makes device nodes with any number, which are kept with it; for others `mknod` of "
    "one is `EPERM`, and of a fifo, socket or file allowed.",
)
def test_device_nodes_keep_their_numbers(twin: Twin) -> None:
    numbers = [(1, 3), (8, 1), (259, 70_000), (4095, 1_048_575)]

    def act(folder: Path) -> object:
        folder.chmod(0o777)
        found = []
        for n, (major, minor) in enumerate(numbers):
            for kind in (stat.S_IFCHR, stat.S_IFBLK):
                path = folder / f"{n}{kind}"
                os.mknod(path, kind | 0o640, os.makedev(major, minor))
                made = path.lstat()
                found.append((oct(made.st_mode), os.major(made.st_rdev), os.minor(made.st_rdev)))
        with acting_as(OTHER, OTHER):
            answers = [
                tried(os.mknod, folder / f"of{kind}", kind | 0o600, os.makedev(1, 3))
                for kind in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG)
            ]
        return found, answers

    found, answers = twin.same(act)
    assert [(major, minor) for _, major, minor in found[::2]] == numbers
    assert answers == ["EPERM", "EPERM", None, None, None]


@promise(
    "special-attributes",
    "`poll` on a fifo works, and special files have attributes and times like others but no "
    "user attributes (`EPERM`).",
)
def test_special_files_have_attributes(twin: Twin) -> None:
    def act(folder: Path) -> object:
        os.mkfifo(folder / "f")
        os.chmod(folder / "f", 0o1234)
        os.chown(folder / "f", 3, 4)
        os.utime(folder / "f", ns=(1, 2))
        found = (folder / "f").lstat()
        attributes = oct(found.st_mode), found.st_uid, found.st_gid, found.st_mtime_ns
        refused = tried(os.setxattr, folder / "f", "user.a", b"1")
        with opened(folder / "f", os.O_RDWR | os.O_NONBLOCK) as fd:
            os.write(fd, b"x")
            ready = select.select([fd], [], [], 0)[0] == [fd]
        return attributes, refused, ready

    assert twin.same(act) == (("0o11234", 3, 4, 2), "EPERM", True)
