"""The service under a real systemd, shown step by step: `make systemd-test`.

Every step prints what an operator would type and see, and asserts what it promises. Takes about
two minutes once the machine's tree is cached; needs root, systemd-container and debootstrap.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from tests.mounted import eventually
from tests.seaweed import ACCESS_KEY, SECRET_KEY, SeaweedServer
from tests.service.machine import PYTHON, Machine, booted
from tests.slowproxy import SlowProxy

COPIED_BYTES = 24 << 20
SLOW_BYTES_PER_S = 3 << 20
"""The copy then takes about eight seconds to go up."""

APPENDER = """
import os, sys, time
with open(sys.argv[1], "a+b", buffering=0) as file:
    for number in range(int(sys.argv[2])):
        file.write(b"%d\\n" % number)
        if number % 10 == 0:
            os.fsync(file.fileno())
        time.sleep(0.02)
    file.seek(0)
    print(sum(1 for _ in file), "lines, first to last, through one open file")
"""

DROP_IN = """[Service]
LoadCredential=aws:/etc/pipefs/aws-credentials
Environment=AWS_SHARED_CREDENTIALS_FILE=%d/aws
"""
CREDENTIALS = f"[default]\naws_access_key_id={ACCESS_KEY}\naws_secret_access_key={SECRET_KEY}\n"


class Show:
    """Runs commands inside and prints them with what they said."""

    PROMPT = "#"

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def before(self, command: str) -> str:
        """`command` as whoever types it has it run."""
        return command

    def __call__(self, command: str, *, code: int = 0) -> str:
        done = self.machine.run(self.before(command), check=False)
        print(f"{self.PROMPT} {command}\n{done.stdout.rstrip()}".rstrip(), flush=True)
        journal = f"exit code {done.returncode}, not {code}" if done.returncode != code else ""
        if journal:
            print(self.machine.run("journalctl -n 60", check=False).stdout)
        assert not journal, journal
        return done.stdout

    def ask(self, command: str) -> str:
        """The same, silently."""
        return self.machine.run(command).stdout.strip()

    def mounts(self) -> list[str]:
        found = self.machine.run("findmnt -rn -t fuse.pipefs -o TARGET", check=False).stdout
        return sorted(found.split())

    def property(self, name: str) -> str:
        return self.ask(f"systemctl show pipefsd --property={name} --value")

    def answers_again(self, than_pid: str) -> None:
        eventually(
            lambda: (
                self.property("MainPID") not in ("0", than_pid)
                and self.property("ActiveState") == "active"
            ),
            "the service is active again",
        )


class Anna(Show):
    """A user of the machine."""

    PROMPT = "$"

    def before(self, command: str) -> str:
        who = "setpriv --reuid anna --regid anna --init-groups"
        env = "env HOME=/home/anna XDG_RUNTIME_DIR=/run/user/$(id -u anna)"
        return f"cd / && {who} {env} sh -c {shlex.quote(command)}"


def title(text: str) -> None:
    print(f"\n--- {text}", flush=True)


def install(show: Show, endpoint: str, bucket: str) -> None:
    title("install, credentials, two pipes, enable --now")
    show("pipefs --system service install")
    show.machine.write("/etc/pipefs/aws-credentials", CREDENTIALS, 0o600)
    show.machine.write("/etc/systemd/system/pipefsd.service.d/aws.conf", DROP_IN)
    show.ask("systemctl daemon-reload")
    show(
        "AWS_SHARED_CREDENTIALS_FILE=/etc/pipefs/aws-credentials pipefs --system create sales "
        f"s3://{bucket}/sales --endpoint-url {endpoint} -o automount=yes"
    )
    show("pipefs --system create prices -o automount=yes")
    show("systemctl enable --now pipefsd")
    said = show("systemctl status pipefsd")
    assert 'Status: "2 mounts, all saved' in said
    assert "Active: active (running)" in said


def visible(show: Show) -> None:
    title("the mounts are visible from outside the service; no mount namespace of its own")
    show("findmnt -t fuse.pipefs")
    assert show.mounts() == ["/srv/pipes/prices", "/srv/pipes/sales"]
    pid = show.property("MainPID")
    spaces = show(f"readlink /proc/1/ns/mnt /proc/{pid}/ns/mnt").split()
    assert spaces[0] == spaces[1]
    show("systemd-analyze security pipefsd | tail -1")


def reload(show: Show) -> None:
    title("reload adds a pipe, and lets one go when it is idle")
    show("pipefs --system create notes -o automount=yes")
    show("pipefs --system set prices automount=no")
    holder = show.machine.popen("cd /srv/pipes/prices && exec sleep 60")
    eventually(lambda: holder.poll() is None and _stands_in(show, "prices"), "the shell is there")
    show("systemctl reload pipefsd")
    eventually(lambda: "/srv/pipes/notes" in show.mounts(), "notes is mounted")
    eventually(lambda: "leaves when idle: prices" in show.property("StatusText"), "the status")
    show("systemctl status pipefsd | grep Status")
    assert "/srv/pipes/prices" in show.mounts()
    show.ask("pkill -x sleep")
    holder.wait()
    eventually(lambda: "/srv/pipes/prices" not in show.mounts(), "prices is unmounted")
    show("findmnt -t fuse.pipefs")


def _stands_in(show: Show, pipe: str) -> bool:
    script = f"readlink /proc/$(pgrep -x sleep | tail -1)/cwd | grep -q /srv/pipes/{pipe}"
    return show.machine.run(script, check=False).returncode == 0


def restart_and_kill(show: Show) -> None:
    title("restart, then kill -9 of everything, while a program appends to an open file")
    show.machine.write("/root/append.py", APPENDER)
    appender = show.machine.popen("python3 /root/append.py /srv/pipes/sales/log.txt 500")
    eventually(lambda: _size(show, "/srv/pipes/sales/log.txt") > 100, "the program writes")
    before = show.property("MainPID")
    show("systemctl restart pipefsd")
    assert show.property("MainPID") != before
    between = show.property("MainPID")
    show("systemctl kill -s KILL pipefsd")
    show.answers_again(between)
    assert appender.poll() is None, "the program was done before"
    out, _ = appender.communicate(timeout=60)
    print(out, end="")
    assert appender.returncode == 0 and out.startswith("500 lines")
    show("systemctl show pipefsd --property=NRestarts,NFileDescriptorStore,StatusText")
    assert show.mounts() == ["/srv/pipes/notes", "/srv/pipes/sales"]


def _size(show: Show, path: str) -> int:
    done = show.machine.run(f"stat -c %s {path}", check=False)
    return int(done.stdout) if done.returncode == 0 else 0


def watchdog(show: Show) -> None:
    title("watchdog: a worker that hangs is replaced; a supervisor that hangs is ended by systemd")
    show.machine.write(
        "/etc/systemd/system/pipefsd.service.d/watchdog.conf", "[Service]\nWatchdogSec=8\n"
    )
    show.ask("systemctl daemon-reload && systemctl restart pipefsd")
    supervisor = show.property("MainPID")
    show(f"kill -STOP $(pgrep -P {supervisor} -x 'pipefs notes')")
    show("ls -a /srv/pipes/notes")
    assert show.property("MainPID") == supervisor
    show(f"kill -STOP {supervisor}")
    show.answers_again(supervisor)
    said = show("journalctl -u pipefsd -o cat | grep -E 'does not answer|timeout|notes went on'")
    assert "notes the mount does not answer, replacing its worker" in said
    assert "Watchdog timeout" in said
    show.ask("rm /etc/systemd/system/pipefsd.service.d/watchdog.conf; systemctl daemon-reload")
    show("ls -a /srv/pipes/notes")


def stop_during_copy(show: Show, proxy: SlowProxy, server: SeaweedServer, bucket: str) -> None:
    title("stop during a copy: what was written goes up before the mounts go")
    proxy.bytes_per_s = SLOW_BYTES_PER_S
    show.ask(f"head -c {COPIED_BYTES} /dev/urandom > /root/big")
    show("cp /root/big /srv/pipes/sales/big && systemctl status pipefsd | grep Status")
    began = time.monotonic()
    stop = show.machine.popen("systemctl stop pipefsd")
    eventually(lambda: "going up" in show.property("StatusText"), "the status tells of the drain")
    show("systemctl status pipefsd | grep -E 'Active|Status'", code=0)
    assert stop.wait(timeout=120) == 0
    print(f"stopped after {time.monotonic() - began:.1f} s")
    proxy.bytes_per_s = 0
    assert show.mounts() == []
    ours = (show.machine.tree / "root/big").read_bytes()
    theirs = server.client().get_object(Bucket=bucket, Key="sales/big")["Body"].read()
    assert ours == theirs
    print(f"sales/big in the bucket: {len(theirs)} bytes, the same")


def fstab(show: Show) -> None:
    title("/etc/fstab: mount, and x-systemd.automount")
    show.ask("mkdir -p /srv/fstab /srv/auto")
    lines = (
        "prices /srv/fstab pipefs _netdev,nofail,noexec 0 0",
        "notes /srv/auto fuse.pipefs _netdev,nofail,noauto,x-systemd.automount 0 0",
    )
    with open(show.machine.tree / "etc/fstab", "a") as file:
        file.write("\n".join(lines) + "\n")
    show.ask("pipefs --system set notes automount=no")
    show("tail -2 /etc/fstab; systemctl daemon-reload")
    show("mount /srv/fstab && findmnt /srv/fstab")
    show("umount /srv/fstab")
    show("mount -t pipefs nosuch /srv/fstab", code=32)
    show("mount -t pipefs -o colour=red prices /srv/fstab", code=1)
    show("systemctl start srv-auto.automount && findmnt -rn -o TARGET,FSTYPE /srv/auto")
    show("echo hello > /srv/auto/a.txt && findmnt -rn -o TARGET,FSTYPE /srv/auto")
    show("systemctl restart pipefsd && cat /srv/auto/a.txt")
    show("systemctl status srv-auto.mount | grep -E 'Active|What|Tasks|CGroup'")
    show("systemctl stop srv-auto.mount srv-auto.automount")
    assert "/srv/auto" not in show.mounts()


def one_pipe(show: Show) -> None:
    title("a mount command starts the service, not a daemon beside it")
    show(
        "systemctl stop pipefsd && pipefs --system mount prices && systemctl is-active -q pipefsd"
        " || systemctl show pipefsd --property=ActiveState"
    )
    show("pipefs --system umount prices")
    title("pipefs@.service: one pipe that comes and goes by itself")
    show("systemctl start pipefs@prices && findmnt -rn -t fuse.pipefs -o TARGET")
    show("systemctl restart pipefsd && systemctl is-active pipefs@prices")
    assert "/srv/pipes/prices" in show.mounts()
    show("systemctl stop pipefs@prices")
    assert "/srv/pipes/prices" not in show.mounts()


def of_a_user(show: Show) -> None:
    title("the service of a user: through fusermount3, kept across a restart")
    show.ask("useradd -m anna && systemctl start user@$(id -u anna)")
    # With the mode that udev gives it; the one of this host may be root's only.
    show.ask("umount -l /dev/fuse && rm -f /dev/fuse && mknod -m 666 /dev/fuse c 10 229")
    anna = Anna(show.machine)
    anna("pipefs create diary -o automount=yes")
    anna("pipefs service install")
    anna("systemctl --user enable --now pipefsd")
    anna("systemctl --user status pipefsd | grep -E 'Active|Status'")
    assert "/home/anna/pipes/diary" in anna.mounts()
    said = anna(
        "exec 3>~/pipes/diary/a; echo one >&3; systemctl --user restart pipefsd; echo two >&3; "
        "exec 3>&-; cat ~/pipes/diary/a"
    )
    assert said == "one\ntwo\n"
    anna("systemctl --user disable --now pipefsd")
    anna("pipefs service uninstall")
    assert "/home/anna/pipes/diary" not in anna.mounts()


def uninstall(show: Show) -> None:
    title("journal, uninstall")
    show("journalctl -u pipefsd -o short-iso --no-hostname -n 30")
    show("pipefs --system service uninstall", code=4)
    show("systemctl disable --now pipefsd")
    show("pipefs --system service uninstall")
    assert show.mounts() == []


def boot_order(show: Show) -> None:
    title("boot: mounted by itself, after network-online.target; powered off in order")
    said = show("systemctl show pipefsd --property=After --value")
    assert "network-online.target" in said.split()
    eventually(lambda: len(show.mounts()) == 2, "fstab's line is mounted")
    show("findmnt -t fuse.pipefs")
    assert show.mounts() == ["/srv/fstab", "/srv/pipes/sales"]
    show("systemctl status pipefsd | grep -E 'Active|Status'")


def main() -> int:
    parser = argparse.ArgumentParser(description="pipefs under a real systemd")
    default = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    parser.add_argument("--cache", type=Path, default=Path(default) / "pipefs-systemd")
    cache: Path = parser.parse_args().cache
    if os.geteuid() != 0:
        print("needs root: it boots a container", file=sys.stderr)
        return 2
    if sys.version_info[:2] != PYTHON:
        print("needs Python 3.11, the container's own: make systemd-test PYTHON=…", file=sys.stderr)
        return 2
    for program, package in (("systemd-nspawn", "systemd-container"), ("debootstrap",) * 2):
        if subprocess.run(["which", program], capture_output=True).returncode:
            print(f"missing: apt-get install {package}", file=sys.stderr)
            return 2
    server = SeaweedServer.start()
    proxy = SlowProxy(server.endpoint_url)
    try:
        with booted(cache) as machine:
            bucket = server.make_bucket()
            show = Show(machine)
            show("systemctl --version | head -1")
            install(show, proxy.endpoint_url, bucket)
            visible(show)
            reload(show)
            restart_and_kill(show)
            watchdog(show)
            stop_during_copy(show, proxy, server, bucket)
            fstab(show)
            one_pipe(show)
            of_a_user(show)
            machine.power_off()
            machine.boot()
            boot_order(show)
            uninstall(show)
    finally:
        proxy.down()
        server.stop()
    print("\nall of it as promised")
    return 0


if __name__ == "__main__":
    sys.exit(main())
