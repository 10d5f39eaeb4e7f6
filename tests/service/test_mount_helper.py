"""`mount.pipefs` with a real daemon: mounts, answers with mount(8)'s codes, leaves no process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.mounted import Home


def helper(home: Home, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "pipefsd.mounthelper", *words],
        env=home.env,
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        # A daemon that kept the pipe of stdout open would make this wait for ever.
        timeout=60,
    )


def test_it_returns_when_the_mount_answers_and_joins_a_daemon_that_runs(home: Home) -> None:
    for name in ("sales", "prices"):
        home.create(name)
        (home.base / name).mkdir()
    first = helper(home, "sales", home.base / "sales", "-o", "rw,_netdev,nofail,noexec")
    assert (first.returncode, first.stdout) == (0, "")
    (home.base / "sales" / "a").write_text("hello")
    supervisor = home.supervisor()
    second = helper(home, "prices", home.base / "prices", "-o", "ro")
    assert second.returncode == 0
    assert home.supervisor() == supervisor
    options = {
        line.split()[1]: line.split()[3].split(",")
        for line in Path("/proc/mounts").read_text().splitlines()
    }
    assert "noexec" in options[str(home.base / "sales")]
    assert "ro" in options[str(home.base / "prices")]
    # 32: mount failed, 1: wrong call.
    taken = helper(home, "sales", home.base / "sales")
    assert taken.returncode == 32 and "already mounted" in taken.stderr
    unknown = helper(home, "nosuch", home.base)
    assert unknown.returncode == 32 and 'no pipe "nosuch"' in unknown.stderr
    wrong = helper(home, "sales", home.base, "-o", "colour=red")
    assert wrong.returncode == 1 and "colour" in wrong.stderr
