"""How much of the overlay is not in the store yet. Reads, never changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass

from pipefs import links, tree
from pipefs.db import StateDB, View
from pipefs.files import LocalFiles
from pipefs.keys import names_of
from pipefs.records import Content, Dirty, decode_content, ino_key


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
        return self.files - self.open_files + self.relocating + self.deleting or self.names

    @property
    def names(self) -> int:
        """Deletions that are not in the store; 1 where only an announcement is still to come."""
        return self.deleting or min(1, self.announcing + self.unsettled)


StaysLocal = Callable[[list[bytes]], bool]


def count_pending(db: StateDB, files: LocalFiles, stays_local: StaysLocal) -> Pending:
    """Count changes that wait; files for which `stays_local` is true do not count."""
    out = Pending()
    for ino in files.inos():
        found = _changed_file(db, files, stays_local, ino)
        if found is not None:
            out.files += 1
            out.bytes += found.size
            out.open_files += found.is_open
    with db.view() as v:
        out.relocating = v.count("relocate")
        out.deleting = v.count("gone")
        out.announcing = v.count("ready")
        out.unsettled = v.count("sent")
    return out


@dataclass(frozen=True, slots=True)
class _Changed:
    """A file with bytes that are in no version."""

    size: int
    is_open: bool
    """For writing."""
    content: Content | None
    """Its last version."""


def _changed_file(
    db: StateDB, files: LocalFiles, stays_local: StaysLocal, ino: int
) -> _Changed | None:
    local = files.get(ino)
    mark = local.mark if local is not None else None
    if mark is None or not (mark.changed or mark.writers):
        return None
    with db.view() as v:
        node = tree.inode(v, ino)
        names = tree.names_to(v, ino) if node is not None else None
        if node is None or not names or links.all_local(v, node, names, stays_local):
            return None
    st = files.stat(ino)
    if st is None or local is None or not local.is_changed():
        return None
    return _Changed(st.st_size, bool(mark.writers) or files.is_mapped(ino), node.content)


class Standing:
    """What waited to go up at one moment: `left` says how much of it still does.

    Whoever waits for it comes to an end however busy programs are: what they change, rename or
    open meanwhile does not count anew. A file that was changed again counts as gone up when any
    version has since that moment. Used by one thread.
    """

    def __init__(self, db: StateDB, files: LocalFiles, stays_local: StaysLocal) -> None:
        self._db = db
        self._local = files
        self._stays_local = stays_local
        # Not the volume's clock, which stands still for some ms: no rename before this is missed.
        self._since_ns = time.time_ns()
        self._files: dict[int, Content | None] = {}
        """Closed files that were changed, with the version that each had."""
        self._rows: dict[tuple[str, bytes], bytes] | None = None
        """Deletions and requests under way once all files and copies were done."""
        for ino in files.inos():
            found = _changed_file(db, files, stays_local, ino)
            if found is not None and not found.is_open:
                self._files[ino] = found.content

    def left(self) -> tuple[int, int]:
        """(changes, bytes of files). Announcing is not among them."""
        size = 0
        for ino, before in list(self._files.items()):
            found = _changed_file(self._db, self._local, self._stays_local, ino)
            if found is None or found.is_open or not _same(before, found.content):
                del self._files[ino]
            else:
                size += found.size
        with self._db.view() as v:
            changes = len(self._files) + len(self._copies(v))
            if changes:
                return changes, size
            if self._rows is None:
                self._rows = dict(_under_way(v))
            self._rows = {at: raw for at, raw in self._rows.items() if v.get(*at) == raw}
        return len(self._rows), 0

    def stuck(self, refused: Container[object]) -> list[object]:
        """What was left when last asked, if all of it is among these; else nothing.

        Args:
            refused: numbers of files; for copies ("copy", number), for deletions ("delete", key).
        """
        with self._db.view() as v:
            copies = [("copy", ino) for ino in self._copies(v)]
        gone = [raw for (table, _), raw in (self._rows or {}).items() if table == "gone"]
        deletions = [("delete", decode_content(raw).key) for raw in gone]
        names: list[object] = [*self._files, *copies, *deletions]
        return names if all(name in refused for name in names) else []

    def _copies(self, v: View) -> list[int]:
        """Whose objects follow a rename before that moment, or one that it led to."""
        rows = v.scan("relocate")
        return [int.from_bytes(k, "big") for k, raw in rows if int(raw or b"0") <= self._since_ns]


def _same(one: Content | None, other: Content | None) -> bool:
    return one.same_version(other) if one is not None else other is None


def _under_way(v: View) -> Iterator[tuple[tuple[str, bytes], bytes]]:
    for key, raw in v.scan("sent"):
        yield ("sent", key), raw
    for key, raw in v.scan("gone"):
        if not _is_taken(v, decode_content(raw).key):
            yield ("gone", key), raw


def _is_taken(v: View, key: str) -> bool:
    """Whether a live file is about to put its own bytes at a key: no deletion comes first, and it
    may be open for as long as it likes."""
    node = tree.walk(v, names_of(key)) if not key.endswith("/") else None
    if node is None or not node.is_file:
        return False
    return bool(node.dirty & Dirty.CONTENT) or v.has("relocate", ino_key(node.ino))
