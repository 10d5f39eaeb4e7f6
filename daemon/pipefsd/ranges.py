"""Requests about ranges of contents: fallocate, lseek for data and holes, copy_file_range."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipefs.errors import NoSpace, PipefsError
from pipefs.ranges import Place, Ranges
from pipefs.records import Inode
from pipefs.volume import Volume
from pipefsd.nodes import epoch_of, ino_of
from pipefsd.ownership import Ownership
from pipefsd.serving import Serving
from pipefsd.transports.base import Caller

log = logging.getLogger(__name__)


class RangeRequests(Serving):
    """See `transports.base.Operations` for each method."""

    def __init__(
        self,
        volume: Volume,
        ownership: Ownership,
        *,
        read_only: Callable[[], str],
        same_mount: bool = False,
    ) -> None:
        super().__init__(volume, ownership, read_only=read_only, same_mount=same_mount)
        self._ranges = Ranges(volume)

    def _blocks(self, node: Inode, size: int) -> int:
        return self._ranges.blocks(node.ino, size) if node.is_file else super()._blocks(node, size)

    def fallocate(
        self, caller: Caller, node: int, fh: int, offset: int, length: int, mode: int
    ) -> None:
        self.requests += 1
        self._writable()
        with self._translated(node):
            self._ranges.allocate(ino_of(node), offset, length, mode, wait=caller.may_block)

    def lseek(self, caller: Caller, node: int, fh: int, offset: int, whence: int) -> int:
        self.requests += 1
        with self._translated(node):
            return self._ranges.seek(ino_of(node), epoch_of(node), offset, whence)

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
    ) -> int:
        self.requests += 1
        self._writable()
        source = Place(ino_of(node_in), epoch_of(node_in), offset_in, fh_in)
        with self._translated(node_in):
            return self._ranges.copy(
                source, ino_of(node_out), offset_out, length, wait=caller.may_block
            )

    def copy_version(
        self,
        caller: Caller,
        source: Inode,
        offset_in: int,
        node_out: int,
        offset_out: int,
        length: int,
        stream: int,
    ) -> int:
        """copy_file_range(2) from a file of the past."""
        self.requests += 1
        self._writable()
        with self._translated(node_out):
            return self._ranges.copy_version(
                source.content,
                source.size,
                offset_in,
                ino_of(node_out),
                offset_out,
                length,
                stream=stream,
                wait=caller.may_block,
            )

    @contextmanager
    def _translated(self, node: int) -> Iterator[None]:
        """The store's trouble is EIO to programs; the log says what it was."""
        try:
            yield
        except PipefsError as e:
            log.error("%s: %s", self._volume.path_of(ino_of(node)), e)
            code = errno.ENOSPC if isinstance(e, NoSpace) else errno.EIO
            raise OSError(code, os.strerror(code)) from e
