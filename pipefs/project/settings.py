"""`config/datakit-data.json`, and the defaults from which a new project's is made.

The keys are datakit-data's, and what is not known stays in the file. Defaults are one JSON file of
the user (or of a profile); where there is none, datakit's own counts. Never asks the network.
"""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipefs.errors import NotFound, UsageError
from pipefs.home import Home
from pipefs.tomlfile import write_file

CONFIG = "config/datakit-data.json"
DATA = "data"
DEFAULT_MARKERS = ".sync_status/"

PROJECT_KEYS = {
    "s3_bucket": "bucket where the project's data is",
    "s3_path": "folder in it",
    "aws_user_profile": "profile in ~/.aws",
    "sync_status_location": "where datakit keeps its markers",
}
TRANSIENT_KEYS = {
    "s3_path_prefix": "folders above the project's",
    "s3_path_suffix": "folders below it",
}
"""Only of defaults: they become part of `s3_path` when a project is made."""


@dataclass(frozen=True, slots=True)
class Project:
    """A project's folder, and what its configuration says."""

    root: Path
    aws_user_profile: str = "default"
    s3_bucket: str = ""
    s3_path: str = ""
    """Below the bucket, without slashes at its ends; "" is the whole bucket."""
    sync_status_location: str = ""
    """Where datakit keeps its markers, from `root`; "": nowhere."""

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def data(self) -> Path:
        return self.root / DATA

    @property
    def config_file(self) -> Path:
        return self.root / CONFIG

    @property
    def url(self) -> str:
        """Where its files are.

        Raises:
            UsageError: its configuration names no bucket, or no place that can be.
        """
        from pipefs.creation import normal_url

        if not self.s3_bucket:
            raise UsageError(
                f"no bucket is named in {self.config_file}",
                hint="Name it: pipefs project config s3_bucket=NAME",
            )
        if "/" in self.s3_bucket:
            raise UsageError(
                f"s3_bucket={self.s3_bucket} in {self.config_file} is not the name of a bucket",
                hint="Only its name; the folder in it is s3_path",
            )
        return normal_url(f"s3://{self.s3_bucket}/{self.s3_path}".rstrip("/"))

    @property
    def aws_profile(self) -> str:
        """As the setting of a pipe: "" lets the AWS files and variables choose, which is what
        `default` means there."""
        return "" if self.aws_user_profile == "default" else self.aws_user_profile


def find_project(start: Path) -> Project:
    """The project that a folder is in: the next one above it that was initialised.

    Raises:
        NotFound: none was. UsageError: its configuration cannot be read.
    """
    where = start.absolute()
    for folder in (where, *where.parents):
        if (folder / CONFIG).is_file():
            return read_project(folder)
    raise NotFound(
        f"{start} is in no project: neither here nor above is there a {CONFIG}",
        hint="Make this folder one: pipefs project init",
    )


def read_project(root: Path) -> Project:
    """Raises `UsageError` for a configuration that cannot be read."""
    return project_of(root, read_json(root / CONFIG))


def project_of(root: Path, found: Mapping[str, object]) -> Project:
    """The project with this configuration; what is missing is as datakit has it."""
    file = root / CONFIG

    def text(key: str, otherwise: str = "") -> str:
        value = found.get(key, otherwise)
        if not isinstance(value, str | None):
            raise UsageError(f"{file}: {key} is no text", hint=f'Write it as "{key}": "…"')
        return (value or "").strip()

    return Project(
        root,
        text("aws_user_profile") or "default",
        text("s3_bucket"),
        text("s3_path", root.name).strip("/"),
        text("sync_status_location"),
    )


def read_json(file: Path) -> dict[str, object]:
    """A JSON object. `UsageError` for anything else."""
    try:
        found = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as e:
        raise UsageError(f"{file} is no JSON: {e}") from e
    except OSError as e:
        raise UsageError(f"{file} cannot be read: {e.strerror}") from e
    if not isinstance(found, dict):
        raise UsageError(f"{file} is no JSON object", hint='Such as {"s3_bucket": "my-data"}')
    return found


def write_json(file: Path, content: Mapping[str, object], *, mode: int = 0o666) -> None:
    """Replace a file, as datakit writes it; the umask takes its part of the mode."""
    write_file(file, (json.dumps(dict(content), indent=4) + "\n").encode(), mode=mode)


# --- defaults -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Defaults:
    """What new projects take over."""

    values: Mapping[str, object]
    file: Path | None = None
    """Where they are from; None: nobody set any."""
    is_datakit: bool = False


def defaults_file(home: Home) -> Path:
    """Where this user's, or this profile's, defaults are kept."""
    return home.config / "project.json"


def datakit_file(env: Mapping[str, str] = os.environ) -> Path:
    """Where datakit keeps those of its plugin."""
    above = env.get("DATAKIT_HOME") or os.path.join(os.path.expanduser("~"), ".datakit")
    return Path(above) / "plugins" / "datakit-data" / "config.json"


def read_defaults(home: Home) -> Defaults:
    """The profile's, else the user's own, else datakit's, else none."""
    places = [defaults_file(home), home.profiles.parent / "project.json", datakit_file()]
    for place in places:
        if place.is_file():
            return Defaults(read_json(place), place, place == places[-1])
    return Defaults({})


def write_defaults(home: Home, values: Mapping[str, object]) -> Path:
    home.make()
    file = defaults_file(home)
    write_json(file, values, mode=0o600)
    return file


# --- a new configuration ------------------------------------------------------------------------


def new_config(
    root: Path, values: Mapping[str, object], *, now: datetime | None = None, user: str = ""
) -> dict[str, object]:
    """What `config/datakit-data.json` of a new project says.

    Args:
        values: defaults; placeholders in them are expanded, prefix and suffix become part of
            `s3_path`.
        now, user: for the placeholders; None and "" ask the system.
    """
    content: dict[str, object] = {
        "aws_user_profile": "default",
        "s3_bucket": "",
        "s3_path": root.name,
        "sync_status_location": DEFAULT_MARKERS,
        **values,
    }
    content = expanded(content, root.name, now=now, user=user)
    above, below = (content.pop(key, "") for key in TRANSIENT_KEYS)
    parts = (above, content["s3_path"], below)
    bits = [part.strip().strip("/") for part in parts if isinstance(part, str)]
    content["s3_path"] = "/".join(bit for bit in bits if bit)
    return content


def expanded(
    values: Mapping[str, object], name: str, *, now: datetime | None = None, user: str = ""
) -> dict[str, object]:
    """Values with `$YEAR $MONTH $DAY $USERNAME $PROJECTNAME` replaced in all texts. Days are
    those of UTC."""
    day = now or datetime.now(UTC)
    words = {
        "$YEAR": f"{day.year:04}",
        "$MONTH": f"{day.month:02}",
        "$DAY": f"{day.day:02}",
        "$USERNAME": user or _user(),
        "$PROJECTNAME": name,
    }
    found = dict(values)
    for key, value in found.items():
        if isinstance(value, str):
            for word, meant in words.items():
                value = value.replace(word, meant)
            found[key] = value
    return found


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.geteuid())
