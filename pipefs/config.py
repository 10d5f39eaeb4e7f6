"""Settings of a pipe: their names, defaults, how they are typed, checked and kept in TOML.

Everything that comes from a person or a file passes `check_options`, so the rest of the program
sees typed values with units in their names. A message about a bad value names the key, the value,
what is allowed, and for an unknown key the nearest known one. Never reads the environment; never
holds credentials (those belong to the AWS files).
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipefs.errors import UsageError
from pipefs.filters import Filters
from pipefs.policy import Policy
from pipefs.tomlfile import read_toml
from pipefs.units import (
    BOOL_ALLOWED,
    DURATION_ALLOWED,
    parse_bool,
    parse_duration,
)
from pipefs.values import (
    leaves_its_folder,
    parse_cache_limit,
    parse_choice,
    parse_endpoint,
    parse_folder,
    parse_limit,
    parse_one_line,
    parse_owner,
    parse_patterns,
    parse_place,
    parse_root,
    parse_schema,
    parse_tristate,
    parse_umask,
)

DEFAULT_CACHE_LIMIT_BYTES = 20 << 30


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one pipe, resolved. `SPECS` maps user-facing keys to these fields."""

    mountpoint: str = ""
    """Absolute path; "" is the home's default, `~/pipes/NAME`."""
    automount: bool = False
    read_only: bool = False
    snapdir: str = "hidden"
    """hidden: `.snapshots` is reachable but never listed, so find, cp -a and rsync skip it."""
    owner: str = "auto"
    """auto: mounter for an unprivileged mount (stored ids would lock the user out), stored for
    root; or mounter, stored, USER:GROUP."""
    umask: int = 0o022
    """For files whose object has no mode of its own."""
    allow_other: bool | None = None
    """None: on when root mounts (a system mount that only root can enter serves nobody)."""
    acl: bool = False
    """Whether the kernel enforces POSIX access lists. Off: for each file that another user than its
    owner opens, and for each path such a user walks, the kernel asks us for the list."""
    suid: bool = False
    dev: bool = False
    """Whether set-id bits and device nodes have an effect. Off: who may write to the bucket could
    make a program that runs as root here."""
    exec: bool = True
    root: str = ""
    """Of a profile: where `create NAME` puts pipes, `s3://bucket/pipes`."""
    cache_limit_bytes: int | None = None
    """None: 20 GiB, or 10 % of the cache's disk if that is smaller (`cache_limit_for`)."""
    staging_limit_bytes: int | None = None
    """None: no limit but the disk; writers get ENOSPC at the limit."""
    memory_limit_bytes: int | None = None
    quiet_period_s: float = 0.5
    """Longer than an editor's or a script's write-temp-then-rename, shorter than anybody waits."""
    min_version_interval_s: float = 30.0
    """A log appended each second makes 120 versions an hour, not 3,600."""
    refresh_interval_s: float = 300.0
    """Listing for what other tools wrote; commits of other mounts are followed each second."""
    local_only: tuple[str, ...] = ()
    """Patterns that never go up. Empty: a file that is not uploaded must be the user's choice."""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    """Files that are left out are not shown on a mount, and new ones of that name never go up."""
    dir: str = ""
    """Folder of pull and push: below the pipe's own, or an absolute one of this machine."""
    parent: str = ""
    """Pipe whose settings this one inherits."""
    schema: Mapping[str, object] = field(default_factory=dict)
    """Free JSON for readers, such as `{"pandas": {"sep": ";"}}`."""
    endpoint_url: str = ""
    region: str = ""
    aws_profile: str = ""
    storage_class: str = ""
    sse: str = ""
    kms_key: str = ""
    requester_pays: bool = False
    addressing: str = "auto"
    checksum: str = "auto"
    engine: str = "auto"
    passthrough: str = "auto"

    def policy(self, *, waits: bool = True) -> Policy:
        """When a changed file goes up, and which never do. `waits` False: at once."""
        quiet_s = self.quiet_period_s if waits else 0.0
        interval_s = self.min_version_interval_s if waits else 0.0
        filters = Filters(self.include, self.exclude)
        return Policy(quiet_s, interval_s, self.local_only, filters)


@dataclass(frozen=True, slots=True)
class Spec:
    """One user-facing key. `parse` gives the field's value or raises ValueError(allowed)."""

    field: str
    parse: Callable[[object], object]
    about: str
    travels: bool = False
    """Belongs to the pipe and is kept in the bucket, so that other machines adopt it."""


