"""A systemd service that is installed for a home, started when a command needs its daemon.

A daemon that a command started beside it would serve the home in the service's place, and live in
whatever session or unit the command ran in. Asks systemd through `systemctl`; every call has a
bound, and where there is no systemd or no unit nothing is done.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

from pipefs.home import Home

UNIT: Final = "pipefsd.service"

_BOOTED: Final = Path("/run/systemd/system")
"""There where systemd runs as the first process (sd_booted)."""

_OF_MACHINE: Final = ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
_ASK_S: Final = 30.0


def user_units(home: Home) -> Path:
    """Where a user's systemd looks for units."""
    return home.config.parent / "systemd/user"


def is_booted() -> bool:
    """Whether systemd runs here."""
    return _BOOTED.is_dir()


def systemctl(home: Home) -> list[str]:
    """The program that talks to the systemd of this home."""
    return ["systemctl"] if home.kind == "system" else ["systemctl", "--user"]


def is_installed(home: Home) -> bool:
    """Whether there is a unit that serves this home."""
    if home.kind == "single" or home.profile:
        return False
    folders = _OF_MACHINE if home.kind == "system" else (str(user_units(home)),)
    return any(os.path.exists(f"{folder}/{UNIT}") for folder in folders)


def start(home: Home) -> bool:
    """Have systemd start the service of this home, without waiting for it; False if there is
    none, or if systemd does not."""
    if not is_booted() or not is_installed(home):
        return False
    # --no-block: at boot the service may have to wait for a target that waits for a mount of ours.
    return _succeeds([*systemctl(home), "start", "--no-block", UNIT])


def has_failed(home: Home) -> bool:
    """Whether systemd has given its start up."""
    return _succeeds([*systemctl(home), "is-failed", "--quiet", UNIT])


def _succeeds(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=_ASK_S).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
