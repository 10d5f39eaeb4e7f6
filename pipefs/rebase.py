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

import logging
import stat
from collections.abc import Mapping

from pipefs import tree
from pipefs.changes import carry_over, content_of, fill_in, inode_of, merge_attributes, same_thing
from pipefs.commits import Change, Commit
from pipefs.conflicts import Aside, Effects
from pipefs.db import Txn, View
from pipefs.inodes import InoSource
from pipefs.keys import is_natural, names_of
from pipefs.namespace import want_gone
from pipefs.records import (
    Content,
    Dirty,
    Inode,
    decode_inode,
    decode_name,
    encode,
    ino_key,
    key_id,
    name_key,
)
from pipefs.types import ROOT_INO, ObjectVersion

log = logging.getLogger(__name__)


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


class Rebase:
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

    def apply(self) -> Effects:
        moves = self._detach()
        rank = {"move": 0, "mkdir": 0}
        attach = [c for c in self.commit.changes if c.op not in ("delete", "attr")]
        attach.sort(key=lambda c: (c.path.count("/"), rank.get(c.op, 1)))
        for change in attach:
            if change.op == "move":
                self._attach_moved(change, moves.get(change.source))
            else:
                self._attach(change)
        for change in self.commit.changes:
            if change.op == "attr":
                self._attributes(change)
        return self.effects

    # --- detaching: paths as they were before the commit --------------------------------------

    def _place(self, path: str) -> tuple[int, bytes] | None:
        """(parent ino, name) in the base; None if the parent is not there."""
        names = names_of(path)
        parent = tree.base_walk(self.t, names[:-1])
        return None if parent is None else (parent, names[-1])

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
            tree.base_drop(self.t, parent, name, self.commit.number, keep_inode=True)
            self._name_left(parent, name)
        # Deepest first, so that a directory is empty when its turn comes.
        for parent, name in reversed(deletes):
            self._delete(parent, name)
        return {path: node for path, (_, _, node) in moves.items()}

    def _name_left(self, parent: int, name: bytes) -> None:
        """A base name is gone: a tombstone above it has nothing to hide any more."""
        over = tree.overlay_name(self.t, parent, name)
        if over is not None and over.ino == 0:
            self.t.delete("onames", name_key(parent, name))
            if over.key:
                self.t.delete("gone", key_id(over.key))
        self.effects.entries.add((parent, name))

    def _delete(self, parent: int, name: bytes) -> None:
        entry = tree.base_name(self.t, parent, name)
        if entry is None:
            return
        if stat.S_ISDIR(entry.kind):
            self._delete_dir(parent, name, entry.ino)
            return
        self._delete_file(parent, name, entry.ino)

    def _delete_file(self, parent: int, name: bytes, ino: int) -> None:
        node = tree.overlay_inode(self.t, ino)
        base = tree.base_inode(self.t, ino)
        keep = (
            node is not None
            and node.parent
            and (_has_news(node, base) or _is_kept(node, parent, name))
        )
        tree.base_drop(self.t, parent, name, self.commit.number)
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

    def _keep_for_handles(self, old: Inode) -> None:
        """A file that is gone may still be open: its handles go on reading its version."""
        old.parent, old.nlink, old.name = 0, 0, b""
        self.t.put("oinodes", ino_key(old.ino), encode(old))
        self.t.put("orphans", ino_key(old.ino), b"")

    def _delete_dir(self, parent: int, name: bytes, ino: int) -> None:
        for child, _entry in list(tree.base_children(self.t, ino)):
            self._delete(ino, child)
        live_names = [
            k
            for k, raw in self.t.scan("onames", ino_key(ino), ino_key(ino + 1))
            if decode_name(raw).ino
        ]
        node = tree.inode(self.t, ino)
        tree.base_drop(self.t, parent, name, self.commit.number)
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

    def _drop_ours(self, ino: int) -> None:
        """Nothing of ours is left to say about this inode."""
        tree.drop_overlay_inode(self.t, ino)
        for table in ("orphans", "markers", "relocate", "conflicts"):
            self.t.delete(table, ino_key(ino))

    # --- attaching: paths as they are after the commit ----------------------------------------

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
        tree.base_put(self.t, parent, name, node, self.commit.number)
        if live is None:
            self._settle_name(parent, name, node)
        elif (live.parent, live.name) == (node.parent, node.name):
            # Only attributes or content changed here: the local inode follows the move.
            tree.set_name(self.t, parent, name, live)
            tree.put_inode(self.t, live)
            if _is_uploaded(live, node, or_copied=False):
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

    def _hide(self, parent: int, name: bytes) -> None:
        """The base's name is not live here: its inode has another one."""
        if tree.overlay_name(self.t, parent, name) is None:
            tree.clear_name(self.t, parent, name)

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
        """A directory, link or special file; returns its inode number."""
        node = inode_of(change, self.commit.time)
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
        tree.base_put(self.t, parent, name, node, self.commit.number)
        self._settle_name(parent, name, node)
        return node.ino

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
            tree.base_put(self.t, parent, name, node, self.commit.number)
            self._hide(parent, name)
            return
        node.ino = self._clear_way(parent, name, node) or self.inos.take(self.t)
        tree.base_put(self.t, parent, name, node, self.commit.number)
        self._settle_name(parent, name, node)

    def _follow_name(self, parent: int, name: bytes, change: Change) -> None:
        """Theirs landed below a directory that is renamed here: its object is to follow."""
        entry = tree.base_name(self.t, parent, name)
        live = tree.names_to(self.t, entry.ino) if entry is not None else None
        if entry is None or not live or tree.path_text(live) == change.path:
            return
        self.t.put("relocate", ino_key(entry.ino), b"0")

    def _uploaded_here(self, content: Content) -> int:
        """Our own upload that moved aside before it was announced, and that somebody else found
        in a listing meanwhile: the same file, renamed here. 0: not that."""
        raw = self.t.get("bykey", key_id(content.key))
        mine = tree.overlay_inode(self.t, int.from_bytes(raw, "big")) if raw else None
        if mine is None or not mine.parent or self.t.has("inodes", ino_key(mine.ino)):
            return 0
        return mine.ino if content.same_version(mine.content) else 0

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
            tree.base_put(self.t, parent, name, node, self.commit.number)
            self._refresh_clean(mine, node, old, same=True)
            return
        if mine is not None and not mine.parent:
            self._replace_removed(node, old, parent, name, change)
            return
        known_here = mine is not None and node.content.same_version(mine.content)
        apart = mine is not None and _is_apart(mine, old, node)
        if mine is not None and apart and not known_here and not change.same:
            self._split(mine, node, old, parent, name)
            return
        if change.same:
            self.effects.same_bytes.append((old.content, node.content))
        elif not known_here:
            self._new_epoch(old, node)
        taken_over = tree.overlay_name(self.t, parent, name)
        tree.base_put(self.t, parent, name, node, self.commit.number)
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
            tree.base_put(self.t, parent, name, node, self.commit.number)
            want_gone(self.t, node.content)
            if over is not None and over.ino == 0:
                tree.clear_name(self.t, parent, name, node.content.key)
            return
        # Handles of ours may still read or write the removed file: its number stays theirs.
        node.ino, node.epoch = self.inos.take(self.t), 0
        tree.base_drop(self.t, parent, name, self.commit.number)
        tree.base_put(self.t, parent, name, node, self.commit.number)
        if over is not None and over.ino:
            self.aside.ours(tree.need(self.t, over.ino), parent, name)
        elif over is not None:
            self.t.delete("onames", name_key(parent, name))
        if old.content is not None:
            self._cancel_deletion(old.content.key)
        self.effects.entries.add((parent, name))

    def _cancel_deletion(self, key: str) -> None:
        if key:
            self.t.delete("gone", key_id(key))

    def _refresh_clean(self, mine: Inode | None, node: Inode, old: Inode, *, same: bool) -> None:
        """Carry a new base version into a local inode that only changed names or attributes.
        `same`: it has the bytes of the old one."""
        self.effects.attributes.add(node.ino)
        if mine is None or not mine.parent:
            return
        carry_over(mine, old, node)
        mine.epoch = node.epoch
        if _is_uploaded(mine, old, or_copied=same):
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

    def _relocate(self, mine: Inode) -> None:
        """Plan the copy of a file whose object is not at its live path's key."""
        names = tree.names_to(self.t, mine.ino)
        if mine.content is not None and names and not is_natural(mine.content.key, names):
            self.t.put("relocate", ino_key(mine.ino), b"0")

    def _new_epoch(self, old: Inode, node: Inode) -> None:
        """Other bytes in this inode's place: open handles go on reading the old version."""
        assert old.content is not None
        self.t.put("epochs", ino_key(old.ino) + old.epoch.to_bytes(4, "big"), encode(old.content))
        node.epoch = old.epoch + 1

    def _split(self, mine: Inode, node: Inode, old: Inode, parent: int, name: bytes) -> None:
        """Changed here and there: theirs keeps the name, ours moves beside it as a new file."""
        node.ino, node.epoch = self.inos.take(self.t), 0
        over = tree.overlay_name(self.t, parent, name)
        tree.base_drop(self.t, parent, name, self.commit.number)
        tree.base_put(self.t, parent, name, node, self.commit.number)
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

    # --- attributes ---------------------------------------------------------------------------

    def _attributes(self, change: Change) -> None:
        ino = tree.base_walk(self.t, names_of(change.path)) if change.path else int(ROOT_INO)
        node = tree.base_inode(self.t, ino) if ino is not None else None
        if node is None:
            return
        old = decode_inode(encode(node))
        merge_attributes(node, change)
        self.t.put("inodes", ino_key(node.ino), encode(node))
        self._carry_over(old, node)
        self.effects.attributes.add(node.ino)

    def _carry_over(self, old: Inode, new: Inode) -> None:
        """What we did not change ourselves follows the base, attribute by attribute."""
        mine = tree.overlay_inode(self.t, new.ino)
        if mine is not None and mine.parent:
            carry_over(mine, old, new)
            tree.put_inode(self.t, mine)


