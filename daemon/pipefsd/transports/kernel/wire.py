"""The /dev/fuse wire: opcodes, flags, record layouts and the packing of the common replies.

Follows the kernel's `fuse_kernel.h` (7.45); records are little-endian here because every machine
that we run on is. Everything is precompiled and pure: no I/O, no state, nothing that knows of a
filesystem. Offsets into a request count from its header, so that no slice is needed to decode.
"""

from __future__ import annotations

import errno
from struct import Struct

from pipefsd.transports.base import Attr, DirEntry, Entry, Opened, Statfs

# --- opcodes -------------------------------------------------------------------------------
LOOKUP = 1
FORGET = 2
GETATTR = 3
SETATTR = 4
READLINK = 5
SYMLINK = 6
MKNOD = 8
MKDIR = 9
UNLINK = 10
RMDIR = 11
RENAME = 12
LINK = 13
OPEN = 14
READ = 15
WRITE = 16
STATFS = 17
RELEASE = 18
FSYNC = 20
SETXATTR = 21
GETXATTR = 22
LISTXATTR = 23
REMOVEXATTR = 24
FLUSH = 25
INIT = 26
OPENDIR = 27
READDIR = 28
RELEASEDIR = 29
FSYNCDIR = 30
GETLK = 31
SETLK = 32
SETLKW = 33
ACCESS = 34
CREATE = 35
INTERRUPT = 36
BMAP = 37
DESTROY = 38
IOCTL = 39
POLL = 40
NOTIFY_REPLY = 41
BATCH_FORGET = 42
FALLOCATE = 43
READDIRPLUS = 44
RENAME2 = 45
LSEEK = 46
COPY_FILE_RANGE = 47
SYNCFS = 50
TMPFILE = 51
STATX = 52
COPY_FILE_RANGE_64 = 53

# Before any other number is defined: what there is so far are the opcodes.
OPCODE_NAMES = {
    value: name.lower() for name, value in list(globals().items()) if isinstance(value, int)
}
NAME_MAX = 255
OPCODES = 64
"""Length of a table indexed by opcode; what lies beyond is unknown to us."""

# --- INIT flags (flags | flags2 << 32) -----------------------------------------------------
ASYNC_READ = 1 << 0
ATOMIC_O_TRUNC = 1 << 3
EXPORT_SUPPORT = 1 << 4
BIG_WRITES = 1 << 5
DONT_MASK = 1 << 6
AUTO_INVAL_DATA = 1 << 12
DO_READDIRPLUS = 1 << 13
READDIRPLUS_AUTO = 1 << 14
ASYNC_DIO = 1 << 15
WRITEBACK_CACHE = 1 << 16
PARALLEL_DIROPS = 1 << 18
POSIX_ACL = 1 << 20
ABORT_ERROR = 1 << 21
MAX_PAGES = 1 << 22
CACHE_SYMLINKS = 1 << 23
EXPLICIT_INVAL_DATA = 1 << 25
HANDLE_KILLPRIV_V2 = 1 << 28
SETXATTR_EXT = 1 << 29
INIT_EXT = 1 << 30
HAS_EXPIRE_ONLY = 1 << 35
DIRECT_IO_ALLOW_MMAP = 1 << 36
PASSTHROUGH = 1 << 37
HAS_RESEND = 1 << 39

# --- flags of single requests and replies --------------------------------------------------
FOPEN_DIRECT_IO = 1 << 0
FOPEN_KEEP_CACHE = 1 << 1
FOPEN_CACHE_DIR = 1 << 3
FOPEN_PASSTHROUGH = 1 << 7

OPEN_KILL_SUIDGID = 1 << 0
WRITE_KILL_SUIDGID = 1 << 2
SETXATTR_ACL_KILL_SGID = 1 << 0
GETATTR_FH = 1 << 0
FSYNC_FDATASYNC = 1 << 0

FATTR_MODE = 1 << 0
FATTR_UID = 1 << 1
FATTR_GID = 1 << 2
FATTR_SIZE = 1 << 3
FATTR_ATIME = 1 << 4
FATTR_MTIME = 1 << 5
FATTR_FH = 1 << 6
FATTR_ATIME_NOW = 1 << 7
FATTR_MTIME_NOW = 1 << 8
FATTR_CTIME = 1 << 10
FATTR_KILL_SUIDGID = 1 << 11

