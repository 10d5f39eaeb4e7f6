"""Large folders elsewhere, killed at every step; and leaving a machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from pipefs import relocating, wiping
from pipefs.errors import Refused, UsageError
from pipefs.folder.places import folder_of
from pipefs.folder.record import record_file
from pipefs.home import Home, make_private, resolve_home
from pipefs.registry import Registry

Run = Callable[..., Result]


def _filled(folder: Path) -> dict[str, bytes]:
    """Files, a sparse one, a hard link, a symbolic link, an empty folder, and odd rights."""
    (folder / "d" / "empty").mkdir(parents=True)
    (folder / "a.csv").write_bytes(b"1\n")
    (folder / "d" / "b.csv").write_bytes(b"2" * 3_000_000)
    os.link(folder / "a.csv", folder / "d" / "again.csv")
    os.symlink("../a.csv", folder / "d" / "link")
    with open(folder / "sparse", "wb") as file:
        file.seek(1 << 30)
        file.write(b"end")
    (folder / "a.csv").chmod(0o640)
    os.utime(folder / "d" / "b.csv", ns=(10**18, 10**18))
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    """Path → what it is; a sparse file by its end."""
    found = {}
    for above, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(above, name)
            status = path.lstat()
            head = f"{status.st_mode:o} {status.st_nlink if path.is_file() else ''} "
            data = b""
            if path.is_symlink():
                data = os.fsencode(os.readlink(path))
            elif path.is_file():
                data = path.read_bytes()[-4000:] if status.st_size < 1 << 28 else b"sparse"
                head += f"{status.st_size} {status.st_mtime_ns}"
            found[str(path.relative_to(folder))] = head.encode() + data
    return found


@pytest.fixture(scope="module")
def other_disk() -> Path:
    """A file system that is not the one of the tests' folders."""
    return Path("/dev/shm")


def test_d6_39_pulled_files_move_and_stay_known(run: Run, user_home: Home, tmp_path: Path) -> None:
    run("create", "sales")
    (tmp_path / "x.csv").write_text("1\n")
    run("put", str(tmp_path / "x.csv"), "sales/")
    run("pull", "sales")
    folder = folder_of(user_home, Registry(user_home).get("sales"))
    before = record_file(user_home, str(folder), Registry(user_home).get("sales").pipe_id)
    assert before.exists()
    target = tmp_path / "big" / "pulled"
    told = run("config", "move", "pipes", str(target), "-n").stdout
    assert told.startswith("pipes  would move to ~/big/pulled · 1 file")
    assert not target.exists()
    run("config", "move", "pipes", str(target))
    assert (target / "sales" / "x.csv").read_text() == "1\n"
    assert (folder / "x.csv").read_text() == "1\n"  # by the link in its place
    assert folder.parent.is_symlink()
    after = record_file(user_home, str(folder), Registry(user_home).get("sales").pipe_id)
    assert (before.exists(), after.exists()) == (False, True)
    assert "x.csv" not in run("pull", "sales", "-n").stdout
    # And once more, from there.
    run("config", "move", "pipes", str(tmp_path / "third"))
    assert (folder / "x.csv").read_text() == "1\n"
    assert not target.exists()
    assert (
        run("config", "move", "pipes", str(tmp_path / "third")).stdout == "pipes  is at ~/third\n"
    )
    back = run("config", "move", "pipes", str(folder.parent), code=2)
    assert f"rm {folder.parent} && mv {tmp_path / 'third'}" in back.stderr


def test_d6_39_to_another_disk_everything_is_as_it_was(
    user_home: Home, tmp_path: Path, other_disk: Path
) -> None:
    user_home.make()
    before = _filled(user_home.cache)
    target = other_disk / f"pipefs-move-{os.getpid()}" / "cache"
    assert os.stat(other_disk).st_dev != os.stat(tmp_path).st_dev
    try:
        wanted = relocating.plan(user_home, "cache", target)
        assert wanted.bytes < 1 << 28  # holes cost nothing
        told: list[int] = []
        relocating.move(user_home, wanted, told.append)
        assert 3_000_000 < sum(told) < 1 << 28
        assert contents(user_home.cache) == before
        assert target.stat().st_mode & 0o777 == 0o700
        assert sorted(p.name for p in user_home.cache.parent.iterdir() if "cache" in p.name) == [
            "cache"
        ]
        make_private(user_home.cache)
    finally:
        shutil.rmtree(target.parent)
    with pytest.raises(Refused, match="which is not there"):
        make_private(user_home.cache)


