"""How much of the overlay is not in the store yet. Reads, never changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipefs import links, tree
from pipefs.db import StateDB
from pipefs.files import LocalFiles


@dataclass(slots=True)
class Pending:
    """What is not in the store yet."""

    files: int = 0
    bytes: int = 0
    open_files: int = 0
    """Of these, open for writing: they go up when they are closed."""
    relocating: int = 0
    deleting: int = 0
    announcing: int = 0
    unsettled: int = 0
    """Requests whose landing is not recorded yet."""

    @property
    def waiting(self) -> int:
        """Changes that can go up now: closed files, copies, deletions; 0 also means that all of
        it is announced."""
        changes = self.files - self.open_files + self.relocating + self.deleting
        return changes or min(1, self.announcing + self.unsettled)


def count_pending(
    db: StateDB, files: LocalFiles, stays_local: Callable[[list[bytes]], bool]
) -> Pending:
    """Count changes that wait; files for which `stays_local` is true do not count."""
    out = Pending()
    for ino in files.inos():
        local = files.get(ino)
        mark = local.mark if local is not None else None
        if mark is None or not (mark.changed or mark.writers):
            continue
        with db.view() as v:
            node = tree.inode(v, ino)
            names = tree.names_to(v, ino) if node is not None else None
            if node is None or not names or links.all_local(v, node, names, stays_local):
                continue
        st = files.stat(ino)
        if st is not None and local is not None and local.is_changed():
            out.files += 1
            out.bytes += st.st_size
            out.open_files += bool(mark.writers) or files.is_mapped(ino)
    with db.view() as v:
        out.relocating = v.count("relocate")
        out.deleting = v.count("gone")
        out.announcing = v.count("ready")
        out.unsettled = v.count("sent")
    return out
