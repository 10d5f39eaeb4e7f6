"""A pipe from a description: made where it is missing, changed where it is there.

A description is a table as `pipefs show --json`, `.pipefs/pipe.json` or d6tpipe have it: name, URL
(or protocol, location and remotepath), settings beside them or in `options`, `credentials`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipefs.config import SPECS, check_options, travelling
from pipefs.credentials import parse_credentials
from pipefs.errors import AccessDenied, AlreadyExists, UsageError
from pipefs.registry import PATIENCE_S, Pipe, Registry
from pipefs.types import Credentials

if TYPE_CHECKING:
    from pipefs.creation import Created

_ABOUT_IT = frozenset(
    {"pipe_id", "created", "created_by", "format", "readme", "settings", "mounts"}
)
"""What our own descriptions say besides; not to be chosen."""
OF_D6TPIPE = frozenset({"protocol", "location", "remotepath", "role", "encrypted", "credentials"})


@dataclass(frozen=True, slots=True)
class Description:
    """What somebody wants a pipe to be."""

    name: str
    url: str = ""
    """"": where a new pipe goes by itself, or where it is."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """Checked, as of `pipefs set`."""
    credentials: Credentials | None = None


@dataclass(frozen=True, slots=True)
class Upserted:
    """What was done."""

    pipe: Pipe
    created: Created | None = None
    """None: the pipe was there, and was changed."""
    changed: Mapping[str, object] = field(default_factory=dict)
    """Settings that are not what they were."""
    described: bool = True
    """False: the credentials may not write to the bucket, so it counts on this machine only."""
    stored_credentials: bool = False


def description_of(
    told: Mapping[str, Any], name: str | None = None, where: str = "the description"
) -> Description:
    """
    Args:
        name: instead of the one in it; or the one to take, where it has those of several pipes.
    Raises:
        UsageError: no name, a setting that there is not, or a kind of store that pipefs has not.
    """
    if name is not None and isinstance(told.get(name), Mapping):
        told = told[name]
    given = name or told.get("name")
    if not isinstance(given, str) or not given:
        several = [key for key, value in told.items() if isinstance(value, Mapping)]
        hint = f"Name one of {', '.join(several)}" if several else '{"name": "weather", …}'
        raise UsageError(f"{where} has no name", hint=hint)
    options = told.get("options") or {}
    if not isinstance(options, Mapping):
        raise UsageError(f"{where}: options is no table", hint='{"include": "*.csv"}')
    flat = {k: v for k, v in told.items() if k not in ("name", "options", "url")} | dict(options)
    settings = {
        key: value
        for key, value in flat.items()
        if key not in OF_D6TPIPE and key not in _ABOUT_IT and value is not None
    }
    if flat.get("role") == "read":
        settings.setdefault("read_only", True)
    keys = flat.get("credentials")
    return Description(
        given,
        _url(told, flat, where),
        check_options(settings, where=where, known=[key for key in SPECS if key != "root"]),
        parse_credentials(keys, where) if isinstance(keys, Mapping) and keys else None,
    )


def _url(told: Mapping[str, Any], flat: Mapping[str, Any], where: str) -> str:
    """d6tpipe names a protocol, a place, and a path that may be all of it."""
    if url := told.get("url"):
        return str(url).rstrip("/")
    protocol = str(flat.get("protocol") or "s3")
    if protocol not in ("s3", "file"):
        raise UsageError(
            f"{where}: pipefs has no stores of the kind {protocol}",
            hint="Its files can be copied into a pipe: pipefs import FOLDER NAME",
        )
    if flat.get("encrypted"):
        raise UsageError(
            f"{where} is encrypted", hint="Write it anew without, and store keys: pipefs cred set"
        )
    path, place = str(flat.get("remotepath") or ""), str(flat.get("location") or "")
    if "://" in path:
        return path.rstrip("/")
    bucket = place.removeprefix("s3://").strip("/")
    return f"{protocol}://{bucket}/{path.strip('/')}".rstrip("/") if bucket else ""


def check_place(registry: Registry, wanted: Description) -> None:
    """
    Raises:
        AlreadyExists: the pipe of this name is at another URL.
    """
    from pipefs.creation import normal_url

    name, there = wanted.name, registry.get(wanted.name).url
    if wanted.url and normal_url(wanted.url) != there:
        raise AlreadyExists(
            f"{name} is at {there}, and stays there",
            hint=f"Another name for {wanted.url}: pipefs create NAME {wanted.url}",
        )


def upsert(
    registry: Registry, wanted: Description, *, create: bool = True, create_bucket: bool = False
) -> Upserted:
    """Make or change a pipe. Credentials are stored first: the bucket may need them.

    Args:
        create: False only changes one that is there.
    Raises:
        AlreadyExists: it is at another URL. NotFound: there is none, and none is to be made. What
        `create_pipe` raises; then no new credentials stay.
    """
    from pipefs.creation import create_pipe

    name = wanted.name
    new = name not in registry.names()
    if new and not create:
        registry.get(name)  # says what is near
    if not new:
        check_place(registry, wanted)
    before = registry.vault.get(name)
    store = wanted.credentials is not None and wanted.credentials != before
    if store and wanted.credentials is not None:
        registry.vault.put(name, wanted.credentials)
    if not new:
        changed, described = change(registry, name, wanted.settings)
        return Upserted(
            registry.get(name), None, changed, described=described, stored_credentials=store
        )
    try:
        made = create_pipe(
            registry, name, wanted.url or None, wanted.settings, create_bucket=create_bucket
        )
    except BaseException:
        if store and before is None:
            registry.vault.remove(name)
        raise
    return Upserted(made.pipe, made, wanted.settings, made.described, stored_credentials=store)


def change(
    registry: Registry, name: str, changes: Mapping[str, object], unset: tuple[str, ...] = ()
) -> tuple[dict[str, object], bool]:
    """Settings of a pipe that is there: those that are not what they were, and whether the bucket
    knows. The bucket first: if it refuses, this machine and the others still agree."""
    from pipefs.descriptor import update_descriptor

    pipe = registry.get(name)
    merged = {k: v for k, v in {**pipe.options, **changes}.items() if k not in unset}
    registry.settings_for(name, merged, pipe.url)
    described = True
    if travelling(merged) != travelling(pipe.options):
        store = pipe.open_store(patience_s=PATIENCE_S)
        try:
            update_descriptor(store, merged)
        except AccessDenied:
            described = False
        finally:
            store.close()
    after = registry.update(name, changes, unset=unset).options
    keys = {*changes, *unset}
    return {k: after.get(k) for k in keys if after.get(k) != pipe.options.get(k)}, described
