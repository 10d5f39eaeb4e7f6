"""`pipefs service …`: pipefs under systemd, for the machine or for one user."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import click

from pipefs.cli.app import App, Group, pass_app
from pipefs.errors import Refused
from pipefs.home import Home
from pipefs.installed_service import UNIT, is_booted, systemctl


@click.group(cls=Group, short_help="Run as a systemd service.")
def service() -> None:
    """Run pipefs as a systemd service: every pipe with automount=yes is mounted at boot, or at
    login without --system, and kept mounted."""


_root = click.option(
    "--root", metavar="DIR", default="/", help="Below this folder, as for an image; starts nothing."
)
_dry_run = click.option("--dry-run", "-n", is_flag=True, help="Only show what would be done.")


@service.command(
    "install",
    short_help="Write the units, and mount.pipefs for /etc/fstab.",
    example="""\
pipefs --system service install && systemctl enable --now pipefsd
pipefs service install && systemctl --user enable --now pipefsd""",
)
@_root
@_dry_run
@pass_app
def install_service(app: App, root: str, dry_run: bool) -> None:
    """Write systemd units that run this installation of pipefs. With --system (as root) those of
    the machine, and /sbin/mount.pipefs for /etc/fstab and systemd's mount units."""
    from pipefs.unitfiles import install, service_files, this_interpreter

    home, base = _home(app, root), Path(root).absolute()
    version = _systemd_version()
    files = service_files(
        home, this_interpreter(), config_file=app.config_file or "", systemd_version=version
    )
    names = [str(base / file.path.relative_to("/")) for file in files]
    app.emit({"files": names, "written": not dry_run})
    if dry_run:
        for name, file in zip(names, files, strict=True):
            app.say(f"# {name}\n{file.content}")
        return
    for path in install(home, files, base):
        app.say(str(path))
    _reload_systemd(app, home, root)
    for line in _next_steps(app, home, root):
        app.say(line)


@service.command(
    "uninstall",
    short_help="Remove what install wrote.",
    example="pipefs --system service uninstall",
)
@_root
@_dry_run
@pass_app
def uninstall_service(app: App, root: str, dry_run: bool) -> None:
    """Remove what `service install` wrote, and nothing else. Pipes, settings and data stay."""
    from pipefs.unitfiles import uninstall

    home, base = _home(app, root), Path(root).absolute()
    control = systemctl(home)
    if not dry_run and _reaches_systemd(home, root):
        active = subprocess.run([*control, "is-active", "--quiet", UNIT], check=False)
        if active.returncode == 0:
            raise Refused(
                "the service is running",
                hint=f"{' '.join(control)} disable --now pipefsd",
            )
    removed, left = uninstall(home, base, dry_run=dry_run)
    app.emit({"removed": [str(p) for p in removed], "left": [str(p) for p in left]})
    for path in removed:
        app.say(f"{'would remove' if dry_run else 'removed'} {path}")
    for path in left:
        app.warn(f"{path} was changed by somebody; it stays")
    if not removed and not left:
        app.say("nothing is installed")
    elif not dry_run:
        _reload_systemd(app, home, root)


def _home(app: App, root: str) -> Home:
    home = app.home()
    if home.kind == "system" and os.geteuid() != 0 and root == "/":
        raise Refused(
            "the machine's service is root's to install",
            hint="As root; or your own: pipefs service install",
        )
    return home


def _reaches_systemd(home: Home, root: str) -> bool:
    if root != "/" or not is_booted():
        return False
    command = [*systemctl(home), "show", "--property=Version"]
    try:
        return subprocess.run(command, capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _reload_systemd(app: App, home: Home, root: str) -> None:
    """Have systemd read the units, where it runs."""
    if not _reaches_systemd(home, root):
        return
    command = [*systemctl(home), "daemon-reload"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        app.warn(f"{' '.join(command)}: {done.stderr.strip()}")


def _next_steps(app: App, home: Home, root: str) -> list[str]:
    control = " ".join(systemctl(home))
    if root != "/":
        return []
    if not is_booted():
        daemon = "pipefsd --system" if home.kind == "system" else "pipefsd"
        return [f"systemd does not run here; without it the daemon is started by: {daemon}"]
    steps = [f"next: {control} enable --now pipefsd"]
    if home.kind == "user":
        if not _reaches_systemd(home, root):
            steps.append("your systemd does not answer: log in properly, not through su or sudo")
        steps.append("from boot instead of from login: loginctl enable-linger")
    steps.append(f"which pipes it mounts: {app.command('set NAME automount=yes')}")
    return steps


def _systemd_version() -> int:
    """252 for "systemd 252 (252.39-1)"; 0 where there is none."""
    try:
        done = subprocess.run(
            ["systemctl", "--version"], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    words = done.stdout.split()
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
