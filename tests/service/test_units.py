"""The unit files: valid to systemd, without what would hide the mounts; installed and removed."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
from pathlib import Path

import pytest

from pipefs.errors import Refused
from pipefs.home import resolve_home
from pipefs.unitfiles import Interpreter, install, service_files, this_interpreter, uninstall
from tests.mounted import SOURCE, Home
from tests.service.manager import Unit, machine_unit, seconds

TEMPLATES = sorted((SOURCE / "systemd").rglob("*.service"))

NAMESPACES = (
    *("ProtectSystem", "ProtectHome", "ProtectProc", "ProcSubset", "ProtectKernelTunables"),
    *("ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups", "PrivateTmp"),
    *("PrivateDevices", "PrivateMounts", "PrivateUsers", "PrivateIPC", "ReadWritePaths"),
    *("ReadOnlyPaths", "InaccessiblePaths", "ExecPaths", "NoExecPaths", "TemporaryFileSystem"),
    *("BindPaths", "BindReadOnlyPaths", "RootDirectory", "RootImage", "MountFlags"),
    *("MountImages", "ExtensionImages", "DynamicUser", "JoinsNamespaceOf", "MountAPIVFS"),
)
"""Each gives a service a mount namespace of its own (systemd.exec(5)), or needs one."""

SECCOMP = (
    *("SystemCallFilter", "RestrictAddressFamilies", "RestrictNamespaces", "RestrictRealtime"),
    *("LockPersonality", "SystemCallArchitectures", "MemoryDenyWriteExecute", "RestrictSUIDSGID"),
)
"""Without CAP_SYS_ADMIN these imply NoNewPrivileges."""


def keys(text: str) -> set[str]:
    lines = (line.strip() for line in text.splitlines())
    return {line.partition("=")[0] for line in lines if "=" in line and not line.startswith("#")}


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_systemd_finds_no_fault_with_a_unit(path: Path, tmp_path: Path) -> None:
    of_user = ["--user"] if "user" in path.parts else []
    # As installed: the interpreter that it names must exist.
    text = path.read_text().replace("/usr/bin/python3", this_interpreter().path)
    copy = tmp_path / path.name.replace("@", "@sales")
    copy.write_text(text)
    if "@" in path.name:
        (tmp_path / "pipefsd.service").write_text(machine_unit())
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *of_user, copy],
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    ours = [line for line in done.stderr.splitlines() if "pipefs" in line]
    assert (done.returncode, ours) == (0, [])


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_unit_hides_the_mounts_or_keeps_fusermount_from_them(path: Path) -> None:
    used = keys(path.read_text())
    assert used & {*NAMESPACES, "NoNewPrivileges"} == set()
    if "user" in path.parts:
        assert used & set(SECCOMP) == set()


def test_the_machines_unit_gives_the_daemon_time_and_a_store() -> None:
    from pipefsd.bounds import Bounds

    unit, bounds = Unit(machine_unit()), Bounds()
    # Drain, a worker that does not answer, unmount, detach, stop: mounted.Mounted.
    longest = bounds.drain_s + bounds.stop_s + 2 * bounds.errand_s + bounds.stop_s
    assert seconds(unit.one("TimeoutStopSec")) > longest
    assert seconds(unit.one("TimeoutStartSec")) > bounds.start_s
    assert int(unit.one("FileDescriptorStoreMax")) >= 512
    assert unit.one("KillMode") == "mixed" and unit.one("NotifyAccess") == "main"
    assert unit.one("OOMPolicy") == "continue"
    assert "CAP_SYS_ADMIN" in unit.one("CapabilityBoundingSet").split()


def test_the_example_configuration_is_one(home: Home) -> None:
    lines = (SOURCE / "systemd/config.example.toml").read_text().splitlines()
    # Every setting is commented out; with all of them on it must still be read.
    active = [line.removeprefix("# ") if " = " in line else line for line in lines]
    home.create("sales")
    (home.home / "config" / "config.toml").write_text("\n".join(active))
    assert "cache_limit           200G" in home.run("show", "sales").stdout


def test_an_installed_unit_starts_this_interpreter_whatever_its_path() -> None:
    machine = resolve_home(system=True, env={})
    python = Interpreter("/opt/my %python/bin/python3", "/src/a b")
    text = service_files(machine, python, config_file="/etc/p c.toml")[0].content
    unit = Unit(text)
    assert unit.one("ExecStart").startswith("'/opt/my %%python/bin/python3' -P -m pipefsd.main")
    assert unit.one("ExecStart").endswith("--config '/etc/p c.toml'")
    assert unit.environment()["PYTHONPATH"] == "/src/a b"


def test_a_newer_systemd_waits_for_the_reload() -> None:
    machine = resolve_home(system=True, env={})
    old, new = (
        Unit(service_files(machine, Interpreter("/p"), systemd_version=v)[0].content)
        for v in (252, 253)
    )
    assert (old.one("Type"), old.one("ExecReload")) == ("notify", "/bin/kill -HUP $MAINPID")
    assert new.one("Type") == "notify-reload"
    with pytest.raises(KeyError):
        new.one("ExecReload")


def test_uninstall_removes_exactly_what_install_wrote(home: Home, tmp_path: Path) -> None:
    del home.env["PIPEFS_HOME"]
    root = tmp_path / "image"
    (root / "sbin").mkdir(parents=True)
    (root / "sbin/mount.nfs").write_text("not ours")
    said = home.run("--system", "service", "install", "--root", str(root)).stdout
    units = root / "etc/systemd/system"
    files = [units / "pipefsd.service", units / "pipefs@.service"]
    files += [root / "sbin/mount.pipefs", root / "sbin/mount.fuse.pipefs"]
    assert [Path(line) for line in said.splitlines()] == files
    assert all(stat.S_IMODE(f.stat().st_mode) == 0o755 for f in files[2:])
    # Again: nothing to do. An upgrade: only what differs.
    assert home.run("--system", "service", "install", "--root", str(root)).stdout == ""
    (units / "pipefsd.service.d").mkdir()
    (units / "pipefsd.service.d/mine.conf").write_text("[Service]\n")
    shown = home.run("--system", "service", "uninstall", "--dry-run", "--root", str(root)).stdout
    assert shown.splitlines() == [f"would remove {f}" for f in files]
    home.run("--system", "service", "uninstall", "--root", str(root))
    left = sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())
    assert left == ["etc/systemd/system/pipefsd.service.d/mine.conf", "sbin/mount.nfs"]
    again = home.run("--system", "service", "uninstall", "--root", str(root)).stdout
    assert again == "nothing is installed\n"


def test_a_file_that_somebody_wrote_or_changed_stays(tmp_path: Path) -> None:
    machine = resolve_home(system=True, env={})
    files = service_files(machine, Interpreter("/p"))
    foreign = tmp_path / "sbin/mount.pipefs"
    foreign.parent.mkdir()
    foreign.write_text("somebody's")
    with pytest.raises(Refused, match=r"sbin/mount\.pipefs is not as pipefs wrote it"):
        install(machine, files, tmp_path)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [foreign]
    foreign.unlink()
    install(machine, files, tmp_path)
    unit = tmp_path / "etc/systemd/system/pipefsd.service"
    unit.write_text(unit.read_text() + "# mine\n")
    removed, left = uninstall(machine, tmp_path)
    assert left == [unit] and unit.exists()
    assert len(removed) == len(files) - 1 and not foreign.exists()


def test_a_users_service_is_one_unit_in_his_folder(home: Home) -> None:
    del home.env["PIPEFS_HOME"]
    user = {"HOME": str(home.base), "XDG_CONFIG_HOME": "", "XDG_STATE_HOME": ""}
    said = home.run("service", "install", **user).stdout
    unit = home.base / ".config/systemd/user/pipefsd.service"
    assert said.splitlines()[0] == str(unit)
    start = shlex.split(Unit(unit.read_text()).one("ExecStart"))
    assert start[0] == this_interpreter().path and "--system" not in start
    assert "pipefsd" in said.splitlines()[1]
    home.run("service", "uninstall", **user)
    assert not unit.exists()


def test_a_home_of_its_own_is_no_service(home: Home) -> None:
    said = home.run("service", "install", code=4).stderr
    assert "PIPEFS_HOME is set" in said and "pipefs --system service install" in said
