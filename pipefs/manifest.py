"""Manifests: a whole tree at one commit, in parts that are named by their content.

    part   `.pipefs/manifests/<sha256>.jsonl.gz`: entries, one a line, in the order of places
    root   the same kind of object: a head, then one line a part, in the same order

The name is the SHA-256 of the uncompressed bytes, so a part that did not change is the same object
in the next manifest, on every machine. The order of places puts all names of a directory side by
side: the root's first, then those of each directory, depth first. Where a part ends follows from
the path of its last entry alone, so a change moves no border but its own.

Pure: bytes to values and back. docs/FORMAT.md specifies every field.
"""

from __future__ import annotations

import hashlib
import stat
import zlib
from collections.abc import Iterable, Iterator, Sequence

import msgspec
import xxhash

from pipefs.errors import Corrupt, NewerFormat
from pipefs.keys import bytes_of, component_of

FORMAT = 1
PREFIX = ".pipefs/manifests/"
SUFFIX = ".jsonl.gz"

MIN_ENTRIES = 256
MEAN_ENTRIES = 1024
"""Beyond `MIN_ENTRIES`, one path in so many ends a part: about 40 KB in the bucket, a few
milliseconds to read, and all that a change of one file costs."""
MAX_ENTRIES = 16_384

Place = tuple[bytes, bytes]
"""(directory, name): the directory's names joined by NUL. Tuples compare in manifest order."""

