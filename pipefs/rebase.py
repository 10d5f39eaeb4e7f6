"""Applying other machines' commits to the base, with the overlay kept valid above it.

The table of cases is in docs/CONCURRENCY.md ("Rebase table"); each row is a test. The principle:
nothing that exists on either side is lost, and every machine that applies the same log comes to
the same base. Local changes that cannot stay where they are move to
`NAME.conflict-HOST-TIME.EXT`; a deletion never wins over a change.

Works in a transaction that the caller gives; no I/O. Where a change does not follow from the
version we know (another tool wrote in between), the caller has asked the store before and passes
what is current now.
"""

from __future__ import annotations

import stat

from pipefs import basetree, touched, tree
from pipefs.changes import content_of, inode_of, merge_attributes
from pipefs.commits import Change, Commit
from pipefs.conflicts import Effects
from pipefs.db import Txn, View
from pipefs.keys import names_of
from pipefs.rebasing.contents import Contents
from pipefs.rebasing.standing import is_uploaded
from pipefs.records import (
    Dirty,
    Inode,
    decode_inode,
    decode_name,
    encode,
    ino_key,
    name_key,
)
from pipefs.types import ROOT_INO


def unknown_ancestry(v: View, commit: Commit) -> list[str]:
    """Keys of `put` changes that do not follow from the version this machine knows.

    For these the caller asks the store what is current before it applies the commit.
    """
    out = []
    for change in commit.changes:
        if change.op != "put":
            continue
        names = names_of(change.path)
        ino = tree.base_walk(v, names)
        node = tree.base_inode(v, ino) if ino is not None else tree.walk(v, names)
        known = node.content if node is not None else None
        new = content_of(change)
        if (
            known is None
            or known.same_version(new)
            or (known.version_id or known.etag) == (change.replaces)
        ):
            continue
        out.append(new.key)
    return out


_ATTACHED = frozenset({"move", "mkdir", "symlink", "special", "put"})


