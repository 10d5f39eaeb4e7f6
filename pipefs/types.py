"""Values that travel between the rooms: frozen, slotted, no behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NewType

Ino = NewType("Ino", int)
"""Inode number of this machine's tree; 40 bits; never in a remote format."""

BlockId = NewType("BlockId", bytes)
"""xxh3-128 of a block's bytes, 16 bytes big-endian: a checksum, not an identity."""

BLOCK_SIZE_BYTES = 1 << 20
"""Blocks are 1 MiB aligned pieces of a version: the largest read the kernel sends."""

ROOT_INO = Ino(1)


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    """One version of one object. Keys are relative to the store's prefix.

    `version_id` is None on stores without versioning (then `etag` identifies it as well as
    anything can) and "null" for objects older than versioning. `etag` carries no quotes.
    """

    key: str
    version_id: str | None
    etag: str
    size: int
    last_modified_ns: int = 0
    is_latest: bool = True
    is_delete_marker: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AccessKey:
    """One pair of an S3 account. Neither its repr nor a message shows the secrets."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one pipe is read and written with. Without `write` nothing can be written."""

    read: AccessKey | None = None
    write: AccessKey | None = None

    def __bool__(self) -> bool:
        return self.read is not None or self.write is not None


@dataclass(frozen=True, slots=True)
class ContentRef:
    """Where the bytes of a file's version are: everything a ranged read and the cache need."""

    key: str
    version_id: str | None
    etag: str
    size: int