UNIQUE_MASK = (1 << 63) - 1
"""A request that is sent again has the bit above; the reply must carry it as well."""

# --- notifications -------------------------------------------------------------------------
NOTIFY_INVAL_INODE = 2
NOTIFY_INVAL_ENTRY = 3
NOTIFY_DELETE = 6
NOTIFY_RESEND = 7
NOTIFY_INC_EPOCH = 8

# --- records -------------------------------------------------------------------------------
IN_HEADER = Struct("<IIQQIIIHH")
OUT_HEADER = Struct("<IiQ")
BODY = IN_HEADER.size
"""Where a request's own record starts."""

INIT_IN = Struct("<IIIII44x")
INIT_IN_SHORT = Struct("<IIII")
"""Before INIT_EXT the request ends after `flags`."""
INIT_OUT = Struct("<IIIIHHIIHHIIH22x")
"""major minor max_readahead flags | max_background congestion_threshold max_write time_gran |
max_pages map_alignment flags2 max_stack_depth request_timeout."""

U64 = Struct("<Q")
FORGET_ONE = Struct("<QQ")
BATCH_FORGET_IN = Struct("<I4x")
GETATTR_IN = Struct("<I4xQ")
SETATTR_IN = Struct("<I4xQQQqqqIIIIIIII")
"""valid fh size lock_owner | atime mtime ctime and their ns | mode unused uid gid unused."""
MKNOD_IN = Struct("<III4x")
MKDIR_IN = Struct("<II")
RENAME_IN = Struct("<Q")
RENAME2_IN = Struct("<QI4x")
OPEN_IN = Struct("<II")
CREATE_IN = Struct("<IIII")
READ_IN = Struct("<QQI")
"""fh offset size; what follows (lock owner, flags) says nothing that we need."""
WRITE_IN = Struct("<QQII16x")
WRITE_DATA = BODY + WRITE_IN.size
RELEASE_IN = Struct("<QII")
FSYNC_IN = Struct("<QI4x")
SETXATTR_IN = Struct("<II")
SETXATTR_IN_EXT = Struct("<III4x")
GETXATTR_IN = Struct("<I4x")
ACCESS_IN = Struct("<I4x")
FALLOCATE_IN = Struct("<QQQI4x")
LSEEK_IN = Struct("<QQI4x")
COPY_FILE_RANGE_IN = Struct("<QQQQQQQ")

ATTR = Struct("<QQQqqqIIIIIIIIII")
ATTR_OUT = Struct("<QI4xQQQqqqIIIIIIIIII")
ENTRY_OUT = Struct("<QQQQIIQQQqqqIIIIIIIIII")
OPEN_OUT = Struct("<QIi")
WRITE_OUT = Struct("<I4x")
GETXATTR_OUT = Struct("<I4x")
STATFS_OUT = Struct("<QQQQQIII28x")
DIRENT = Struct("<QQII")
NOTIFY_INVAL_INODE_OUT = Struct("<Qqq")
NOTIFY_INVAL_ENTRY_OUT = Struct("<QII")
NOTIFY_DELETE_OUT = Struct("<QQI4x")

BACKING_MAP = Struct("<iIQ")
IOC_BACKING_OPEN = 0x4010E501
IOC_BACKING_CLOSE = 0x4004E502

_NS = 1_000_000_000
_FOREVER_S = 1 << 40
"""More than the kernel's jiffies hold; it cuts it itself."""
_NO_ENTRY = bytes(ENTRY_OUT.size)
_PAD = (b"", b"\0" * 7, b"\0" * 6, b"\0" * 5, b"\0" * 4, b"\0" * 3, b"\0" * 2, b"\0")

_pack_attr_out = ATTR_OUT.pack
_pack_entry_out = ENTRY_OUT.pack
_pack_dirent = DIRENT.pack


def split_ttl(ttl_s: float) -> tuple[int, int]:
    """Seconds and nanoseconds of a timeout; infinity and negative values are bounded."""
    if ttl_s >= _FOREVER_S:
        return _FOREVER_S, 0
    if ttl_s <= 0:
        return 0, 0
    seconds = int(ttl_s)
    return seconds, int((ttl_s - seconds) * _NS)


