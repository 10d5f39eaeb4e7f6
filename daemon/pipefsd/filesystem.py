"""One mounted pipe as a filesystem: what the kernel asks, answered by `Volume`.

Inode based, no FUSE import. Rules of names and contents are the volume's; here are nodes, handles,
ownership, and what the kernel may cache: everything, for an hour, because nothing changes without
either passing through this kernel or being told to it (`apply_effects`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from pipefs.conflicts import Effects
from pipefs.filters import NO_FILTERS, Filters
from pipefs.inodes import InoSource
from pipefs.volume import Volume
from pipefsd.contents import ContentRequests
from pipefsd.directories import Directories
from pipefsd.extended import ExtendedAttributes
from pipefsd.hiding import Hiding
from pipefsd.names import NameRequests
from pipefsd.nodes import epoch_of, ino_of
from pipefsd.notices import Notices
from pipefsd.ownership import Ownership
from pipefsd.ranges import RangeRequests
from pipefsd.transports.base import (
    Caller,
    DirEntry,
    Features,
    Notifier,
    Opened,
    Statfs,
)


class Filesystem(NameRequests, ContentRequests, RangeRequests):
    """The `Operations` of one pipe: names and contents, and here directories, extended attributes,
    and what concerns the whole mount."""

    def __init__(
        self,
        volume: Volume,
        ownership: Ownership,
        *,
        read_only: Callable[[], str],
        same_mount: bool = False,
        filters: Filters = NO_FILTERS,
    ) -> None:
        super().__init__(volume, ownership, read_only=read_only, same_mount=same_mount)
        self._hiding = Hiding(volume, filters)
        self._directories = Directories(volume, self._entry, self._hiding)
        self.xattrs = ExtendedAttributes(volume)
        self.features = Features("")

    def start(self, notifier: Notifier, features: Features) -> None:
        self._notices = Notices(self._volume, notifier)
        self.features = features
        self._take_over(features)
        self._forgets = features.forgets
        self._acls = self.xattrs.acls = features.acls

    def _take_over(self, features: Features) -> None:
        """What of passthrough an earlier worker left."""
        self.modes.on = self._volume.files.staging.passing = features.passthrough
        for node, _ in features.passed:
            self._volume.files.pin_again(ino_of(node), epoch_of(node))
        if self._inherited:
            with self._volume.db.view() as v:
                self.modes.take_over(InoSource.first_unused(v), features.passed)

    def stop(self) -> None:
        self._notices = None

    def opendir(self, caller: Caller, node: int, flags: int) -> Opened:
        handle = next(self._handles)
        self._directories.open(handle, ino_of(node))
        self._opened(ino_of(node))
        return Opened(handle)

    def readdir(
        self, caller: Caller, node: int, fh: int, offset: int, plus: bool
    ) -> Iterable[DirEntry]:
        return self._directories.read(fh, ino_of(node), offset, plus)

    def releasedir(self, caller: Caller, node: int, fh: int) -> None:
        self._directories.close(fh)
        self._closed(ino_of(node))

    def fsyncdir(self, caller: Caller, node: int, fh: int, datasync: bool) -> None:
        self.fsync(caller, node, fh, datasync)

    def statfs(self, caller: Caller, node: int) -> Statfs:
        """Free space is that of the disk the staging files are on: what can be written now."""
        disk = os.statvfs(self._volume.files.staging.directory)
        used, files = self._volume.totals()
        free = disk.f_bavail * disk.f_frsize // 4096
        blocks = free + -(-used // 4096)
        return Statfs(blocks, free, free, files + disk.f_favail, disk.f_favail, 4096)

    def access(self, caller: Caller, node: int, mask: int) -> None:
        """Permissions are the kernel's (`default_permissions`); here only what it cannot know."""
        if mask & os.W_OK:
            self._writable()

    def getxattr(self, caller: Caller, node: int, name: bytes) -> bytes:
        return self.xattrs.get(ino_of(node), name, wait=caller.may_block)

    def listxattr(self, caller: Caller, node: int) -> list[bytes]:
        # The kernel filters reading and setting of trusted.*, but not this list.
        return self.xattrs.list(ino_of(node), trusted=caller.uid == 0)

    def setxattr(
        self,
        caller: Caller,
        node: int,
        name: bytes,
        value: bytes,
        flags: int,
        kill_sgid: bool = False,
    ) -> None:
        self._writable()
        if not self._answered(caller):
            ino, unique = ino_of(node), caller.unique
            self.xattrs.set(ino, name, value, flags, kill_sgid=kill_sgid, unique=unique)

    def removexattr(self, caller: Caller, node: int, name: bytes) -> None:
        self._writable()
        if not self._answered(caller):
            self.xattrs.remove(ino_of(node), name, unique=caller.unique)

    def syncfs(self, caller: Caller) -> None:
        self._volume.db.sync()

    def apply_effects(self, effects: Effects) -> None:
        """Tell the kernel what other machines changed (see `notices`)."""
        if self._notices is not None:
            self._notices.tell(effects)
