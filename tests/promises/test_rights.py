"""Promises about modes, owners and who may do what."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

from tests.promises.promised import (
    NOBODY,
    OTHER,
    Twin,
    acting_as,
    mode_of,
    opened,
    promise,
    tried,
)


@promise(
    "chmod",
    "`chmod` sets all twelve bits of files, directories and special files for the owner and "
    "root (`EPERM` for others).",
)
def test_chmod_sets_all_twelve_bits(twin: Twin) -> None:
    def act(folder: Path) -> object:
        (folder / "file").touch()
        (folder / "folder").mkdir()
        found = []
        for name in ("file", "folder"):
            for mode in (0o000, 0o644, 0o7777, 0o4750, 0o2755, 0o1777):
                (folder / name).chmod(mode)
                found.append(mode_of(folder / name))
        with acting_as(NOBODY, NOBODY):
            refused = tried(os.chmod, folder / "file", 0o777)
        return found, refused

    modes = [0o000, 0o644, 0o7777, 0o4750, 0o2755, 0o1777]
    assert twin.same(act) == (modes * 2, "EPERM")


@promise(
    "chmod-group",
    "An owner who is not in the file's group loses the set-gid bit by `chmod`.",
)
def test_a_strangers_set_gid_bit_goes(twin: Twin) -> None:
    def act(folder: Path) -> object:
        (folder / "x").touch()
        os.chown(folder / "x", NOBODY, OTHER)
        with acting_as(NOBODY, NOBODY):
            (folder / "x").chmod(0o2755)
            outside = mode_of(folder / "x")
        with acting_as(NOBODY, NOBODY, (OTHER,)):
            (folder / "x").chmod(0o2755)
            inside = mode_of(folder / "x")
        return outside, inside

    assert twin.same(act) == (0o755, 0o2755)


@promise(
    "chown",
    "Root gives files to anybody, an owner changes the group to one of his own, everything "
    "else is `EPERM`; -1 leaves an id alone.",
)
def test_who_may_give_files_to_whom(twin: Twin) -> None:
    def act(folder: Path) -> object:
        path = folder / "x"
        path.touch()
        os.chown(path, NOBODY, NOBODY)
        ids = [(path.stat().st_uid, path.stat().st_gid)]
        with acting_as(NOBODY, NOBODY, (OTHER,)):
            answers = [
                tried(os.chown, path, -1, OTHER),
                tried(os.chown, path, NOBODY, -1),
                tried(os.chown, path, OTHER, -1),
                tried(os.chown, path, -1, 0),
                tried(os.chown, path, -1, -1),
            ]
        ids.append((path.stat().st_uid, path.stat().st_gid))
        with acting_as(OTHER, OTHER):
            answers.append(tried(os.chown, path, -1, OTHER))
            answers.append(tried(os.chown, path, OTHER, OTHER))
        os.chown(path, 4_000_000_000, 4_000_000_001)
        ids.append((path.stat().st_uid, path.stat().st_gid))
        return ids, answers

    ids, answers = twin.same(act)
    assert ids == [(NOBODY, NOBODY), (NOBODY, OTHER), (4_000_000_000, 4_000_000_001)]
    assert answers == [None, None, "EPERM", "EPERM", None, "EPERM", "EPERM"]


@promise(
    "chown-set-id",
    "A changed owner or group takes the set-uid bit from a file, and the set-gid bit where "
    "the group may execute.",
)
def test_a_changed_owner_takes_set_id_bits(twin: Twin) -> None:
    def act(folder: Path) -> object:
        found = []
        for uid, gid in ((OTHER, -1), (-1, OTHER), (OTHER, OTHER)):
            for mode in (0o6755, 0o6745, 0o6644, 0o2700, 0o1777):
                path = folder / "x"
                path.touch()
                path.chmod(mode)
                os.chown(path, uid, gid)
                found.append(oct(mode_of(path)))
                path.unlink()
        (folder / "d").mkdir()
        (folder / "d").chmod(0o6755)
        os.chown(folder / "d", OTHER, OTHER)
        return found, oct(mode_of(folder / "d"))

    found, directory = twin.same(act)
    assert found[:5] == ["0o755", "0o2745", "0o2644", "0o2700", "0o1777"]
    assert directory == "0o6755"


@promise(
    "write-set-id",
    "A write or truncation by who is not root takes the same bits; one by root leaves them.",
)
def test_a_strangers_write_takes_set_id_bits(twin: Twin) -> None:
    def act(folder: Path) -> object:
        def write(path: Path) -> None:
            with opened(path, os.O_WRONLY) as fd:
                os.write(fd, b"y")

        def cut(path: Path) -> None:
            os.truncate(path, 1)

        def cut_open(path: Path) -> None:
            os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))

        found = []
        for change in (write, cut, cut_open):
            for mode in (0o6777, 0o4766, 0o2777):
                path = folder / "x"
                path.write_bytes(b"xxx")
                path.chmod(mode)
                change(path)
                by_root = mode_of(path)
                with acting_as(NOBODY, NOBODY):
                    change(path)
                found.append((change.__name__, oct(by_root), oct(mode_of(path))))
                path.unlink()
        return found

    found = twin.same(act)
    assert found[0] == ("write", "0o6777", "0o777")


@promise(
    "set-gid-directory",
    "What is made in a set-gid directory gets its group, and directories also the bit.",
)
def test_a_set_gid_directory_hands_down_its_group(twin: Twin) -> None:
    def act(folder: Path) -> object:
        os.chown(folder, 0, OTHER)
        folder.chmod(0o2777)
        with acting_as(NOBODY, NOBODY):
            (folder / "file").touch()
            (folder / "sub").mkdir()
            (folder / "link").symlink_to("x")
            os.close(os.open(folder / "run", os.O_CREAT | os.O_WRONLY, 0o2775))
        with acting_as(NOBODY, NOBODY, (OTHER,)):
            os.close(os.open(folder / "member", os.O_CREAT | os.O_WRONLY, 0o2775))
        return {
            p.name: (p.lstat().st_uid, p.lstat().st_gid, oct(mode_of(p))) for p in folder.iterdir()
        }

    found = twin.same(act)
    assert {gid for _, gid, _ in found.values()} == {OTHER}
    assert found["sub"] == (NOBODY, OTHER, "0o2755")
    assert found["run"] == (NOBODY, OTHER, "0o755")
    assert found["member"] == (NOBODY, OTHER, "0o2755")


@promise(
    "sticky",
    "In a directory with the sticky bit only the owner of a file, of the directory, and root "
    "may remove or rename it (`EPERM`).",
)
def test_a_sticky_directory_protects_its_files(twin: Twin) -> None:
    def act(folder: Path) -> object:
        folder.chmod(0o1777)
        with acting_as(NOBODY, NOBODY):
            (folder / "theirs").touch()
            (folder / "sub").mkdir()
            (folder / "elsewhere").mkdir()
            os.chmod(folder / "elsewhere", 0o777)
        with acting_as(OTHER, OTHER):
            (folder / "mine").touch()
            answers = [
                tried(os.unlink, folder / "theirs"),
                tried(os.rmdir, folder / "sub"),
                tried(os.rename, folder / "theirs", folder / "x"),
                tried(os.rename, folder / "mine", folder / "theirs"),
                tried(os.rename, folder / "theirs", folder / "elsewhere" / "x"),
                tried(os.unlink, folder / "mine"),
            ]
        (folder / "theirs").unlink()
        return answers, sorted(os.listdir(folder))

    assert twin.same(act) == ([*["EPERM"] * 5, None], ["elsewhere", "sub"])


@promise(
    "permissions",
    "Owner, group and others are held to the mode for reading, writing and searching "
    "(`EACCES`), and root is not.",
)
def test_everybody_is_held_to_the_mode(twin: Twin) -> None:
    def act(folder: Path) -> object:
        path = folder / "d" / "x"
        path.parent.mkdir()
        path.write_text("x")
        os.chown(path, NOBODY, OTHER)
        users = ((NOBODY, NOBODY), (OTHER, OTHER), (OTHER + 1, OTHER + 1))
        found = []
        for mode in (0o700, 0o070, 0o007, 0o640, 0o604):
            path.chmod(mode)
            for uid, gid in users:
                with acting_as(uid, gid):
                    found.append(
                        tuple(
                            isinstance(tried(lambda f=f: os.close(os.open(path, f))), str)
                            for f in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)
                        )
                    )
        others = []
        for mode in (0o755, 0o711, 0o744, 0o733, 0o700):
            path.parent.chmod(mode)
            with acting_as(OTHER, OTHER):
                others.append(
                    (
                        tried(os.stat, path) == "EACCES",
                        tried(os.listdir, path.parent) == "EACCES",
                        tried(os.mkdir, path.parent / f"new{mode:o}"),
                    )
                )
        return found, others, sorted(os.listdir(path.parent))

    found, others, names = twin.same(act)
    assert found[:3] == [(False,) * 3, (True,) * 3, (True,) * 3]
    assert others == [
        (False, False, "EACCES"),
        (False, True, "EACCES"),
        (True, False, "EACCES"),
        (False, True, None),
        (True, True, "EACCES"),
    ]
    assert names == ["new733", "x"]


@promise(
    "access",
    "`access` and `faccessat2` answer as `open` would, `access` for the real user of the process.",
)
def test_access_answers_as_open_would(twin: Twin) -> None:
    def act(folder: Path) -> object:
        (folder / "x").touch()
        (folder / "x").chmod(0o640)
        os.chown(folder / "x", NOBODY, OTHER)
        answers = [os.access(folder / "x", how) for how in (os.F_OK, os.R_OK, os.W_OK, os.X_OK)]
        for uid, gid in ((NOBODY, 0), (OTHER, OTHER), (OTHER, 0)):
            with acting_as(uid, gid):
                answers += [
                    os.access(folder / "x", how, effective_ids=True)
                    for how in (os.F_OK, os.R_OK, os.W_OK, os.X_OK)
                ]
        as_nobody = ["setpriv", f"--reuid={NOBODY}", "--clear-groups", "test"]
        answers += [
            subprocess.run([*as_nobody, how, folder / "x"]).returncode == 0 for how in ("-r", "-x")
        ]
        return answers, tried(lambda: os.access(folder / "no", os.F_OK))

    answers, missing = twin.same(act)
    assert answers[:4] == [True, True, True, False]
    assert answers[4:8] == [True, True, True, False]
    assert answers[8:12] == [True, True, False, False]
    assert not missing


@promise(
    "removal-rights",
    "To make, remove or rename a name takes the right to write and search its directory, not "
    "the file.",
)
def test_names_belong_to_their_directory(twin: Twin) -> None:
    def act(folder: Path) -> object:
        (folder / "open").mkdir()
        (folder / "open").chmod(0o777)
        (folder / "closed").mkdir()
        for name in ("open/x", "closed/x"):
            (folder / name).touch()
            (folder / name).chmod(0o000)
        with acting_as(NOBODY, NOBODY):
            return [
                tried(os.rename, folder / "open/x", folder / "open/y"),
                tried(os.rename, folder / "open/y", folder / "closed/y"),
                tried(os.unlink, folder / "open/y"),
                tried(os.unlink, folder / "closed/x"),
                tried(os.symlink, "x", folder / "closed/l"),
                tried(os.rmdir, folder / "open"),
            ]

    assert twin.same(act) == [None, "EACCES", None, "EACCES", "EACCES", "EACCES"]


@promise(
    "set-uid-programs",
    "Set-id bits and device nodes are kept, but without `suid=yes` a program runs as its "
    "caller, and without `dev=yes` a device node is `EACCES` to open.",
)
def test_set_uid_programs_run_as_their_caller(twin: Twin) -> None:
    program, device = twin.ours / "id", twin.ours / "null"
    program.write_bytes(Path("/usr/bin/id").read_bytes())
    os.chown(program, OTHER, 0)
    program.chmod(0o4755)
    assert program.stat().st_mode & stat.S_ISUID
    assert subprocess.run([program, "-u"], capture_output=True, check=True).stdout == b"0\n"
    os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert tried(os.open, device, os.O_RDONLY) == "EACCES"
