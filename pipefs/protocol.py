"""The control protocol between command line and daemon: values and their JSON lines.

One JSON object a line over a Unix socket (0600). A request `{"v":1,"op":"mount",…}` is answered
by any number of `{"progress":{…}}` lines and then exactly one of `{"ok":true,"result":{…}}` or
`{"ok":false,"error":{…}}`; an error's `kind` is the class name in `pipefs.errors`, and the client
raises that class again. A connection carries one request after the other.

Pure: bytes to values and back, no sockets, no files. Unknown keys are ignored and missing ones
have defaults, so that a newer client and an older daemon understand each other within one `v`.
"""

from __future__ import annotations

import errno as _errno
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct, field

from pipefs import errors
from pipefs.cachemessages import CacheRequest
from pipefs.conflictmessages import ConflictItem, Resolve
from pipefs.errors import Corrupt, NewerFormat, PipefsError, UsageError
from pipefs.pastmessages import PastRequest
from pipefs.version import PROTOCOL_VERSION

MAX_LINE_BYTES = 16 << 20
"""A longer line is not ours: the reader hangs up instead of filling memory."""


# --- requests to the supervisor ---------------------------------------------------------------


class Ping(Struct, tag_field="op", tag="ping", frozen=True):
    """Is anybody there. Answered by `Pong`, by supervisor and worker alike."""

    v: int = PROTOCOL_VERSION


class Mount(Struct, tag_field="op", tag="mount", frozen=True):
    """Mount a pipe, or a snapshot of it; answered when the mount answers (`Mounted`)."""

    name: str
    directory: str = ""
    """Absolute path; "" is the pipe's `mountpoint` setting, else the home's default."""
    snapshot: str | None = None
    read_only: bool = False
    transport: str = "auto"
    options: dict[str, str] = field(default_factory=dict)
    """Settings for this mount only, as the user typed them."""
    given: str = ""
    """Socket at which the client offers the descriptor of a mount that it made on `directory`."""
    v: int = PROTOCOL_VERSION


class Umount(Struct, tag_field="op", tag="umount", frozen=True):
    """Unmount by name or by absolute directory (`Unmounted`).

    `wait` None: up to `timeout_s` for the outbox, then detach all the same; True: insist, and
    answer `TimedOut` while still mounted when `timeout_s` (None: no bound) ran out; False: detach
    at once. What did not go up stays in the outbox.
    """

    name: str | None = None
    directory: str | None = None
    wait: bool | None = None
    timeout_s: float | None = 60.0
    v: int = PROTOCOL_VERSION


class ListMounts(Struct, tag_field="op", tag="list", frozen=True):
    """What this supervisor serves (`MountList`)."""

    v: int = PROTOCOL_VERSION


class Shutdown(Struct, tag_field="op", tag="shutdown", frozen=True):
    """Unmount everything and end; answered (`Empty`) before the process goes."""

    v: int = PROTOCOL_VERSION


# --- requests to a worker ---------------------------------------------------------------------


class GetStatus(Struct, tag_field="op", tag="status", frozen=True):
    """The state of this mount (`MountStatus`); never waits for the network."""

    v: int = PROTOCOL_VERSION


class Flush(Struct, tag_field="op", tag="flush", frozen=True):
    """Return when what was written below `path` (in the pipe; None: all) before this call is in
    the store (`Flushed`); progress lines are `FlushProgress`. `TimedOut` after `timeout_s`."""

    path: str | None = None
    timeout_s: float | None = None
    v: int = PROTOCOL_VERSION


class Refresh(Struct, tag_field="op", tag="refresh", frozen=True):
    """Follow commits now; with `full` also list the bucket (`Refreshed`)."""

    full: bool = False
    v: int = PROTOCOL_VERSION


SupervisorRequest = Ping | Mount | Umount | ListMounts | Shutdown
WorkerRequest = Ping | GetStatus | Flush | Refresh | PastRequest | CacheRequest | Resolve


# --- results ----------------------------------------------------------------------------------