SPECS: Mapping[str, Spec] = {
    "mountpoint": Spec("mountpoint", parse_folder, "where it is mounted"),
    "automount": Spec("automount", parse_bool, "mount when the daemon starts"),
    "read_only": Spec("read_only", parse_bool, "refuse writes"),
    "snapdir": Spec("snapdir", parse_choice("hidden", "visible"), "list .snapshots at the root"),
    "owner": Spec("owner", parse_owner, "whose the files are shown to be"),
    "umask": Spec("umask", parse_umask, "for files without a stored mode"),
    "allow_other": Spec("allow_other", parse_tristate, "let other users in"),
    "acl": Spec("acl", parse_bool, "enforce POSIX access lists"),
    "suid": Spec("suid", parse_bool, "let set-id bits have an effect"),
    "dev": Spec("dev", parse_bool, "let device nodes have an effect"),
    "exec": Spec("exec", parse_bool, "let programs be run"),
    "root": Spec("root", parse_root, "of a profile: where its pipes are"),
    "cache_limit": Spec("cache_limit_bytes", parse_cache_limit, "size of the block cache"),
    "staging_limit": Spec("staging_limit_bytes", parse_limit, "disk for files not yet uploaded"),
    "memory_limit": Spec(
        "memory_limit_bytes", parse_limit, "memory for reads and uploads in flight"
    ),
    "quiet_period": Spec("quiet_period_s", parse_duration, "rest before an upload", True),
    "min_version_interval": Spec(
        "min_version_interval_s", parse_duration, "at most one version of a file in this time", True
    ),
    "refresh_interval": Spec("refresh_interval_s", parse_duration, "between listings"),
    "local_only": Spec("local_only", parse_patterns, "patterns that never go up", True),
    "include": Spec("include", parse_patterns, "patterns of what is seen, pulled and pushed", True),
    "exclude": Spec("exclude", parse_patterns, "patterns of what is not", True),
    "dir": Spec("dir", parse_place, "local folder of pull and push", True),
    "parent": Spec("parent", parse_one_line, "pipe whose settings it inherits"),
    "schema": Spec("schema", parse_schema, "how to read the files, JSON", True),
    "endpoint_url": Spec("endpoint_url", parse_endpoint, "of an S3 service other than AWS"),
    "region": Spec("region", parse_one_line, "of the bucket"),
    "aws_profile": Spec("aws_profile", parse_one_line, "in ~/.aws"),
    "storage_class": Spec("storage_class", parse_one_line, "of new objects", True),
    "sse": Spec("sse", parse_choice("", "AES256", "aws:kms", "aws:kms:dsse"), "encryption", True),
    "kms_key": Spec("kms_key", parse_one_line, "key for aws:kms", True),
    "requester_pays": Spec("requester_pays", parse_bool, "accept the transfer's cost", True),
    "addressing": Spec(
        "addressing", parse_choice("auto", "path", "virtual"), "how URLs name buckets"
    ),
    "checksum": Spec(
        "checksum",
        parse_choice("auto", "crc64nvme", "crc32c", "crc32", "none"),
        "sent with each upload",
    ),
    "engine": Spec("engine", parse_choice("auto", "boto3", "obstore"), "client of the hot path"),
    "passthrough": Spec(
        "passthrough", parse_choice("auto", "off"), "kernel reads and writes staging"
    ),
}

_HINTS = {
    "automount": BOOL_ALLOWED,
    "read_only": BOOL_ALLOWED,
    "requester_pays": BOOL_ALLOWED,
    "quiet_period": DURATION_ALLOWED,
}
"""What a key without a value is told."""


def check_options(
    options: Mapping[str, object], *, where: str = "", known: Iterable[str] = SPECS
) -> dict[str, object]:
    """Options as TOML keeps them (texts, booleans, lists), each one checked.

    Args:
        where: file or command the options come from, for the message.
    Raises:
        UsageError: unknown key or a value that is not allowed.
    """
    names = list(known)
    checked: dict[str, object] = {}
    for key, value in options.items():
        if key not in names:
            raise _unknown(key, names, where)
        parsed = _parse(key, value, where)
        keep = isinstance(parsed, bool | tuple | Mapping)
        checked[key] = (
            _plain(parsed) if keep else value if not isinstance(value, str) else value.strip()
        )
    return checked


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _parse(key: str, value: object, where: str) -> object:
    try:
        return SPECS[key].parse(value)
    except ValueError as e:
        place = f"{where}: " if where else ""
        raise UsageError(f"{place}{key}={value} is not allowed", hint=f"{key} is {e}") from e


