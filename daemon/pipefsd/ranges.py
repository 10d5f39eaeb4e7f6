"""Requests about ranges of contents: fallocate, lseek for data and holes, copy_file_range."""

from __future__ import annotations

import errno
import os

from pipefsd.serving import Serving
from pipefsd.transports.base import Caller


class RangeRequests(Serving):
    """See `transports.base.Operations` for each method."""

    def fallocate(
        self, caller: Caller, node: int, fh: int, offset: int, length: int, mode: int
    ) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def lseek(self, caller: Caller, node: int, fh: int, offset: int, whence: int) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

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
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
