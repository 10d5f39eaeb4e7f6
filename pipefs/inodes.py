"""Inode numbers: handed out once each, reserved durably a block at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipefs import tree
from pipefs.db import StateDB, Txn, View
from pipefs.types import Ino

_INO_STEP = 1024


class InoSource:
    """Hands out inode numbers; a block of them is reserved durably at a time.

    Numbers are never used twice, also after a crash (a part of the block is then skipped).
    """

    def __init__(self) -> None:
        self._next = 0
        self._limit = 0

    def take(self, t: Txn) -> Ino:
        if self._next >= self._limit:
            self._next = max(tree.number(t, "next_ino", 2), self._limit)
            self._limit = self._next + _INO_STEP
            tree.set_fact(t, "next_ino", b"%d" % self._limit)
        self._next += 1
        return Ino(self._next - 1)

    @staticmethod
    def first_unused(v: View) -> Ino:
        """No number from here on was ever handed out."""
        return Ino(tree.number(v, "next_ino", 2))

    def skip(self, ino: int) -> None:
        """Numbers up to this one are in use although the tree does not know them."""
        self._next = self._limit = max(self._limit, ino + 1)

    def skip_past(self, t: Txn, ino: int) -> None:
        """Hand out only numbers above `ino` from now on."""
        if tree.number(t, "next_ino", 2) <= ino:
            tree.set_fact(t, "next_ino", b"%d" % (ino + 1))
        self.undo()

    @contextmanager
    def update(self, db: StateDB) -> Iterator[Txn]:
        """An update in which numbers are taken: a failure gives them back."""
        try:
            with db.update() as t:
                yield t
        except BaseException:
            self.undo()
            raise

    def undo(self) -> None:
        """Call when the update that took a number failed: its reservation is undone too."""
        self._next = self._limit = 0
