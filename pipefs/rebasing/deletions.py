"""What a commit removes, and what of ours lives on all the same."""

from __future__ import annotations

import stat

from pipefs import basetree, links, tree
from pipefs.rebasing.hardlinks import HardLinks
from pipefs.rebasing.standing import has_news, is_kept
from pipefs.records import (
    Dirty,
    decode_name,
    ino_key,
    key_id,
)


class Deletions(HardLinks):
    """Applies what a commit removes."""

    def _delete(self, parent: int, name: bytes) -> None:
        entry = tree.base_name(self.t, parent, name)
        if entry is None:
            return
        if stat.S_ISDIR(entry.kind):
            self._delete_dir(parent, name, entry.ino)
            return
        self._delete_file(parent, name, entry.ino)

    def _drop_dangling(self) -> None:
        """A file that went took its hard links along, whether the commit names them or not."""
        for ino in self.dropped:
            if not self.t.has("inodes", ino_key(ino)):
                for link in links.in_base(self.t, ino):
                    self._delete(link.parent, link.name)

    def _delete_file(self, parent: int, name: bytes, ino: int) -> None:
        self._outlive(parent, name, ino)
        self.dropped.append(ino)
        node = tree.overlay_inode(self.t, ino)
        base = tree.base_inode(self.t, ino)
        keep = (
            node is not None
            and node.parent
            and (has_news(node, base) or is_kept(node, parent, name))
        )
        basetree.drop(self.t, parent, name, self.commit.number)
        if keep and node is not None:
            # Changed or renamed here, deleted there: what exists stays, as a new file.
            known = base.content if base is not None else None
            if (
                node.dirty & Dirty.CONTENT
                and known is not None
                and known.same_version(node.content)
            ):
                node.content = None
            node.dirty |= Dirty.ANNOUNCE
            tree.put_inode(self.t, node)
            if (node.parent, node.name) == (parent, name):
                tree.set_name(self.t, parent, name, node)
            else:
                self._name_left(parent, name)
            return
        if node is not None and node.parent and (node.parent, node.name) != (parent, name):
            tree.clear_name(self.t, node.parent, node.name)
            self.effects.entries.add((node.parent, node.name))
        self._drop_ours(ino)
        self._name_left(parent, name)
        if base is not None and base.content is not None:
            self._keep_for_handles(base)

    def _delete_dir(self, parent: int, name: bytes, ino: int) -> None:
        for child, _entry in list(tree.base_children(self.t, ino)):
            self._delete(ino, child)
        live_names = [
            k
            for k, raw in self.t.scan("onames", ino_key(ino), ino_key(ino + 1))
            if decode_name(raw).ino
        ]
        node = tree.inode(self.t, ino)
        basetree.drop(self.t, parent, name, self.commit.number)
        moved = node is not None and (node.parent, node.name) != (parent, name)
        if node is not None and node.parent and (live_names or moved):
            # New files of ours inside, or renamed here: the directory lives on as ours.
            node.dirty |= Dirty.ANNOUNCE
            tree.put_inode(self.t, node)
            tree.set_name(self.t, node.parent, node.name, node)
            if moved:
                self._name_left(parent, name)
            self._revive(node.parent)
            return
        self._drop_ours(ino)
        self._name_left(parent, name)

    def _cancel_deletion(self, key: str) -> None:
        if key:
            self.t.delete("gone", key_id(key))
