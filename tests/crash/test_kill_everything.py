"""kill -9 of supervisor and workers: what was answered is there after the next mount."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipefs.stores.local import LocalStore
from tests.mounted import SOURCE, Home, eventually, tree_of
from tests.promises.promised import promise
from tests.seaweed import SeaweedServer
from tests.slowproxy import slow_proxy

MakeHome = Callable[..., Home]


def _stored(home: Home) -> dict[str, bytes]:
    """Files of the embedded store as another program finds them."""
    store = LocalStore(home.home / "stores" / "p")
    try:
        keys = [o for o in store.list("") if not o.key.startswith(".pipefs/")]
        return {
            o.key: store.get(o.key, None, 0, o.size) if o.size else b""
            for o in keys
            if not o.key.endswith("/")
        }
    finally:
        store.close()


@pytest.fixture
def slow_home(home: Home) -> Home:
    """Nothing goes up by itself: all that is written waits in the outbox."""
    home.create("p", "", "quiet_period=1h")
    return home


def _mount_after_kill(home: Home) -> Path:
    home.kill_all()
    return home.mount("p")


@promise(
    "kill",
    "Every change that was answered survives `kill -9` of all our processes, and goes up "
    "after the next mount.",
)
def test_every_answered_operation_is_there_after_kill_9_and_goes_up(slow_home: Home) -> None:
    root = slow_home.mount("p")
    (root / "kept").write_bytes(b"in the store")
    (root / "doomed").write_bytes(b"to be removed")
    (root / "old").mkdir()
    (root / "old" / "in").write_bytes(b"moves")
    (root / "cut").write_bytes(b"0123456789")
    slow_home.flush("p")
    big = os.urandom((3 << 20) + 17)
    (root / "big").write_bytes(big)
    with open(root / "kept", "ab") as file:
        file.write(b", and appended")
    (root / "doomed").unlink()
    (root / "old").rename(root / "new")
    (root / "new" / "more").write_bytes(b"born in the new folder")
    os.truncate(root / "cut", 3)
    (root / "link").symlink_to("kept")
    (root / "empty").mkdir(mode=0o700)
    (root / "script").write_bytes(b"#!/bin/sh\n")
    (root / "script").chmod(0o755)
    os.utime(root / "kept", ns=(10**18, 10**18 + 1))
    held = open(root / "open", "wb", buffering=0)  # noqa: SIM115  # never closed: killed
    held.write(b"written, never closed")
    wanted = tree_of(root)
    root = _mount_after_kill(slow_home)
    with contextlib.suppress(OSError):
        held.close()
    assert tree_of(root) == wanted
    assert (root / "kept").stat().st_mtime_ns == 10**18 + 1
    assert stat.S_IMODE((root / "script").stat().st_mode) == 0o755
    assert stat.S_IMODE((root / "empty").stat().st_mode) == 0o700
    slow_home.flush("p")
    links = {"link"}
    files = {k: v for k, v in wanted.items() if v is not None and k not in links}
    assert _stored(slow_home) == files
    assert files["open"] == b"written, never closed"
    slow_home.umount("p")
    slow_home.mount("p")
    assert tree_of(root) == wanted


WRITER = """
import os, sys
root = sys.argv[1]
n = 0
while True:
    n += 1
    path = f"{root}/f{n % 40}"
    if n % 7 == 3 and os.path.exists(path):
        os.unlink(path)
        print("gone", n % 40, flush=True)
    elif n % 11 == 5 and os.path.exists(path):
        os.rename(path, f"{root}/r{n % 40}")
        print("moved", n % 40, flush=True)
    else:
        with open(path + ".tmp", "w") as f:
            f.write(f"{n}" * 500)
            if n % 5 == 0:
                f.flush()
                os.fsync(f.fileno())
        os.rename(path + ".tmp", path)
        print("put", n % 40, n, flush=True)
