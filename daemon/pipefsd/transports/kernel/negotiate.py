"""INIT: what we ask of the kernel, what it offers, and what came out of it.

The result, `Negotiated`, is plain data: the supervisor keeps it as JSON next to the descriptor,
because a worker that takes over a living mount sees no INIT and must not guess.
"""

from __future__ import annotations

import msgspec

from pipefs.errors import Unsupported
from pipefsd.transports.base import Features
from pipefsd.transports.kernel import wire

MAJOR = 7
MINOR = 45
_OLDEST_MINOR = 31
"""Linux 5.4: 64-byte INIT reply, `max_pages`, cached symlinks. Nothing older was tried."""

MAX_WRITE_BYTES = 1 << 20
_MAX_PAGES = 256
_MAX_BACKGROUND = 64
"""Requests in flight that no process waits for (readahead above all); the default of 12 holds
back a sequential reader as soon as its reads go to the network."""

# Not asked for, on purpose: locks (then the kernel keeps them itself, which is right for one
# machine), WRITEBACK_CACHE (excludes passthrough, and sizes would be the kernel's), AUTO_INVAL
# (pages are never dropped under a reader: a new version is a new node), EXPORT_SUPPORT (needs
# LOOKUP of "." and ".." for any node at any time).
# DONT_MASK: below a directory with a default access list the umask does not count.
_WANTED = (
    wire.ASYNC_READ
    | wire.ATOMIC_O_TRUNC
    | wire.BIG_WRITES
    | wire.DONT_MASK
    | wire.DO_READDIRPLUS
    | wire.READDIRPLUS_AUTO
    | wire.ASYNC_DIO
    | wire.PARALLEL_DIROPS
    | wire.ABORT_ERROR
    | wire.MAX_PAGES
    | wire.CACHE_SYMLINKS
    | wire.EXPLICIT_INVAL_DATA
    | wire.HANDLE_KILLPRIV_V2
    | wire.SETXATTR_EXT
    | wire.INIT_EXT
    | wire.HAS_EXPIRE_ONLY
    | wire.DIRECT_IO_ALLOW_MMAP
    | wire.HAS_RESEND
)


class Negotiated(msgspec.Struct, frozen=True):
    """What this mount's kernel side can do; the same for every worker that ever serves it."""

    minor: int
    flags: int
    max_write: int
    max_pages: int
    max_readahead: int
    time_gran: int
    passthrough: bool
    resend: bool

    @property
    def epochs(self) -> bool:
        """INC_EPOCH is understood (it has no flag)."""
        return self.minor >= 44


def negotiate(request: memoryview, *, passthrough: bool, acls: bool = False) -> Negotiated:
    """Answer of ours to an INIT request (header included).

    `acls`: POSIX_ACL is asked for only where it is wanted. The kernel then asks for the list of
    each file before it lets in another user than its owner; it keeps the answer, but for the
    root directory, whose inode is older than INIT, it asks at each path that such a user walks.

    Raises:
        Unsupported: a kernel older than Linux 5.4, or another major protocol version.
    """
    short = len(request) < wire.BODY + wire.INIT_IN.size
    shape = wire.INIT_IN_SHORT if short else wire.INIT_IN
    major, minor, readahead, offered, *rest = shape.unpack_from(request, wire.BODY)
    if major != MAJOR or minor < _OLDEST_MINOR:
        raise Unsupported(
            f"the kernel speaks FUSE {major}.{minor}, the kernel transport needs 7.{_OLDEST_MINOR}",
            hint="use the fusepy transport, or Linux 5.4 or newer",
        )
    if rest and offered & wire.INIT_EXT:
        offered |= rest[0] << 32
    wanted = _WANTED | (wire.PASSTHROUGH if passthrough else 0) | (wire.POSIX_ACL if acls else 0)
    flags = wanted & offered
    pages = _MAX_PAGES if flags & wire.MAX_PAGES else 32
    return Negotiated(
        minor=min(minor, MINOR),
        flags=flags,
        max_write=min(MAX_WRITE_BYTES, pages * 4096),
        max_pages=pages,
        # Only ever lowers what the mount has; the mount's own value is raised through sysfs.
        max_readahead=max(readahead, MAX_WRITE_BYTES),
        time_gran=1,
        passthrough=bool(flags & wire.PASSTHROUGH),
        resend=bool(flags & wire.HAS_RESEND),
    )


def init_reply(agreed: Negotiated) -> bytes:
    """Body of the INIT reply."""
    return wire.INIT_OUT.pack(
        MAJOR,
        agreed.minor,
        agreed.max_readahead,
        agreed.flags & 0xFFFFFFFF,
        _MAX_BACKGROUND,
        _MAX_BACKGROUND * 3 // 4,
        agreed.max_write,
        agreed.time_gran,
        agreed.max_pages,
        0,
        agreed.flags >> 32,
        1 if agreed.passthrough else 0,
        0,
    )


def features(agreed: Negotiated) -> Features:
    """The same in words, for `pipefs status`."""
    size = agreed.max_pages * 4096
    label = f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
    found = [f"FUSE 7.{agreed.minor}", f"{label} reads", f"{label} writes"]
    for flag, word in (
        (wire.DO_READDIRPLUS, "readdirplus"),
        (wire.CACHE_SYMLINKS, "cached symlinks"),
        (wire.HANDLE_KILLPRIV_V2, "killpriv v2"),
        (wire.POSIX_ACL, "POSIX ACLs"),
        (wire.PASSTHROUGH, "passthrough"),
        (wire.HAS_RESEND, "resend"),
    ):
        if agreed.flags & flag:
            found.append(word)
    if agreed.epochs:
        found.append("epochs")
    return Features("kernel", found, acls=bool(agreed.flags & wire.POSIX_ACL), forgets=True)
