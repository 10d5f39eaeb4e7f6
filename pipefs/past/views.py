"""What a past tree looks like from outside: inodes by number, names by directory.

A mount, `diff`, `export` and Python read every past the same way, whether it comes from a
manifest, or from the store's own versions at some moment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from pipefs.manifest import Entry
from pipefs.records import Inode

ROOT = 1
"""Number of a view's root directory."""


class PastView(Protocol):
    """One past tree, read-only and unchanging. Thread-safe.

    Inode numbers are the view's own: `ROOT`, and below 2**40 for the rest; the same number means
    the same path for as long as the local state lives, also in another process. `Inode.parent`
    and `Inode.name` are the view's; `Inode.content` names the exact version of a file. A hard
    link shows as the file it is a name of.

    Errors: OSError ENOENT, ENOTDIR, ESTALE (a number of no path); store errors while something
    has to be fetched. With `wait` False, `WouldBlock` instead of a request to the store.
    """

    label: str
    """For people: tag, short id or @TIME."""

    def node(self, ino: int, *, wait: bool = True) -> Inode:
        """The inode with this number."""

    def lookup(self, parent: int, name: bytes, *, wait: bool = True) -> Inode:
        """The inode at a name of a directory."""

    def children(
        self, ino: int, after: bytes, limit: int, *, wait: bool = True
    ) -> list[tuple[bytes, Inode]]:
        """Names of a directory that sort after `after`, ascending, at most `limit`."""

    def entries(self, names: Sequence[bytes] = ()) -> Iterator[Entry]:
        """The whole tree at and below a path, in manifest order; paths are those of the pipe.
        Waits for the store."""
