"""Files that a mount does not show: those that the pipe's `include` and `exclude` leave out.

Only what others can see is hidden. A file that is on this machine alone is shown, whatever its
name: it stays here (`Policy.stays_local`), and its writer must find it again. Directories are
always shown, and one with hidden files in it is not empty.
"""

from __future__ import annotations

import os
import stat

from pipefs import tree
from pipefs.filters import Filters
from pipefs.records import HARD_LINK, NameEntry
from pipefs.volume import Volume


class Hiding:
    """The filters of one mount."""

    def __init__(self, volume: Volume, filters: Filters) -> None:
        self._db = volume.db
        self._filters = filters
        self.on = not filters.is_empty

    def hides(self, parent: int, name: bytes) -> bool:
        """Whether what is at a name of a directory is not shown. Costs a look at the tree only
        where a filter leaves the path out."""
        return bool(self.on and self._hidden(parent, [name]))

    def shown(
        self, parent: int, entries: list[tuple[bytes, NameEntry]]
    ) -> list[tuple[bytes, NameEntry]]:
        """Those of a directory's entries that are shown."""
        if not self.on:
            return entries
        files = [n for n, e in entries if not stat.S_ISDIR(e.kind) or e.kind == HARD_LINK]
        hidden = self._hidden(parent, files)
        return [(n, e) for n, e in entries if n not in hidden]

    def _hidden(self, parent: int, names: list[bytes]) -> set[bytes]:
        with self._db.view() as v:
            above = tree.names_to(v, parent)
            if above is None:
                return set()  # A directory without a name has nothing that others see.
            out = set()
            for name in names:
                path = os.fsdecode(b"/".join([*above, name]))
                if self._filters.takes(path):
                    continue
                known = tree.base_name(v, parent, name)
                if known is not None and not stat.S_ISDIR(known.kind):
                    out.add(name)
            return out
