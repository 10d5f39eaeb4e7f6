"""The seam between the filesystem and whatever carries it to the kernel.

`pipefsd.filesystem` implements `Operations` and knows nothing of FUSE; a transport calls it and
turns its answers into replies. All is inode based: a *node* is the 64-bit number by which the
kernel knows a file (1 is the root); it is not `Attr.ino`.

Blocking: every operation gets a `Caller`. With `caller.may_block` False an operation that would
wait for the network or for another thread raises `WouldBlock` *before it changed anything*; the
transport then calls it again from a pool thread with `may_block` True. So one dispatcher thread
serves everything that is at hand, and a cold read never holds up an `ls`.

Errors: `OSError` with an errno, or `PipefsError`; anything else is a bug and becomes EIO with a
logged traceback. That translation lives in the transport's single boundary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pipefs.errors import WouldBlock as WouldBlock


def _never() -> bool:
    return False


@dataclass(slots=True)
class Caller:
    """Who asks. `pid` is the kernel's thread id (the process is its Tgid); 0 for the kernel."""

    uid: int
    gid: int
    pid: int
    umask: int = 0
    unique: int = 0
    """Number of the request, without the resend bit."""
    resent: bool = False
    """The kernel asks again after a worker was replaced."""
    may_block: bool = True
    interrupted: Callable[[], bool] = _never
    """True once the kernel sent INTERRUPT for this request: a waiting operation raises EINTR."""


@dataclass(slots=True)
class Attr:
    """Attributes as stat(2) shows them; times in ns; `mode` with the file type bits."""

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    ctime_ns: int
    atime_ns: int
    rdev: int = 0
    blocks: int = 0
    """In units of 512 bytes."""
    blksize: int = 1 << 20


@dataclass(slots=True)
class Entry:
    """A name that was looked up. `node` 0 is a negative entry the kernel may cache."""

    node: int
    attr: Attr | None
    entry_ttl_s: float
    attr_ttl_s: float
    generation: int = 0


