"""Hashes that other systems name contents by, from what is known or by reading the versions.

Versions are read in pieces of 8 MiB by a few threads that end with the call, so an export holds
about 64 MiB of contents at a time, however large the files are.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pipefs.errors import Corrupt, NotFound
from pipefs.foreign.exports import File
from pipefs.foreign.places import Place
from pipefs.stores.etags import etag_is_md5

T = TypeVar("T")

PIECE_BYTES = 8 << 20
READERS = 8
_BATCH = 256
_SMALL_BYTES = 64 << 10
"""Reading so little costs no more than asking about it."""

CHUNK_BYTES = 8 << 20
MAX_CHUNKS = 10_000
_MD5 = re.compile(r"[0-9a-f]{32}\Z")

Progress = Callable[[int], None]
"""Called from the reading threads with a number of bytes that were read."""


def nobody(_count: int) -> None:
    """Progress that nobody wants to see."""


class Reader:
    """Reads versions of a pipe's files.

    Raises from every method: NotFound (a version is gone), Corrupt (another size than the
    snapshot says), store errors.
    """

    def __init__(self, place: Place, progress: Progress = nobody) -> None:
        self._place = place
        self._progress = progress

    def pieces(self, file: File) -> Iterator[bytes]:
        """The bytes of a file, in pieces of 8 MiB."""
        content = file.content
        full = self._place.full(content.key)
        for start in range(0, content.size, PIECE_BYTES):
            length = min(PIECE_BYTES, content.size - start)
            try:
                data = self._place.root.get(full, content.version_id, start, length)
            except NotFound as e:
                raise NotFound(
                    f"version {file.version} of {self._place.url(full)} is gone from the store"
                ) from e
            if len(data) != length:
                raise Corrupt(
                    f"version {file.version} of {self._place.url(full)} is shorter than "
                    f"the {content.size} bytes that the snapshot has"
                )
            self._progress(length)
            yield data

    def md5(self, file: File) -> str:
        found = hashlib.md5(usedforsecurity=False)
        for piece in self.pieces(file):
            found.update(piece)
        return found.hexdigest()

    def md5s(self, files: Sequence[File]) -> list[str]:
        """The MD5 of each file: its ETag where that is one, else by reading.

        An ETag of a single part is the MD5 unless the object was encrypted with a key of KMS or
        of the client, or the store does as it likes. Small files are read, and show the latter;
        of the others the store is asked.
        """
        found = dict(zip(files, self._each(files, self._small), strict=True))
        small = [f for f in files if found[f]]
        proven = all(found[f] == f.content.etag for f in small if _MD5.match(f.content.etag))

        def one(file: File) -> str:
            if found[file]:
                return found[file]
            etag = file.content.etag
            if proven and _MD5.match(etag) and self._is_md5(file):
                return etag
            return self.md5(file)

        return list(self._each(files, one))

    def _small(self, file: File) -> str:
        return self.md5(file) if file.content.size <= _SMALL_BYTES else ""

    def _is_md5(self, file: File) -> bool:
        full = self._place.full(file.content.key)
        return etag_is_md5(self._place.root, full, file.content.version_id)

    def quilt_hashes(self, files: Sequence[File]) -> Iterator[dict[str, str]]:
        """What quilt3 names each content by: the chunked SHA-256 where it can be had without
        reading or nothing else is known, else the plain one."""
        return self._each(files, self._quilt_hash)

    def _quilt_hash(self, file: File) -> dict[str, str]:
        content = file.content
        kind, _, plain = content.checksum.partition(":")
        if kind == "sha256" and content.size > CHUNK_BYTES:
            return {"type": "SHA256", "value": plain}
        if kind == "sha256":
            digests = bytes.fromhex(plain) if content.size else b""
        else:
            digests = b"".join(self._chunks(file))
        value = base64.b64encode(hashlib.sha256(digests).digest()).decode()
        return {"type": "sha2-256-chunked", "value": value}

    def _chunks(self, file: File) -> Iterator[bytes]:
        """The SHA-256 of each chunk of a file."""
        pieces_each = chunk_bytes(file.content.size) // PIECE_BYTES
        pieces = self.pieces(file)
        while chunk := list(itertools.islice(pieces, 1)):
            digest = hashlib.sha256(chunk[0])
            for piece in itertools.islice(pieces, pieces_each - 1):
                digest.update(piece)
            yield digest.digest()

    def _each(self, files: Iterable[File], one: Callable[[File], T]) -> Iterator[T]:
        waiting = iter(files)
        with ThreadPoolExecutor(READERS) as pool:
            while batch := list(itertools.islice(waiting, _BATCH)):
                yield from pool.map(one, batch)


def chunk_bytes(size: int) -> int:
    """How much of a file of this size one chunk of quilt3's hash covers."""
    chunk = CHUNK_BYTES
    while -(-size // chunk) > MAX_CHUNKS:
        chunk *= 2
    return chunk
