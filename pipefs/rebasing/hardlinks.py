"""Hard links against what a commit removes or makes: a name made on either side keeps its file."""

from __future__ import annotations

from pipefs import links, tree
from pipefs.rebasing.standing import is_kept
from pipefs.rebasing.steps import Steps
from pipefs.records import Dirty, Inode, ino_key, key_id


class HardLinks(Steps):
    """Steps that only concern files with more than one name."""

    def _outlive(self, parent: int, name: bytes, ino: int) -> None:
        """Before a commit removes a file: one that got a further name here, which nobody else
        knows, lives on under that name, like a file that was renamed here."""
        live = tree.inode(self.t, ino)
        if live is None:
            return
        if live.alias:
            self.effects.attributes.add(live.alias)
            return
        made_here = [n for n in links.of(self.t, ino) if not self.t.has("inodes", ino_key(n.ino))]
        if not made_here or (live.parent, live.name) != (parent, name):
            return
        place = made_here[0].parent, made_here[0].name
        if live.dirty & Dirty.CONTENT or is_kept(live, *place):
            tree.clear_name(self.t, parent, name)
            self._take_place(live, made_here[0])
            return
        # Without versions the bytes are gone, and so are the names made here.
        for link in made_here:
            self.effects.entries.add((link.parent, link.name))
            links.remove(self.t, link)

    def _revive_file(self, file: Inode, link: int) -> None:
        """A file that was removed here got a further name there: it lives on under that one."""
        mine, name = tree.overlay_inode(self.t, file.ino), tree.inode(self.t, link)
        if mine is None or mine.parent or name is None or not name.parent:
            return
        if self._is_deleted(file):
            self.effects.entries.add((name.parent, name.name))
            links.remove(self.t, name)
            return
        over = tree.overlay_name(self.t, file.parent, file.name)
        if over is not None and over.ino == 0:
            tree.clear_name(self.t, file.parent, file.name)  # moved, not removed
        if file.content is not None:
            self.t.delete("gone", key_id(file.content.key))
        self.t.delete("orphans", ino_key(file.ino))
        if self.t.has("staging", ino_key(file.ino)):
            mine.dirty |= Dirty.CONTENT
        self._take_place(mine, name)

    def _is_deleted(self, file: Inode) -> bool:
        """Whether the bytes of a file that was removed here are gone from the store for good."""
        content = file.content
        if content is None or content.version_id is not None:
            return False
        return not self.t.has("gone", key_id(content.key))

    def _take_place(self, file: Inode, link: Inode) -> None:
        self.effects.entries.add((link.parent, link.name))
        links.promote(self.t, file, link)
        file.dirty |= Dirty.ANNOUNCE
        tree.put_inode(self.t, file)
        if not file.dirty & Dirty.CONTENT:
            self._relocate(file)
