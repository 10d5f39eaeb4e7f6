"""sd_notify, the status line, and mount(8)'s language: pure parts, without a daemon."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipefs.config import Settings
from pipefs.errors import UsageError
from pipefsd.automount import changed_settings
from pipefsd.handoff import Told
from pipefsd.logs import JournalFormatter, goes_to_journal
from pipefsd.mounthelper import parse
from pipefsd.notify_socket import NotifySocket, take_surroundings
from pipefsd.pulse import Figures, status_line


@pytest.mark.parametrize("abstract", [False, True])
def test_messages_and_descriptors_reach_the_manager(abstract: bool, tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    address = f"\0pipefs-{os.getpid()}{path}" if abstract else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        notify = NotifySocket(address.replace("\0", "@"))
        notify.status("two\nlines")
        assert manager.recv(1000) == b"STATUS=two lines"
        reader, writer = os.pipe()
        notify.keep("sales@v1", (reader,))
        data, (copy,), _, _ = socket.recv_fds(manager, 1000, 4)
        assert data == b"FDSTORE=1\nFDNAME=sales@v1\nFDPOLL=0"
        os.write(writer, b"x")
        assert os.read(copy, 1) == b"x"
        notify.reloading()
        first, second = manager.recv(1000).split(b"\n")
        assert first == b"RELOADING=1" and second.startswith(b"MONOTONIC_USEC=")
        for descriptor in (reader, writer, copy):
            os.close(descriptor)


def test_a_manager_that_went_away_is_logged_and_not_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    NotifySocket(str(tmp_path / "nobody")).ready()
    assert "the service manager was not told READY=1" in caplog.text
    NotifySocket("").ready()
    assert len(caplog.records) == 1


def test_what_is_meant_for_another_process_is_not_taken() -> None:
    env = {"LISTEN_PID": "1", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b", "WATCHDOG_PID": "1"}
    env |= {"WATCHDOG_USEC": "5000000", "NOTIFY_SOCKET": "/n", "HOME": "/root"}
    found = take_surroundings(env, unit="pipefsd.service")
    assert (found.stored, found.watchdog_s, found.unit) == ({}, None, "pipefsd.service")
    # No child is meant either.
    assert env == {"HOME": "/root"}


def test_stored_descriptors_are_taken_by_name_and_not_inherited() -> None:
    code = (
        "import os; from pipefsd.notify_socket import take_surroundings as take;"
        "env = dict(os.environ, LISTEN_PID=str(os.getpid()));"
        "s = take(env); print(s.stored, os.get_inheritable(4), s.watchdog_s)"
    )
    script = f"exec 3</dev/null 4</dev/null 5</dev/null; exec '{sys.executable}' -c \"{code}\""
    env = {**os.environ, "LISTEN_FDS": "3", "LISTEN_FDNAMES": "sales:sales:x"}
    done = subprocess.run(
        ["bash", "-c", script],
        env={**env, "WATCHDOG_USEC": "2500000"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "{'sales': [3, 4], 'x': [5]} False 2.5"


def test_the_status_line_says_what_an_operator_asks() -> None:
    saved = Figures("sales", "live", Told(1, cache_bytes=4_100_000_000))
    assert status_line([saved], {}, set()) == "1 mount, all saved, cache 4.1 GB"
    assert status_line([], {}, set()) == "nothing mounted"
    busy = Figures("prices", "live", Told(2, files=3, bytes=12_000_000, offline=True, conflicts=1))
    assert status_line([saved, busy], {}, {"sales"}) == (
        "2 mounts, 3 files (12 MB) going up, cache 4.1 GB, OFFLINE: prices, conflicts: prices, "
        "leaves when idle: sales"
    )
    silent, gone = Figures("a", "live", None), Figures("b", "failed", None)
    assert status_line([silent, gone], {"c": "no such bucket"}, set()) == (
        "2 mounts, does not answer: a, given up: b, NOT MOUNTED: c (no such bucket)"
    )


def test_changed_settings_have_their_users_names() -> None:
    new = Settings(cache_limit_bytes=1 << 30, read_only=True, automount=True)
    assert changed_settings(Settings(), new) == ["read_only", "cache_limit"]


def test_the_journal_gets_priorities_and_no_time() -> None:
    record = logging.LogRecord("x", logging.ERROR, __file__, 1, "lost\nit", (), None)
    record.pipe, record.fields = "sales", {"n": 1}
    assert JournalFormatter().format(record) == "<3>sales lost\\nit n=1"
    info = os.fstat(2)
    assert goes_to_journal({"JOURNAL_STREAM": f"{info.st_dev}:{info.st_ino}"})
    assert not goes_to_journal({"JOURNAL_STREAM": "1:1"}) and not goes_to_journal({})


def test_a_line_of_fstab_is_understood() -> None:
    options = "rw,_netdev,nofail,noauto,x-systemd.automount,users,noexec,allow_other,umask=077"
    order = parse(["sales", "/srv//sales/", "-o", options])
    assert (order.source, order.directory, order.read_only) == ("sales", "/srv/sales", False)
    assert order.settings == ["noexec", "allow_other", "umask=077"]
    snapshot = parse(["pipefs#sales@v1", "/m", "-t", "fuse.pipefs", "-n", "-o", "ro,profile=team"])
    assert (snapshot.source, snapshot.read_only, snapshot.profile) == ("sales@v1", True, "team")
    assert parse(["a", "/m", "-sfv", "-o", "whatever=1"]).fake


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["sales"], "needs NAME and DIR"),
        (["sales", "/m", "-o"], "-o has no value"),
        (["sales", "/m", "-x"], "does not know -x"),
        (["sales", "/m", "-o", "colour=red"], "no mount option 'colour'"),
        (["sales", "/m", "-o", "remount,ro"], "remount cannot be honoured"),
    ],
)
def test_what_mount_cannot_honour_is_refused(words: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse(words)