class Rebase(Contents):
    """One commit being applied. `host` names this machine in conflict names."""

    def apply(self) -> Effects:
        moves = self._detach()
        rank = {"move": 0, "mkdir": 0}
        attach = [c for c in self.commit.changes if c.op in _ATTACHED]
        attach.sort(key=lambda c: (c.path.count("/"), rank.get(c.op, 1)))
        for change in attach:
            if change.op == "move":
                self._attach_moved(change, moves.get(change.source))
            else:
                self._attach(change)
        for change in self.commit.changes:
            if change.op == "link":
                self._attach_link(change)
        for change in self.commit.changes:
            if change.op == "attr":
                self._attributes(change)
        return self.effects

    def _detach(self) -> dict[str, Inode]:
        moves: dict[str, tuple[int, bytes, Inode]] = {}
        deletes: list[tuple[int, bytes]] = []
        for change in self.commit.changes:
            if change.op not in ("move", "delete"):
                continue
            path = change.source if change.op == "move" else change.path
            place = self._place(path)
            entry = tree.base_name(self.t, *place) if place else None
            if place is None or entry is None:
                continue
            if change.op == "delete":
                deletes.append(place)
                continue
            node = tree.base_inode(self.t, entry.ino)
            if node is not None:
                moves[path] = (*place, node)
        for parent, name, _node in moves.values():
            basetree.drop(self.t, parent, name, self.commit.number, keep_inode=True)
            self._name_left(parent, name)
        # Deepest first, so that a directory is empty when its turn comes.
        for parent, name in reversed(deletes):
            self._delete(parent, name)
        self._drop_dangling()
        return {path: node for path, (_, _, node) in moves.items()}

    def _directory(self, names: list[bytes]) -> int:
        """The base directory at a path; directories that are only implied by keys are made."""
        ino = int(ROOT_INO)
        for depth, name in enumerate(names):
            entry = tree.base_name(self.t, ino, name)
            if entry is None or not stat.S_ISDIR(entry.kind):
                change = Change(op="mkdir", path=tree.path_text(names[: depth + 1]))
                ino = self._attach_other(change, ino, name)
            else:
                ino = entry.ino
        return ino

    def _attach(self, change: Change) -> None:
        names = names_of(change.path)
        parent = self._directory(names[:-1])
        if change.op == "put":
            self._attach_file(change, parent, names[-1])
            self._follow_name(parent, names[-1], change)
        else:
            self._attach_other(change, parent, names[-1])
        self._revive(parent)

    def _attach_moved(self, change: Change, node: Inode | None) -> None:
        if node is None:
            return  # not known here: a listing will find what there is
        names = names_of(change.path)
        parent, name = self._directory(names[:-1]), names[-1]
        if tree.base_name(self.t, parent, name) is not None:
            self._delete(parent, name)  # renamed over what was there
        self._clear_way(parent, name, node)
        live = tree.overlay_inode(self.t, node.ino)
        basetree.put(self.t, parent, name, node, self.commit.number)
        if live is None:
            self._settle_name(parent, name, node)
        elif (live.parent, live.name) == (node.parent, node.name):
            # Only attributes or content changed here: the local inode follows the move.
            tree.set_name(self.t, parent, name, live)
            tree.put_inode(self.t, live)
            if is_uploaded(live, node, or_copied=False):
                self._relocate(live)
        elif live.parent and (live.parent, live.name) != (parent, name):
            # Renamed here too: ours comes later in the log, so it stays; theirs is hidden.
            self._hide(parent, name)
        elif live.parent:
            self.t.delete("onames", name_key(parent, name))
        else:
            # Removed here, renamed there: it is there again, under its new name.
            self._drop_ours(node.ino)
            self._settle_name(parent, name, node)
        self.effects.entries.add((parent, name))
        self._revive(parent)
        if node.is_dir:
            self._break_cycle(node.ino)

    def _break_cycle(self, moved: int) -> None:
        """Two directories moved into each other, one here and one there: ours goes back."""
        at, renamed = moved, 0
        while at and at != ROOT_INO:
            base, live = tree.base_inode(self.t, at), tree.overlay_inode(self.t, at)
            if base and live and (live.parent, live.name) != (base.parent, base.name):
                renamed = renamed or at
            node = live or base
            at = node.parent if node is not None else 0
            if at == moved:
                break
        if at != moved or not renamed:
            return
        base, live = tree.base_inode(self.t, renamed), tree.overlay_inode(self.t, renamed)
        assert base is not None and live is not None
        tree.clear_name(self.t, live.parent, live.name)
        over = tree.overlay_name(self.t, base.parent, base.name)
        if over is not None and over.ino:
            self.aside.ours(live, base.parent, base.name, release=False)
        else:
            tree.set_name(self.t, base.parent, base.name, live)
            tree.put_inode(self.t, live)
        self.t.put("relocate", ino_key(renamed), b"0")
        self.effects.entries.add((base.parent, base.name))

    def _attach_other(self, change: Change, parent: int, name: bytes) -> int:
        """A directory, symbolic link or special file; returns its inode number."""
        return self._attach_node(inode_of(change, self.commit.time), parent, name)

    def _attach_node(self, node: Inode, parent: int, name: bytes) -> int:
        entry = tree.base_name(self.t, parent, name)
        if entry is not None and entry.kind == node.kind:
            old = tree.base_inode(self.t, entry.ino)
            assert old is not None
            node.ino, node.epoch = old.ino, old.epoch
            self._carry_over(old, node)
        elif entry is not None:
            self._delete(parent, name)
            node.ino = self.inos.take(self.t)
        else:
            node.ino = self._clear_way(parent, name, node) or self.inos.take(self.t)
        basetree.put(self.t, parent, name, node, self.commit.number)
        self._settle_name(parent, name, node)
        return node.ino

    def _attach_link(self, change: Change) -> None:
        file = self._file_at(change.source)
        if file is None or file.is_dir:
            return  # not known here: a listing will find what there is
        names = names_of(change.path)
        parent = self._directory(names[:-1])
        node = inode_of(change, self.commit.time)
        node.alias = file.ino
        ino = self._attach_node(node, parent, names[-1])
        self._revive(parent)
        self._revive_file(file, ino)
        self.effects.attributes.add(file.ino)

    def _file_at(self, path: str) -> Inode | None:
        """What a path of the base means, of a hard link the file."""
        ino = tree.base_walk(self.t, names_of(path)) if path else int(ROOT_INO)
        node = tree.base_inode(self.t, ino) if ino is not None else None
        return tree.base_inode(self.t, node.alias) if node is not None and node.alias else node

    def _attributes(self, change: Change) -> None:
        node = self._file_at(change.path)
        if node is None:
            return
        old = decode_inode(encode(node))
        merge_attributes(node, change)
        self.t.put("inodes", ino_key(node.ino), encode(node))
        touched.record_inode(self.t, node.ino)
        self._carry_over(old, node)
        self.effects.attributes.add(node.ino)


def clear_base(t: Txn) -> None:
    """The log was replaced: all that was committed becomes ours to announce again.

    The base is emptied into the overlay; following the new log then adopts what is the same and
    sets aside what is not, and the next commits announce the rest.
    """
    for k, raw in list(t.scan("names")):
        t.delete("names", k)
        if not t.has("onames", k):
            entry = decode_name(raw)
            t.put("onames", k, encode(entry.__class__(entry.ino, entry.kind)))
    for k, raw in list(t.scan("onames")):
        if decode_name(raw).ino == 0:
            t.delete("onames", k)
    for k, raw in list(t.scan("inodes")):
        node = tree.overlay_inode(t, int.from_bytes(k, "big")) or decode_inode(raw)
        if k != ino_key(ROOT_INO):
            t.delete("inodes", k)
            if not node.parent:  # removed here, not announced: perhaps still open
                if not t.has("orphans", k):
                    tree.drop_overlay_inode(t, node.ino)
                continue
        node.dirty |= Dirty.ANNOUNCE
        tree.put_inode(t, node)
    for k, _ in list(t.scan("history")):
        t.delete("history", k)
    touched.forget_baseline(t)