_CHANGES = ["replace", "rename", "sync", "rmdir", "unlink", "mkdir", "makedirs", "symlink", "link"]
"""By these the disk changes; bytes of files are written between them."""


def _dies_at(step: int, home: Home, target: Path) -> bool:
    """Move in a child process that is killed at its n-th change of the disk; whether it was."""
    child = os.fork()
    if child == 0:
        left = [step]

        def deadly(real: Callable[..., object]) -> Callable[..., object]:
            def call(*args: object, **named: object) -> object:
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **named)

            return call

        try:
            for name in _CHANGES:
                setattr(os, name, deadly(getattr(os, name)))
            vars(relocating)["exchange"] = deadly(relocating.exchange)
            relocating.move(home, relocating.plan(home, "cache", target))
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


@pytest.mark.parametrize("disk", ["same", "other"])
@pytest.mark.parametrize("moved_before", [False, True])
def test_d6_39_killed_anywhere_nothing_is_lost(
    user_home: Home, tmp_path: Path, other_disk: Path, disk: str, moved_before: bool
) -> None:
    """Each change of the disk is the last one of a run of its own; then it is called again."""
    user_home.make()
    (user_home.cache / "d").mkdir()
    (user_home.cache / "a").write_bytes(b"1")
    (user_home.cache / "d" / "b").write_bytes(b"2")
    before = contents(user_home.cache)
    base = (tmp_path if disk == "same" else other_disk) / f"moved-{os.getpid()}"
    deaths = 0
    try:
        for step in range(40):
            target = base / f"t{step}"
            died = _dies_at(step, user_home, target)
            deaths += died
            relocating.move(user_home, relocating.plan(user_home, "cache", target))
            assert contents(user_home.cache) == before, step
            assert os.path.realpath(user_home.cache) == os.path.realpath(target)
            left = [p.name for p in user_home.cache.parent.iterdir() if p.name.startswith("cache.")]
            assert left == [], step
            if not died:
                break
            if not moved_before:  # a folder of its own again, not a link
                user_home.cache.unlink()
                shutil.copytree(target, user_home.cache, symlinks=True)
                shutil.rmtree(target)
        assert deaths >= (3 if disk == "same" and not moved_before else 10)
    finally:
        shutil.rmtree(base)


def test_d6_39_what_is_refused(run: Run, user_home: Home, tmp_path: Path) -> None:
    user_home.make()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    done = run("config", "move", "cache", str(tmp_path / "full"), code=4)
    assert "has files already" in done.stderr
    assert "absolute" in run("config", "move", "cache", "there", code=2).stderr
    run("config", "move", "cache", str(user_home.cache / "inside"), code=2)
    assert (
        run("config", "move", "cache", str(user_home.cache)).stdout == "cache  is at ~/home/cache\n"
    )
    with pytest.raises(UsageError):
        relocating.plan(user_home, "state", tmp_path / "x")
    assert (tmp_path / "full" / "x").read_text() == "mine"


@pytest.mark.parametrize("behind", ["nothing", "an empty folder"])
def test_d6_39_a_place_whose_disk_is_out_is_not_moved(
    run: Run, user_home: Home, tmp_path: Path, behind: str
) -> None:
    """The link in its place is all that says where the files are."""
    run("create", "notes")
    disk, away = tmp_path / "disk", tmp_path / "away"
    run("config", "move", "stores", str(disk))
    disk.rename(away)
    if behind == "an empty folder":
        disk.mkdir()
    said = run("config", "move", "stores", str(tmp_path / "third"), code=4).stderr
    assert "its disk may be out" in said
    assert (os.path.realpath(user_home.stores), disk.exists()) == (str(disk), behind != "nothing")


# --- wipe -------------------------------------------------------------------------------------


