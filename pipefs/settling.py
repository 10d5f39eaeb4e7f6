"""Ending a conflict: one of two contents gets the name, or both stay and nobody is asked again.

Works on the live tree of one volume, as rename(2) and unlink(2) by the user would, and refuses
where they would destroy something: an upload that has not landed, a folder with files in it, a
file that a program is writing. What goes stays in the history of its path.
"""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Callable, Sequence

from pipefs import tree
from pipefs.conflictmessages import ConflictItem, Resolve, Resolved
from pipefs.conflicts import Effects, open_conflicts
from pipefs.db import Txn, View
from pipefs.errors import NotFound, Refused
from pipefs.keys import names_of
from pipefs.records import Conflict, Dirty, Inode, ino_key
from pipefs.units import utc_text
from pipefs.volume import Volume

Place = tuple[int, bytes]
"""Inode of a directory, and a name in it."""


class Settler:
    """Ends conflicts of one pipe.

    Args:
        orphaned: told of each inode that lost its last name.
        versioned: whether the store keeps what is replaced.
    """

    def __init__(
        self, name: str, volume: Volume, *, orphaned: Callable[[Inode], None], versioned: bool
    ) -> None:
        self._name = name
        self._volume = volume
        self._orphaned = orphaned
        self._versioned = versioned

    def settle(self, request: Resolve) -> tuple[Resolved, Effects]:
        """End one. See `Resolve` for errors; then nothing was done."""
        with self._volume.db.view() as v:
            found, left = find(v, request.path, self._name)
            copy, name = _place(v, found.ours), _place(v, found.original)
        path, beside = found.original, found.ours
        done = Resolved(path, beside, request.keep, left=left)
        effects = Effects()
        if request.keep == "both":
            if not request.dry_run:
                self._forget(found)
            return done, effects
        wins = (request.keep == "theirs") == found.theirs_aside
        loser = name if wins else copy
        self._check(loser, found, wins, request)
        if not request.dry_run:
            if wins:
                self._replace(copy, name)
            else:
                self._remove(copy)
            self._forget(found)
        effects.entries |= {copy, name}
        effects.attributes.add(found.ino)
        return Resolved(path, beside, request.keep, path if wins else beside, left), effects

    def is_saved(self, path: str, keep: str) -> bool:
        """Whether what would go is in the store; True where nothing would.

        Raises:
            NotFound, Refused: as `settle`.
        """
        with self._volume.db.view() as v:
            found, _ = find(v, path, self._name)
            wins = (keep == "theirs") == found.theirs_aside
            loser = _place(v, found.original if wins else found.ours)
        node = self._at(loser)
        return keep == "both" or node is None or not node.dirty & Dirty.CONTENT

    def _forget(self, found: Conflict) -> None:
        with self._volume.db.update() as t:
            forget(t, found)

    def _at(self, place: Place) -> Inode | None:
        try:
            return self._volume.lookup(*place)
        except FileNotFoundError:
            return None

    def _check(self, loser: Place, found: Conflict, wins: bool, request: Resolve) -> None:
        """Whether what is at a place may go."""
        node, path = self._at(loser), found.original if wins else found.ours
        if node is None:
            return  # removed by hand: the name is free
        if not wins and self._at((loser[0], names_of(found.original)[-1])) is None:
            raise Refused(
                f"{found.original} was removed meanwhile, so {found.ours} is all there is",
                hint=f"To give it the name: {self._command(found, 'mine')}",
            )
        both = f"Keep both: {self._command(found, 'both')}"
        if node.is_dir and self._volume.children(node.ino, b"", 1):
            raise Refused(f"{path} is a folder with files in it, and would go", hint=both)
        local = self._volume.files.get(node.ino)
        if local is not None and local.mark is not None and local.mark.writers:
            raise Refused(
                f"{path} would go, and a program has it open for writing",
                hint=f"Close it, then again. {both}",
            )
        if request.force:
            return
        if node.is_file and (node.dirty & Dirty.CONTENT or not self._versioned):
            why = "is not in the store yet" if self._versioned else "has no versions in its store"
            first = f"First: pipefs flush {self._name} · " if self._versioned else ""
            raise Refused(
                f"{path} {why}, so it would be gone for good",
                hint=f"{first}For good: pipefs -y {self._command(found, request.keep)[7:]}",
            )

    def _command(self, found: Conflict, keep: str) -> str:
        return f"pipefs resolve {shlex.quote(f'{self._name}/{found.ours}')} --keep {keep}"

    def _remove(self, place: Place) -> None:
        node = self._at(place)
        if node is not None:
            remove = self._volume.rmdir if node.is_dir else self._volume.unlink
            self._orphaned(remove(*place))

    def _replace(self, source: Place, place: Place) -> None:
        mine, there = self._at(source), self._at(place)
        if mine is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), os.fsdecode(source[1]))
        if there is not None and there.is_dir != mine.is_dir:
            self._remove(place)
        replaced = self._volume.rename(*source, *place, 0)
        if replaced is not None:
            self._orphaned(replaced)


def find(v: View, path: str, name: str = "") -> tuple[Conflict, int]:
    """The open conflict of a file or of a copy, and how many others the same name has.

    Args:
        path: as a file system has it, or as messages do. name: the pipe's, for messages.
    Raises:
        NotFound: there is none. Refused: there are several, so a copy must be named.
    """
    known = open_conflicts(v)
    meant = [c for c in known if is_meant(path, c.ours)]
    if not meant:
        meant = [c for c in known if is_meant(path, c.original)]
    if not meant:
        raise NotFound(
            f"{path} is in no conflict here", hint=f"Those that are: pipefs resolve {name}"
        )
    if len(meant) > 1:
        words = (shlex.quote(f"{name}/{c.ours}") for c in meant)
        copies = "\n".join(f"pipefs resolve {word} --keep mine|theirs|both" for word in words)
        raise Refused(f"{path} has {len(meant)} copies beside it; say which", hint=copies)
    others = [c for c in known if c.original == meant[0].original]
    return meant[0], len(others) - 1


def is_meant(path: str, *shown: str) -> bool:
    """Whether a path that a user typed is one of these that messages show."""
    text = tree.path_text([os.fsencode(n) for n in path.split("/") if n])
    return path in shown or text in shown


def forget(t: Txn, found: Conflict) -> None:
    """Nobody is asked about this conflict any more; both contents stay where they are."""
    t.delete("conflicts", ino_key(found.ino))


def _place(v: View, path: str) -> Place:
    names = names_of(path)
    parent = tree.walk(v, names[:-1])
    assert parent is not None  # the copy is in it
    return parent.ino, names[-1]


def conflict_items(found: Sequence[Conflict]) -> list[ConflictItem]:
    """Conflicts as `status` tells them."""
    return [
        ConflictItem(c.original, c.ours, c.theirs_author, utc_text(c.time_ns), c.theirs_aside)
        for c in found
    ]
