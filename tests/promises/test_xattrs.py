"""Promises about extended attributes and access control lists."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.promises.promised import NOBODY, OTHER, Twin, acting_as, mode_of, opened, promise, tried

CREATE, REPLACE = os.XATTR_CREATE, os.XATTR_REPLACE


@promise(
    "xattr",
    "Attributes `user.*` of files and directories, and `trusted.*` for root, hold any bytes "
    "and are kept with the file through every rename and link.",
)
def test_attributes_hold_any_bytes_and_stay_with_the_file(twin: Twin) -> None:
    values = {
        "user.empty": b"",
        "user.bytes": bytes(range(256)),
        "user.ü\n%41": b"odd name",
        "user." + "n" * 250: b"long name",
        "trusted.overlay": b"y",
    }

    def act(folder: Path) -> object:
        (folder / "sub").mkdir()
        (folder / "x").touch()
        for name, value in values.items():
            os.setxattr(folder / "x", name, value)
            os.setxattr(folder / "sub", name, value)
        os.link(folder / "x", folder / "sub" / "link")
        (folder / "x").rename(folder / "sub" / "moved")
        found = []
        for path in (folder / "sub", folder / "sub" / "moved", folder / "sub" / "link"):
            names = [n for n in os.listxattr(path) if n in values]
            found.append({name: os.getxattr(path, name) for name in names})
        with opened(folder / "sub" / "moved", os.O_RDONLY) as fd:
            os.setxattr(fd, "user.empty", b"full")
            through = os.getxattr(fd, "user.empty"), len(os.listxattr(fd))
        os.removexattr(folder / "sub" / "moved", "user.bytes")
        return found, through, sorted(os.listxattr(folder / "sub" / "link"))

    found, through, names = twin.same(act)
    assert found == [values] * 3
    assert through == (b"full", len(values))
    assert names == sorted(set(values) - {"user.bytes"})


@promise(
    "xattr-errors",
    "A missing attribute is `ENODATA`, `XATTR_CREATE` of one that is there `EEXIST`, "
    "`XATTR_REPLACE` of a missing one `ENODATA`, a namespace nobody knows `EOPNOTSUPP`, and "
    "`user.*` of a link `EPERM`.",
)
def test_what_attributes_refuse(twin: Twin) -> None:
    def act(folder: Path) -> object:
        path = folder / "x"
        path.touch()
        (folder / "link").symlink_to("x")
        os.setxattr(path, "user.a", b"1")
        return [
            tried(os.getxattr, path, "user.no"),
            tried(os.removexattr, path, "user.no"),
            tried(os.setxattr, path, "user.a", b"2", CREATE),
            tried(os.setxattr, path, "user.b", b"2", REPLACE),
            tried(os.setxattr, path, "user.a", b"3", REPLACE),
            os.getxattr(path, "user.a"),
            tried(os.setxattr, path, "nobody.a", b"1"),
            tried(os.getxattr, path, "nobody.a"),
            tried(os.setxattr, path, "user.", b"1"),
            tried(os.setxattr, folder / "link", "user.a", b"1", 0, follow_symlinks=False),
            tried(os.getxattr, folder / "no", "user.a"),
            tried(os.setxattr, path, "user." + "n" * 251, b"1"),
        ]

    assert twin.same(act) == [
        *("ENODATA", "ENODATA", "EEXIST", "ENODATA", None, b"3"),
        *("EOPNOTSUPP", "EOPNOTSUPP", "EINVAL", "EPERM", "ENOENT", "ERANGE"),
    ]


@promise(
    "xattr-rights",
    "Reading and setting `user.*` takes the right to read and write the file (`EACCES`); "
    "`trusted.*` is root's (`EPERM` to set), and others are not shown that it is there.",
)
def test_who_may_read_and_set_attributes(twin: Twin) -> None:
    def act(folder: Path) -> object:
        for name, mode in (("open", 0o666), ("readable", 0o644), ("closed", 0o600)):
            (folder / name).touch()
            (folder / name).chmod(mode)
            os.setxattr(folder / name, "user.a", b"1")
            os.setxattr(folder / name, "trusted.a", b"1")
        with acting_as(NOBODY, NOBODY):
            return [
                (
                    tried(os.getxattr, folder / name, "user.a"),
                    tried(os.setxattr, folder / name, "user.a", b"2"),
                    tried(os.getxattr, folder / name, "trusted.a"),
                    tried(os.setxattr, folder / name, "trusted.a", b"2"),
                    tried(os.listxattr, folder / name),
                )
                for name in ("open", "readable", "closed")
            ]

    assert twin.same(act) == [
        (b"1", None, "ENODATA", "EPERM", ["user.a"]),
        (b"1", "EACCES", "ENODATA", "EPERM", ["user.a"]),
        ("EACCES", "EACCES", "ENODATA", "EPERM", ["user.a"]),
    ]


@promise(
    "xattr-limits",
    "A value has up to 64 KiB (`E2BIG`), and names and values of one file together up to 128 "
    "KiB (`ENOSPC`).",
)
def test_attributes_have_room_for_128_kib(twin: Twin) -> None:
    path = twin.ours / "x"
    path.touch()
    value = os.urandom(64 << 10)
    os.setxattr(path, "user.a", value)
    assert os.getxattr(path, "user.a") == value
    assert tried(os.setxattr, path, "user.b", value + b"x") == "E2BIG"
    os.setxattr(path, "user.b", value[: 60 << 10])
    assert tried(os.setxattr, path, "user.c", value[: 5 << 10]) == "ENOSPC"
    assert sorted(os.listxattr(path)) == ["user.a", "user.b"]


@promise(
    "xattr-virtual",
    "`user.pipefs.*` is found by name and never listed, cannot be set or removed (`EPERM`), "
    "and is `ENODATA` where there is nothing to tell.",
)
def test_virtual_attributes_are_found_by_name_only(twin: Twin) -> None:
    path = twin.ours / "x"
    path.write_text("x")
    assert os.listxattr(path) == []
    assert os.getxattr(path, "user.pipefs.state") == b"dirty"
    assert tried(os.getxattr, path, "user.pipefs.version") == "ENODATA"
    assert tried(os.getxattr, path, "user.pipefs.nothing") == "ENODATA"
    assert tried(os.setxattr, path, "user.pipefs.state", b"clean") == "EPERM"
    assert tried(os.setxattr, path, "user.pipefs.mine", b"1") == "EPERM"
    assert tried(os.removexattr, path, "user.pipefs.state") == "EPERM"


@promise(
    "xattr-copies",
    "`cp -a`, `rsync -aX` and `tar --xattrs` take attributes along in both directions, and a "
    "second `rsync` finds nothing to do.",
)
def test_copies_take_attributes_along_and_settle(twin: Twin, tmp_path: Path) -> None:
    def act(folder: Path) -> object:
        source = folder / "source"
        source.mkdir()
        (source / "x").write_text("x")
        os.setxattr(source / "x", "user.a", b"\x00\xff")
        os.setxattr(source, "user.d", b"directory")
        subprocess.run(["cp", "-a", source, folder / "copied"], check=True)
        sync = ["rsync", "-aX", "--itemize-changes", f"{source}/", f"{folder}/synced/"]
        subprocess.run(sync, check=True, capture_output=True)
        again = subprocess.run(sync, check=True, capture_output=True, text=True).stdout
        archive = ["tar", "--xattrs", "--xattrs-include=*", "-C"]
        (folder / "untarred").mkdir()
        subprocess.run([*archive, source, "-cf", tmp_path / "t.tar", "."], check=True)
        subprocess.run([*archive, folder / "untarred", "-xf", tmp_path / "t.tar"], check=True)
        found = [
            (os.getxattr(folder / n / "x", "user.a"), os.getxattr(folder / n, "user.d"))
            for n in ("copied", "synced", "untarred")
        ]
        return again, found

    assert twin.same(act) == ("", [(b"\x00\xff", b"directory")] * 3)


# --- access control lists --------------------------------------------------------------------

with_lists = pytest.mark.parametrize("mounted", ["passthrough"], indirect=True)
"""That mount has `acl=yes`."""


def setfacl(*words: str | Path) -> None:
    subprocess.run(["setfacl", *words], check=True)


def getfacl(path: Path) -> list[str]:
    """The list, without empty lines."""
    said = subprocess.run(["getfacl", "-cnp", path], check=True, capture_output=True, text=True)
    return said.stdout.split()


@promise(
    "acl",
    "With `acl=yes` POSIX access lists are set, shown and enforced as on ext4, with their "
    "mask in the group bits of the mode.",
)
@with_lists
def test_lists_are_enforced_with_their_mask(twin: Twin) -> None:
    def act(folder: Path) -> object:
        path = folder / "x"
        path.write_text("secret")
        path.chmod(0o600)
        setfacl("-m", f"u:{NOBODY}:rw,g:{OTHER}:r", path)
        lists = [getfacl(path)]
        modes = [mode_of(path)]
        answers = []
        for mask in (0o660, 0o640, 0o600):
            path.chmod(mask)
            with acting_as(NOBODY, NOBODY):
                answers += [
                    tried(lambda f=f: os.close(os.open(path, f)))
                    for f in (os.O_RDONLY, os.O_WRONLY)
                ]
            with acting_as(OTHER, OTHER):
                answers.append(tried(lambda: os.close(os.open(path, os.O_RDONLY))))
            lists.append(getfacl(path))
            modes.append(mode_of(path))
        setfacl("-b", path)
        return answers, lists, getfacl(path), modes

    answers, _, last, modes = twin.same(act)
    assert answers == [None, None, None, None, "EACCES", None, "EACCES", "EACCES", "EACCES"]
    assert last == ["user::rw-", "group::---", "other::---"]
    assert modes == [0o660, 0o660, 0o640, 0o600]


@promise(
    "acl-default",
    "A directory's default list goes to what is made in it, in place of the umask, and on to "
    "new directories.",
)
@with_lists
def test_default_lists_are_handed_down(twin: Twin) -> None:
    def act(folder: Path) -> object:
        setfacl("-d", "-m", f"u:{NOBODY}:rwx,g::r,o::-", folder)
        before = os.umask(0o077)
        try:
            (folder / "file").touch(0o666)
            (folder / "sub").mkdir(0o777)
            (folder / "sub" / "below").touch(0o640)
            os.mkfifo(folder / "fifo", 0o666)
        finally:
            os.umask(before)
        names = ("file", "sub", "sub/below", "fifo")
        return [(mode_of(folder / n), getfacl(folder / n)) for n in names]

    found = twin.same(act)
    assert found[0][0] == 0o660
    assert f"default:user:{NOBODY}:rwx" in found[1][1]


@promise(
    "acl-off",
    "Without the setting, which is the default, access lists are `EOPNOTSUPP` to set and to "
    "read, and the mode alone counts.",
)
@pytest.mark.parametrize("mounted", ["kernel"], indirect=True)
def test_without_the_setting_there_are_no_lists(twin: Twin) -> None:
    (twin.ours / "x").touch()
    name = "system.posix_acl_access"
    assert tried(os.getxattr, twin.ours / "x", name) == "EOPNOTSUPP"
    assert tried(os.setxattr, twin.ours / "x", name, b"\2\0\0\0") == "EOPNOTSUPP"
    said = subprocess.run(["setfacl", "-m", "u:1:r", twin.ours / "x"], capture_output=True)
    assert b"not supported" in said.stderr
