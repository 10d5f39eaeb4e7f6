"""Several users and several mounts: whose files they are on each machine, who is let in, mounts
that may not write, flags, many pipes at once, and a mount in other mount namespaces.

What one user may do to another's files is held against ext4 in `tests/promises`.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipefs.errors import Refused
from pipefs.mountinfo import read_mounts
from tests.mount.daemons import Daemon, fresh_daemon
from tests.mounted import NOBODY, Home, eventually
from tests.promises.promised import promise
from tests.seaweed import READER_ACCESS_KEY, READER_SECRET_KEY, SeaweedServer

COLLEAGUE = 1234


def _as(uid: int, *command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *command],
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
    )


def _ids(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_uid, found.st_gid


@dataclass
class Machines:
    """Two machines on one store. The first is mounted anew by each test, the second by `stored`."""

    a: Home
    b: Home
    store: Path

    @property
    def here(self) -> Path:
        return self.a.base / "p"

    @property
    def there(self) -> Path:
        return self.b.base / "p"

    def mount(self, *options: str) -> Path:
        if str(self.here) in self.a.mounts():
            self.a.umount("p")
        self.a.run("mount", "p", str(self.here), *(w for o in options for w in ("-o", o)))
        return self.here


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    a, b = Home(), Home()
    found = Machines(a, b, a.base / "store")
    try:
        found.store.mkdir()
        for home in (a, b):
            home.base.chmod(0o755)
            (home.base / "p").mkdir()
            home.create("p", f"file://{found.store}", "quiet_period=0")
        b.run("mount", "p", str(found.there), "-o", "owner=stored")
        yield found
    finally:
        a.close()
        b.close()


@pytest.fixture(scope="module")
def ordinary() -> Iterator[Daemon]:
    """A daemon of an ordinary user."""
    with fresh_daemon(uid=NOBODY) as found:
        found.start()
        yield found


@pytest.fixture(scope="module")
def filled(seaweed: SeaweedServer) -> Iterator[tuple[Home, str]]:
    """A machine whose pipe `p` holds a file and a folder, and the pipe's URL."""
    home = Home(seaweed.environment())
    try:
        url = f"s3://{seaweed.make_bucket()}/p"
        home.create("p", url)
        path = home.mount("p")
        (path / "file").write_text("content")
        os.setxattr(path / "file", "user.old", b"1")
        (path / "folder").mkdir()
        home.umount("p")
        yield home, url
    finally:
        home.close()


# --- whose files they are --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "shown"),
    [("stored", None), ("mounter", (0, 0)), (f"{NOBODY}:{COLLEAGUE}", (NOBODY, COLLEAGUE))],
)
def test_new_files_keep_their_makers_ids_whatever_is_shown_here(
    machines: Machines, owner: str, shown: tuple[int, int] | None
) -> None:
    here = machines.mount(f"owner={owner}")
    folder = here / f"made-{owner[:6]}"
    folder.mkdir()
    folder.chmod(0o777)
    assert _as(COLLEAGUE, "dd", f"of={folder}/file", "count=0").returncode == 0
    assert _as(COLLEAGUE, "ln", "-s", "x", folder / "link").returncode == 0
    made = [folder / "file", folder / "link"]
    assert [_ids(path) for path in made] == [shown or (COLLEAGUE, COLLEAGUE)] * 2
    machines.a.flush("p")
    there = machines.there / folder.name

    def arrived() -> bool:
        with suppress(FileNotFoundError):
            return [_ids(there / path.name) for path in made] == [(COLLEAGUE, COLLEAGUE)] * 2
        return False

    eventually(arrived, "the other machine shows who made them")


@promise(
    "chown-shown",
    "Where `owner` shows all files as somebody's, `chown` to anybody else is `EPERM`, and "
    "stored ids stay.",
)
def test_chown_where_ids_are_shown_as_somebodys_changes_nothing(machines: Machines) -> None:
    path = machines.mount("owner=stored") / "given"
    path.touch()
    os.chown(path, COLLEAGUE, COLLEAGUE + 1)
    assert _ids(path) == (COLLEAGUE, COLLEAGUE + 1)
    for owner, shown in (("mounter", (0, 0)), (f"{NOBODY}:{NOBODY}", (NOBODY, NOBODY))):
        machines.mount(f"owner={owner}")
        os.chown(path, *shown)
        os.chown(path, -1, shown[1])
        for uid, gid in ((COLLEAGUE, -1), (-1, COLLEAGUE), (1, 1)):
            with pytest.raises(PermissionError) as caught:
                os.chown(path, uid, gid)
            assert caught.value.errno == errno.EPERM
        assert _ids(path) == shown
    machines.mount("owner=stored")
    assert _ids(path) == (COLLEAGUE, COLLEAGUE + 1)