class Empty(Struct, frozen=True):
    """Nothing to tell beyond success."""


class Pong(Struct, frozen=True):
    pid: int
    version: str


class Mounted(Struct, frozen=True):
    name: str
    path: str
    pid: int
    """The process that answers the kernel."""
    features: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    snapshot: str | None = None


class Unmounted(Struct, frozen=True):
    name: str
    path: str
    remaining_files: int = 0
    """Waiting in the outbox for the next mount."""
    remaining_bytes: int = 0


class MountItem(Struct, frozen=True):
    name: str
    path: str
    pid: int
    socket: str
    """The worker's control socket."""
    state: str = "live"
    since: str = ""
    """UTC, `2026-11-23T14:02:00Z`."""
    snapshot: str | None = None
    last_error: str = ""


class MountList(Struct, frozen=True):
    mounts: list[MountItem] = field(default_factory=list)


class MountStatus(Struct, frozen=True):
    """One mount in `status --json`; the first fifteen keys are a contract of the command line."""

    name: str
    path: str
    pid: int
    transport: str
    features: list[str] = field(default_factory=list)
    state: str = "live"
    """live, snapshot, read-only, offline, starting, failed; "no answer" is the command line's word
    for a worker that did not answer it, whose figures are then unknown."""
    snapshot: str | None = None
    dirty_files: int = 0
    """Changed here and not yet in the store, those being uploaded included."""
    dirty_bytes: int = 0
    uploading_files: int = 0
    uploading_bytes: int = 0
    conflicts: int = 0
    cache_bytes: int = 0
    cache_hit_ratio: float = 0.0
    """0 to 1, since the mount."""
    last_error: str = ""
    read_only: bool = False
    capabilities: dict[str, bool] = field(default_factory=dict)
    epoch: str = ""
    commit: int = 0
    relocating_files: int = 0
    relocating_bytes: int = 0
    refused_files: int = 0
    """Changes that the store refused when they were last tried, although it answers."""
    announcing: int = 0
    """Deletions that are not in the store yet; 1 where only names and attributes are not, or what
    became of a request is not known."""
    offline_since: str | None = None
    """UTC with Z, or null while the store answers."""
    conflict_list: list[ConflictItem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    cache_limit_bytes: int = 0
    pinned_files: int = 0
    """Kept in the cache whatever its limit."""
    pinned_bytes: int = 0
    pinned_behind: int = 0
    """How many of them are not here yet."""
    seconds_left: float | None = None
    """Estimate for what is going up, or null."""


class FlushProgress(Struct, frozen=True):
    """What is left to upload."""

    files: int
    bytes: int


class Flushed(Struct, frozen=True):
    files: int = 0
    bytes: int = 0
    seconds: float = 0.0


class Refreshed(Struct, frozen=True):
    changed: int = 0
    """Paths that look different now."""
    commit: int = 0
    seconds: float = 0.0


# --- lines ------------------------------------------------------------------------------------


class WireError(Struct, frozen=True):
    kind: str
    message: str
    hint: str = ""
    errno: int = 0
    exit_code: int = 1


class Reply(Struct, frozen=True):
    """A decoded line: exactly one of progress, result, error is set."""

    ok: bool | None = None
    progress: Raw = Raw()
    result: Raw = Raw()
    error: WireError | None = None


class _Head(Struct):
    v: int = PROTOCOL_VERSION
    op: str = ""


class _ProgressLine(Struct):
    progress: Any  # Any Struct or plain dictionary; encoded, never inspected.


class _ResultLine(Struct):
    ok: bool
    result: Any  # As above.


class _ErrorLine(Struct):
    ok: bool
    error: WireError


_encoder = msgspec.json.Encoder()
_head = msgspec.json.Decoder(_Head)
_reply = msgspec.json.Decoder(Reply)
# A union is no `type` to mypy, hence the annotations.
_supervisor: msgspec.json.Decoder[SupervisorRequest] = msgspec.json.Decoder(SupervisorRequest)
_worker: msgspec.json.Decoder[WorkerRequest] = msgspec.json.Decoder(WorkerRequest)

T = TypeVar("T")


def encode_request(request: SupervisorRequest | WorkerRequest) -> bytes:
    return _encoder.encode(request) + b"\n"


def encode_progress(progress: Struct | dict[str, object]) -> bytes:
    return _encoder.encode(_ProgressLine(progress)) + b"\n"


def encode_result(result: Struct | dict[str, object]) -> bytes:
    return _encoder.encode(_ResultLine(True, result)) + b"\n"


def encode_error(error: BaseException) -> bytes:
    return _encoder.encode(_ErrorLine(False, error_to_wire(error))) + b"\n"


def decode_supervisor_request(line: bytes) -> SupervisorRequest:
    """Raises `UsageError` (not a request, unknown op) or `NewerFormat` (newer protocol)."""
    _check_head(line)
    try:
        return _supervisor.decode(line)
    except msgspec.MsgspecError as e:
        raise UsageError(f"control request not understood: {e}") from e


def decode_worker_request(line: bytes) -> WorkerRequest:
    """Raises `UsageError` (not a request, unknown op) or `NewerFormat` (newer protocol)."""
    _check_head(line)
    try:
        return _worker.decode(line)
    except msgspec.MsgspecError as e:
        raise UsageError(f"control request not understood: {e}") from e


def _check_head(line: bytes) -> None:
    try:
        head = _head.decode(line)
    except msgspec.MsgspecError as e:
        raise UsageError(f"control request not understood: {e}") from e
    if head.v > PROTOCOL_VERSION:
        raise NewerFormat(
            f"the client speaks control protocol {head.v}, this daemon {PROTOCOL_VERSION}",
            hint="Restart the daemon after an upgrade: pipefs umount --all, then mount again",
        )


def decode_reply(line: bytes) -> Reply:
    """Raises `Corrupt` for a line that is no reply."""
    try:
        reply = _reply.decode(line)
    except msgspec.MsgspecError as e:
        raise Corrupt(f"the daemon's answer was not understood: {e}") from e
    if reply.ok is None and not bytes(reply.progress):
        raise Corrupt("the daemon's answer has neither progress nor result")
    if reply.ok is False and reply.error is None:
        raise Corrupt("the daemon's answer says that it failed, but not why")
    return reply


def decode_body(raw: Raw, kind: type[T]) -> T:
    """A result or progress as its type. Raises `Corrupt`."""
    try:
        return msgspec.json.decode(bytes(raw) or b"{}", type=kind)
    except msgspec.MsgspecError as e:
        raise Corrupt(f"the daemon's answer was not understood: {e}") from e


def error_to_wire(error: BaseException) -> WireError:
    """Any exception as it travels; what is not a `PipefsError` arrives as a plain one."""
    if isinstance(error, PipefsError):
        # The nearest class of the public tree: a room's private subclass means nothing elsewhere.
        kind = next(c.__name__ for c in type(error).__mro__ if c.__module__ == errors.__name__)
        return WireError(kind, error.message, error.hint, error.errno, error.exit_code)
    number = error.errno if isinstance(error, OSError) and error.errno else _errno.EIO
    text = str(error) or type(error).__name__
    if not isinstance(error, OSError):
        text = f"internal error: {type(error).__name__}: {text}"
    return WireError(PipefsError.__name__, text, "The daemon's log has the details", number, 1)


def error_from_wire(wire: WireError) -> PipefsError:
    """The exception to raise; an unknown kind becomes the class with the same exit code."""
    found = getattr(errors, wire.kind, None)
    if not (isinstance(found, type) and issubclass(found, PipefsError)):
        found = _BY_EXIT_CODE.get(wire.exit_code, PipefsError)
    return found(wire.message, hint=wire.hint)


_BY_EXIT_CODE: dict[int, type[PipefsError]] = {
    2: errors.UsageError,
    3: errors.NotFound,
    4: errors.Refused,
    5: errors.StoreError,
    6: errors.PartlyDone,
    124: errors.TimedOut,
}