_KINDS = {
    "file": stat.S_IFREG,
    "dir": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
    "char": stat.S_IFCHR,
    "block": stat.S_IFBLK,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


class Entry(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One path of a tree. Fields that have their default are left out of the line."""

    path: str
    """Escaped like a key (`pipefs.keys`), without a slash at either end."""
    kind: str = "file"
    """file, dir, symlink, fifo, socket, char, block, or link: a further name of `link`."""
    key: str = ""
    """Object key where it is not the path."""
    version: str | None = None
    """VersionId; None where the bytes are not in the store (only in a live tree)."""
    size: int = 0
    etag: str = ""
    """Without quotes."""
    checksum: str = ""
    """`sha256:<hex>` of the whole content, where known."""
    mode: int | None = None
    """st_mode with the type bits; None: nobody set one."""
    uid: int | None = None
    gid: int | None = None
    mtime: int | None = None
    """ns since the epoch, like ctime and atime."""
    ctime: int | None = None
    atime: int | None = None
    """Only where it is not mtime."""
    target: str = ""
    """symlink: the target, escaped like a key component."""
    rdev: int = 0
    xattrs: dict[str, str] | None = None
    """Names escaped like components, values in base64."""
    link: str = ""
    """link: the path of the file it is a name of."""
    links: int = 0
    """How many further names it has; not of a directory."""

    @property
    def object_key(self) -> str:
        return self.key or self.path

    @property
    def type_bits(self) -> int:
        """File type as in st_mode; 0 of a link."""
        return _KINDS.get(self.kind, 0)


def kind_name(type_bits: int) -> str:
    """The manifest's word for a file type."""
    return _NAMES[type_bits]


class PartRef(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One line of a root: a part and what is in it."""

    part: str
    """SHA-256 of its uncompressed bytes, hex."""
    first: str
    """Path of its first entry."""
    entries: int
    files: int = 0
    bytes: int = 0
    """Of the contents of its files."""


class Head(msgspec.Struct, omit_defaults=True, kw_only=True):
    """First line of a root."""

    format: int = 0
    """Filled in by `encode_root`, like `kind`, so that both always stand in the line."""
    kind: str = ""
    mode: int | None = None
    """Attributes of the pipe's root directory, as in an entry."""
    uid: int | None = None
    gid: int | None = None
    mtime: int | None = None
    ctime: int | None = None
    xattrs: dict[str, str] | None = None


class Root(msgspec.Struct):
    """A manifest: its head and its parts in order."""

    head: Head
    parts: list[PartRef]

    @property
    def entries(self) -> int:
        return sum(p.entries for p in self.parts)

    @property
    def files(self) -> int:
        return sum(p.files for p in self.parts)

    @property
    def bytes(self) -> int:
        return sum(p.bytes for p in self.parts)


# --- places -----------------------------------------------------------------------------------


def names_in(path: str) -> list[bytes]:
    """The names of a manifest path, "" is the root."""
    return [bytes_of(c) if "%" in c else c.encode() for c in path.split("/")] if path else []


def path_of(names: Sequence[bytes]) -> str:
    """The manifest path of names below the root."""
    return "/".join(map(component_of, names))


def place_of(names: Sequence[bytes]) -> Place:
    """Where a path stands in the order of a manifest. Not for the root, which has no entry."""
    return b"\0".join(names[:-1]), names[-1]


def place_in(path: str) -> Place:
    """The place of a manifest path."""
    if "%" in path:
        return place_of(names_in(path))
    directory, _, name = path.encode().rpartition(b"/")
    return directory.replace(b"/", b"\0"), name


def is_below(directory: bytes, names: Sequence[bytes]) -> bool:
    """Whether a place's directory is at or below these names."""
    top = b"\0".join(names)
    return not top or directory == top or directory.startswith(top + b"\0")


# --- parts ------------------------------------------------------------------------------------


def ends_part(path: str, count: int) -> bool:
    """Whether a part of `count` entries ends behind the one with this path."""
    if count >= MAX_ENTRIES:
        return True
    return count >= MIN_ENTRIES and xxhash.xxh3_64_intdigest(path.encode()) % MEAN_ENTRIES == 0


def chunks(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Entries in the order of places, cut into parts."""
    part: list[Entry] = []
    for entry in entries:
        part.append(entry)
        if ends_part(entry.path, len(part)):
            yield part
            part = []
    if part:
        yield part


_encode = msgspec.json.Encoder().encode_lines
_decode_entries = msgspec.json.Decoder(Entry).decode_lines
_decode_refs = msgspec.json.Decoder(PartRef).decode_lines
_decode_head = msgspec.json.Decoder(Head).decode


class _Format(msgspec.Struct):
    format: int = FORMAT


def encode_part(entries: Sequence[Entry]) -> bytes:
    return _encode(entries)


def ref_of(entries: Sequence[Entry], name: str) -> PartRef:
    """The root's line for a part of these entries."""
    files = [e for e in entries if e.kind == "file"]
    return PartRef(
        part=name,
        first=entries[0].path,
        entries=len(entries),
        files=len(files),
        bytes=sum(e.size for e in files),
    )


def decode_part(data: bytes, name: str) -> list[Entry]:
    """
    Raises:
        Corrupt: these bytes are no part.
    """
    try:
        return _decode_entries(data)
    except msgspec.MsgspecError as e:
        raise Corrupt(f"{key_of_object(name)} is not part of a manifest: {e}") from e


def encode_root(root: Root) -> bytes:
    head = msgspec.structs.replace(root.head, format=FORMAT, kind="root")
    return _encode([head, *root.parts])


def decode_root(data: bytes, name: str) -> Root:
    """
    Raises:
        NewerFormat: a newer pipefs wrote it. Corrupt: it is no root.
    """
    key = key_of_object(name)
    first, _, rest = data.partition(b"\n")
    try:
        newer = msgspec.json.decode(first, type=_Format).format
        if newer > FORMAT:
            raise NewerFormat(
                f"{key} was written by a newer pipefs (format {newer}; this one knows {FORMAT})",
                hint="upgrade pipefs on this machine",
            )
        head = _decode_head(first)
        if head.kind != "root":
            raise Corrupt(f"{key} is not the root of a manifest")
        return Root(head, _decode_refs(rest))
    except msgspec.MsgspecError as e:
        raise Corrupt(f"{key} is not the root of a manifest: {e}") from e


# --- objects ----------------------------------------------------------------------------------


def name_of_object(data: bytes) -> str:
    """The name of a part or root: the SHA-256 of its uncompressed bytes."""
    return hashlib.sha256(data).hexdigest()


def key_of_object(name: str) -> str:
    return f"{PREFIX}{name}{SUFFIX}"


def compress(data: bytes) -> bytes:
    """As gzip, without a time, so that equal bytes stay equal with one version of zlib."""
    packer = zlib.compressobj(5, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()


def uncompress(data: bytes, name: str, *, limit: int = 1 << 30) -> bytes:
    """The bytes of an object, checked against its name.

    Raises:
        Corrupt: they are not what the name says.
    """
    try:
        unpacker = zlib.decompressobj(31)
        plain = unpacker.decompress(data, limit)
    except zlib.error as e:
        raise Corrupt(f"{key_of_object(name)} cannot be unpacked: {e}") from e
    if not unpacker.eof or name_of_object(plain) != name:
        raise Corrupt(f"{key_of_object(name)} does not have the bytes that its name promises")
    return plain
