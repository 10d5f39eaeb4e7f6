"""What a pipe says of itself in its bucket: `.pipefs/format.json`, `pipe.json` and `README`.

`pipe.json` carries the name, the identity and the options that belong to the pipe, so that
`pipefs create URL` on another machine needs nothing else. It never holds credentials, endpoints
or places on a machine. Created by conditional put: of two creators one wins and the other adopts.
"""

from __future__ import annotations

import getpass
import os
import socket
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
from msgspec import Struct, field

from pipefs.config import SPECS, check_options, travelling, travels
from pipefs.errors import (
    AccessDenied,
    Conflict,
    Corrupt,
    NewerFormat,
    NotFound,
    PreconditionFailed,
    Unsupported,
)
from pipefs.stores.base import Store
from pipefs.units import utc_text
from pipefs.version import VERSION

FORMAT = 1
"""Of everything under `.pipefs/`. A higher number is refused, never touched."""

FORMAT_KEY = ".pipefs/format.json"
PIPE_KEY = ".pipefs/pipe.json"
README_KEY = ".pipefs/README"

README = """This folder belongs to a pipe of pipefs ("{name}").

The files beside it are ordinary objects at their own keys: any S3 tool reads them, and no
version is lost if this folder is deleted. What goes with it are the names of snapshots and the
attributes that S3 cannot hold (symbolic links, folder modes and times, extended attributes).

  format.json   version of what is in here
  pipe.json     name and options of the pipe
  commits/      log of changes, one numbered file each
  manifests/    parts of snapshots: path, key, VersionId, size, checksum
  snapshots/    named moments of the pipe

To mount it on this machine:

  pip install pipefs
  pipefs create {url}
  pipefs mount {name}

A lifecycle rule that deletes noncurrent versions destroys the snapshots.
"""


class FormatFile(Struct):
    format: int
    created: str = ""
    program: str = ""


class PipeDescriptor(Struct, frozen=True):
    """`.pipefs/pipe.json`."""

    name: str
    pipe_id: str
    """UUID of the pipe, the same on every machine."""
    format: int = FORMAT
    created: str = ""
    """UTC with Z."""
    created_by: str = ""
    """`user@host`."""
    options: dict[str, object] = field(default_factory=dict)
    """Only keys whose `Spec.travels`, as TOML and JSON keep them."""
    readme: str = "README.md"
    """Path in the pipe of the text that introduces the data; need not exist."""
    refused: dict[str, object] = field(default_factory=dict)
    """What the bucket asks for and may not choose, such as a folder anywhere on this machine. Never
    written."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a prefix held before the pipe was made: its first objects, ours left out."""

    objects: int
    bytes: int
    newest_ns: int
    more: bool
    """There are more than were counted."""


