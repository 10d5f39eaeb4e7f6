"""Two contents for one name: both are kept, one of them beside the name.

`Aside` moves an inode to `NAME.conflict-HOST-TIME.EXT` in the live tree, records the conflict for
`status` and the `user.pipefs.state` attribute, and logs it; `open_conflicts` lists them. Works in
the caller's transaction.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from pipefs import tree
from pipefs.commits import Commit
from pipefs.db import Txn, View
from pipefs.keys import MAX_NAME_BYTES, component_of, names_of
from pipefs.records import (
    Conflict,
    Content,
    Dirty,
    Inode,
    decode_conflict,
    encode,
    ino_key,
    key_id,
    name_key,
)

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
        self._move(node, parent, name, theirs=True)

    def _move(self, node: Inode, parent: int, name: bytes, *, theirs: bool = False) -> None:
        aside = self.free_name(parent, name)
        if node.is_dir or node.content is not None:
            self._t.put("relocate", ino_key(node.ino), b"%d" % time.time_ns())
        node.dirty |= Dirty.ANNOUNCE
        tree.set_name(self._t, parent, aside, node)
        tree.put_inode(self._t, node)
        self._tell(node, parent, name, aside, theirs)

    def _tell(self, node: Inode, parent: int, name: bytes, aside: bytes, theirs: bool) -> None:
        where = tree.names_to(self._t, parent) or []
        conflict = Conflict(
            node.ino,
            tree.path_text([*where, name]),
            tree.path_text([*where, aside]),
            self._author,
            self._time_ns,
            theirs,
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
        for out in conflict_names(name, self._host, self._time_ns):
            if tree.name_entry(self._t, parent, out) is None:
                return out
        raise OSError(errno.EEXIST, "no conflict name is free", component_of(name))


def conflict_names(name: bytes, host: str, time_ns: int) -> Iterator[bytes]:
    """Names for what moves aside from `name`, the best first: `NAME.conflict-HOST-TIME.EXT`."""
    stamp = time.strftime("%Y%m%dT%H%MZ", time.gmtime(time_ns / 1e9))
    # The full suffix stays (`.csv.gz`), so that programs still know what it is.
    dot = name.find(b".", 1)
    stem, ext = (name, b"") if dot < 0 else (name[:dot], name[dot:])
    for n in range(10_000):
        end = f".conflict-{host}-{stamp}{f'-{n}' if n else ''}".encode() + ext
        yield (stem[: max(1, MAX_NAME_BYTES - len(end))] + end)[:MAX_NAME_BYTES]


def open_conflicts(v: View) -> list[Conflict]:
    """Those that nobody has settled, with the paths of now. Who renames or removes the copy has
    settled it."""
    found = (_open(v, decode_conflict(raw)) for _, raw in v.scan("conflicts"))
    return [conflict for conflict in found if conflict is not None]


def is_open(v: View, ino: int) -> bool:
    """Whether an inode is the copy of a conflict that nobody has settled."""
    raw = v.get("conflicts", ino_key(ino))
    return raw is not None and _open(v, decode_conflict(raw)) is not None


def _open(v: View, noted: Conflict) -> Conflict | None:
    names = tree.names_to(v, noted.ino)
    if not names or names[-1] != names_of(noted.ours)[-1]:
        return None
    original = [*names[:-1], names_of(noted.original)[-1]]
    return msgspec.structs.replace(
        noted, original=tree.path_text(original), ours=tree.path_text(names)
    )
