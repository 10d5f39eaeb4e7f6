"""New versions of files in a commit, against what happened to the files here."""

from __future__ import annotations

import stat

from pipefs import basetree, links, tree
from pipefs.changes import carry_over, content_of, inode_of
from pipefs.commits import Change
from pipefs.keys import names_of
from pipefs.namespace import want_gone
from pipefs.rebasing.deletions import Deletions
from pipefs.rebasing.standing import is_apart, is_uploaded
from pipefs.records import (
    Content,
    Dirty,
    Inode,
    encode,
    ino_key,
    name_key,
)


class Contents(Deletions):
    """Applies new versions of files."""

    def _attach_file(self, change: Change, parent: int, name: bytes) -> None:
        node = inode_of(change, self.commit.time)
        content = self._settle_version(change)
        node.content, node.size = content, content.size
        entry = tree.base_name(self.t, parent, name)
        if entry is not None and stat.S_ISREG(entry.kind):
            self._replace_file(entry.ino, node, parent, name, change)
            return
        if entry is not None:
            self._delete(parent, name)
        uploaded = self._uploaded_here(content)
        if uploaded:
            node.ino = uploaded
            basetree.put(self.t, parent, name, node, self.commit.number)
            self._hide(parent, name)
            return
        node.ino = self._clear_way(parent, name, node) or self.inos.take(self.t)
        basetree.put(self.t, parent, name, node, self.commit.number)
        self._settle_name(parent, name, node)

    def _follow_name(self, parent: int, name: bytes, change: Change) -> None:
        """Theirs landed below a directory that is renamed here: its object is to follow."""
        if not self.t.count("oinodes"):
            return  # nothing is renamed here
        entry = tree.base_name(self.t, parent, name)
        live = tree.names_to(self.t, entry.ino) if entry is not None else None
        if entry is None or not live or tree.path_text(live) == change.path:
            return
        self.t.put("relocate", ino_key(entry.ino), b"0")

    def _settle_version(self, change: Change) -> Content:
        """The version that counts: the announced one, or what the store says is current."""
        content = content_of(change)
        if content.key not in self.current:
            return content
        found = self.current[content.key]
        if found is None:
            return content  # deleted or renamed since: its own commit or a listing will say so
        now = Content(found.key, found.version_id, found.etag, found.size)
        live = tree.walk(self.t, names_of(change.path))
        if now.same_version(content) or (live is not None and now.same_version(live.content)):
            return content  # or ours came after it, and is about to be announced
        return now

    def _replace_file(
        self, ino: int, node: Inode, parent: int, name: bytes, change: Change
    ) -> None:
        old = tree.base_inode(self.t, ino)
        assert old is not None and old.content is not None and node.content is not None
        node.ino, node.epoch = ino, old.epoch
        if change.replaces != (old.content.version_id or old.content.etag):
            change.same = False  # a copy of something else than what we know
        mine = tree.overlay_inode(self.t, ino)
        if old.content.same_version(node.content):
            basetree.put(self.t, parent, name, node, self.commit.number)
            self._refresh_clean(mine, node, old, same=True)
            return
        if mine is not None and not mine.parent:
            self._replace_removed(node, old, parent, name, change)
            return
        known_here = mine is not None and node.content.same_version(mine.content)
        apart = mine is not None and is_apart(mine, old, node)
        if mine is not None and apart and not known_here and not change.same:
            self._split(mine, node, old, parent, name)
            return
        if change.same:
            self.effects.same_bytes.append((old.content, node.content))
        elif not known_here:
            self._new_epoch(old, node)
        taken_over = tree.overlay_name(self.t, parent, name)
        basetree.put(self.t, parent, name, node, self.commit.number)
        self._refresh_clean(mine, node, old, same=change.same)
        if taken_over is not None and taken_over.ino == 0 and not change.same:
            # Renamed here, changed there: the rename holds, for the new content too.
            self._cancel_deletion(taken_over.key)
            tree.clear_name(self.t, parent, name)
        self.effects.entries.add((parent, name))

    def _replace_removed(
        self, node: Inode, old: Inode, parent: int, name: bytes, change: Change
    ) -> None:
        """Removed or replaced here, changed there: the change stays, and so does what of ours
        has the name now. A mere copy to another key is no change: the removal holds for it."""
        assert node.content is not None
        over = tree.overlay_name(self.t, parent, name)
        if change.same:
            basetree.put(self.t, parent, name, node, self.commit.number)
            want_gone(self.t, node.content)
            if over is not None and over.ino == 0:
                tree.clear_name(self.t, parent, name, node.content.key)
            return
        # Handles of ours may still read or write the removed file: its number stays theirs.
        node.ino, node.epoch = self.inos.take(self.t), 0
        basetree.drop(self.t, parent, name, self.commit.number)
        basetree.put(self.t, parent, name, node, self.commit.number)
        links.retarget(self.t, old.ino, node.ino)
        if over is not None and over.ino:
            self.aside.ours(tree.need(self.t, over.ino), parent, name)
        elif over is not None:
            self.t.delete("onames", name_key(parent, name))
        if old.content is not None:
            self._cancel_deletion(old.content.key)
        self.effects.entries.add((parent, name))

    def _refresh_clean(self, mine: Inode | None, node: Inode, old: Inode, *, same: bool) -> None:
        """Carry a new base version into a local inode that only changed names or attributes.
        `same`: it has the bytes of the old one."""
        self.effects.attributes.add(node.ino)
        if mine is None or not mine.parent:
            return
        carry_over(mine, old, node)
        mine.epoch = node.epoch
        if is_uploaded(mine, old, or_copied=same):
            # Ours followed in the store already and is about to be announced: it stays.
            tree.put_inode(self.t, mine)
            if node.content and mine.content and node.content.key != mine.content.key:
                want_gone(self.t, node.content)
            self._relocate(mine)
            return
        if not mine.dirty & Dirty.CONTENT:
            mine.size = node.size
        new_key = node.content.key if node.content is not None else ""
        if mine.content is not None and mine.content.key != new_key:
            want_gone(self.t, mine.content)  # a copy of what was there before
        mine.content = node.content
        tree.put_inode(self.t, mine)
        self._relocate(mine)

    def _new_epoch(self, old: Inode, node: Inode) -> None:
        """Other bytes in this inode's place: open handles go on reading the old version."""
        assert old.content is not None
        self.t.put("epochs", ino_key(old.ino) + old.epoch.to_bytes(4, "big"), encode(old.content))
        node.epoch = old.epoch + 1

    def _split(self, mine: Inode, node: Inode, old: Inode, parent: int, name: bytes) -> None:
        """Changed here and there: theirs keeps the name, ours moves beside it as a new file."""
        node.ino, node.epoch = self.inos.take(self.t), 0
        over = tree.overlay_name(self.t, parent, name)
        basetree.drop(self.t, parent, name, self.commit.number)
        basetree.put(self.t, parent, name, node, self.commit.number)
        links.retarget(self.t, old.ino, node.ino)
        if (mine.parent, mine.name) == (parent, name):
            self.aside.ours(mine, parent, name)
            return
        # Renamed here as well: it stays where it is, and what has its old name makes room.
        if mine.content is not None and mine.content.same_version(old.content):
            mine.content = None
        mine.dirty |= Dirty.ANNOUNCE
        tree.put_inode(self.t, mine)
        if over is not None and over.ino:
            self.aside.ours(tree.need(self.t, over.ino), parent, name)
        else:
            self.t.delete("onames", name_key(parent, name))
        self.effects.entries.add((parent, name))
