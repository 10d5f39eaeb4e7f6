"""Steps that every part of a rebase takes: names, room for them, directories that live on."""

from __future__ import annotations

from collections.abc import Mapping

from pipefs import tree
from pipefs.changes import carry_over, fill_in, same_thing
from pipefs.commits import Commit
from pipefs.conflicts import Aside, Effects
from pipefs.db import Txn
from pipefs.inodes import InoSource
from pipefs.keys import is_natural, names_of
from pipefs.records import (
    Content,
    Inode,
    encode,
    ino_key,
    key_id,
    name_key,
)
from pipefs.types import ROOT_INO, ObjectVersion


class Steps:
    """One commit being applied. `host` names this machine in conflict names."""

    def __init__(
        self,
        t: Txn,
        inos: InoSource,
        commit: Commit,
        current: Mapping[str, ObjectVersion | None],
        *,
        host: str,
    ) -> None:
        self.t = t
        self.inos = inos
        self.commit = commit
        self.current = current
        self.effects = Effects()
        self.aside = Aside(t, commit, host, self.effects)
        self.dropped: list[int] = []
        """Files that the commit removed from the base."""

    def _place(self, path: str) -> tuple[int, bytes] | None:
        """(parent ino, name) in the base; None if the parent is not there."""
        names = names_of(path)
        parent = tree.base_walk(self.t, names[:-1])
        return None if parent is None else (parent, names[-1])

    def _revive(self, parent: int) -> None:
        """A directory that got something new exists again, whatever we removed meanwhile."""
        while parent != ROOT_INO:
            node = tree.base_inode(self.t, parent)
            if node is None:
                return
            live = tree.overlay_inode(self.t, parent)
            if live is not None and not live.parent:
                over = tree.overlay_name(self.t, node.parent, node.name)
                self._drop_ours(parent)
                if over is not None and over.ino:
                    self.aside.ours(tree.need(self.t, over.ino), node.parent, node.name)
                else:
                    self.t.delete("onames", name_key(node.parent, node.name))
                self.effects.entries.add((node.parent, node.name))
            parent = node.parent

    def _name_left(self, parent: int, name: bytes) -> None:
        """A base name is gone: a tombstone above it has nothing to hide any more."""
        over = tree.overlay_name(self.t, parent, name)
        if over is not None and over.ino == 0:
            self.t.delete("onames", name_key(parent, name))
            if over.key:
                self.t.delete("gone", key_id(over.key))
        self.effects.entries.add((parent, name))

    def _drop_ours(self, ino: int) -> None:
        """Nothing of ours is left to say about this inode."""
        tree.drop_overlay_inode(self.t, ino)
        for table in ("orphans", "markers", "relocate", "conflicts"):
            self.t.delete(table, ino_key(ino))

    def _keep_for_handles(self, old: Inode) -> None:
        """A file that is gone may still be open: its handles go on reading its version."""
        old.parent, old.nlink, old.name = 0, 0, b""
        self.t.put("oinodes", ino_key(old.ino), encode(old))
        self.t.put("orphans", ino_key(old.ino), b"")

    def _relocate(self, mine: Inode) -> None:
        """Plan the copy of a file whose object is not at its live path's key."""
        names = tree.names_to(self.t, mine.ino)
        if mine.content is not None and names and not is_natural(mine.content.key, names):
            self.t.put("relocate", ino_key(mine.ino), b"0")

    def _hide(self, parent: int, name: bytes) -> None:
        """The base's name is not live here: its inode has another one."""
        if tree.overlay_name(self.t, parent, name) is None:
            tree.clear_name(self.t, parent, name)

    def _settle_name(self, parent: int, name: bytes, node: Inode) -> None:
        """The base has this inode here now: drop an equal overlay name, and show an inode that
        a local directory hides under a name beside it (announced as a rename)."""
        self.effects.entries.add((parent, name))
        over = tree.overlay_name(self.t, parent, name)
        if over is None:
            return
        if over.ino == node.ino:
            self.t.delete("onames", name_key(parent, name))
            return
        if over.ino == 0:
            return
        self.aside.theirs(tree.need(self.t, node.ino), parent, name)

    def _carry_over(self, old: Inode, new: Inode) -> None:
        """What we did not change ourselves follows the base, attribute by attribute."""
        mine = tree.overlay_inode(self.t, new.ino)
        if mine is not None and mine.parent:
            carry_over(mine, old, new)
            tree.put_inode(self.t, mine)

    def _clear_way(self, parent: int, name: bytes, node: Inode) -> int | None:
        """Make room at a name the base is about to get; a local inode that is the same thing
        (both made the directory; our own upload seen again) lends its number."""
        over = tree.overlay_name(self.t, parent, name)
        if over is None or over.ino == node.ino:
            return None
        if over.ino == 0:
            self.t.delete("onames", name_key(parent, name))
            return None
        mine = tree.need(self.t, over.ino)
        same = same_thing(mine, node) or self._is_current(mine, node)
        if node.ino == 0 and same and not tree.base_inode(self.t, mine.ino):
            fill_in(mine, node)
            tree.put_inode(self.t, mine)
            return mine.ino
        if not (mine.is_dir and not node.is_dir):
            self.aside.ours(mine, parent, name)
        return None

    def _is_current(self, mine: Inode, node: Inode) -> bool:
        """Whether our upload came after theirs: it is what the store has now."""
        if mine.content is None or node.content is None:
            return False
        found = self.current.get(node.content.key)
        if found is None or mine.content.key != found.key:
            return False
        return (found.version_id, found.etag) == (mine.content.version_id, mine.content.etag)

    def _uploaded_here(self, content: Content) -> int:
        """Our own upload that moved aside before it was announced, and that somebody else found
        in a listing meanwhile: the same file, renamed here. 0: not that."""
        raw = self.t.get("bykey", key_id(content.key))
        mine = tree.overlay_inode(self.t, int.from_bytes(raw, "big")) if raw else None
        if mine is None or not mine.parent or self.t.has("inodes", ino_key(mine.ino)):
            return 0
        return mine.ino if content.same_version(mine.content) else 0