"""


def _expected(lines: list[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for line in lines:
        what, number, *n = line.split()
        if what == "put":
            found[f"f{number}"] = (n[0] * 500).encode()
        elif what == "gone":
            found.pop(f"f{number}", None)
        else:
            found[f"r{number}"] = found.pop(f"f{number}")
    return found


def test_a_busy_writer_finds_what_it_was_answered_round_after_round(home: Home) -> None:
    home.create("p", "", "quiet_period=20ms", "min_version_interval=0s")
    lines: list[str] = []
    root = home.mount("p") / "w"
    root.mkdir()
    for _round in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, root], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        mine = [writer.stdout.readline() for _ in range(120)]
        home.kill_all()
        mine += writer.stdout.read().splitlines()
        writer.wait(timeout=20)
        lines = [*lines, *mine]
        home.mount("p")
        found = tree_of(root)
        wanted = _expected(lines)
        # The one operation under way at the kill may have happened or not.
        number = _next_number(mine)
        under_way = {f"f{number}", f"r{number}", f"f{number}.tmp"}
        lost = {k for k in wanted if found.get(k) != wanted[k]}
        assert lost <= under_way, [(k, (found.get(k) or b"")[:9], wanted[k][:9]) for k in lost]
        assert found.keys() - wanted.keys() <= under_way
        for path in root.iterdir():
            path.unlink()
        lines = []
    (root / "last").write_bytes(b"last")
    home.flush("p")
    # What landed as its writer was killed is nobody's: neither left behind nor brought back.
    home.run("refresh", "p", "--full")
    home.flush("p")
    assert _stored(home) == {"w/last": b"last"}
    assert tree_of(root) == {"last": b"last"}


def _next_number(lines: list[str]) -> int:
    """Which file the writer was at when it was stopped: one line for each step."""
    return (len(lines) + 1) % 40


def test_killed_in_the_middle_of_an_upload_the_whole_file_goes_up(
    make_home: MakeHome, seaweed: SeaweedServer, bucket: str
) -> None:
    with slow_proxy(seaweed.endpoint_url) as proxy:
        env = {**seaweed.environment(), "AWS_ENDPOINT_URL_S3": proxy.endpoint_url}
        home = make_home(env)
        home.create("p", f"s3://{bucket}/p", "quiet_period=50ms")
        root = home.mount("p")
        data = os.urandom(20 << 20)  # large enough to go up in parts
        before = proxy.sent
        proxy.bytes_per_s = 4 << 20
        (root / "big").write_bytes(data)
        eventually(lambda: proxy.sent > before + (2 << 20), "it is going up")
        home.kill_all()
        proxy.bytes_per_s = 0
        home.mount("p")
        assert (root / "big").read_bytes() == data
        home.flush("p")
    client = seaweed.client()
    assert client.get_object(Bucket=bucket, Key="p/big")["Body"].read() == data
    found = client.list_object_versions(Bucket=bucket, Prefix="p/big")
    assert len(found["Versions"]) == 1


@pytest.fixture
def reader(home: Home) -> Iterator[Home]:
    home.create("p")
    yield home


@promise(
    "replaced-worker",
    "A killed worker is replaced, and what has files open goes on after a pause.",
)
def test_a_worker_that_is_killed_is_replaced_under_a_running_copy(reader: Home) -> None:
    root = reader.mount("p")
    data = os.urandom(64 << 20)
    (root / "big").write_bytes(data)
    reader.flush("p")
    target = reader.base / "copy"
    # Slowly enough to be caught in the middle, and again on the way back in.
    slowly = (
        "import sys, time\n"
        "with open(sys.argv[1], 'rb', 0) as a, open(sys.argv[2], 'wb', 0) as b:\n"
        "    while data := a.read(1 << 20):\n"
        "        b.write(data); time.sleep(0.02)\n"
    )
    for source, goal in ((root / "big", target), (target, root / "back")):
        copy = subprocess.Popen([sys.executable, "-c", slowly, source, goal])
        eventually(lambda goal=goal: goal.exists() and goal.stat().st_size > 4 << 20, "it runs")
        pid = reader.status("p")["pid"]
        os.kill(pid, signal.SIGKILL)
        assert copy.wait(timeout=60) == 0
        assert goal.read_bytes() == data
        assert reader.status("p")["pid"] != pid
    reader.flush("p")
    assert _stored(reader)["back"] == data


def test_a_shell_loop_notices_nothing_when_the_worker_is_killed(reader: Home) -> None:
    root = reader.mount("p")
    script = f"for n in $(seq 150); do echo $n > {root}/n$n && mv {root}/n$n {root}/m$n; done"
    loop = subprocess.Popen(["sh", "-ec", script], stderr=subprocess.PIPE, text=True)
    eventually(lambda: len(os.listdir(root)) > 20, "it runs")
    for _ in range(2):
        os.kill(reader.status("p")["pid"], signal.SIGKILL)
        time.sleep(0.2)
    _, errors = loop.communicate(timeout=60)
    assert (loop.returncode, errors) == (0, "")
    assert tree_of(root) == {f"m{n}": b"%d\n" % n for n in range(1, 151)}
    reader.flush("p")
    assert _stored(reader) == {f"m{n}": b"%d\n" % n for n in range(1, 151)}


def test_local_state_that_is_lost_is_rebuilt_from_bucket_and_staging(slow_home: Home) -> None:
    root = slow_home.mount("p")
    (root / "d").mkdir()
    (root / "d" / "stored").write_bytes(b"in the store")
    slow_home.flush("p")
    # A worker of its own: what is closed while a flush ends may go up with it.
    slow_home.umount("p")
    slow_home.mount("p")
    (root / "d" / "waiting").write_bytes(b"only in staging")
    with open(root / "d" / "stored", "ab") as file:
        file.write(b", changed")
    wanted = tree_of(root)
    slow_home.kill_all()
    for path in (slow_home.state("p") / "tree").iterdir():
        path.unlink()
    slow_home.mount("p")
    assert tree_of(root) == wanted
    slow_home.flush("p")
    assert _stored(slow_home) == {
        "d/stored": b"in the store, changed",
        "d/waiting": wanted["d/waiting"],
    }


def test_damaged_local_state_is_set_aside_and_said(slow_home: Home) -> None:
    root = slow_home.mount("p")
    (root / "x").write_bytes(b"stored")
    slow_home.flush("p")
    (root / "y").write_bytes(b"waiting")
    slow_home.kill_all()
    folder = slow_home.state("p") / "tree"
    for path in folder.iterdir():
        if path.name.endswith(".mdb") and "lock" not in path.name:
            path.write_bytes(b"\xde\xad" * 4096)
    done = slow_home.run("mount", "p")
    assert "damaged" in done.stderr
    assert tree_of(root) == {"x": b"stored", "y": b"waiting"}


def test_the_program_is_the_one_of_this_checkout() -> None:
    """The tests above start subprocesses: they must not test an installed copy."""
    env = {**os.environ, "PYTHONPATH": f"{SOURCE}{os.pathsep}{SOURCE / 'daemon'}"}
    code = "import pipefs, pipefsd; print(list(pipefs.__path__)[0]); print(pipefsd.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd="/", capture_output=True, text=True, check=True
    )
    first, second = done.stdout.splitlines()
    assert first == str(SOURCE / "pipefs")
    assert second == str(SOURCE / "daemon/pipefsd/__init__.py")