@dataclass(slots=True)
class SetAttr:
    """What setattr changes; None leaves alone."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    fh: int | None = None
    """The handle, when it came through ftruncate(2)."""
    kill_suidgid: bool = False


@dataclass(slots=True)
class Opened:
    """Answer to open, opendir and create."""

    fh: int
    keep_cache: bool = False
    direct_io: bool = False
    cache_dir: bool = False
    backing_fd: int | None = None
    """A complete staging file the kernel may read and write itself (passthrough), or None."""
    backed: Callable[[bool], None] | None = None
    """With `backing_fd`: called once, with whether the kernel does; closes the descriptor."""


@dataclass(slots=True)
class ReadReply:
    """Bytes for a read: buffers sent one after the other, then `release` is called once."""

    buffers: Sequence[bytes | memoryview]
    release: Callable[[], None] | None = None


@dataclass(slots=True)
class DirEntry:
    """One name of a directory. `offset` is what the kernel sends to go on after it."""

    name: bytes
    ino: int
    mode: int
    """Only the file type bits count."""
    offset: int
    entry: Entry | None = None
    """Filled for readdirplus; None there means "do not cache, not looked up" ("." and "..")."""


@dataclass(slots=True)
class Statfs:
    blocks: int
    bfree: int
    bavail: int
    files: int
    ffree: int
    bsize: int = 1 << 20
    namelen: int = 255
    frsize: int = 4096


@dataclass(slots=True)
class Features:
    """What the transport and the kernel agreed on; shown by `pipefs status`."""

    transport: str
    names: list[str] = field(default_factory=list)
    acls: bool = False
    """The kernel enforces POSIX access control lists, and leaves the umask to us."""
    forgets: bool = False
    """`Operations.forget` is called for each node that the kernel drops."""
    passthrough: bool = False
    """`Opened.backing_fd` is honoured."""
    passed: list[tuple[int, int]] = field(default_factory=list)
    """(node, handle) of those that an earlier worker passed through and that are open still."""


class Notifier(Protocol):
    """Tells the kernel what it must forget. Queued: sent by the transport's own thread, never by
    one that answers requests, so it may be called from anywhere and under any lock."""

    def inval_entry(self, parent: int, name: bytes) -> None: ...

    def inval_inode(self, node: int, offset: int, length: int) -> None:
        """offset < 0: attributes only."""

    def delete_entry(self, parent: int, node: int, name: bytes) -> None: ...

    def increment_epoch(self) -> None:
        """Drop every cached entry of the mount (or, on old kernels, do what comes nearest)."""

    def flush(self, wait_s: float) -> bool:
        """Wait until everything queued so far was sent; False if that takes too long."""


class Operations(Protocol):
    """One mounted filesystem. `name` is bytes without "/" and NUL, at most 255 of them."""

    def start(self, notifier: Notifier, features: Features) -> None:
        """Called once before the first request is served by this process."""

    def lookup(self, caller: Caller, parent: int, name: bytes) -> Entry: ...

    def forget(self, node: int, nlookup: int) -> None: ...

    def getattr(self, caller: Caller, node: int, fh: int | None) -> tuple[Attr, float]: ...

    def setattr(self, caller: Caller, node: int, change: SetAttr) -> tuple[Attr, float]: ...

    def readlink(self, caller: Caller, node: int) -> bytes: ...

    def mknod(self, caller: Caller, parent: int, name: bytes, mode: int, rdev: int) -> Entry: ...

    def mkdir(self, caller: Caller, parent: int, name: bytes, mode: int) -> Entry: ...

    def symlink(self, caller: Caller, parent: int, name: bytes, target: bytes) -> Entry: ...

    def link(self, caller: Caller, node: int, parent: int, name: bytes) -> Entry: ...

    def unlink(self, caller: Caller, parent: int, name: bytes) -> None: ...

    def rmdir(self, caller: Caller, parent: int, name: bytes) -> None: ...

    def rename(
        self, caller: Caller, parent: int, name: bytes, parent2: int, name2: bytes, flags: int
    ) -> None:
        """`flags`: RENAME_NOREPLACE 1, RENAME_EXCHANGE 2."""

    def create(
        self, caller: Caller, parent: int, name: bytes, mode: int, flags: int
    ) -> tuple[Entry, Opened]: ...

    def tmpfile(self, caller: Caller, parent: int, mode: int, flags: int) -> tuple[Entry, Opened]:
        """O_TMPFILE: a file without a name, which `link` may give one while it is open."""

    def open(self, caller: Caller, node: int, flags: int) -> Opened: ...

    def read(self, caller: Caller, node: int, fh: int, offset: int, size: int) -> ReadReply: ...

    def write(self, caller: Caller, node: int, fh: int, offset: int, data: memoryview) -> int:
        """`data` is only valid during the call."""

    def flush(self, caller: Caller, node: int, fh: int) -> None: ...

    def release(self, caller: Caller, node: int, fh: int, flags: int) -> None: ...

    def fsync(self, caller: Caller, node: int, fh: int, datasync: bool) -> None: ...

    def opendir(self, caller: Caller, node: int, flags: int) -> Opened: ...

    def readdir(
        self, caller: Caller, node: int, fh: int, offset: int, plus: bool
    ) -> Iterable[DirEntry]:
        """Entries after `offset` (0: from the start); the transport stops when its reply is full.
        With `plus`, each entry actually sent counts as one lookup of its node: the transport
        reports those with `looked_up`."""

    def looked_up(self, node: int) -> None: ...

    def releasedir(self, caller: Caller, node: int, fh: int) -> None: ...

    def fsyncdir(self, caller: Caller, node: int, fh: int, datasync: bool) -> None: ...

    def statfs(self, caller: Caller, node: int) -> Statfs: ...

    def access(self, caller: Caller, node: int, mask: int) -> None: ...

    def getxattr(self, caller: Caller, node: int, name: bytes) -> bytes: ...

    def listxattr(self, caller: Caller, node: int) -> list[bytes]: ...

    def setxattr(
        self,
        caller: Caller,
        node: int,
        name: bytes,
        value: bytes,
        flags: int,
        kill_sgid: bool = False,
    ) -> None:
        """`kill_sgid`: with an access list, the set-gid bit goes."""

    def removexattr(self, caller: Caller, node: int, name: bytes) -> None: ...

    def fallocate(
        self, caller: Caller, node: int, fh: int, offset: int, length: int, mode: int
    ) -> None: ...

    def lseek(self, caller: Caller, node: int, fh: int, offset: int, whence: int) -> int: ...

    def copy_file_range(
        self,
        caller: Caller,
        node_in: int,
        fh_in: int,
        offset_in: int,
        node_out: int,
        fh_out: int,
        offset_out: int,
        length: int,
    ) -> int: ...

    def syncfs(self, caller: Caller) -> None: ...

    def stop(self) -> None:
        """The mount is gone; called once, after the last request."""
