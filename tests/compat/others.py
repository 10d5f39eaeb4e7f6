"""The real packages of other systems, each in an environment of its own.

An environment is made when a test first needs it and kept below `$XDG_CACHE_HOME/pipefs-tests/`,
under a name that changes with what is in it. The packages pin what cannot live beside ours, so
they are only ever run in processes of their own.
"""

from __future__ import annotations

import faulthandler
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

INSTALL_TIMEOUT_S = 900
RUN_TIMEOUT_S = 300

PACKAGES = {
    "quilt3": ("quilt3==8.0.0",),
    "datakit": ("datakit-core==0.5.4", "datakit-data==0.8.1", "boto3==1.43.117"),
    "datakit-core": ("datakit-core==0.5.4",),
    "dvc": ("dvc[s3]==3.67.1",),
    # Its S3 resource imports boto3 and s3fs, which it does not ask for. They share one botocore.
    "dws": (
        *("dataworkspaces==1.6.0", "s3fs==2026.9.0"),
        *("aiobotocore==3.10.0", "boto3==1.43.117"),
    ),
}


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "pipefs-tests"


@dataclass(frozen=True, slots=True)
class Other:
    """One system's environment, and what its processes get to see."""

    folder: Path
    env: Mapping[str, str]
    home: Path
    """HOME and working folder of its processes."""

    def program(self, *words: str, code: int = 0) -> str:
        """Run a program in `home`, its own before the machine's; its stdout."""
        found = shutil.which(words[0], path=self.env["PATH"])
        assert found is not None, f"no {words[0]} on this machine"
        return self._run([found, *words[1:]], code)

    def python(self, script: str, *args: str) -> str:
        """Run a script with its interpreter in `home`; its stdout."""
        return self._run([str(self.folder / "bin" / "python"), "-c", script, *args], 0)

    def _run(self, words: list[str], code: int) -> str:
        done = subprocess.run(
            words,
            cwd=self.home,
            env=dict(self.env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
        )
        assert done.returncode == code, (words[0], words[-1], done.stdout, done.stderr)
        return done.stdout


def environment(name: str) -> Path:
    """The folder of a system's environment, made if it is not there. Several may ask at once."""
    wanted = PACKAGES[name]
    digest = hashlib.sha256(f"{sys.version}\n{wanted}".encode()).hexdigest()[:12]
    folder = cache_folder() / f"{name}-{digest}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _install(folder, wanted)
            (folder / "ready").touch()
    return folder


def _install(folder: Path, wanted: tuple[str, ...]) -> None:
    faulthandler.cancel_dump_traceback_later()  # it takes longer than a test may: that is no hang
    python = str(folder / "bin" / "python")
    uv = (sys.executable, "-m", "uv")
    try:
        _run(*uv, "venv", "--quiet", "--seed", "--python", sys.executable, str(folder))
        _run(*uv, "pip", "install", "--quiet", "--python", python, *wanted)
    except RuntimeError:
        # pip knows mirrors that uv has not been told of.
        shutil.rmtree(folder, ignore_errors=True)
        _run(sys.executable, "-m", "venv", str(folder))
        quiet = ("--quiet", "--no-compile", "--disable-pip-version-check")
        _run(python, "-m", "pip", "install", *quiet, *wanted)


def _run(*words: str) -> None:
    outside = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        words, env=outside, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}\n{done.stdout}\n{done.stderr}")


def other(name: str, server: Mapping[str, str], home: Path) -> Other:
    """A system that finds the S3 server of `server` (`SeaweedServer.environment`)."""
    home.mkdir(parents=True, exist_ok=True)
    folder = environment(name)
    nothing = home / "nothing"  # an empty file: DVC does not take /dev/null for one
    nothing.touch()
    kept = {k: v for k, v in os.environ.items() if k in ("LANG", "LC_ALL", "TMPDIR")}
    env = {
        **kept,
        **server,
        "AWS_ENDPOINT_URL": server["AWS_ENDPOINT_URL_S3"],
        "AWS_CONFIG_FILE": str(nothing),
        "AWS_SHARED_CREDENTIALS_FILE": str(nothing),
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "XDG_DATA_HOME": str(home / "data"),
        "PYTHONDONTWRITEBYTECODE": "",
        # None of them is to tell its makers of our tests.
        "DVC_NO_ANALYTICS": "1",
        "QUILT_DISABLE_USAGE_METRICS": "true",
        "QUILT_MINIMIZE_STDOUT": "true",
        "GIT_CONFIG_NOSYSTEM": "1",
    }
    return Other(folder, env, home)