def _unknown(key: str, names: list[str], where: str) -> UsageError:
    near = difflib.get_close_matches(key, names, n=3, cutoff=0.5)
    place = f"{where}: " if where else ""
    hint = f"Did you mean {' or '.join(near)}?" if near else "Settings: " + " ".join(names)
    return UsageError(f"{place}there is no setting {key!r}", hint=hint)


def resolve_settings(*layers: Mapping[str, object]) -> Settings:
    """Defaults overlaid with each layer of checked or unchecked options, later ones win."""
    fields: dict[str, object] = {}
    for layer in layers:
        for key, value in check_options(layer).items():
            fields[SPECS[key].field] = _parse(key, value, "")
    settings = replace(Settings(), **fields)  # type: ignore[arg-type]  # parsed by each Spec
    _check_together(settings)
    return settings


def _check_together(settings: Settings) -> None:
    if settings.kms_key and not settings.sse.startswith("aws:kms"):
        raise UsageError("kms_key needs sse=aws:kms", hint="Add -o sse=aws:kms")


def parse_assignments(pairs: Iterable[str]) -> dict[str, object]:
    """`key=value` words of a command line, checked; `key` alone is yes for a boolean."""
    options: dict[str, object] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        key = key.strip().replace("-", "_")
        if key not in SPECS:
            raise _unknown(key, list(SPECS), "")
        if not equals:
            if SPECS[key].parse not in (parse_bool, parse_tristate):
                raise UsageError(
                    f"{key} has no value", hint=f"{key}=… is {_HINTS.get(key, SPECS[key].about)}"
                )
            value = "yes"
        options[key] = value
    return check_options(options)


def parse_changes(words: Iterable[str]) -> tuple[dict[str, object], tuple[str, ...]]:
    """(what is set, what goes back to the default) by `key=value` and `key=` words.

    Raises:
        UsageError: as `parse_assignments`, also for a key that goes back.
    """
    given, unset = [], []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and not value.strip():
            key = key.strip().replace("-", "_")
            if key not in SPECS:
                raise _unknown(key, list(SPECS), "")
            unset.append(key)
        else:
            given.append(word)
    return parse_assignments(given), tuple(unset)


def travelling(options: Mapping[str, object]) -> dict[str, object]:
    """The options that belong to the pipe and go into the bucket: never credentials, endpoints
    or places on this machine."""
    return {key: value for key, value in options.items() if travels(key, value)}


def travels(key: str, value: object) -> bool:
    """Whether this value of a setting may come from a bucket or go into one.

    A folder only as a place below the pipe's own: who may write to the bucket must not choose
    where files land on the machines of those that read it.
    """
    spec = SPECS.get(key)
    return spec is not None and spec.travels and not (key == "dir" and leaves_its_folder(value))


def cache_limit_for(settings: Settings, cache: Path) -> int:
    """Bytes the block cache may take: the setting, or 20 GiB, or 10 % of its disk if smaller."""
    if settings.cache_limit_bytes is not None:
        return settings.cache_limit_bytes
    probe = cache
    while not probe.exists():
        probe = probe.parent
    disk = os.statvfs(probe)
    return max(64 << 20, min(DEFAULT_CACHE_LIMIT_BYTES, disk.f_blocks * disk.f_frsize // 10))


@dataclass(frozen=True, slots=True)
class Config:
    """The main configuration file: settings for every pipe of the user or machine."""

    defaults: Mapping[str, object] = field(default_factory=dict)
    file: Path | None = None


def load_config(file: Path, *, must_exist: bool = False) -> Config:
    """Read `[defaults]`; unknown sections and keys are refused, so that a typo is seen."""
    if must_exist and not file.exists():
        raise UsageError(f"there is no configuration file {file}")
    content = read_toml(file)
    for section in content:
        if section != "defaults":
            raise _unknown(section, ["defaults"], str(file))
    defaults = content.get("defaults", {})
    if not isinstance(defaults, dict):
        raise UsageError(f"{file}: defaults is not a table", hint="Write it as [defaults]")
    return Config(check_options(defaults, where=f"{file} [defaults]"), file)
