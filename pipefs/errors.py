"""The error tree. Each class says what a caller would do with it.

    PipefsError
    ├── UsageError          the user's mistake: show the message, exit 2
    ├── NotFound            no such pipe, snapshot, object or path, exit 3
    ├── Refused             the state forbids it (exit 4)
    │   ├── AlreadyExists
    │   ├── Busy            try again later: something else holds it
    │   ├── ReadOnly
    │   ├── Conflict        somebody else changed it: rebase
    │   │   └── PreconditionFailed   a conditional store request lost (HTTP 412/409)
    │   └── NewerFormat     written by a newer pipefs: upgrade
    ├── StoreError          the store or the credentials (exit 5)
    │   ├── StoreUnavailable    unreachable, timed out, 5xx: a retry helps
    │   │   ├── Throttled       503 SlowDown: wait, then retry
    │   │   └── ServerFault     500: it is there, and failed at this request
    │   ├── AccessDenied        credentials missing, wrong or too weak: a retry does not help
    │   │   └── NotAccepted     expired or unknown ones: no other request fares better
    │   └── Unsupported         this store lacks the capability
    ├── NoSpace             local disk full
    ├── Corrupt             checksum mismatch or broken structure: stop, never retry
    ├── PartlyDone          some of it worked, exit 6
    └── TimedOut            a bound given by the user ran out, exit 124

Every error has an errno, so that one boundary can hand it to the kernel, and an exit code, so
that the command line can end with it. `hint` is the next step, printed on a line of its own.
"""

from __future__ import annotations

import errno
from typing import ClassVar


class PipefsError(Exception):
    """Base of all errors that pipefs raises on purpose."""

    errno: ClassVar[int] = errno.EIO
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class UsageError(PipefsError):
    errno = errno.EINVAL
    exit_code = 2


class NotFound(PipefsError):
    errno = errno.ENOENT
    exit_code = 3


class Refused(PipefsError):
    errno = errno.EPERM
    exit_code = 4


class AlreadyExists(Refused):
    errno = errno.EEXIST


class Busy(Refused):
    errno = errno.EBUSY


class ReadOnly(Refused):
    errno = errno.EROFS


class Conflict(Refused):
    errno = errno.ESTALE


class PreconditionFailed(Conflict):
    """A conditional request found another version, or a concurrent request won."""


class NewerFormat(Refused):
    """State or bucket written by a newer pipefs; never touched."""


class StoreError(PipefsError):
    errno = errno.EIO
    exit_code = 5


class StoreUnavailable(StoreError):
    """Unreachable, timed out, or answered 5xx; the request may or may not have landed."""


class Throttled(StoreUnavailable):
    """503 SlowDown or 429; certainly did not land."""


class ServerFault(StoreUnavailable):
    """500 InternalError; the request may or may not have landed. Others may work all the same:
    SeaweedFS gives it for ever to keys that it cannot keep."""


FAULTS_IN_A_ROW = 8
"""So many of these, and no answer between them, are taken for a store that is down."""


class AccessDenied(StoreError):
    errno = errno.EACCES


class NotAccepted(AccessDenied):
    """The credentials are not good for anything, where others only lack a right."""


class Unsupported(StoreError):
    errno = errno.EOPNOTSUPP


class NoSpace(PipefsError):
    errno = errno.ENOSPC


class Corrupt(PipefsError):
    errno = errno.EIO


class PartlyDone(PipefsError):
    exit_code = 6


class TimedOut(PipefsError):
    errno = errno.ETIMEDOUT
    exit_code = 124


class WouldBlock(Exception):
    """Not an error: the call has to wait for the network or another thread, and was asked not
    to. Raised before anything was changed; call again from a thread that may wait."""