def test_a_colleague_edits_what_modes_allow_and_nothing_else(machines: Machines) -> None:
    here = machines.mount("owner=stored")
    shared, private = here / "team", here / "private"
    for folder in (shared, private):
        folder.mkdir()
        (folder / "file").write_text("mine")
    os.chown(shared, 0, COLLEAGUE)
    shared.chmod(0o3775)
    private.chmod(0o700)
    edit = 'import sys, os; os.umask(0o007); open(sys.argv[1], "a").write("theirs")'
    for name, works in (("new", True), ("file", False)):
        done = _as(COLLEAGUE, sys.executable, "-c", edit, shared / name)
        assert (done.returncode == 0) is works, done.stderr
    found = (shared / "new").stat()
    assert (found.st_uid, found.st_gid) == (COLLEAGUE, COLLEAGUE)
    assert stat.S_IMODE(found.st_mode) == 0o660
    (shared / "roots").touch()
    assert _ids(shared / "roots") == (0, COLLEAGUE), "set-gid hands down the group"
    (shared / "inner").mkdir()
    assert (shared / "inner").stat().st_mode & stat.S_ISGID
    assert "Operation not permitted" in _as(COLLEAGUE, "rm", shared / "file").stderr
    assert _as(COLLEAGUE, "rm", shared / "new").returncode == 0
    assert "Permission denied" in _as(COLLEAGUE, "ls", private).stderr
    assert "not permitted" in _as(COLLEAGUE, "chmod", "777", shared / "file").stderr
    assert "not permitted" in _as(COLLEAGUE, "chown", "1234", shared / "file").stderr


# --- who is let in ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("allow_other", "allow_other is not permitted to you"),
        ("suid", "suid may be given by root only"),
        ("dev", "dev may be given by root only"),
    ],
)
def test_what_an_ordinary_user_may_not_give_is_refused_with_a_way_out(
    ordinary: Daemon, option: str, message: str
) -> None:
    with pytest.raises(Refused, match=message) as caught:
        ordinary.mount(options={option: "yes"})
    assert caught.value.exit_code == 4
    assert ("fuse.conf" if option == "allow_other" else f"-o no{option}") in caught.value.hint


def test_lists_that_nobody_would_enforce_are_not_promised(machines: Machines) -> None:
    machines.a.run("umount", "p", code=None)
    words = ("--transport", "libfuse", "-o", "acl")
    done = machines.a.run("mount", "p", str(machines.here), *words, code=4)
    assert "cannot be enforced with the libfuse transport" in done.stderr
    assert "-o noacl" in done.stderr


# --- mounts that may not write ---------------------------------------------------------------


def _changes(path: Path) -> dict[str, Callable[[], object]]:
    """Everything that would change the pipe whose root is `path`."""
    file, folder = path / "file", path / "folder"

    def fallocated() -> None:
        fd = os.open(file, os.O_RDWR)
        os.posix_fallocate(fd, 0, 10)

    return {
        "create": (path / "new").touch,
        "write": lambda: os.open(file, os.O_WRONLY),
        "append": lambda: os.open(file, os.O_RDWR | os.O_APPEND),
        "open and truncate": lambda: os.open(file, os.O_RDONLY | os.O_TRUNC),
        "truncate": lambda: os.truncate(file, 0),
        "fallocate": fallocated,
        "tmpfile": lambda: os.open(path, os.O_TMPFILE | os.O_RDWR),
        "mkdir": (path / "new").mkdir,
        "rmdir": folder.rmdir,
        "unlink": file.unlink,
        "rename": lambda: file.rename(path / "new"),
        "link": lambda: os.link(file, path / "new"),
        "symlink": lambda: (path / "new").symlink_to("x"),
        "mkfifo": lambda: os.mkfifo(path / "new"),
        "mknod": lambda: os.mknod(path / "new", stat.S_IFREG | 0o644),
        "chmod": lambda: file.chmod(0o777),
        "chown": lambda: os.chown(file, 1, 1),
        "utime": lambda: os.utime(file),
        "setxattr": lambda: os.setxattr(file, "user.new", b"1"),
        "removexattr": lambda: os.removexattr(file, "user.old"),
    }


