"""Two contents for one name: both are kept, one of them beside the name.

`Aside` moves an inode to `NAME.conflict-HOST-TIME.EXT` in the live tree, records the conflict for
`status` and the `user.pipefs.state` attribute, and logs it. Works in the caller's transaction.
"""

from __future__ import annotations

import errno
import logging
import time
from dataclasses import dataclass, field

from pipefs import tree
from pipefs.commits import Commit
from pipefs.db import Txn
from pipefs.keys import MAX_NAME_BYTES, component_of
from pipefs.records import Conflict, Content, Dirty, Inode, encode, ino_key, key_id, name_key

log = logging.getLogger(__name__)

OTHER_TOOL = "another program"
"""Author of what a listing found."""


@dataclass(slots=True)
class Effects:
    """What the kernel of this machine must forget after the transaction, and what to tell users."""

    entries: set[tuple[int, bytes]] = field(default_factory=set)
    """Names (live parent, name) whose meaning changed."""
    attributes: set[int] = field(default_factory=set)
    """Inodes whose attributes changed."""
    conflicts: list[Conflict] = field(default_factory=list)
    same_bytes: list[tuple[Content, Content]] = field(default_factory=list)
    """(old, new) versions with equal bytes: cached blocks serve both."""
    catalog: bool = False
    """The catalogue of snapshots changed."""

    def merge(self, more: Effects) -> None:
        self.entries |= more.entries
        self.attributes |= more.attributes
        self.conflicts += more.conflicts
        self.same_bytes += more.same_bytes
        self.catalog |= more.catalog


class Aside:
    """Moves inodes out of the way of one commit. `host` names this machine in conflict names."""

    def __init__(self, t: Txn, commit: Commit, host: str, effects: Effects) -> None:
        self._t = t
        self._host = host
        self._time_ns = commit.time or time.time_ns()
        self._author = OTHER_TOOL if commit.external else commit.author
        self._effects = effects

    def ours(self, mine: Inode, parent: int, name: bytes, *, release: bool = True) -> None:
        """Move our inode from a name that theirs gets; it goes up from there as a new file.
        Without `release` the name belongs to another inode of ours."""
        if release:
            self._t.delete("onames", name_key(parent, name))
        if mine.is_file and mine.dirty & Dirty.CONTENT:
            mine.content = None
        if mine.content is not None and not tree.base_inode(self._t, mine.ino):
            # Others may find the object before they hear of it from us.
            self._t.put("bykey", key_id(mine.content.key), ino_key(mine.ino))
        self._move(mine, parent, name)

    def theirs(self, node: Inode, parent: int, name: bytes) -> None:
        """Show their inode beside a name that a directory of ours keeps."""
        self._move(node, parent, name)

    def _move(self, node: Inode, parent: int, name: bytes) -> None:
        aside = self.free_name(parent, name)
        if node.is_dir or node.content is not None:
            self._t.put("relocate", ino_key(node.ino), b"%d" % time.time_ns())
        node.dirty |= Dirty.ANNOUNCE
        tree.set_name(self._t, parent, aside, node)
        tree.put_inode(self._t, node)
        self._tell(node, parent, name, aside)

    def _tell(self, node: Inode, parent: int, name: bytes, aside: bytes) -> None:
        where = tree.names_to(self._t, parent) or []
        conflict = Conflict(
            node.ino,
            tree.path_text([*where, name]),
            tree.path_text([*where, aside]),
            self._author,
            self._time_ns,
        )
        log.warning(
            "conflict: %s was changed here and by %s; the other copy is %s",
            conflict.original,
            conflict.theirs_author,
            conflict.ours,
        )
        self._t.put("conflicts", ino_key(node.ino), encode(conflict))
        self._effects.conflicts.append(conflict)
        self._effects.entries |= {(parent, name), (parent, aside)}

    def free_name(self, parent: int, name: bytes) -> bytes:
        """`NAME.conflict-HOST-TIME.EXT`, not taken yet, at most 255 bytes."""
        stamp = time.strftime("%Y%m%dT%H%MZ", time.gmtime(self._time_ns / 1e9))
        # The full suffix stays (`.csv.gz`), so that programs still know what it is.
        dot = name.find(b".", 1)
        stem, ext = (name, b"") if dot < 0 else (name[:dot], name[dot:])
        for n in range(10_000):
            middle = f".conflict-{self._host}-{stamp}" + (f"-{n}" if n else "")
            end = middle.encode() + ext
            out = (stem[: max(1, MAX_NAME_BYTES - len(end))] + end)[:MAX_NAME_BYTES]
            if tree.name_entry(self._t, parent, out) is None:
                return out
        raise OSError(errno.EEXIST, "no conflict name is free", component_of(name))
