"""What the tree keeps for each inode, and how it becomes bytes.

Records are arrays in MessagePack, so that a field may be added at the end: an older record then
reads with the default. docs/FORMAT.md lists them. Pure, no I/O.
"""

from __future__ import annotations

import stat
from enum import IntFlag

import msgspec
import xxhash

from pipefs.types import ContentRef, Ino


class Dirty(IntFlag):
    """What an inode of the overlay still owes the store."""

    CONTENT = 1
    """Bytes in staging that no version in the store has."""
    ANNOUNCE = 2
    """Something another machine should learn by a commit: new name, version or attributes."""


NO_MODE = 1 << 20
"""Bit of `Inode.mode`: the permission bits are a guess, for an object that has none of its own."""


HARD_LINK = 0o160000
"""File type of an inode that is only a further name of another one (no st_mode has it)."""


class Content(msgspec.Struct, array_like=True, frozen=True):
    """A version of an object: where a file's bytes are. `version_id` None without versioning."""

    key: str
    version_id: str | None
    etag: str
    size: int
    checksum: str = ""
    """`sha256:<hex>` of the whole content, where known."""

    def ref(self) -> ContentRef:
        return ContentRef(self.key, self.version_id, self.etag, self.size)

    def same_version(self, other: Content | None) -> bool:
        if other is None or self.key != other.key:
            return False
        return (self.version_id, self.etag) == (other.version_id, other.etag)


class Inode(msgspec.Struct, array_like=True):
    """Attributes and content of one file, directory or link. Times in ns since the epoch."""

    ino: int
    mode: int
    """Type and permission bits, as st_mode."""
    uid: int = -1
    """-1: not known to the store (shown by the `owner` setting)."""
    gid: int = -1
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    atime_ns: int = 0
    """As utimensat(2) set it; 0: it follows mtime."""
    nlink: int = 1
    rdev: int = 0
    parent: int = 0
    """Directory of its (first) name; 0 once it has none."""
    name: bytes = b""
    target: bytes = b""
    """Of a symbolic link."""
    content: Content | None = None
    """Last version known to be in the store; None for a file that never went up."""
    epoch: int = 0
    """Content epoch: grows when another machine's content takes this one's place."""
    xattrs: dict[bytes, bytes] | None = None
    dirty: int = 0
    """Bits of `Dirty`; always 0 in the base."""
    generation: int = 0
    """Grows with each change of the overlay inode, so that a late answer can see it is late."""
    alias: int = 0
    """Of a hard link: the inode it is a name of."""

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def kind(self) -> int:
        return stat.S_IFMT(self.mode)


class Staging(msgspec.Struct, array_like=True):
    """The durable mark of a file with local bytes: made before an open for writing is answered."""

    ino: int
    base: Content | None = None
    """Version under the sparse staging file; None: nothing below."""
    base_size: int = 0
    """Bytes of the base that still count (a truncate lowers it)."""
    present: bytes | None = None
    """Bitmap of 1 MiB blocks that are in the staging file; None: all are."""
    writers: tuple[int, ...] = ()
    """Open write handles. Empty: the generation is sealed and may go up."""
    closed_ns: int = 0
    changed: bool = False
    """False until the first write or truncate: such a mark is dropped at the last close."""
    write_id: str = ""
    versions_ns: int = 0
    """When a version of this file last went up, for `min_version_interval`."""
    opened: tuple[int, int] | None = None
    """ctime (ns) and size of the staging file when it was opened for writing, unchanged and with
    all its blocks: with passthrough nobody sees it written. None: writes are seen."""


class NameEntry(msgspec.Struct, array_like=True, frozen=True):
    """One name of a directory."""

    ino: int
    """0 in the overlay: the name is gone (the base still has it)."""
    kind: int
    """File type bits."""
    commit: int = 0
    """Commit that put it into the base; 0 in the overlay."""
    key: str = ""
    """Of an overlay tombstone: the key whose deletion must land before the name's is announced."""


class Conflict(msgspec.Struct, array_like=True):
    """Two contents for one name, both kept; shown by `status` until resolved."""

    ino: int
    original: str
    ours: str
    """Path of the copy beside it: of our content, or with `theirs_aside` of theirs."""
    theirs_author: str
    time_ns: int
    theirs_aside: bool = False
    """A directory of ours kept the name, and what is theirs lies beside it."""


encode = msgspec.msgpack.encode
decode_inode = msgspec.msgpack.Decoder(Inode).decode
decode_staging = msgspec.msgpack.Decoder(Staging).decode
decode_name = msgspec.msgpack.Decoder(NameEntry).decode
decode_content = msgspec.msgpack.Decoder(Content).decode
decode_conflict = msgspec.msgpack.Decoder(Conflict).decode


def ino_key(ino: int) -> bytes:
    return ino.to_bytes(8, "big")


def name_key(parent: int, name: bytes) -> bytes:
    return parent.to_bytes(8, "big") + name


def key_id(key: str) -> bytes:
    """An object key as a table key: LMDB's are at most 511 bytes, S3's 1,024."""
    return xxhash.xxh3_128_digest(key.encode("utf-8", "surrogateescape"))


def ino_of(key: bytes) -> Ino:
    return Ino(int.from_bytes(key[:8], "big"))
