"""The files of a systemd service: what they contain, installing them, and removing exactly them.

The units are templates that come with the package (`systemd/` in the source); here they get the
absolute path of an interpreter. What was written is remembered with its digest in the state
folder, so that uninstalling leaves alone what somebody else wrote or changed. Starts and stops
nothing; never talks to systemd.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

import pipefs
from pipefs.errors import Corrupt, Refused
from pipefs.home import Home
from pipefs.installed_service import UNIT, user_units

TEMPLATE_PYTHON: Final = "/usr/bin/python3"
NOTIFY_RELOAD_SINCE: Final = 253
"""systemd that waits for a reload to be done."""

HELPERS: Final = ("mount.pipefs", "mount.fuse.pipefs")
"""mount(8) calls the first for `-t pipefs`, the second for `-t fuse.pipefs`, the kernel's name."""


@dataclass(frozen=True, slots=True)
class File:
    """A file to install."""

    path: Path
    content: str
    mode: int = 0o644

    @property
    def digest(self) -> str:
        return _digest(self.content.encode())


@dataclass(frozen=True, slots=True)
class Interpreter:
    """The Python that the units start, and what it needs to find pipefs."""

    path: str
    search_path: str = ""
    """PYTHONPATH, for a pipefs that runs from its source and is not installed."""

    def command(self, module: str) -> str:
        """A command line of a unit or of sh."""
        return f"{shlex.quote(self.path)} -P -m {module}"


def this_interpreter() -> Interpreter:
    """The running one; asked in a process of its own whether it finds pipefs from anywhere."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    probe = [sys.executable, "-P", "-c", "import pipefs.version, pipefsd.main"]
    if subprocess.run(probe, env=env, cwd="/", capture_output=True).returncode == 0:
        return Interpreter(sys.executable)
    found = (os.path.abspath(part) for part in sys.path if part)
    places = [p for p in found if any(Path(p, n).is_dir() for n in ("pipefs", "pipefsd"))]
    return Interpreter(sys.executable, os.pathsep.join(dict.fromkeys(places)))


def service_files(
    home: Home, python: Interpreter, *, config_file: str = "", systemd_version: int = 0
) -> list[File]:
    """What a service of this home consists of.

    Raises:
        Refused: the home is no machine's and no user's default one.
    """
    if home.kind == "single" or home.profile:
        what = "PIPEFS_HOME is set" if home.kind == "single" else "a profile is chosen"
        raise Refused(
            f"{what}: a service has the folders of the machine or of a user",
            hint="Without it: pipefs --system service install (as root), or pipefs service install",
        )
    extra = f" --config {shlex.quote(os.path.abspath(config_file))}" if config_file else ""

    def unit(name: str) -> str:
        text = (_templates() / name).read_text(encoding="utf-8")
        return _fill(text, python, extra, systemd_version)

    if home.kind == "user":
        return [File(user_units(home) / UNIT, unit(f"user/{UNIT}"))]
    units = Path("/etc/systemd/system")
    return [
        *(File(units / name, unit(name)) for name in (UNIT, "pipefs@.service")),
        *(File(Path("/sbin") / name, _helper(python), 0o755) for name in HELPERS),
    ]


def _templates() -> Path:
    """Next to the package in the source, inside it when it is installed."""
    package = Path(pipefs.__file__).parent
    for folder in (package / "systemd", package.parent / "systemd"):
        if (folder / UNIT).is_file():
            return folder
    raise Corrupt(f"the unit files are missing from {package}", hint="Install pipefs again")


def _fill(text: str, python: Interpreter, extra: str, systemd_version: int) -> str:
    lines = []
    for line in text.splitlines():
        if line.startswith("Exec") and TEMPLATE_PYTHON in line:
            # "%" is a specifier in units.
            line = line.replace(TEMPLATE_PYTHON, shlex.quote(python.path).replace("%", "%%"))
            if "pipefsd.main" in line:
                line += extra.replace("%", "%%")
        if systemd_version >= NOTIFY_RELOAD_SINCE and line == "Type=notify":
            line = "Type=notify-reload"
        if line.startswith("ExecReload=") and systemd_version >= NOTIFY_RELOAD_SINCE:
            continue
        lines.append(line)
        if line == "[Service]" and python.search_path:
            lines.append(f'Environment="PYTHONPATH={python.search_path.replace("%", "%%")}"')
    return "\n".join(lines) + "\n"


def _helper(python: Interpreter) -> str:
    path = f"export PYTHONPATH={shlex.quote(python.search_path)}\n" if python.search_path else ""
    return f'#!/bin/sh\n{path}exec {python.command("pipefsd.mounthelper")} "$@"\n'


# --- installing -------------------------------------------------------------------------------


def _record(home: Home, root: Path) -> Path:
    return _below(root, home.state / "installed.json")


def _below(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def _read(path: Path) -> dict[str, str]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except FileNotFoundError:
        return {}
    except msgspec.MsgspecError as error:
        raise Corrupt(f"{path} is not readable: {error}", hint="Remove it") from error


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def install(home: Home, files: Iterable[File], root: Path) -> list[Path]:
    """Write the files below `root` and remember them; returns those that are new or different.

    Raises:
        Refused: a file is there that we did not write, or that was changed since; nothing was
            written then.
    """
    record = _record(home, root)
    known = _read(record)
    wanted = list(files)
    for file in wanted:
        there = _current(root, file.path)
        if there is not None and there not in (file.digest, known.get(str(file.path))):
            raise Refused(
                f"{_below(root, file.path)} is not as pipefs wrote it",
                hint="Keep your changes in a drop-in (systemctl edit pipefsd), and remove the file",
            )
    written = []
    for file in wanted:
        known[str(file.path)] = file.digest
    # First: what is not remembered would never be removed.
    _write(record, msgspec.json.encode(known), 0o600)
    for file in wanted:
        if _current(root, file.path) != file.digest:
            _write(_below(root, file.path), file.content.encode(), file.mode)
            written.append(_below(root, file.path))
    return written


def uninstall(home: Home, root: Path, *, dry_run: bool = False) -> tuple[list[Path], list[Path]]:
    """Remove what `install` wrote; returns what was removed, and what was left because somebody
    changed it."""
    record = _record(home, root)
    removed: list[Path] = []
    left: list[Path] = []
    for name, digest in _read(record).items():
        there = _current(root, Path(name))
        if there is None:
            continue
        path = _below(root, Path(name))
        (removed if there == digest else left).append(path)
        if there == digest and not dry_run:
            path.unlink()
    if not dry_run:
        record.unlink(missing_ok=True)
    return removed, left


def _current(root: Path, path: Path) -> str | None:
    try:
        return _digest(_below(root, path).read_bytes())
    except FileNotFoundError:
        return None


def _write(path: Path, content: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(content)
    fresh.chmod(mode)
    fresh.replace(path)