def _is_kept(node: Inode, parent: int, name: bytes) -> bool:
    """Whether a file that was only renamed here outlives its deletion there: where the store has
    no versions its bytes are gone."""
    versioned = not node.is_file or node.content is None or node.content.version_id is not None
    return versioned and (node.parent, node.name) != (parent, name)


def _is_uploaded(mine: Inode, old: Inode, *, or_copied: bool) -> bool:
    """Whether ours is a version in the store that the base does not know: other bytes, or with
    `or_copied` a copy of the same bytes under our name."""
    if mine.dirty & Dirty.CONTENT or mine.content is None or not _has_news(mine, old):
        return False
    return or_copied or old.content is None or mine.content.etag != old.content.etag


def _is_apart(mine: Inode, old: Inode, node: Inode) -> bool:
    """Whether our bytes and theirs are two contents that know nothing of each other: ours is not
    in the store yet, or went up under another key."""
    if mine.dirty & Dirty.CONTENT:
        return True
    elsewhere = mine.content and node.content and mine.content.key != node.content.key
    return bool(elsewhere) and _is_uploaded(mine, old, or_copied=False)


def _has_news(mine: Inode, base: Inode | None) -> bool:
    """Whether a local inode has other bytes than the base: changed, or uploaded and about to be
    announced."""
    if mine.dirty & Dirty.CONTENT or mine.content is None:
        return bool(mine.dirty & Dirty.CONTENT)
    return base is None or not mine.content.same_version(base.content)


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