def who() -> str:
    """`user@host`, for descriptors and commits."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.geteuid())  # A container's uid without a passwd line.
    return f"{user}@{socket.gethostname().partition('.')[0] or 'localhost'}"


def read_descriptor(store: Store) -> PipeDescriptor | None:
    """The pipe that a store describes, or None when there is none.

    Raises:
        NewerFormat: written by a newer pipefs.
        Corrupt: the file is there and is not a descriptor.
    """
    check_format(store)
    raw = get_small(store, PIPE_KEY)
    return None if raw is None else decode_descriptor(raw, f"{store.url}/{PIPE_KEY}")


def check_format(store: Store) -> bool:
    """Whether the store has a `.pipefs/` of a format we know. Raises `NewerFormat`, `Corrupt`."""
    raw = get_small(store, FORMAT_KEY)
    if raw is None:
        return False
    try:
        found = msgspec.json.decode(raw, type=FormatFile).format
    except msgspec.MsgspecError as e:
        raise Corrupt(f"{store.url}/{FORMAT_KEY} is damaged: {e}") from e
    _check_number(found, store.url)
    return True


def decode_descriptor(raw: bytes, where: str) -> PipeDescriptor:
    """A descriptor with checked options; those a newer pipefs added are left out."""
    try:
        found = msgspec.json.decode(raw, type=PipeDescriptor)
    except msgspec.MsgspecError as e:
        raise Corrupt(
            f"{where} is damaged: {e}",
            hint="Delete it and run pipefs create again; files and versions are not touched",
        ) from e
    _check_number(found.format, where)
    # The bucket may be anybody's: only options that travel are taken, each one checked.
    known = {k: v for k, v in found.options.items() if travels(k, v)}
    refused = {
        k: v for k, v in found.options.items() if k in SPECS and SPECS[k].travels and k not in known
    }
    checked = check_options(known, where=where)
    return msgspec.structs.replace(found, options=checked, refused=refused)


def _check_number(found: int, where: str) -> None:
    if found > FORMAT:
        raise NewerFormat(
            f"{where} was written by a newer pipefs (format {found}; this one knows {FORMAT})",
            hint="Upgrade: pip install -U pipefs",
        )


def create_descriptor(
    store: Store, name: str, options: Mapping[str, object], *, pipe_id: str = ""
) -> PipeDescriptor:
    """Describe a new pipe in its store, or adopt what somebody described a moment before.
    With `pipe_id`, describe a known pipe again after its `.pipefs/` was deleted.

    README and format come first: a crash in between leaves a folder without a pipe, which the
    next `create` completes, never a pipe whose format is unknown.
    """
    now = utc_text(time.time_ns())
    put_new(store, README_KEY, README.format(name=name, url=store.url).encode())
    put_new(store, FORMAT_KEY, msgspec.json.encode(FormatFile(FORMAT, now, f"pipefs {VERSION}")))
    made = PipeDescriptor(
        name=name,
        pipe_id=pipe_id or str(uuid.uuid4()),
        created=now,
        created_by=who(),
        options=travelling(dict(options)),
    )
    if put_new(store, PIPE_KEY, _encode(made)):
        return made
    adopted = read_descriptor(store)
    if adopted is None:
        raise Conflict(f"{store.url}/{PIPE_KEY} was created and deleted meanwhile; try again")
    return adopted


def update_descriptor(store: Store, options: dict[str, object]) -> PipeDescriptor | None:
    """Replace the travelling options of a pipe; None when its store has no descriptor.

    Raises:
        Conflict: somebody else changed it at the same moment; read again.
    """
    current = read_descriptor(store)
    if current is None:
        return None
    wanted = travelling(options)
    if "dir" in options and "dir" not in wanted and "dir" in current.options:
        wanted["dir"] = current.options["dir"]  # this machine's own place; the others keep theirs
    changed = msgspec.structs.replace(current, options=wanted)
    if changed == current and not current.refused:
        return current
    etag = store.head(PIPE_KEY).etag
    body = _encode(changed)
    try:
        store.put(PIPE_KEY, body, content_type="application/json", if_match=etag)
    except Unsupported:
        store.put(PIPE_KEY, body, content_type="application/json")
    return changed


def local_id(url: str) -> str:
    """Identity of a pipe whose store may not be written: the same wherever it is computed."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, url))


def describe(store: Store, name: str, options: dict[str, object]) -> tuple[PipeDescriptor, bool]:
    """`create_descriptor`, or with read-only credentials a descriptor kept on this machine only;
    the second value says whether it is in the store."""
    try:
        return create_descriptor(store, name, options), True
    except AccessDenied:
        kept = travelling(options)
        return PipeDescriptor(name=name, pipe_id=local_id(store.url), options=kept), False


def survey(store: Store, limit: int = 1000) -> Found:
    """Look at what is under the prefix, at most `limit` objects."""
    objects = size = newest = 0
    for item in store.list():
        if item.key.startswith(".pipefs/"):
            continue
        if objects == limit:
            return Found(objects, size, newest, True)
        objects, size = objects + 1, size + item.size
        newest = max(newest, item.last_modified_ns)
    return Found(objects, size, newest, False)


def _encode(descriptor: PipeDescriptor) -> bytes:
    told = {**msgspec.to_builtins(descriptor)}
    del told["refused"]
    return msgspec.json.format(msgspec.json.encode(told), indent=2) + b"\n"


def get_small(store: Store, key: str) -> bytes | None:
    """An object of ours, up to 1 MiB; None where there is none."""
    try:
        return store.get(key, None, 0, 1 << 20)
    except NotFound:
        return None


def put_new(store: Store, key: str, body: bytes) -> bool:
    """Put unless it exists; False when it did."""
    kind = "application/json" if key.endswith(".json") else "text/plain; charset=utf-8"
    try:
        store.put(key, body, content_type=kind, if_none_match=True)
    except PreconditionFailed:
        return False
    except Unsupported:
        # No conditional put: two creators at the same moment could both win. The loser's name
        # and options would be replaced, no file is touched.
        if get_small(store, key) is not None:
            return False
        store.put(key, body, content_type=kind)
    return True
