"""Promises about open(2) and each of its flags."""

from __future__ import annotations

import mmap
import os
import stat
import subprocess
import sys
from pathlib import Path

from tests.promises.promised import (
    NOBODY,
    Twin,
    acting_as,
    mode_of,
    opened,
    promise,
    tried,
)


@promise(
    "open-create",
    "`open` with `O_CREAT` makes a file that is missing with the caller's ids and the mode "
    "less the umask, and opens one that is there as it is.",
)
def test_create_makes_a_file_or_opens_the_one_that_is_there(twin: Twin) -> None:
    def act(folder: Path) -> object:
        path = folder / "x"
        before = os.umask(0o027)
        try:
            with opened(path, os.O_CREAT | os.O_WRONLY, 0o777) as fd:
                os.write(fd, b"first")
            with opened(path, os.O_CREAT | os.O_RDONLY, 0o600) as fd:
                content = os.read(fd, 10)
        finally:
            os.umask(before)
        found = path.stat()
        return content, mode_of(path), found.st_uid, found.st_gid, found.st_nlink, found.st_size

    assert twin.same(act) == (b"first", 0o750, 0, 0, 1, 5)


@promise(
    "open-exclusive",
    "`O_CREAT` with `O_EXCL` succeeds once for a name on this machine and is `EEXIST` for "
    "everybody else, also where a dangling link has the name.",
)
def test_an_exclusive_create_succeeds_once(twin: Twin) -> None:
    exclusive = os.O_CREAT | os.O_EXCL | os.O_WRONLY

    def act(folder: Path) -> object:
        (folder / "dangling").symlink_to("nowhere")
        script = (
            f"set -C; for n in $(seq 50); do {{ : > {folder}/$n; }} 2>&- && echo $n; done; true"
        )
        racers = [
            subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        won = sorted(int(n) for racer in racers for n in racer.communicate(timeout=60)[0].split())
        return (
            won,
            tried(os.open, folder / "1", exclusive),
            tried(os.open, folder / "dangling", exclusive),
            (folder / "nowhere").exists(),
        )

    assert twin.same(act) == (list(range(1, 51)), "EEXIST", "EEXIST", False)


@promise(
    "open-truncate",
    "`O_TRUNC` empties a file that may be written and sets its `mtime`.",
)
def test_truncating_at_open_empties(twin: Twin) -> None:
    def act(folder: Path) -> object:
        path = folder / "x"
        path.write_bytes(b"something")
        os.utime(path, ns=(5, 5))
        with opened(path, os.O_WRONLY | os.O_TRUNC) as fd:
            size = os.fstat(fd).st_size
            os.write(fd, b"new")
        refused = tried(os.open, folder, os.O_WRONLY | os.O_TRUNC)
        return size, path.read_bytes(), path.stat().st_mtime_ns > 10**18, refused

    assert twin.same(act) == (0, b"new", True, "EISDIR")


@promise(
    "open-append",
    "With `O_APPEND` each write goes to the end of the file as it is then, whole, also when "
    "several processes append at once.",
)
def test_appends_of_several_processes_are_whole(twin: Twin) -> None:
    def act(folder: Path) -> object:
        path = folder / "log"
        script = "import os,sys\nfd = os.open(sys.argv[1], os.O_CREAT|os.O_APPEND|os.O_WRONLY)\n"
        script += "for n in range(150): os.write(fd, (sys.argv[2] * 700 + '\\n').encode())"
        writers = [
            subprocess.Popen([sys.executable, "-ISc", script, str(path), letter])
            for letter in "abc"
        ]
        assert [w.wait(60) for w in writers] == [0, 0, 0]
        with opened(path, os.O_APPEND | os.O_RDWR) as fd:
            os.lseek(fd, 0, os.SEEK_SET)
            os.write(fd, b"last")
        lines = path.read_bytes().split(b"\n")
        return sorted(lines)

    wanted = [letter.encode() * 700 for letter in "abc" for _ in range(150)]
    assert twin.same(act) == sorted([*wanted, b"last"])


@promise(
    "open-nofollow",
    "`O_NOFOLLOW` is `ELOOP` for a symbolic link in the last place, and with `O_PATH` opens "
    "the link itself.",
)
def test_nofollow_refuses_links(twin: Twin) -> None:
    def act(folder: Path) -> object:
        (folder / "x").write_text("x")
        (folder / "link").symlink_to("x")
        with opened(folder / "link", os.O_PATH | os.O_NOFOLLOW) as fd:
            is_link = stat.S_ISLNK(os.fstat(fd).st_mode)
        refused = tried(os.open, folder / "link", os.O_RDONLY | os.O_NOFOLLOW)
        os.close(os.open(folder / "x", os.O_RDONLY | os.O_NOFOLLOW))
        return is_link, refused

    assert twin.same(act) == (True, "ELOOP")


@promise(
    "open-directory",
    "`O_DIRECTORY` is `ENOTDIR` for everything else, and a directory opened for writing is "
    "`EISDIR`.",
)
def test_directories_are_opened_as_directories(twin: Twin) -> None:
    def act(folder: Path) -> object:
        (folder / "x").write_text("x")
        os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))
        return (
            tried(os.open, folder / "x", os.O_RDONLY | os.O_DIRECTORY),
            tried(os.open, folder, os.O_RDWR),
            tried(os.open, folder, os.O_RDONLY | os.O_CREAT),
            tried(os.open, f"{folder}/missing/", os.O_CREAT | os.O_WRONLY),
        )

    assert twin.same(act) == ("ENOTDIR", "EISDIR", "EISDIR", "EISDIR")


