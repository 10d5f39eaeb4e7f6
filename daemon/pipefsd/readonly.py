"""What every request that would change something gets where nothing can be changed."""

from __future__ import annotations

import errno
import logging
import os
from typing import NoReturn

from pipefs.errors import NoSpace, PipefsError
from pipefsd.transports.base import Attr, Caller, Entry, Features, Notifier, Opened, SetAttr

log = logging.getLogger(__name__)


def refuse() -> NoReturn:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def log_unreadable(what: str, error: PipefsError) -> OSError:
    """The store's trouble is EIO to programs; the log says what it was."""
    log.error("%s: %s", what, error)
    code = errno.ENOSPC if isinstance(error, NoSpace) else errno.EIO
    return OSError(code, os.strerror(code))


class ReadOnly:
    """See `transports.base.Operations` for each method; those that read are the subclass's."""

    def start(self, notifier: Notifier, features: Features) -> None:
        pass

    def stop(self) -> None:
        pass

    def forget(self, node: int, nlookup: int) -> None:
        """Nothing rests on lookup counts: nodes are computed."""

    def looked_up(self, node: int) -> None:
        """See `forget`."""

    def setattr(self, caller: Caller, node: int, change: SetAttr) -> tuple[Attr, float]:
        refuse()

    def mknod(self, caller: Caller, parent: int, name: bytes, mode: int, rdev: int) -> Entry:
        refuse()

    def symlink(self, caller: Caller, parent: int, name: bytes, target: bytes) -> Entry:
        refuse()

    def link(self, caller: Caller, node: int, parent: int, name: bytes) -> Entry:
        refuse()

    def unlink(self, caller: Caller, parent: int, name: bytes) -> None:
        refuse()

    def rename(
        self, caller: Caller, parent: int, name: bytes, parent2: int, name2: bytes, flags: int
    ) -> None:
        refuse()

    def create(
        self, caller: Caller, parent: int, name: bytes, mode: int, flags: int
    ) -> tuple[Entry, Opened]:
        refuse()

    def tmpfile(self, caller: Caller, parent: int, mode: int, flags: int) -> tuple[Entry, Opened]:
        refuse()

    def write(self, caller: Caller, node: int, fh: int, offset: int, data: memoryview) -> int:
        refuse()

    def flush(self, caller: Caller, node: int, fh: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    def fsync(self, caller: Caller, node: int, fh: int, datasync: bool) -> None:
        """Nothing is under way."""

    def fsyncdir(self, caller: Caller, node: int, fh: int, datasync: bool) -> None:
        """Nothing is under way."""

    def access(self, caller: Caller, node: int, mask: int) -> None:
        if mask & os.W_OK:
            refuse()

    def setxattr(
        self,
        caller: Caller,
        node: int,
        name: bytes,
        value: bytes,
        flags: int,
        kill_sgid: bool = False,
    ) -> None:
        refuse()

    def removexattr(self, caller: Caller, node: int, name: bytes) -> None:
        refuse()

    def fallocate(
        self, caller: Caller, node: int, fh: int, offset: int, length: int, mode: int
    ) -> None:
        refuse()

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
        refuse()

    def syncfs(self, caller: Caller) -> None:
        """Nothing is under way."""