@pytest.mark.parametrize("way", ["--read-only", "-o ro", "credentials"])
def test_a_mount_that_may_not_write_refuses_every_change_and_can_be_read(
    filled: tuple[Home, str], seaweed: SeaweedServer, make_home: Callable[..., Home], way: str
) -> None:
    reader, url = filled
    if way == "credentials":
        keys = {"AWS_ACCESS_KEY_ID": READER_ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": READER_SECRET_KEY}
        reader = make_home({**seaweed.environment(), **keys})
        reader.run("create", url)
    path = reader.mount("p", *([] if way == "credentials" else way.split()))
    for what, change in _changes(path).items():
        with pytest.raises(OSError) as caught:
            change()
        assert caught.value.errno == errno.EROFS, what
    assert (path / "file").read_text() == "content"
    assert sorted(os.listdir(path)) == ["file", "folder"]
    assert os.getxattr(path / "file", "user.old") == b"1"
    reader.umount("p")


# --- the mount itself ------------------------------------------------------------------------


def test_set_id_bits_and_devices_have_no_effect_unless_root_says_so(machines: Machines) -> None:
    here = machines.mount()

    def flags() -> set[str]:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        (found,) = [line.split()[5] for line in lines if line.split()[4] == str(here)]
        return set(found.split(","))

    assert {"nosuid", "nodev"} <= flags()
    assert "noexec" not in flags()
    program = here / "id"
    program.write_bytes(Path("/usr/bin/id").read_bytes())
    program.chmod(0o4755)
    assert _as(COLLEAGUE, program, "-u").stdout == f"{COLLEAGUE}\n"
    os.mknod(here / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with pytest.raises(PermissionError):
        (here / "null").read_bytes()
    machines.mount("suid,dev")
    assert not {"nosuid", "nodev"} & flags()
    assert _as(COLLEAGUE, program, "-u").stdout == "0\n"
    assert (here / "null").read_bytes() == b""
    machines.mount("noexec")
    assert {"nosuid", "nodev", "noexec"} <= flags()
    with pytest.raises(PermissionError):
        subprocess.run([program])


def test_many_pipes_of_one_home_are_mounted_at_once(home: Home) -> None:
    names = [f"pipe{n}" for n in range(5)]
    for name in names:
        home.create(name)
    home.run("mount", "--all")
    assert len(home.mounts()) == 5
    for name in names:
        (home.path(name) / "file").write_text(name)
    assert [(home.path(name) / "file").read_text() for name in names] == names
    with pytest.raises(OSError) as caught:
        os.rename(home.path("pipe0") / "file", home.path("pipe1") / "moved")
    assert caught.value.errno == errno.EXDEV
    home.run("umount", "--all")
    assert home.mounts() == []


def test_a_folder_of_the_mount_is_a_volume_in_another_mount_namespace(machines: Machines) -> None:
    here = machines.mount()
    volume = here / "volume"
    volume.mkdir()
    volume.chmod(0o777)
    (volume / "in").write_text("from the host")
    inside = machines.a.base / "inside"
    inside.mkdir()
    script = f"""
mount --bind {volume} {inside}
exec setpriv --reuid={COLLEAGUE} --regid={COLLEAGUE} --clear-groups sh -ec '
cat {inside}/in
echo from the container > {inside}/out'
"""
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "slave", "sh", "-ec", script],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "from the host"), done.stderr
    assert (volume / "out").read_text() == "from the container\n"
    assert _ids(volume / "out") == (COLLEAGUE, COLLEAGUE)


def test_a_mount_made_later_is_seen_in_namespaces_that_follow(home: Home) -> None:
    home.create("late")
    shared = home.home / "mnt"
    shared.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "--bind", shared, shared], check=True)
    subprocess.run(["mount", "--make-rshared", shared], check=True)
    held = {}
    try:
        for how in ("slave", "private"):
            held[how] = subprocess.Popen(
                ["unshare", "--mount", "--propagation", how, "sh", "-c", "echo; exec sleep 60"],
                stdout=subprocess.PIPE,
            )
            pipe = held[how].stdout
            assert pipe is not None
            pipe.readline()
        (home.mount("late") / "file").write_text("x")
        for how, sees in (("slave", True), ("private", False)):
            path = Path(f"/proc/{held[how].pid}/root{home.path('late')}/file")
            assert path.exists() is sees, how
    finally:
        for process in held.values():
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        home.run("umount", "--all", code=None)
        subprocess.run(["umount", "-l", shared], check=False)
    assert all(not e.path.startswith(str(shared)) for e in read_mounts())