def pack_attr(a: Attr, ttl_s: float) -> bytes:
    """Reply to GETATTR and SETATTR."""
    ttl, ttl_ns = split_ttl(ttl_s)
    atime, atime_ns = divmod(a.atime_ns, _NS)
    mtime, mtime_ns = divmod(a.mtime_ns, _NS)
    ctime, ctime_ns = divmod(a.ctime_ns, _NS)
    # fmt: off
    return _pack_attr_out(
        ttl, ttl_ns, a.ino, a.size, a.blocks, atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns,
        a.mode, a.nlink, a.uid, a.gid, a.rdev & 0xFFFFFFFF, a.blksize, 0,
    )
    # fmt: on


def pack_entry(entry: Entry) -> bytes:
    """Reply to LOOKUP and to everything that makes a name; the head of a CREATE reply."""
    ttl, ttl_ns = split_ttl(entry.entry_ttl_s)
    a = entry.attr
    if a is None or not entry.node:
        # A negative entry: node 0 and the time for which the kernel may believe in it.
        return _pack_entry_out(0, 0, ttl, 0, ttl_ns, *(0,) * 17)
    attr_ttl, attr_ttl_ns = split_ttl(entry.attr_ttl_s)
    atime, atime_ns = divmod(a.atime_ns, _NS)
    mtime, mtime_ns = divmod(a.mtime_ns, _NS)
    ctime, ctime_ns = divmod(a.ctime_ns, _NS)
    # fmt: off
    return _pack_entry_out(
        entry.node, entry.generation, ttl, attr_ttl, ttl_ns, attr_ttl_ns,
        a.ino, a.size, a.blocks, atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns,
        a.mode, a.nlink, a.uid, a.gid, a.rdev & 0xFFFFFFFF, a.blksize, 0,
    )
    # fmt: on


def pack_dirent(item: DirEntry) -> bytes:
    """One record of a READDIR reply, padded to 8 bytes."""
    name = item.name
    length = len(name)
    head = _pack_dirent(item.ino, item.offset, length, (item.mode >> 12) & 15)
    return b"".join((head, name, _PAD[length & 7]))


def pack_direntplus(item: DirEntry) -> bytes:
    """One record of a READDIRPLUS reply: the entry, or zeros for "not looked up", and the name."""
    entry = item.entry
    plus = _NO_ENTRY if entry is None or entry.attr is None else pack_entry(entry)
    name = item.name
    length = len(name)
    head = _pack_dirent(item.ino, item.offset, length, (item.mode >> 12) & 15)
    return b"".join((plus, head, name, _PAD[length & 7]))


def pack_open(opened: Opened, backing_id: int = 0) -> bytes:
    """Reply to OPEN and OPENDIR; the tail of a CREATE reply."""
    flags = 0
    if opened.direct_io:
        flags |= FOPEN_DIRECT_IO
    if opened.keep_cache:
        flags |= FOPEN_KEEP_CACHE
    if opened.cache_dir:
        flags |= FOPEN_CACHE_DIR
    if backing_id:
        # The kernel refuses passthrough together with direct I/O; its page cache is the file's.
        flags = FOPEN_PASSTHROUGH
    return OPEN_OUT.pack(opened.fh, flags, backing_id)


def pack_statfs(st: Statfs) -> bytes:
    # fmt: off
    return STATFS_OUT.pack(
        st.blocks, st.bfree, st.bavail, st.files, st.ffree, st.bsize, st.namelen, st.frsize
    )
    # fmt: on


def name(request: memoryview, start: int) -> bytes:
    """The name that is the rest of the request.

    Raises:
        OSError: ENAMETOOLONG; the kernel itself lets more than NAME_MAX through.
    """
    found = bytes(request[start:-1])
    if len(found) > NAME_MAX:
        raise OSError(errno.ENAMETOOLONG, "File name too long")
    return found


def two_names(request: memoryview, start: int) -> tuple[bytes, bytes]:
    """Both names of a rename; bounded as in `name`."""
    first, second, _ = bytes(request[start:]).split(b"\0")
    if len(first) > NAME_MAX or len(second) > NAME_MAX:
        raise OSError(errno.ENAMETOOLONG, "File name too long")
    return first, second
