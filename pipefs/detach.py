"""Taking a dead mount out of the tree, with the tools the system has for it.

For mounts whose daemon is gone; a living mount is unmounted through its supervisor.
"""

from __future__ import annotations

import os
import subprocess

from pipefs.errors import Refused
from pipefs.mountinfo import MountEntry, read_mounts


def detach(entry: MountEntry) -> None:
    """Take a dead mount out of the tree. `Refused` when the system does not let us."""
    commands = [["fusermount3", "-u", "-z", entry.path], ["umount", "-l", entry.path]]
    if os.geteuid() == 0:
        commands.reverse()
    said = ""
    for command in commands:
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=30)
        except (FileNotFoundError, subprocess.TimeoutExpired) as e:
            said = said or str(e)
            continue
        if result.returncode == 0:
            return
        said = said or result.stderr.strip()
    if not any((e.path, e.device) == (entry.path, entry.device) for e in read_mounts()):
        return  # somebody else was faster
    raise Refused(
        f"the dead mount {entry.path} could not be removed: {said}",
        hint=f"As root: umount -l {entry.path}",
    )