def test_d6_40_wipe_asks_and_takes_everything_but_the_data(
    run: Run, user_home: Home, tmp_path: Path
) -> None:
    run("create", "sales", (tmp_path / "bucket").as_uri())
    run("create", "notes")
    (tmp_path / "x.csv").write_text("1\n")
    run("put", str(tmp_path / "x.csv"), "sales/")
    run("pull", "sales")
    run("config", "region=x")
    assert "no terminal" in run("config", "wipe", code=4).stderr
    run("config", "move", "cache", str(tmp_path / "elsewhere"))
    planned = json.loads(run("config", "wipe", "-n", "--json").stdout)
    assert planned["pipes"] == ["notes", "sales"]
    told = run("-y", "config", "wipe").stdout
    assert "kept, for they are nowhere else: ~/home/stores/notes" in told
    left = sorted(str(p.relative_to(tmp_path / "home")) for p in (tmp_path / "home").iterdir())
    assert left == ["stores"]
    assert not (tmp_path / "elsewhere").exists()
    assert (tmp_path / "bucket" / "x.csv").read_text() == "1\n"
    run("create", "notes")
    run("-y", "config", "wipe", "--purge")
    assert not (tmp_path / "home").exists()
    assert run("-y", "config", "wipe").stdout == "there is nothing of pipefs here\n"


def test_d6_40_wipe_keeps_what_is_nowhere_else(run: Run, user_home: Home, tmp_path: Path) -> None:
    run("create", "sales", (tmp_path / "bucket").as_uri())
    folder = folder_of(user_home, Registry(user_home).get("sales"))
    folder.mkdir(parents=True)
    (folder / "mine.csv").write_text("1\n")
    done = run("-y", "config", "wipe", code=4)
    assert "1 file in" in done.stderr
    assert "pipefs push sales" in done.stderr
    run("push", "sales")
    staging = user_home.pipe_state("sales") / "staging"
    staging.mkdir(parents=True)
    (staging / "1.data").write_bytes(b"written, not up")
    assert "1 change that" in run("-y", "config", "wipe", code=4).stderr.replace("are", "that")
    (staging / "1.data").unlink()
    run("profile", "create", "team")
    assert "--profile team config wipe" in run("-y", "config", "wipe", code=4).stderr
    run("-y", "--profile", "team", "config", "wipe")
    assert run("profile", "list").stdout.startswith("no profiles")
    (folder / "new.csv").write_text("2\n")
    run("-y", "config", "wipe", code=4)
    run("-y", "config", "wipe", "--force")
    assert not folder.exists()


def test_d6_40_wipe_follows_no_link_of_the_users(run: Run, user_home: Home, tmp_path: Path) -> None:
    run("create", "sales", (tmp_path / "bucket").as_uri())
    big = tmp_path / "big"
    big.mkdir()
    (big / "thesis.tex").write_text("mine")
    user_home.cache.rmdir()
    user_home.cache.symlink_to(big)
    run("ls", "sales")
    assert f"lead there: ~/{big.name}" in run("-y", "config", "wipe").stdout
    assert (big / "thesis.tex").read_text() == "mine"
    assert not os.path.lexists(user_home.cache)


def test_d6_40_wipe_keeps_files_of_no_pipe(run: Run, user_home: Home, tmp_path: Path) -> None:
    run("create", "sales", (tmp_path / "bucket").as_uri())
    folder = folder_of(user_home, Registry(user_home).get("sales"))
    folder.mkdir(parents=True)
    (folder / "mine.csv").write_text("1\n")
    run("set", "sales", f"dir={tmp_path / 'elsewhere'}")
    assert f"such as {folder}/mine.csv" in run("-y", "config", "wipe", code=4).stderr
    run("-y", "remove", "sales")
    assert "of no pipe" in run("-y", "config", "wipe", code=4).stderr
    assert (folder / "mine.csv").exists()


def test_d6_40_wipe_does_not_fight_with_the_service(tmp_path: Path) -> None:
    home = resolve_home(env={"HOME": str(tmp_path)})
    unit = tmp_path / ".config" / "systemd" / "user" / "pipefsd.service"
    unit.parent.mkdir(parents=True)
    assert wiping.plan(home).folders == ()
    unit.touch()
    with pytest.raises(Refused, match="service is installed") as caught:
        wiping.plan(home)
    assert "systemctl --user disable --now pipefsd" in caught.value.hint
