"""Files of `pipefs://` as Python's file objects: ranged reads with read-ahead, writes that publish.

What is written collects in a local temporary file and is published when it is closed: whole, or
not at all when the `with` block ends by an error.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from fsspec.spec import AbstractBufferedFile

from pipefs.oserrors import as_os_errors
from pipefs.publishing import Expected, Publication

if TYPE_CHECKING:
    from pipefs.fsspec_driver import PipeFileSystem
    from pipefs.reaching import Reach
    from pipefs.replicated import Item

PLAIN_MODE = 0o644
IN_MEMORY_BYTES = 32 << 20
"""What is written stays in memory up to here."""


class PipeReader(AbstractBufferedFile):  # type: ignore[misc]  # fsspec has no types
    """One version of one file, open for reading. What happens to its path meanwhile, it reads on
    what it opened."""

    def __init__(self, fs: PipeFileSystem, path: str, item: Item, **kwargs: Any) -> None:
        self.item = item
        super().__init__(fs, path, mode="rb", size=item.size, **kwargs)

    @property
    def details(self) -> dict[str, Any]:
        found: dict[str, Any] = self.fs._info_of(self.path, self.item)
        return found

    def _fetch_range(self, start: int, end: int) -> bytes:
        with as_os_errors(self.path):
            reach: Reach = self.fs._reach_of(self.path)
            return reach.read(self.item, start, end)

    def __reduce__(self) -> tuple[Any, ...]:
        item = replace(self.item, xattrs=dict(self.item.xattrs))
        return _reopened, (self.fs, self.path, item, self.blocksize, self.cache.name, self.loc)


def _reopened(
    fs: PipeFileSystem, path: str, item: Item, block_size: int, cache_type: str, at: int
) -> PipeReader:
    """The same version in another process."""
    file = PipeReader(fs, path, item, block_size=block_size, cache_type=cache_type)
    file.seek(at)
    return file


def publication_of(path: str, body: IO[bytes], like: Item | None, **told: Any) -> Publication:
    """A temporary file to be put: with the mode of `like`, and not with its own, which is nobody
    else's to read."""
    size = body.seek(0, io.SEEK_END)
    body.seek(0)
    mode = like.mode if like is not None else None
    if size <= IN_MEMORY_BYTES:
        return Publication(path, body.read(), mode=mode, **told)
    return Publication(path, body, mode=PLAIN_MODE if mode is None else mode, **told)


class PipeWriter(AbstractBufferedFile):  # type: ignore[misc]  # fsspec has no types
    """A file being written.

    Args:
        base: what is there now.
        expected, metadata: as of `Publication`.
    """

    def __init__(
        self,
        fs: PipeFileSystem,
        path: str,
        mode: str,
        base: Item | None,
        *,
        expected: str | Expected,
        metadata: Mapping[str, str] | None,
        **kwargs: Any,
    ) -> None:
        self.base = base
        self.expected = expected
        self.metadata = metadata
        self.body: IO[bytes] = tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115
        super().__init__(fs, path, mode=mode, **kwargs)
        if mode == "ab" and base is not None:
            reach = fs._reach_of(path)
            for start in range(0, base.size, IN_MEMORY_BYTES):
                self.body.write(reach.read(base, start, start + IN_MEMORY_BYTES))
            self.loc = base.size

    def publication(self, path: str) -> Publication:
        """What was written, to be put at a path of the pipe."""
        return publication_of(
            path, self.body, self.base, metadata=self.metadata, expected=self.expected
        )

    def _initiate_upload(self) -> None:
        pass

    def _upload_chunk(self, final: bool = False) -> bool:
        self.body.write(self.buffer.getbuffer())
        if final and self.autocommit:
            self.commit()
        return True

    def commit(self) -> None:
        """Publish what was written, and return when it is in the store."""
        self.fs._publish_files([self])
        self.body.close()

    def discard(self) -> None:
        """Throw it away."""
        self.body.close()
        self.buffer = io.BytesIO()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.discard()
            self.closed = True
        self.close()