@promise(
    "open-path",
    "A handle of `O_PATH` names its file through renames, and can be opened anew by "
    "`/proc/self/fd`.",
)
def test_a_path_handle_follows_its_file(twin: Twin) -> None:
    def act(folder: Path) -> object:
        (folder / "x").write_text("found")
        with opened(folder / "x", os.O_PATH) as fd:
            (folder / "x").rename(folder / "y")
            no_bytes = tried(os.read, fd, 1)
            again = Path(f"/proc/self/fd/{fd}").read_text()
            return no_bytes, again, os.fstat(fd).st_size, tried(os.fchmod, fd, 0o600)

    assert twin.same(act) == ("EBADF", "found", 5, "EBADF")


@promise(
    "open-direct",
    "`O_DIRECT` reads and writes past the page cache, in whole blocks of 4 KiB, and what it "
    "writes is seen by ordinary readers.",
)
def test_direct_reads_and_writes_agree_with_ordinary_ones(twin: Twin) -> None:
    def act(folder: Path) -> object:
        path = folder / "x"
        with mmap.mmap(-1, 16384) as block, opened(path, os.O_CREAT | os.O_RDWR) as plain:
            block[:] = os.urandom(16384)
            with opened(path, os.O_RDWR | os.O_DIRECT) as direct:
                written = os.pwrite(direct, block, 0)
                same = os.pread(plain, 16384, 0) == block[:]
                os.pwrite(plain, b"ordinary", 4096)
                with mmap.mmap(-1, 8192) as target:
                    count = os.preadv(direct, [target], 4096)
                    head = target[:8]
                end = os.pread(direct, 4096, 16384)
        return written, same, count, head, end, path.stat().st_size

    assert twin.same(act) == (16384, True, 8192, b"ordinary", b"", 16384)


@promise(
    "open-sync",
    "With `O_SYNC` or `O_DSYNC` a write returns when its bytes are on this machine's disk, as "
    "after `fsync`.",
)
def test_synchronous_writes_work(twin: Twin) -> None:
    def act(folder: Path) -> object:
        for number, flag in enumerate((os.O_SYNC, os.O_DSYNC, os.O_SYNC | os.O_APPEND)):
            with opened(folder / "x", os.O_CREAT | os.O_WRONLY | flag) as fd:
                os.lseek(fd, number * 10, os.SEEK_SET)
                os.write(fd, b"%d" % number * 10)
        return (folder / "x").read_bytes()

    assert twin.same(act) == b"0" * 10 + b"1" * 10 + b"2" * 10


@promise(
    "open-other-flags",
    "`O_CLOEXEC`, `O_NONBLOCK`, `O_NOCTTY` and `O_LARGEFILE` do what they do elsewhere; "
    "`O_NOATIME` is `EPERM` for who neither owns the file nor is root.",
)
def test_other_flags_do_what_they_do_elsewhere(twin: Twin) -> None:
    flags = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | 0o100000

    def act(folder: Path) -> object:
        (folder / "x").write_text("x")
        with opened(folder / "x", os.O_RDWR | flags | os.O_NOATIME) as fd:
            content = os.read(fd, 5)
        with acting_as(NOBODY, NOBODY):
            refused = tried(os.open, folder / "x", os.O_RDONLY | os.O_NOATIME)
        return content, refused

    assert twin.same(act) == (b"x", "EPERM")


@promise(
    "open-rights",
    "The mode counts at `open` only: the handle that made a file read-only may write it, and "
    "one that was opened before a `chmod` goes on.",
)
def test_the_mode_counts_at_open_only(twin: Twin) -> None:
    def act(folder: Path) -> object:
        folder.chmod(0o777)
        with acting_as(NOBODY, NOBODY):
            with opened(folder / "x", os.O_CREAT | os.O_WRONLY, 0o000) as fd:
                os.write(fd, b"by its maker")
                refused = tried(os.open, folder / "x", os.O_RDONLY)
            os.chmod(folder / "x", 0o600)
            with opened(folder / "x", os.O_RDWR) as fd:
                os.chmod(folder / "x", 0o000)
                os.write(fd, b"BY")
                return refused, os.pread(fd, 20, 0)

    assert twin.same(act) == ("EACCES", b"BY its maker")


@promise(
    "open-dirty",
    "An open for writing marks the file as changing before it returns; closed unwritten, the "
    "mark goes and no version is made.",
)
def test_an_open_for_writing_is_marked_at_once(twin: Twin) -> None:
    path = twin.ours / "x"
    path.write_text("x")
    with opened(path, os.O_WRONLY):
        assert os.getxattr(path, "user.pipefs.state") == b"dirty"
    assert path.read_text() == "x"


@promise(
    "exec",
    "A program or script on the mount runs if its mode says so, and a running program is "
    "`ETXTBSY` to who would write it.",
)
def test_programs_run_from_the_mount(twin: Twin) -> None:
    def act(folder: Path) -> object:
        program = folder / "sleep"
        program.write_bytes(Path("/bin/sleep").read_bytes())
        not_yet = tried(subprocess.run, [program, "0"], check=True)
        program.chmod(0o755)
        running = subprocess.Popen([program, "60"])
        busy = tried(os.open, program, os.O_WRONLY)
        running.kill()
        running.wait()
        script = folder / "script"
        script.write_text("#!/bin/sh\necho ran\n")
        script.chmod(0o755)
        said = subprocess.run([script], capture_output=True, check=True).stdout
        return not_yet, busy, said

    assert twin.same(act) == ("EACCES", "ETXTBSY", b"ran\n")
